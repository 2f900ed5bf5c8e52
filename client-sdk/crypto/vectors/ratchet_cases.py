"""ratchet.json: scripted sessions, driven through our ratchet and, where it can follow, the DoubleRatchet package."""

import copy

from primitives import Refused, ZERO32, det, hkdf, seal, u32, x25519, x25519_public
from ratchet import FIRST, Session, chain_step, message_keys
from ratchet_peer import Peer
from world import handshake

SIDES = ("initiator", "responder")
LOW_ORDER = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")


class Script:
    """Runs one exchange and writes down every step; with `package` the DoubleRatchet package must agree on all of it."""

    def __init__(self, name, about, package=True, **choices):
        self.name, self.about = name, about
        self.handshake = handshake(f"ratchet/{name}", **choices)
        self.ratchet_keys = {side: [det(f"{name}/{side}/ratchet/{i}", 32) for i in range(12)] for side in SIDES}
        self.kem_seeds = [det(f"{name}/kem-seed/{i}", 64) for i in range(3)]
        self.kem_randomness = [det(f"{name}/kem-m/{i}", 32) for i in range(3)]
        a, b = Session.pair(
            self.handshake,
            {"ratchet": list(self.ratchet_keys["initiator"]), "kem_seeds": list(self.kem_seeds)},
            {"ratchet": list(self.ratchet_keys["responder"]), "kem_randomness": list(self.kem_randomness)},
        )
        self.sessions = {"initiator": a, "responder": b}
        self.peers = package and {side: Peer(self.handshake, side == "initiator", self.ratchet_keys[side]) for side in SIDES}
        self.steps, self.slices = [], []

    def send(self, side) -> int:
        """One message from that side; returns its number."""
        number, session = len(self.slices), self.sessions[side]
        r = det(f"{self.name}/r/{number}", 16)
        made = session.send(det(f"{self.name}/plaintext/{number}", 104), r)
        if self.peers:
            assert self.peers[side].send(made["type"], r, made["plaintext"]) == made["slice"]
            keys = self.peers[side].keys()
            assert keys["root"] == session.root and keys["sending"] == session.sending
        self.slices.append(made["slice"])
        self.steps.append({"do": "send", "from": side, "message": number} | made)
        return number

    def receive(self, number, side) -> None:
        session = self.sessions[side]
        got = session.receive(self.slices[number])
        if self.peers:
            assert self.peers[side].receive(self.slices[number]) == got["plaintext"]
            assert self.peers[side].keys()["receiving"] == session.receiving
        got = {k: v for k, v in got.items() if k not in ("plaintext", "message_key")}
        self.steps.append({"do": "receive", "to": side, "message": number} | got)

    def exchange(self, side, count=1) -> None:
        """`count` messages from that side, delivered in order."""
        for _ in range(count):
            self.receive(self.send(side), other(side))

    def refuse(self, side, data, package=True) -> None:
        """The slice must be refused and must change nothing."""
        session = self.sessions[side]
        before = copy.deepcopy(session)
        try:
            session.receive(data)
        except Refused as reason:
            why = str(reason)
        else:
            raise AssertionError(f"{self.name}: accepted what must be refused")
        assert before == session
        if self.peers and package:
            try:
                self.peers[side].receive(data)
            except Exception:  # the package has many exception types; that it refuses is what counts
                pass
            else:
                raise AssertionError(f"{self.name}: the package accepts it")
        self.steps.append({"do": "refuse", "to": side, "slice": data, "reason": why})

    def skip_sends(self, side, count) -> None:
        """Messages that are made and never delivered, not written out."""
        for i in range(count):
            self.sessions[side].send(bytes(104), det(f"{self.name}/skipped/{i}", 16))
        self.steps.append({"do": "skip_sends", "from": side, "count": count})

    def case(self) -> dict:
        used = {side: len(self.ratchet_keys[side]) - len(self.sessions[side].sources["ratchet"]) for side in SIDES}
        keys = self.handshake.prekeys
        return {
            "name": self.name, "kind": "session", "about": self.about, "checked_by_package": bool(self.peers),
            "th": self.handshake.th, "rk": self.handshake.rk, "session_id": self.handshake.th[:8],
            "signed_prekey_private": keys.signed_private, "signed_prekey": keys.signed,
            "first_extra": self.handshake.first_extra,
            "initiator_ratchet_privates": self.ratchet_keys["initiator"][:used["initiator"]],
            "responder_ratchet_privates": self.ratchet_keys["responder"][:used["responder"]],
            "initiator_kem_seeds": self.kem_seeds, "responder_kem_randomness": self.kem_randomness,
            "steps": self.steps,
        }


