"""Accounts, devices, and everything that is signed (specification sections 1 and 9, rules 1 to 10)."""

from dataclasses import dataclass

from primitives import ZERO32, det, ed25519_public, ed25519_sign, sha256, u8, u16, u32, u64, x25519_public

PREFIX = b"kith/v1/"


def signed_string(label: str, *fields: bytes) -> bytes:
    """u8 length ‖ label ‖ fields; the length counts the whole label with its prefix."""
    whole = PREFIX + label.encode()
    return u8(len(whole)) + whole + b"".join(fields)


def account_id(aik: bytes, recovery: bytes) -> bytes:
    return sha256(b"kith/v1/account", aik, recovery)[:16]


@dataclass
class Device:
    """One device with all its private keys, all derived from its name."""

    name: str
    account: "Account"
    since_version: int = 1

    def __post_init__(self):
        self.device_id = det(f"{self.name}/device_id", 16)
        self.ed25519_seed = det(f"{self.name}/ed25519", 32)
        self.x25519_private = det(f"{self.name}/x25519", 32)
        self.mls_seed = det(f"{self.name}/mls", 32)
        self.ed25519 = ed25519_public(self.ed25519_seed)
        self.x25519 = x25519_public(self.x25519_private)
        self.mls = ed25519_public(self.mls_seed)

    def party(self) -> bytes:
        """The 128 bytes A or B of TH (rule 11)."""
        return self.account.account_id + self.account.aik + self.device_id + self.ed25519 + self.x25519

    def certificate(self) -> dict:
        fields = (
            self.account.account_id, self.account.aik, self.device_id,
            self.ed25519, self.x25519, self.mls, u64(self.since_version),
        )
        signed = signed_string("device", *fields)
        accept = signed_string("device-accept", *fields)
        aik_signature = ed25519_sign(self.account.aik_seed, signed)
        accept_signature = ed25519_sign(self.ed25519_seed, accept)
        return {
            "signed": signed,
            "aik_signature": aik_signature,
            "accept_signed": accept,
            "accept_signature": accept_signature,
            "hash": sha256(signed, aik_signature, accept_signature),
        }

    def prekey(self, kind: int, key_id: int, created: int, key: bytes) -> dict:
        signed = signed_string(
            "prekey", self.account.account_id, self.device_id, u8(kind), u32(key_id), u64(created), key
        )
        return {"kind": kind, "id": key_id, "created": created, "key": key, "signed": signed,
                "signature": ed25519_sign(self.ed25519_seed, signed)}


class Account:
    """An account with its identity key and, unless declined, its recovery key."""

    def __init__(self, name: str, recovery: bool = True):
        self.name = name
        self.aik_seed = det(f"{name}/aik", 32)
        self.aik = ed25519_public(self.aik_seed)
        self.recovery_seed = det(f"{name}/recovery", 32) if recovery else None
        self.recovery = ed25519_public(self.recovery_seed) if recovery else ZERO32
        self.account_id = account_id(self.aik, self.recovery)

    def rotate(self, version: int, prev_hash: bytes, name: str) -> dict:
        """The signed rotation to new keys; the account then holds them (rule 8)."""
        old_aik, old_seed = self.aik, self.recovery_seed
        self.aik_seed = det(f"{name}/aik", 32)
        self.aik = ed25519_public(self.aik_seed)
        self.recovery_seed = det(f"{name}/recovery", 32)
        self.recovery = ed25519_public(self.recovery_seed)
        signed = signed_string(
            "rotate", self.account_id, old_aik, self.aik, self.recovery, u64(version), prev_hash
        )
        return {"signed": signed, "signature": ed25519_sign(old_seed or bytes(32), signed), "hash": sha256(signed)}

    def device_list(self, devices, version, prev_hash, issued_at, seed=None, order=None, count=None) -> dict:
        """A signed device list; `order` and `count` exist to make wrong ones."""
        certificates = [device.certificate() for device in devices]
        entries = [device.device_id + certificate["hash"] for device, certificate in zip(devices, certificates)]
        entries = (order or sorted)(entries)
        signed = signed_string(
            "devices", self.account_id, self.aik, self.recovery, u64(version), prev_hash, u64(issued_at),
            u16(len(entries) if count is None else count), *entries,
        )
        return {"signed": signed, "signature": ed25519_sign(seed or self.aik_seed, signed), "hash": sha256(signed),
                "certificates": [{k: c[k] for k in ("signed", "aik_signature", "accept_signature")} for c in certificates]}


def leave(device: Device, version: int) -> dict:
    signed = signed_string("leave", device.account.account_id, device.device_id, u64(version))
    return {"signed": signed, "signature": ed25519_sign(device.ed25519_seed, signed)}


def login(device: Device, origin: str, challenge: bytes, client_nonce: bytes, expires: int) -> dict:
    text = origin.encode("ascii")
    signed = signed_string(
        "login", u16(len(text)), text, device.account.account_id, device.device_id, challenge, client_nonce, u64(expires)
    )
    return {"origin": origin, "challenge": challenge, "client_nonce": client_nonce, "expires": expires,
            "signed": signed, "signature": ed25519_sign(device.ed25519_seed, signed)}


