"""messages.json: content, chains, padding, bodies, slices, checkpoints and whole messages."""

from content import (
    CHECKPOINT, Content, bucket, chain_next, chain_start, checkpoint_body, log_next, log_start, pad, seal_body,
    slice_plaintext, unpad,
)
from primitives import Refused, det, sha256, u8, u32
from ratchet import Session
from world import ALICE, ALICE_1, ALICE_2, BOB, BOB_1, BOB_2, CONVERSATION, handshake

ISSUED = 1_790_000_000_000
ALICE_LIST = ALICE.device_list([ALICE_1, ALICE_2], 2, det("alice/list/1", 32), ISSUED)
BOB_LIST = BOB.device_list([BOB_1, BOB_2], 3, det("bob/list/2", 32), ISSUED)
INCARNATION = det("alice/1/incarnation", 16)
EDGES = [0, 185, 254, 255, 256, 510, 511, 512, 1_022, 1_023, 1_024, 2_047, 2_048, 4_095, 4_096, 8_191, 8_192, 16_383,
         16_384, 32_766, 32_767]


def fill(size: int) -> bytes:
    """size bytes: 1, 2, … 251, 1, 2, …"""
    return bytes(i % 251 + 1 for i in range(size))


def padding_cases() -> list:
    made = []
    for size in EDGES:
        padded = pad(fill(size))
        assert unpad(padded) == fill(size)
        made.append({"name": f"pad-{size}", "kind": "padding", "content_length": size, "bucket": len(padded),
                     "padded_sha256": sha256(padded)})
    try:
        bucket(32_768)
    except Refused as reason:
        made.append({"name": "pad-32768", "kind": "padding_refused", "content_length": 32_768, "reason": str(reason)})
    wrong = {
        "unpad-empty": b"", "unpad-all-zero": bytes(256), "unpad-no-mark": fill(255) + b"\x01",
        "unpad-after-mark": fill(200) + b"\x80" + bytes(54) + b"\x01", "unpad-255": fill(200) + b"\x80" + bytes(54),
        "unpad-384": fill(300) + b"\x80" + bytes(83), "unpad-too-large-bucket": fill(255) + b"\x80" + bytes(256),
    }
    for name, padded in wrong.items():
        try:
            unpad(padded)
        except Refused as reason:
            made.append({"name": name, "kind": "unpad_refused", "padded": padded, "reason": str(reason)})
        else:
            raise AssertionError(name)
    tail = fill(100) + b"\x80\x00\x80"
    made.append({"name": "unpad-mark-inside", "kind": "unpad", "padded": pad(tail), "content": unpad(pad(tail))})
    return made


def content(number: int, k: int, prev: bytes, view, kind: int, body: bytes) -> Content:
    return Content(CONVERSATION, INCARNATION, k, prev, det(f"client_msg_id/{number}", 16), det(f"salt/{number}", 16),
                   view[0], view[1], 2, ALICE_LIST["hash"], kind, body)


def chain_case() -> dict:
    """Four messages of one sender, each on top of the one before."""
    head = start = chain_start(CONVERSATION, ALICE.account_id, ALICE_1.device_id, INCARNATION)
    entries = []
    for k, body in enumerate((b"", b"\x0a\x02hi", fill(70), fill(71)), 1):
        made = content(k, k, head, (k - 1, det(f"view/{k}", 32)), 1, body)
        head = chain_next(head, made.hash())
        entries.append(made.fields() | {"content": made.encode(), "content_hash": made.hash(), "head": head,
                                        "padded": pad(made.encode())})
    return {"name": "chain", "kind": "chain", "conversation": CONVERSATION, "account_id": ALICE.account_id,
            "device_id": ALICE_1.device_id, "incarnation": INCARNATION, "chain_start": start, "entries": entries}


def log_case() -> dict:
    log = start = log_start(CONVERSATION)
    entries = []
    for seq, device in enumerate((ALICE_1, BOB_1, ALICE_1, ALICE_2, BOB_2), 1):
        client_msg_id = det(f"log/{seq}", 16)
        log = log_next(log, seq, device.device_id, client_msg_id)
        entries.append({"seq": seq, "device_id": device.device_id, "client_msg_id": client_msg_id, "log": log})
    return {"name": "log", "kind": "log", "conversation": CONVERSATION, "log_start": start, "entries": entries}


def body_case(name: str, size: int) -> dict:
    key, client_msg_id = det(f"{name}/key", 32), det(f"{name}/client_msg_id", 16)
    padded = pad(fill(size))
    sealed = seal_body(key, padded, CONVERSATION, ALICE_1.device_id, client_msg_id)
    return {"name": name, "kind": "body", "content_key": key, "conversation": CONVERSATION,
            "device_id": ALICE_1.device_id, "client_msg_id": client_msg_id, "content": fill(size),
            "associated_data": CONVERSATION + ALICE_1.device_id + client_msg_id, "sealed": sealed}


