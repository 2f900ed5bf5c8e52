"""A Double Ratchet written from sections 3 and 9 (rules 16 to 26), small and slow, with every value visible.

It is the whole format: lazy sending key, the r in every key derivation, the 70-byte header, first messages, the
post-quantum step. `ratchet_peer.py` checks all but the last against the DoubleRatchet package.
"""

import copy
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from primitives import (
    ZERO32, Refused, hkdf, hmac_sha256, kem_decapsulate, kem_encapsulate, kem_public, seal, sha256, u8, u32, x25519,
    x25519_public,
)

FIRST, ORDINARY, POST_QUANTUM = 1, 2, 3
MAX_JUMP, MAX_SKIPPED, MAX_RECEIVING_DHS, MIX_AFTER = 25_000, 2_000, 5, 50
PLAIN_BYTES, POST_QUANTUM_BYTES = 104, 1_293
OFFER, ANSWER = 1, 2


@dataclass
class Header:
    kind: int
    session_id: bytes
    dh: bytes
    pn: int
    n: int
    mix_epoch: int
    r: bytes

    def encode(self) -> bytes:
        return (u8(1) + u8(self.kind) + self.session_id + self.dh + u32(self.pn) + u32(self.n) + u32(self.mix_epoch)
                + self.r)

    @staticmethod
    def decode(data: bytes) -> "Header":
        if len(data) != 70 or data[0] != 1 or data[1] not in (FIRST, ORDINARY, POST_QUANTUM):
            raise Refused("unknown version or type")
        number = lambda at: int.from_bytes(data[at:at + 4], "big")
        return Header(data[1], data[2:10], data[10:42], number(42), number(46), number(50), data[54:70])


def message_keys(message_key: bytes, r: bytes) -> tuple[bytes, bytes]:
    output = hkdf(r, message_key, b"kith/v1/msg", 44)
    return output[:32], output[32:]


def chain_step(chain_key: bytes) -> tuple[bytes, bytes]:
    """(message key, next chain key)"""
    return hmac_sha256(chain_key, b"\x01"), hmac_sha256(chain_key, b"\x02")


def root_step(root: bytes, secret: bytes, confirmed_key: bytes | None) -> dict:
    label = b"kith/v1/root-pq" if confirmed_key else b"kith/v1/root"
    output = hkdf(root, secret + (confirmed_key or b""), label, 64)
    return {"root_before": root, "dh_output": secret, "k_e": confirmed_key, "root_after": output[:32],
            "chain_key": output[32:]}


def confirmation_key(th: bytes, secret: bytes, e: int, ek: bytes, ct: bytes) -> bytes:
    return hkdf(ZERO32, secret, b"kith/v1/pq" + th + u32(e) + sha256(ek) + sha256(ct), 32)


@dataclass
class PostQuantum:
    """What one side remembers of the post-quantum step."""

    last_mixed: int = 0
    messages: int = 0
    e: int = 0
    seed: bytes | None = None
    field_bytes: bytes | None = None
    k_e: bytes | None = None
    mixing: int = 0


