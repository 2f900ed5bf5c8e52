"""The same exchanges through the DoubleRatchet package (1.3.0), with our KDFs, AEAD and header plugged into it.

The package makes its sending key eagerly and ours lazily; with the same private keys the derived values are the same.
The r, the type and a first message's extra bytes ride in the associated data handed to the package, so that its
header is byte for byte ours. It has no post-quantum step.
"""

import asyncio

import doubleratchet
from doubleratchet.recommended import HashFunction, diffie_hellman_ratchet_curve25519, kdf_hkdf, kdf_separate_hmacs

from primitives import seal, u32
from ratchet import FIRST, MAX_SKIPPED, message_keys
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

CHAIN_CONSTANT = b"\x02\x01"  # the package takes the next chain key first, then the message key


class RootKDF(kdf_hkdf.KDF):
    @staticmethod
    def _get_hash_function():
        return HashFunction.SHA_256

    @staticmethod
    def _get_info():
        return b"kith/v1/root"


class ChainKDF(kdf_separate_hmacs.KDF):
    @staticmethod
    def _get_hash_function():
        return HashFunction.SHA_256


class MessageAEAD(doubleratchet.AEAD):
    """ChaCha20-Poly1305 under HKDF(r, MK); r stands at its place in the header inside the associated data."""

    @staticmethod
    async def encrypt(plaintext, key, associated_data):
        key, nonce = message_keys(key, associated_data[32 + 54:32 + 70])
        return seal(key, nonce, plaintext, associated_data)

    @staticmethod
    async def decrypt(ciphertext, key, associated_data):
        key, nonce = message_keys(key, associated_data[32 + 54:32 + 70])
        try:
            return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, associated_data)
        except InvalidTag:
            raise doubleratchet.AuthenticationFailedException from None


class KithRatchet(doubleratchet.DoubleRatchet):
    @staticmethod
    def _build_associated_data(associated_data, header):
        th, kind, r, extra = associated_data[:32], associated_data[32:33], associated_data[33:49], associated_data[49:]
        return (th + b"\x01" + kind + th[:8] + header.ratchet_pub + u32(header.previous_sending_chain_length)
                + u32(header.sending_chain_length) + u32(0) + r + extra)


class Peer:
    """One side, driven by the package; created by the first message it sends or receives."""

    def __init__(self, handshake, is_initiator, ratchet_keys):
        keys = list(ratchet_keys)

        class FixedKeys(diffie_hellman_ratchet_curve25519.DiffieHellmanRatchet):
            @staticmethod
            def _generate_priv():
                return keys.pop(0) if keys else bytes([1] * 32)  # an eager key never used at the end of a script

        self.handshake, self.is_initiator, self.ratchet = handshake, is_initiator, None
        self.settings = (FixedKeys, RootKDF, ChainKDF, CHAIN_CONSTANT, MAX_SKIPPED, MAX_SKIPPED, MessageAEAD)

    def _associated(self, kind, r):
        return self.handshake.th + bytes([kind]) + r + (self.handshake.first_extra if kind == FIRST else b"")

    def send(self, kind, r, plaintext) -> bytes:
        """The whole slice as the package would send it."""
        associated = self._associated(kind, r)
        if self.ratchet is None:
            assert self.is_initiator
            self.ratchet, made = asyncio.run(KithRatchet.encrypt_initial_message(
                *self.settings, self.handshake.rk, self.handshake.prekeys.signed, plaintext, associated))
        else:
            made = asyncio.run(self.ratchet.encrypt_message(plaintext, associated))
        clear = KithRatchet._build_associated_data(associated, made.header)[32:]
        return clear + made.ciphertext

    def receive(self, data: bytes) -> bytes:
        """The plaintext, or whatever exception the package raises."""
        number = lambda at: int.from_bytes(data[at:at + 4], "big")
        header = doubleratchet.Header(data[10:42], number(42), number(46))
        clear = 70 + (1132 if data[1] == FIRST else 0)
        message = doubleratchet.EncryptedMessage(header, data[clear:])
        associated = self._associated(data[1], data[54:70])
        if self.ratchet is None:
            self.ratchet, plaintext = asyncio.run(KithRatchet.decrypt_initial_message(
                *self.settings, self.handshake.rk, self.handshake.prekeys.signed_private, message, associated))
            return plaintext
        return asyncio.run(self.ratchet.decrypt_message(message, associated))

    def keys(self) -> dict:
        """Root, sending and receiving chain keys as the package holds them."""
        inner = self.ratchet.model.diffie_hellman_ratchet
        chains = inner.symmetric_key_ratchet
        return {"root": inner.root_chain.key,
                "sending": chains.sending_chain and chains.sending_chain.key,
                "receiving": chains.receiving_chain and chains.receiving_chain.key}
