"""Signed statements (docs/protocol.md section 2): making them, and checking those of others as a client must."""

import hashlib
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NO_KEY = bytes(32)
NO_HASH = bytes(32)
KIND_SIGNED, KIND_ONE_TIME_KEM, KIND_LAST_RESORT_KEM = 1, 2, 3


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def labelled(label, *fields):
    label = f"kith/v1/{label}".encode("ascii")
    return bytes([len(label)]) + label + b"".join(fields)


def u8(n):
    return struct.pack(">B", n)


def u16(n):
    return struct.pack(">H", n)


def u32(n):
    return struct.pack(">I", n)


def u64(n):
    return struct.pack(">Q", n)


def account_id(aik, recovery):
    return sha256(b"kith/v1/account", aik, recovery)[:16]


def direct_conversation(a, b):
    return sha256(b"kith/v1/direct", min(a, b), max(a, b))[:16]


def device_fields(account, aik, device, ed, x, mls, since_version):
    return account + aik + device + ed + x + mls + u64(since_version)


def device_string(*fields):
    return labelled("device", device_fields(*fields))


def accept_string(*fields):
    return labelled("device-accept", device_fields(*fields))


def certificate_hash(signed, aik_signature, accept_signature):
    return sha256(signed, aik_signature, accept_signature)


def list_string(account, aik, recovery, version, prev_hash, issued_at, devices):
    """`devices`: pairs of device id and certificate hash, in the order to be signed."""
    rows = b"".join(device + digest for device, digest in devices)
    return labelled("devices", account, aik, recovery, u64(version), prev_hash, u64(issued_at), u16(len(devices)), rows)


def prekey_string(account, device, kind, key_id, created, key):
    return labelled("prekey", account, device, u8(kind), u32(key_id), u64(created), key)


def leave_string(account, device, version):
    return labelled("leave", account, device, u64(version))


def rotate_string(account, old_aik, new_aik, new_recovery, version, prev_hash):
    return labelled("rotate", account, old_aik, new_aik, new_recovery, u64(version), prev_hash)


def login_string(origin, account, device, challenge, client_nonce, expires):
    name = origin.encode("ascii")
    return labelled("login", u16(len(name)), name, account, device, challenge, client_nonce, u64(expires))


class NotVerified(AssertionError):
    """A statement that a client must not believe."""


def check(condition, why):
    if not condition:
        raise NotVerified(why)


def verify(public, signature, signed):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    except InvalidSignature as error:
        raise NotVerified("signature") from error


class Reader:
    """Cuts a signed string into its fields."""

    def __init__(self, signed, label):
        head = labelled(label)
        check(signed.startswith(head), f"not a {label}")
        self.rest = signed[len(head):]

    def take(self, n):
        check(len(self.rest) >= n, "too short")
        out, self.rest = self.rest[:n], self.rest[n:]
        return out

    def number(self, n):
        return int.from_bytes(self.take(n), "big")

    def end(self):
        check(not self.rest, "too long")


@dataclass(frozen=True)
class Certificate:
    account: bytes
    aik: bytes
    device: bytes
    ed: bytes
    x: bytes
    mls: bytes
    since_version: int
    digest: bytes


def read_certificate(signed, aik_signature, accept_signature):
    """Parses a certificate and checks both signatures."""
    reader = Reader(signed, "device")
    account, aik, device, ed, x, mls = (reader.take(n) for n in (16, 32, 16, 32, 32, 32))
    since = reader.number(8)
    reader.end()
    verify(aik, aik_signature, signed)
    verify(ed, accept_signature, accept_string(account, aik, device, ed, x, mls, since))
    return Certificate(account, aik, device, ed, x, mls, since, certificate_hash(signed, aik_signature, accept_signature))


@dataclass(frozen=True)
class DeviceList:
    account: bytes
    aik: bytes
    recovery: bytes
    version: int
    prev_hash: bytes
    issued_at: int
    devices: dict  # device id -> hash of its certificate
    digest: bytes


def read_list(signed, signature):
    """Parses a list and checks its signature and its own rules."""
    reader = Reader(signed, "devices")
    account, aik, recovery = reader.take(16), reader.take(32), reader.take(32)
    version, prev_hash, issued_at, count = reader.number(8), reader.take(32), reader.number(8), reader.number(2)
    check(1 <= count <= 10, "count")
    rows = [(reader.take(16), reader.take(32)) for _ in range(count)]
    reader.end()
    ids = [device for device, _ in rows]
    check(ids == sorted(set(ids)), "devices not ascending")
    verify(aik, signature, signed)
    return DeviceList(account, aik, recovery, version, prev_hash, issued_at, dict(rows), sha256(signed))


def verify_chain(statements, account, aik, pinned=None):
    """Follows `devices` statements from the pinned list (or from nothing); gives the newest list and its certificates by device id.

    `statements`: triples (list bytes, signature, certificates), a certificate being (signed, aik signature, accept signature).
    """
    newest, known = (pinned.list, dict(pinned.certificates)) if pinned else (None, {})
    for signed, signature, certificates in statements:
        this = read_list(signed, signature)
        check(this.account == account and this.aik == aik, "not the account pinned")
        check(this.version == (newest.version if newest else 0) + 1, "versions are not contiguous")
        check(this.prev_hash == (newest.digest if newest else NO_HASH), "prev_hash does not chain")
        if newest is None:
            check(account_id(this.aik, this.recovery) == account, "the account id is not of these keys")
        for certificate in (read_certificate(*parts) for parts in certificates):
            check(certificate.account == account and certificate.aik == aik, "a certificate of somebody else")
            check(certificate.since_version == this.version, "since_version is not the first list that names it")
            check(this.devices.get(certificate.device) == certificate.digest, "a certificate that the list does not name")
            known[certificate.device] = certificate
        for device, digest in this.devices.items():
            check(device in known and known[device].digest == digest, "a device without its certificate")
        newest = this
    check(newest is not None, "no statement at all")
    return Verified(newest, {device: known[device] for device in newest.devices})


@dataclass(frozen=True)
class Verified:
    list: DeviceList
    certificates: dict