@dataclass
class Session:
    """One side of a session; `sources` gives private keys and KEM randomness in the order they are needed."""

    is_initiator: bool
    th: bytes
    root: bytes
    first_extra: bytes
    sources: dict
    own_private: bytes | None = None
    peer_dh: bytes | None = None
    sending: bytes | None = None
    receiving: bytes | None = None
    sent: int = 0
    received: int = 0
    previous: int = 0
    confirmed: bool = False
    skipped: dict = field(default_factory=dict)
    receiving_dhs: list = field(default_factory=list)
    pq: PostQuantum = field(default_factory=PostQuantum)

    @staticmethod
    def pair(handshake, initiator_sources, responder_sources) -> tuple["Session", "Session"]:
        """Both sides as PQXDH leaves them (rule 18)."""
        keys = handshake.prekeys
        a = Session(True, handshake.th, handshake.rk, handshake.first_extra, initiator_sources, peer_dh=keys.signed)
        b = Session(False, handshake.th, handshake.rk, handshake.first_extra, responder_sources,
                    own_private=keys.signed_private)
        return a, b

    # --- sending ---

    def send(self, base: bytes, r: bytes) -> dict:
        """Seals 104 bytes of slice plaintext, with a post-quantum field if one is due."""
        assert len(base) == PLAIN_BYTES
        step = self._open_sending_chain() if self.sending is None else None
        offered = self._field_due() if self.sent == 0 else None
        kind = FIRST if self.is_initiator and not self.confirmed else POST_QUANTUM if offered else ORDINARY
        plaintext = base if kind != POST_QUANTUM else (base + offered).ljust(POST_QUANTUM_BYTES, b"\0")
        message_key, self.sending = chain_step(self.sending)
        header = Header(kind, self.th[:8], x25519_public(self.own_private), self.previous, self.sent,
                        self.pq.mixing if self.is_initiator else 0, r)
        self.sent += 1
        self.pq.messages += 1
        return self.seal(header, message_key, plaintext) | {"root_step": step, "chain_key_after": self.sending}

    def seal(self, header: Header, message_key: bytes, plaintext: bytes) -> dict:
        key, nonce = message_keys(message_key, header.r)
        clear = header.encode() + (self.first_extra if header.kind == FIRST else b"")
        return {
            "type": header.kind, "dh": header.dh, "pn": header.pn, "n": header.n, "mix_epoch": header.mix_epoch,
            "r": header.r, "message_key": message_key, "key": key, "nonce": nonce, "plaintext": plaintext,
            "slice": clear + seal(key, nonce, plaintext, self.th + clear),
        }

    def _open_sending_chain(self) -> dict:
        if self.peer_dh is None:
            raise Refused("the responder cannot send before it has received")
        self.own_private = self.sources["ratchet"].pop(0)
        mixed = self.pq.k_e if self.is_initiator else None
        step = root_step(self.root, x25519(self.own_private, self.peer_dh), mixed)
        self.pq.mixing = self.pq.e if mixed else 0
        if mixed:
            self.pq = PostQuantum(last_mixed=self.pq.e, e=self.pq.e, mixing=self.pq.e)
        self.root, self.sending, self.sent = step["root_after"], step["chain_key"], 0
        return step

    def _field_due(self) -> bytes | None:
        """The post-quantum field for the first message of a chain (rules 24 to 26)."""
        pq = self.pq
        if not self.is_initiator:
            return pq.field_bytes
        if not self.confirmed or pq.k_e:
            return None
        if pq.field_bytes is None and pq.messages >= MIX_AFTER:
            pq.e, pq.seed = pq.last_mixed + 1, self.sources["kem_seeds"].pop(0)
            pq.field_bytes = u8(OFFER) + u32(pq.e) + kem_public(pq.seed)
        return pq.field_bytes

    # --- receiving ---

    def receive(self, data: bytes) -> dict:
        """Works on a copy and becomes that copy only when the slice has authenticated."""
        attempt = copy.deepcopy(self)
        result = attempt._receive(data)
        self.__dict__.update(attempt.__dict__)
        return result

    def _receive(self, data: bytes) -> dict:
        header = Header.decode(data[:70])
        if header.session_id != self.th[:8]:
            raise Refused("another session")
        clear = data[:70 + (1132 if header.kind == FIRST else 0)]
        step, message_key = None, self.skipped.pop((header.dh, header.n), None)
        if message_key is None:
            if header.dh != self._current_peer():
                step = self._open_receiving_chain(header)
            message_key = self._advance(header.n)
        key, nonce = message_keys(message_key, header.r)
        try:
            plaintext = ChaCha20Poly1305(key).decrypt(nonce, data[len(clear):], self.th + clear)
        except InvalidTag:
            raise Refused("does not authenticate") from None
        if len(plaintext) != (POST_QUANTUM_BYTES if header.kind == POST_QUANTUM else PLAIN_BYTES):
            raise Refused("wrong plaintext length")
        self._accept(header, plaintext)
        return {"plaintext": plaintext, "message_key": message_key, "root_step": step,
                "chain_key_after": self.receiving, "skipped_kept": len(self.skipped)}

    def _current_peer(self) -> bytes | None:
        return self.receiving_dhs[-1] if self.receiving_dhs else None

    def _open_receiving_chain(self, header: Header) -> dict:
        if self.receiving is not None and self.sending is None:
            raise Refused("another new DH before our own sending half")
        if self.own_private is None:
            raise Refused("a message before our first")
        if header.kind == FIRST and self._current_peer() is None and (header.pn or header.mix_epoch):
            raise Refused("PN or mix_epoch is not 0 in a first message")
        mixed = self._mixed_key(header)
        if self.receiving is not None:
            self._skip_to(header.pn)
        step = root_step(self.root, x25519(self.own_private, header.dh), mixed)
        self.root, self.receiving, self.received = step["root_after"], step["chain_key"], 0
        self.peer_dh = header.dh
        self.receiving_dhs = (self.receiving_dhs + [header.dh])[-MAX_RECEIVING_DHS:]
        self.skipped = {at: key for at, key in self.skipped.items() if at[0] in self.receiving_dhs}
        if self.sending is not None:
            self.previous, self.sending = self.sent, None
        return step

    def _mixed_key(self, header: Header) -> bytes | None:
        if header.mix_epoch == 0:
            return None
        if self.is_initiator or header.mix_epoch != self.pq.e or self.pq.k_e is None:
            raise Refused("mix_epoch names a key we do not have")
        return self.pq.k_e

    def _skip_to(self, n: int) -> None:
        if n - self.received > MAX_JUMP:
            raise Refused("the jump is too long")
        while self.received < n:
            self.skipped[(self._current_peer(), self.received)], self.receiving = chain_step(self.receiving)
            self.received += 1
        for oldest in list(self.skipped)[:max(0, len(self.skipped) - MAX_SKIPPED)]:
            del self.skipped[oldest]

    def _advance(self, n: int) -> bytes:
        if n < self.received:
            raise Refused("the key is gone: a replay, or a message skipped too long ago")
        self._skip_to(n)
        message_key, self.receiving = chain_step(self.receiving)
        self.received += 1
        return message_key

    def _accept(self, header: Header, plaintext: bytes) -> None:
        self.pq.messages += 1
        if self.is_initiator or header.kind != FIRST:
            self.confirmed = True
        if not self.is_initiator and header.mix_epoch and header.mix_epoch == self.pq.e:
            self.pq = PostQuantum(last_mixed=header.mix_epoch)
        if header.kind == POST_QUANTUM:
            self._take_field(plaintext[PLAIN_BYTES:])

    def _take_field(self, data: bytes) -> None:
        pq, kind, e = self.pq, data[0], int.from_bytes(data[1:5], "big")
        if not self.is_initiator and kind == OFFER and e == pq.last_mixed + 1 and pq.k_e is None:
            ek = data[5:]
            secret, ct = kem_encapsulate(ek, self.sources["kem_randomness"].pop(0))
            pq.e, pq.k_e = e, confirmation_key(self.th, secret, e, ek, ct)
            pq.field_bytes = u8(ANSWER) + u32(e) + ct
        elif self.is_initiator and kind == ANSWER and e == pq.e and pq.seed and pq.k_e is None:
            ct = data[5:5 + 1088]
            secret = kem_decapsulate(pq.seed, ct)
            pq.k_e = confirmation_key(self.th, secret, e, kem_public(pq.seed), ct)
