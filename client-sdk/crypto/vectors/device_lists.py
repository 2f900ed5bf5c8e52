"""What a client does with the device lists and rotations it is handed (sections 1 and 9, rules 3, 6 to 8)."""

from ed25519_strict import verify
from identity import PREFIX, account_id
from primitives import ZERO32, Refused, sha256


def fields_of(label: str, signed: bytes, sizes: list) -> list:
    """Splits a signed string into fields of the sizes given; the last may be None for all the rest."""
    whole = PREFIX + label.encode()
    if signed[:1 + len(whole)] != bytes([len(whole)]) + whole:
        raise Refused("another label")
    made, at = [], 1 + len(whole)
    for size in sizes:
        end = len(signed) if size is None else at + size
        if end > len(signed):
            raise Refused("too short")
        made.append(signed[at:end])
        at = end
    if at != len(signed):
        raise Refused("bytes after the end")
    return made


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


class Client:
    """The pins of one client: per account (version, hash, AIK, R), and which account each device_id belongs to."""

    def __init__(self):
        self.pins, self.owners = {}, {}

    def take_list(self, item: dict) -> None:
        """Accepts the list and pins it, or raises Refused and changes nothing."""
        account, aik, recovery, version, prev, _, count, rest = fields_of(
            "devices", item["signed"], [16, 32, 32, 8, 32, 8, 2, None])
        verify(aik, item["signed"], item["signature"])
        self._check_keys(account, aik, recovery)
        entries = self._entries(number(count), rest)
        if self._check_place(account, number(version), prev, sha256(item["signed"])):
            return
        for device, certificate in self._matched(entries, item["certificates"]):
            self._check_certificate(account, aik, device, certificate)
            if self.owners.get(device, account) != account:
                raise Refused("a device_id known under another account")
        self.owners.update({entry[:16]: account for entry in entries})
        self.pins[account] = (number(version), sha256(item["signed"]), aik, recovery)

    def take_rotation(self, item: dict) -> None:
        account, old, new, recovery, version, prev = fields_of("rotate", item["signed"], [16, 32, 32, 32, 8, 32])
        if account not in self.pins:
            raise Refused("an unknown account")
        pinned_version, pinned_hash, aik, pinned_recovery = self.pins[account]
        if pinned_recovery == ZERO32:
            raise Refused("the recovery key is zero")
        verify(pinned_recovery, item["signed"], item["signature"])
        if old != aik:
            raise Refused("another old AIK")
        if number(version) != pinned_version + 1 or prev != pinned_hash:
            raise Refused("not the next version")
        self.pins[account] = (number(version), sha256(item["signed"]), new, recovery)

    def _check_keys(self, account, aik, recovery) -> None:
        if account not in self.pins:
            if account_id(aik, recovery) != account:
                raise Refused("account_id is not that of the first pair of keys")
        elif self.pins[account][2:] != (aik, recovery):
            raise Refused("AIK or R changed without a rotation")

    def _check_place(self, account, version, prev, list_hash) -> bool:
        """True if it is the list already pinned."""
        if version == 0 or (version == 1) != (prev == ZERO32):
            raise Refused("version 1 alone has a zero prev_hash")
        if account not in self.pins:
            return False
        pinned_version, pinned_hash = self.pins[account][:2]
        if version < pinned_version:
            raise Refused("a lower version than the pinned one")
        if version == pinned_version:
            if list_hash != pinned_hash:
                raise Refused("a fork: the pinned version with another content")
            return True
        if version == pinned_version + 1 and prev != pinned_hash:
            raise Refused("a broken prev_hash")
        return False

    @staticmethod
    def _entries(count, rest) -> list:
        if not 1 <= count <= 10:
            raise Refused("not 1 to 10 entries")
        if len(rest) != count * 48:
            raise Refused("another length than the count says")
        entries = [rest[at:at + 48] for at in range(0, len(rest), 48)]
        if any(a[:16] >= b[:16] for a, b in zip(entries, entries[1:])):
            raise Refused("entries do not ascend strictly")
        return entries

    @staticmethod
    def _matched(entries, certificates) -> list:
        by_hash = {sha256(c["signed"], c["aik_signature"], c["accept_signature"]): c for c in certificates}
        if any(entry[16:] not in by_hash for entry in entries):
            raise Refused("an entry without its certificate")
        return [(entry[:16], by_hash[entry[16:]]) for entry in entries]

    @staticmethod
    def _check_certificate(account, aik, device, certificate) -> None:
        fields = fields_of("device", certificate["signed"], [16, 32, 16, 32, 32, 32, 8])
        if fields[:3] != [account, aik, device]:
            raise Refused("a certificate of another account, AIK or device")
        verify(aik, certificate["signed"], certificate["aik_signature"])
        accept = PREFIX + b"device-accept"
        verify(fields[3], bytes([len(accept)]) + accept + b"".join(fields), certificate["accept_signature"])
