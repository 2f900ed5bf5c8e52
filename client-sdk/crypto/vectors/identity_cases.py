"""identity.json: account ids, signed strings, list sequences and strict signatures."""

import copy

import signature_cases
from device_lists import Client
from ed25519_strict import BASE, challenge, encode, passes_lax, times
from identity import Account, Device, leave, login
from primitives import Refused, ZERO32, det, ed25519_sign, kem_public, sha256, x25519_public
from world import ALICE, ALICE_1, ALICE_2, BOB, BOB_1

ISSUED = 1_790_000_000_000


def account_case(account: Account) -> dict:
    return {"name": f"account-{account.name}", "kind": "account", "aik_seed": account.aik_seed, "aik": account.aik,
            "recovery_seed": account.recovery_seed, "recovery": account.recovery, "account_id": account.account_id}


def certificate_case(device: Device) -> dict:
    return {
        "name": f"certificate-{device.name}", "kind": "certificate", "account_id": device.account.account_id,
        "aik_seed": device.account.aik_seed, "aik": device.account.aik, "device_id": device.device_id,
        "ed25519_seed": device.ed25519_seed, "ed25519": device.ed25519, "x25519_private": device.x25519_private,
        "x25519": device.x25519, "mls_seed": device.mls_seed, "mls_ed25519": device.mls,
        "since_version": device.since_version,
    } | device.certificate()


def signed_cases() -> list:
    device = ALICE_1
    owner = {"account_id": ALICE.account_id, "device_id": device.device_id, "ed25519_seed": device.ed25519_seed,
             "ed25519": device.ed25519}
    keys = {1: x25519_public(det("prekey/1", 32)), 2: kem_public(det("prekey/2", 64)), 3: kem_public(det("prekey/3", 64))}
    made = [{"name": f"prekey-{kind}", "kind": "prekey"} | owner
            | {"prekey_kind" if k == "kind" else k: v for k, v in device.prekey(kind, 100 + kind, ISSUED, key).items()}
            for kind, key in keys.items()]
    made.append({"name": "leave", "kind": "leave"} | owner | {"version": 3} | leave(device, 3))
    for name, origin in (("login", "wss://chat.example:443"), ("login-local", "ws://127.0.0.1:8080")):
        made.append({"name": name, "kind": "login"} | owner
                    | login(device, origin, det("challenge", 32), det("client_nonce", 32), ISSUED + 60_000))
    return made


def list_case() -> dict:
    made = ALICE.device_list([ALICE_1, ALICE_2], 2, det("list/prev", 32), ISSUED)
    return {"name": "list", "kind": "list", "aik_seed": ALICE.aik_seed, "account_id": ALICE.account_id, "aik": ALICE.aik,
            "recovery": ALICE.recovery, "version": 2, "prev_hash": det("list/prev", 32), "issued_at": ISSUED,
            "entries": sorted([{"device_id": d.device_id, "certificate_hash": d.certificate()["hash"]}
                               for d in (ALICE_1, ALICE_2)], key=lambda e: e["device_id"])} | made


def rotate_case() -> dict:
    account = Account("rotating")
    old = account_case(account)
    made = account.rotate(2, det("rotate/prev", 32), "rotated")
    return {"name": "rotate", "kind": "rotate", "account_id": account.account_id, "old_aik": old["aik"],
            "old_recovery_seed": old["recovery_seed"], "old_recovery": old["recovery"], "new_aik": account.aik,
            "new_recovery": account.recovery, "version": 2, "prev_hash": det("rotate/prev", 32)} | made


class Sequence:
    """Hands lists and rotations to one client in order; each must be taken or refused as said."""

    def __init__(self, name, about):
        self.name, self.about, self.client, self.steps = name, about, Client(), []

    def hand(self, item, accepted=True, rotation=False):
        before = copy.deepcopy(self.client.__dict__)
        reason = None
        try:
            (self.client.take_rotation if rotation else self.client.take_list)(item)
        except Refused as refusal:
            reason = str(refusal)
            assert before == self.client.__dict__
        assert (reason is None) == accepted, f"{self.name}: {reason}"
        self.steps.append({"is": "rotation" if rotation else "list", "expect": "accepted" if accepted else "refused",
                           "reason": reason} | {k: item[k] for k in ("signed", "signature", "certificates") if k in item})
        return self

    def case(self) -> dict:
        return {"name": self.name, "kind": "list_sequence", "about": self.about, "steps": self.steps}