def other(side):
    return "responder" if side == "initiator" else "initiator"


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def in_order():
    script = Script("in-order", "both directions, four DH steps each, nothing lost")
    for _ in range(4):
        script.exchange("initiator", 2)
        script.exchange("responder", 3)
    return script


def out_of_order():
    script = Script("out-of-order", "messages late, across DH steps too; replays and damage refused", one_time=False, kem_kind=3)
    s = script
    late_first = s.send("initiator")
    s.receive(s.send("initiator"), "responder")
    s.refuse("responder", s.slices[1])
    replies = [s.send("responder") for _ in range(4)]
    s.receive(replies[2], "initiator")
    s.receive(replies[0], "initiator")
    second = [s.send("initiator") for _ in range(3)]
    s.receive(second[1], "responder")
    s.receive(late_first, "responder")
    s.exchange("responder", 1)
    third = s.send("initiator")
    s.receive(third, "responder")
    s.receive(replies[1], "initiator")
    s.receive(second[0], "responder")
    s.receive(second[2], "responder")
    s.refuse("responder", s.slices[second[2]])
    for at in (1, 2, 10, 42, 46, 50, 54, 70, 189):
        fresh = s.slices[replies[3]]
        s.refuse("initiator", flipped(fresh, at), package=at not in (2, 50))
    s.receive(replies[3], "initiator")
    s.exchange("responder", 2)
    return script


def first_lost():
    script = Script("first-lost", "several first messages, the first arrives last; every one carries all of it")
    s = script
    firsts = [s.send("initiator") for _ in range(3)]
    s.receive(firsts[1], "responder")
    s.refuse("responder", flipped(s.slices[firsts[2]], 75), package=False)
    s.refuse("responder", flipped(s.slices[firsts[2]], 1201), package=False)
    s.exchange("responder")
    s.receive(firsts[2], "responder")
    s.receive(firsts[0], "responder")
    s.exchange("initiator", 2)
    return script


def forged(session, dh_output, dh, kind=2, pn=0, mix_epoch=0, k_e=None, size=104):
    """A slice that authenticates for whoever skips the check it breaks."""
    label = b"kith/v1/root-pq" if k_e else b"kith/v1/root"
    chain = hkdf(session.root, dh_output + (k_e or b""), label, 64)[32:]
    r = det("forged", 16)
    key, nonce = message_keys(chain_step(chain)[0], r)
    clear = bytes([1, kind]) + session.th[:8] + dh + u32(pn) + u32(0) + u32(mix_epoch) + r
    clear += session.first_extra if kind == FIRST else b""
    return clear + seal(key, nonce, bytes(size), session.th + clear)


def refusals():
    script = Script("refusals", "slices that would authenticate if the check they break were missing", package=False)
    s = script
    a, b = s.sessions["initiator"], s.sessions["responder"]
    own = det("forged/ratchet", 32)

    valid = x25519(own, s.handshake.prekeys.signed)
    s.refuse("responder", forged(b, valid, x25519_public(own), kind=FIRST, pn=1))
    s.refuse("responder", forged(b, valid, x25519_public(own), kind=FIRST, mix_epoch=1))
    s.refuse("responder", forged(b, ZERO32, LOW_ORDER, kind=FIRST))
    s.refuse("responder", forged(b, ZERO32, ZERO32, kind=FIRST))
    s.refuse("responder", forged(b, valid, x25519_public(own), kind=FIRST, size=103))
    s.refuse("responder", forged(b, valid, x25519_public(own), kind=FIRST, size=1293))
    s.exchange("initiator")
    jump = copy.deepcopy(a)
    jump.own_private = own
    s.refuse("responder", forged(b, x25519(own, jump.peer_dh), x25519_public(own)))
    s.exchange("responder")
    reply_key = x25519_public(a.sources["ratchet"][0])
    secret = x25519(a.sources["ratchet"][0], a.peer_dh)
    s.refuse("responder", forged(b, secret, reply_key, mix_epoch=1))
    s.refuse("responder", forged(b, secret, reply_key, mix_epoch=1, k_e=det("forged/k_e", 32)))
    s.refuse("responder", forged(b, ZERO32, LOW_ORDER))
    s.refuse("responder", forged(b, secret, reply_key, kind=4))
    s.refuse("responder", b"\x02" + forged(b, secret, reply_key)[1:])
    s.refuse("responder", forged(b, secret, reply_key, kind=3))
    s.exchange("initiator", 2)
    return script


