"""First contact: full PQXDH (sections 2 and 9, rules 11 to 16), and its classical part against X3DH 1.3.0."""

import asyncio
from dataclasses import dataclass
from unittest import mock

import x3dh
import x3dh.base_state
import x3dh.identity_key_pair

from identity import Device
from primitives import (
    ZERO32, det, hkdf, kem_decapsulate, kem_encapsulate, kem_public, sha256, u8, u32, x25519, x25519_public,
)

INFO = b"Kith_CURVE25519_SHA-256_ML-KEM-768"
KEM_ONE_TIME, KEM_LAST_RESORT = 2, 3
CREATED = 1_790_000_000_000


@dataclass
class Prekeys:
    """What the responder published and the initiator chose; ids share one space (rule 5)."""

    signed_id: int
    signed_private: bytes
    one_time_id: int
    one_time_private: bytes | None
    kem_kind: int
    kem_id: int
    kem_seed: bytes

    def __post_init__(self):
        self.signed = x25519_public(self.signed_private)
        self.one_time = x25519_public(self.one_time_private) if self.one_time_private else None
        self.kem = kem_public(self.kem_seed)


@dataclass
class Handshake:
    """Every value of one first contact."""

    conversation: bytes
    initiator: Device
    responder: Device
    prekeys: Prekeys
    ephemeral_private: bytes
    kem_randomness: bytes

    def __post_init__(self):
        keys, a, b = self.prekeys, self.initiator, self.responder
        self.ephemeral = x25519_public(self.ephemeral_private)
        self.kem_secret, self.ciphertext = kem_encapsulate(keys.kem, self.kem_randomness)
        self.dh = [x25519(a.x25519_private, keys.signed), x25519(self.ephemeral_private, b.x25519),
                   x25519(self.ephemeral_private, keys.signed)]
        if keys.one_time:
            self.dh.append(x25519(self.ephemeral_private, keys.one_time))
        self._check_responder()
        self.sk = hkdf(ZERO32, b"\xff" * 32 + b"".join(self.dh) + self.kem_secret, INFO, 32)
        self.transcript = self._transcript()
        self.th = sha256(self.transcript)
        self.rk = hkdf(self.th, self.sk, b"kith/v1/root0", 32)
        self.first_extra = (self.ephemeral + u32(keys.signed_id) + u32(keys.one_time_id) + u32(keys.kem_id)
                            + self.ciphertext)

    def _transcript(self) -> bytes:
        keys = self.prekeys
        one_time = u8(1) + u32(keys.one_time_id) + keys.one_time if keys.one_time else u8(0) + u32(0) + ZERO32
        return b"".join((
            b"kith/v1/pqxdh", u8(1), self.conversation, self.initiator.party(), self.responder.party(), self.ephemeral,
            u32(keys.signed_id), keys.signed, one_time, u8(keys.kem_kind), u32(keys.kem_id), keys.kem, self.ciphertext,
        ))

    def _check_responder(self) -> None:
        """The responder's half of every computation gives the same values."""
        keys, b = self.prekeys, self.responder
        dh = [x25519(keys.signed_private, self.initiator.x25519), x25519(b.x25519_private, self.ephemeral),
              x25519(keys.signed_private, self.ephemeral)]
        if keys.one_time_private:
            dh.append(x25519(keys.one_time_private, self.ephemeral))
        assert dh == self.dh
        assert kem_decapsulate(keys.kem_seed, self.ciphertext) == self.kem_secret


class X3DHState(x3dh.BaseState):
    """X3DH with our curve, hash and info string; how it encodes keys touches only what it signs."""

    @staticmethod
    def _encode_public_key(key_format, pub):
        return pub


class FixedRandom:
    """Stands in for `secrets` inside X3DH so that its keys are the ones in the file."""

    def __init__(self, values):
        self.values = list(values)

    def token_bytes(self, size):
        value = self.values.pop(0)
        assert len(value) == size
        return value

    @staticmethod
    def choice(items):
        (only,) = items
        return only


def x3dh_secret(handshake: Handshake) -> bytes:
    """The secret X3DH 1.3.0 derives for the same keys, both sides run and compared."""
    keys = handshake.prekeys

    def state(private, values, one_time):
        pair = x3dh.identity_key_pair.IdentityKeyPairPriv(private)
        with mock.patch.object(x3dh.base_state, "secrets", FixedRandom(values)):
            made = X3DHState.create(x3dh.IdentityKeyFormat.CURVE_25519, x3dh.HashFunction.SHA_256, INFO, pair)
            made.generate_pre_keys(one_time)
        return made

    passive_values = [keys.signed_private] + ([keys.one_time_private] if keys.one_time else [])
    passive = state(handshake.responder.x25519_private, passive_values, len(passive_values) - 1)
    active = state(handshake.initiator.x25519_private, [det("x3dh/unused", 32)], 0)
    with mock.patch.object(x3dh.base_state, "secrets", FixedRandom([handshake.ephemeral_private])):
        secret, _, header = asyncio.run(active.get_shared_secret_active(passive.bundle, require_pre_key=False))
    assert header.ephemeral_key == handshake.ephemeral and header.pre_key == keys.one_time
    again, _, _ = asyncio.run(passive.get_shared_secret_passive(header, require_pre_key=False))
    assert again == secret
    return secret


def make_prekeys(name: str, one_time: bool, kem_kind: int, first_id: int) -> Prekeys:
    """Prekeys derived from a name, with ids in one increasing space."""
    return Prekeys(
        signed_id=first_id,
        signed_private=det(f"{name}/signed", 32),
        one_time_id=first_id + 1 if one_time else 0,
        one_time_private=det(f"{name}/one-time", 32) if one_time else None,
        kem_kind=kem_kind,
        kem_id=first_id + 2,
        kem_seed=det(f"{name}/kem", 64),
    )


def make_handshake(name, conversation, initiator, responder, one_time=True, kem_kind=KEM_ONE_TIME, first_id=1):
    return Handshake(
        conversation, initiator, responder, make_prekeys(name, one_time, kem_kind, first_id),
        det(f"{name}/ephemeral", 32), det(f"{name}/kem-randomness", 32),
    )