def resigned(item, account, change, seed=None):
    """The list with other bytes, signed again by the right key."""
    signed = change(item["signed"])
    return item | {"signed": signed, "signature": ed25519_sign(seed or account.aik_seed, signed), "hash": sha256(signed)}


def plain_sequences(v1, v2) -> list:
    v3 = ALICE.device_list([ALICE_1], 3, v2["hash"], ISSUED + 2)
    fork = ALICE.device_list([ALICE_1], 2, v1["hash"], ISSUED + 5)
    broken = ALICE.device_list([ALICE_1], 3, fork["hash"], ISSUED + 6)
    return [
        Sequence("grows", "three versions, one of them twice").hand(v1).hand(v2).hand(v2).hand(v3),
        Sequence("lower-version", "an older list again").hand(v1).hand(v2).hand(v1, False).hand(v3),
        Sequence("fork", "the same version with another content").hand(v1).hand(v2).hand(fork, False).hand(v3),
        Sequence("broken-prev-hash", "the next version of another branch").hand(v1).hand(v2).hand(broken, False).hand(v3),
        Sequence("first-is-later", "a client that meets the account at version 2").hand(v2).hand(v3),
    ]


def malformed_sequences(v1, v2) -> list:
    eleven = [Device(f"alice/many/{i}", ALICE) for i in range(11)]
    def after_v1(name, about, item):
        return Sequence(name, about).hand(v1).hand(item, False).hand(v2)
    def version_two(devices, **wrong):
        return ALICE.device_list(devices, 2, v1["hash"], ISSUED + 1, **wrong)
    both = [ALICE_1, ALICE_2]
    foreign = copy.copy(ALICE_2)
    foreign.ed25519_seed = det("foreign/ed25519", 32)  # countersigns with a key that is not the certificate's
    other_aik = copy.copy(ALICE)
    other_aik.aik_seed = det("thief/aik", 32)
    ghost = copy.copy(ALICE_2)
    ghost.account = other_aik                           # certified by a key that is not the AIK it names
    missing = version_two(both)
    missing["certificates"] = missing["certificates"][:1]
    zero = Sequence("version-1-with-prev-hash", "version 1 has a zero prev_hash")
    later_zero = ALICE.device_list(both, 2, ZERO32, ISSUED)
    return [
        after_v1("unsorted", "entries descend", version_two(both, order=lambda e: sorted(e, reverse=True))),
        after_v1("twice", "one device twice", version_two([ALICE_1, ALICE_1])),
        after_v1("eleven", "eleven devices", version_two(eleven)),
        Sequence("ten", "ten devices are allowed").hand(v1).hand(version_two(eleven[:10])),
        after_v1("none", "no device", version_two([])),
        after_v1("count-too-low", "count 1 with two entries", version_two(both, count=1)),
        after_v1("count-too-high", "count 3 with two entries", version_two(both, count=3)),
        after_v1("trailing", "a byte after the end", resigned(v2, ALICE, lambda s: s + b"\0")),
        after_v1("wrong-label", "a list under another label",
                 resigned(v2, ALICE, lambda s: s.replace(b"kith/v1/devices", b"kith/v1/devicez"))),
        after_v1("wrong-signer", "signed by a device, not the AIK", version_two(both, seed=ALICE_1.ed25519_seed)),
        after_v1("signed-by-recovery", "signed by R, not the AIK", version_two(both, seed=ALICE.recovery_seed)),
        after_v1("damaged-signature", "one bit of the signature",
                 v2 | {"signature": bytes([v2["signature"][0] ^ 1]) + v2["signature"][1:]}),
        after_v1("missing-certificate", "an entry whose certificate is not there", missing),
        after_v1("not-accepted", "the device did not countersign", version_two([ALICE_1, foreign])),
        after_v1("ghost", "a certificate not signed by the AIK", version_two([ALICE_1, ghost])),
        after_v1("zero-prev-later", "a zero prev_hash after version 1", later_zero),
        zero.hand(ALICE.device_list([ALICE_1], 1, det("not zero", 32), ISSUED), False).hand(v1),
    ]