def slice_cases() -> list:
    fields = {"content_key": det("slice/key", 32), "content_hash": det("slice/c", 32), "since": 0x0001020304050607,
              "list_hash": BOB_LIST["hash"]}
    offer = u8(1) + u32(1) + det("slice/ek", 1184)
    answer = u8(2) + u32(0x01020304) + det("slice/ct", 1088)
    values = tuple(fields.values())
    made = [("slice-plain", b""), ("slice-offer", offer), ("slice-answer", answer)]
    return [{"name": name, "kind": "slice_plaintext"} | fields
            | {"post_quantum_field": field, "plaintext": slice_plaintext(*values, field)} for name, field in made]


def heads() -> list:
    made = [{"account_id": d.account.account_id, "device_id": d.device_id, "incarnation": det(f"{d.name}/incarnation", 16),
             "k": k, "head": det(f"{d.name}/head", 32)} for d, k in ((BOB_2, 9), (BOB_1, 70_000), (ALICE_2, 1))]
    return sorted(made, key=lambda h: h["account_id"] + h["device_id"] + h["incarnation"])


def checkpoint_cases() -> list:
    start = chain_start(CONVERSATION, ALICE.account_id, ALICE_1.device_id, INCARNATION)
    choices = {"checkpoint-empty": (0, start, 0, []), "checkpoint-heads": (4, det("h/4", 32), 90, heads())}
    made = []
    for name, (k, prev, seq, listed) in choices.items():
        log = det(f"{name}/log", 32) if seq else log_start(CONVERSATION)
        body = checkpoint_body(seq, log, listed)
        whole = content(100 + k, k, prev, (seq, log), CHECKPOINT, body)
        made.append({"name": name, "kind": "checkpoint", "seq": seq, "log": log, "heads": listed, "body": body,
                     "content_fields": whole.fields(), "content": whole.encode(), "content_hash": whole.hash()})
    return made + refused_checkpoints()


def refused_checkpoints() -> list:
    good = checkpoint_body(5, det("log/5", 32), heads())
    first, second, rest = good[42:130], good[130:218], good[218:]
    wrong = {
        "checkpoint-not-ascending": good[:42] + second + first + rest,
        "checkpoint-twice": good[:42] + first + first + rest,
        "checkpoint-short": good[:-1], "checkpoint-trailing": good + b"\0",
        "checkpoint-count": good[:41] + u8(2) + good[42:],
    }
    return [{"name": name, "kind": "checkpoint_refused", "body": body} for name, body in wrong.items()]


def composed_case(name: str, number: int, kind: int, body: bytes) -> dict:
    """One message to three devices: two of the peer and the sender's other one, each by a first message."""
    start = chain_start(CONVERSATION, ALICE.account_id, ALICE_1.device_id, INCARNATION)
    whole = content(number, 1, start, (0, log_start(CONVERSATION)), kind, body)
    key = det(f"{name}/content-key", 32)
    slices = []
    for device, device_list in ((BOB_1, BOB_LIST), (BOB_2, BOB_LIST), (ALICE_2, ALICE_LIST)):
        made = handshake(f"{name}/{device.name}", responder=device)
        ratchet = det(f"{name}/{device.name}/ratchet", 32)
        sender, receiver = Session.pair(made, {"ratchet": [ratchet]}, {"ratchet": []})
        plaintext = slice_plaintext(key, whole.hash(), 1, device_list["hash"])
        sent = sender.send(plaintext, det(f"{name}/{device.name}/r", 16))
        assert receiver.receive(sent["slice"])["plaintext"] == plaintext
        slices.append({
            "account_id": device.account.account_id, "device_id": device.device_id, "since": 1,
            "list_hash": device_list["hash"], "th": made.th, "rk": made.rk, "first_extra": made.first_extra,
            "signed_prekey_private": made.prekeys.signed_private, "signed_prekey": made.prekeys.signed,
            "ratchet_private": ratchet, "r": sent["r"], "slice": sent["slice"],
        })
    padded = pad(whole.encode())
    return {
        "name": name, "kind": "message", "sender_account_id": ALICE.account_id, "sender_device_id": ALICE_1.device_id,
        "content_fields": whole.fields(), "content": whole.encode(), "content_hash": whole.hash(),
        "head": chain_next(start, whole.hash()), "content_key": key, "padded_length": len(padded),
        "sealed_body": seal_body(key, padded, CONVERSATION, ALICE_1.device_id, whole.client_msg_id), "slices": slices,
    }


def cases() -> list:
    return [
        chain_case(), log_case(), *padding_cases(),
        body_case("body-smallest", 185), body_case("body-255", 255), body_case("body-256", 256),
        *slice_cases(), *checkpoint_cases(),
        composed_case("message-short", 200, 1, b"\x0a\x05hello"),
        composed_case("message-long", 201, 1, fill(1_000)),
    ]