def long_jump():
    script = Script("long-jump", "a jump keeps the newest 2,000 keys, 25,000 pass and 25,001 do not", package=False)
    s = script
    s.exchange("initiator")
    s.skip_sends("initiator", 498)
    gone, kept = s.send("initiator"), s.send("initiator")
    s.skip_sends("initiator", 1999)
    s.receive(s.send("initiator"), "responder")
    s.refuse("responder", s.slices[gone])
    s.receive(kept, "responder")
    s.skip_sends("initiator", 25_000)
    passes, too_far = s.send("initiator"), s.send("initiator")
    s.refuse("responder", s.slices[too_far])
    s.receive(passes, "responder")
    s.receive(too_far, "responder")
    return script


def five_chains():
    script = Script("five-chains", "skipped keys live while their DH is one of the newest five received, the current one counted",
                    package=False)
    s = script
    missed = []
    for chain in range(6):
        late = [s.send("initiator") for _ in range(2)]
        missed.append(late)
        if chain == 5:
            s.receive(missed[0][0], "responder")
        s.exchange("initiator")
        s.exchange("responder")
    s.refuse("responder", s.slices[missed[0][1]])
    s.receive(missed[1][0], "responder")
    s.receive(missed[5][1], "responder")
    return script


def post_quantum():
    script = Script("post-quantum", "own ratchet only: 60 messages, then offer, answer, mixed chain, plain chain", package=False)
    s = script
    s.exchange("initiator", 10)
    s.exchange("responder", 20)
    s.exchange("initiator", 10)
    s.exchange("responder", 20)
    s.exchange("initiator", 2)
    s.exchange("responder", 2)
    s.exchange("initiator", 2)
    s.exchange("responder", 2)
    s.exchange("initiator", 1)
    s.exchange("responder", 1)
    assert [step["type"] for step in s.steps if step["do"] == "send"][60:] == [3, 2, 3, 2, 2, 2, 2, 2, 2, 2]
    return script


def post_quantum_losses():
    script = Script("post-quantum-losses", "own ratchet only: offer, answer and the head of the mixed chain are lost or late",
                    package=False)
    s = script
    s.exchange("initiator", 25)
    s.exchange("responder", 30)
    offer = s.send("initiator")
    s.exchange("initiator")
    s.exchange("responder")
    s.exchange("initiator")          # the offer again, same e and ek
    answer = s.send("responder")
    s.exchange("responder")          # the answer is late
    s.exchange("initiator")          # not answered for all it knows: the offer once more, ignored by the responder
    s.receive(offer, "responder")    # the first offer, late, ignored
    s.exchange("responder")          # the answer again
    head = s.send("initiator")       # mixed
    s.exchange("initiator")
    s.receive(answer, "initiator")   # late, ignored
    s.receive(head, "responder")
    s.exchange("responder", 2)
    s.exchange("initiator", 2)
    epochs = [(step["type"], step["mix_epoch"]) for step in s.steps if step["do"] == "send"][55:]
    assert epochs == [(3, 0), (2, 0), (2, 0), (3, 0), (3, 0), (2, 0), (3, 0), (3, 0), (2, 1), (2, 1), (2, 0), (2, 0), (2, 0), (2, 0)]
    return script


def cases() -> list:
    makers = (in_order, out_of_order, first_lost, refusals, long_jump, five_chains, post_quantum, post_quantum_losses)
    return [make().case() for make in makers]