def account_sequences(v1) -> list:
    bob = BOB.device_list([BOB_1], 1, ZERO32, ISSUED)
    stolen = copy.copy(BOB)
    stolen.account_id = ALICE.account_id
    borrowed = copy.copy(BOB_1)
    borrowed.device_id = ALICE_1.device_id
    return [
        Sequence("two-accounts", "two accounts side by side").hand(v1).hand(bob),
        Sequence("other-account-id", "an account_id that is not that of AIK and R")
        .hand(stolen.device_list([BOB_1], 1, ZERO32, ISSUED), False).hand(v1),
        Sequence("changed-aik", "another AIK for a pinned account")
        .hand(v1).hand(stolen.device_list([BOB_1], 2, v1["hash"], ISSUED), False),
        Sequence("borrowed-device-id", "a device_id known under another account")
        .hand(v1).hand(BOB.device_list([borrowed], 1, ZERO32, ISSUED), False).hand(bob),
    ]


def forged_rotation(account, prev_hash) -> dict:
    """A rotation by nobody for an account without R: the challenge is a multiple of 4, so that k·A is the identity."""
    scalar = signature_cases.nonce("forged-rotation")
    point = encode(times(scalar, BASE))
    for counter in range(100):
        item = copy.copy(account).rotate(2, prev_hash, f"thief/{counter}")
        if challenge(point, ZERO32, item["signed"]) % 4 == 0:
            signature = point + scalar.to_bytes(32, "little")
            assert passes_lax(ZERO32, item["signed"], signature, False)
            return item | {"signature": signature}
    raise AssertionError("no challenge is a multiple of 4")


def rotation_sequences() -> list:
    made = []
    def start(name, about, recovery=True):
        account = Account("rotating", recovery)
        device = Device("rotating/1", account)
        first = account.device_list([device], 1, ZERO32, ISSUED)
        return account, device, first, Sequence(name, about).hand(first)

    account, device, first, steps = start("rotation", "R rotates, then the new AIK signs; the old one is worth nothing")
    thief = copy.copy(account)
    rotation = account.rotate(2, first["hash"], "rotated")
    old = thief.device_list([device], 3, rotation["hash"], ISSUED)
    steps.hand(rotation, rotation=True).hand(old, False).hand(first, False)
    made.append(steps.hand(account.device_list([device], 3, rotation["hash"], ISSUED)))

    account, device, first, steps = start("rotation-without-recovery", "R was declined; 32 zeros are a point of order 4, "
                                          "so this forged signature passes a lax verifier", recovery=False)
    made.append(steps.hand(forged_rotation(account, first["hash"]), False, rotation=True))

    account, device, first, steps = start("rotation-by-aik", "signed by the AIK, not by R")
    by_aik = copy.copy(account)
    by_aik.recovery_seed = account.aik_seed
    made.append(steps.hand(by_aik.rotate(2, first["hash"], "rotated"), False, rotation=True))

    account, device, first, steps = start("rotation-broken", "another prev_hash, a version too high")
    for version, prev in ((2, det("elsewhere", 32)), (3, first["hash"])):
        steps.hand(copy.copy(account).rotate(version, prev, "rotated"), False, rotation=True)
    made.append(steps)
    return made


def cases() -> list:
    v1 = ALICE.device_list([ALICE_1], 1, ZERO32, ISSUED)
    v2 = ALICE.device_list([ALICE_1, ALICE_2], 2, v1["hash"], ISSUED + 1)
    sequences = plain_sequences(v1, v2) + malformed_sequences(v1, v2) + account_sequences(v1) + rotation_sequences()
    accounts = [account_case(a) for a in (ALICE, BOB, Account("no-recovery", recovery=False))]
    return [*accounts, certificate_case(ALICE_1), certificate_case(ALICE_2), *signed_cases(), list_case(), rotate_case(),
            *(s.case() for s in sequences), *signature_cases.cases()]
