"""Content, chains, padding, body and slice plaintexts (sections 4 and 6, rules 27 to 36)."""

from dataclasses import dataclass

from primitives import Refused, seal, sha256, u8, u16, u64

BUCKETS = [256 << i for i in range(8)]
CHECKPOINT = 255


@dataclass
class Content:
    """What every device of a message gets to see, and what c_k covers."""

    conversation: bytes
    incarnation: bytes
    k: int
    prev: bytes
    client_msg_id: bytes
    salt: bytes
    view_seq: int
    view_log: bytes
    list_version: int
    list_hash: bytes
    kind: int
    body: bytes

    def encode(self) -> bytes:
        head = (self.conversation + self.incarnation + u64(self.k) + self.prev + self.client_msg_id + self.salt
                + u64(self.view_seq) + self.view_log + u64(self.list_version) + self.list_hash + u8(self.kind))
        assert len(head) == 185
        return head + self.body

    def hash(self) -> bytes:
        return sha256(b"kith/v1/content", self.encode())

    def fields(self) -> dict:
        return dict(self.__dict__)


def chain_start(conversation, account_id, device_id, incarnation) -> bytes:
    return sha256(b"kith/v1/chain0", conversation, account_id, device_id, incarnation)


def chain_next(previous: bytes, content_hash: bytes) -> bytes:
    return sha256(b"kith/v1/chain", previous, content_hash)


def log_start(conversation: bytes) -> bytes:
    return sha256(b"kith/v1/log0", conversation)


def log_next(previous: bytes, seq: int, device_id: bytes, client_msg_id: bytes) -> bytes:
    return sha256(b"kith/v1/log", previous, u64(seq), device_id, client_msg_id)


def bucket(size: int) -> int:
    for candidate in BUCKETS:
        if size + 1 <= candidate:
            return candidate
    raise Refused("longer than 32,767 bytes")


def pad(content: bytes) -> bytes:
    return (content + b"\x80").ljust(bucket(len(content)), b"\0")


def unpad(padded: bytes) -> bytes:
    if len(padded) not in BUCKETS:
        raise Refused("not a bucket's length")
    content, mark = padded.rstrip(b"\0")[:-1], padded.rstrip(b"\0")[-1:]
    if mark != b"\x80":
        raise Refused("no 80 before the zeros")
    if bucket(len(content)) != len(padded):
        raise Refused("not the smallest bucket")
    return content


def seal_body(content_key, padded, conversation, device_id, client_msg_id) -> bytes:
    return seal(content_key, bytes(12), padded, conversation + device_id + client_msg_id)


def slice_plaintext(content_key, content_hash, since, list_hash, post_quantum=b"") -> bytes:
    """104 bytes, or 1,293 with a post-quantum field, a shorter field followed by zeros."""
    plain = content_key + content_hash + u64(since) + list_hash
    return plain if not post_quantum else (plain + post_quantum).ljust(1_293, b"\0")


def checkpoint_body(seq: int, log: bytes, heads: list) -> bytes:
    """seq ‖ L ‖ count ‖ heads ascending by their bytes."""
    encoded = sorted(h["account_id"] + h["device_id"] + h["incarnation"] + u64(h["k"]) + h["head"] for h in heads)
    return u64(seq) + log + u16(len(encoded)) + b"".join(encoded)
