"""Hashes, key derivation, curves and the KEM in the exact shape the specification uses them.

Nothing here is shared with the Rust code: HKDF is written out over `hmac`, X25519, Ed25519 signing and
ChaCha20-Poly1305 come from `cryptography`, ML-KEM-768 from `kyber-py`, checked against `cryptography`.
"""

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from kyber_py.ml_kem import ML_KEM_768

ZERO32 = bytes(32)


class Refused(Exception):
    """An input the specification says must be refused; the text is the reason written to the vectors."""


def det(name: str, size: int) -> bytes:
    """Bytes that look random and are the same in every run."""
    return hashlib.shake_256(b"kith vectors/" + name.encode()).digest(size)


def u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def hkdf(salt: bytes, secret: bytes, info: bytes, size: int) -> bytes:
    """HKDF-SHA-256 (RFC 5869), extract then expand."""
    prk = hmac_sha256(salt, secret)
    output, block, counter = b"", b"", 1
    while len(output) < size:
        block = hmac_sha256(prk, block + info + u8(counter))
        output += block
        counter += 1
    return output[:size]


def x25519_public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def x25519(private: bytes, public: bytes) -> bytes:
    """The shared secret; an all-zero result is refused (section 2, rule 13)."""
    try:
        secret = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise Refused("the DH result is all zero") from None
    if secret == ZERO32:
        raise Refused("the DH result is all zero")
    return secret


def ed25519_public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def seal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(nonce, plaintext, associated)


def kem_public(seed: bytes) -> bytes:
    """The 1,184-byte encapsulation key of a 64-byte seed d ‖ z; both libraries must agree."""
    public, _ = ML_KEM_768._keygen_internal(seed[:32], seed[32:])
    assert public == mlkem.MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
    return public


def kem_encapsulate(public: bytes, randomness: bytes) -> tuple[bytes, bytes]:
    """(shared secret, ciphertext) of ML-KEM-768 with the message m given."""
    return ML_KEM_768._encaps_internal(public, randomness)


def kem_decapsulate(seed: bytes, ciphertext: bytes) -> bytes:
    """The shared secret, of which both libraries must think the same, a damaged ciphertext included."""
    _, private = ML_KEM_768._keygen_internal(seed[:32], seed[32:])
    secret = ML_KEM_768.decaps(private, ciphertext)
    assert secret == mlkem.MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)
    return secret
