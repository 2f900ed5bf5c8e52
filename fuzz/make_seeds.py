#!/usr/bin/env python3
"""Makes fuzz/corpus from what the repository already holds: the worked exchange of docs/protocol.md and the test vectors."""

import hashlib
import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
VECTORS = ROOT / "client-sdk" / "crypto" / "vectors"
LARGEST = 6000


def save(target, data):
    if isinstance(data, str):
        data = data.encode()
    if len(data) > LARGEST:
        return
    folder = ROOT / "fuzz" / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def cases(name):
    return json.loads((VECTORS / name).read_text())["cases"]


def exchange():
    page = (ROOT / "docs" / "protocol.md").read_text()
    for step in re.search(r"## 9.*?```text\n(.*?)```", page, re.S).group(1).split("\n\n"):
        name, *lines = step.strip().split("\n")
        side = "client_frame" if ">" in name else "server_frame"
        save(side, bytes.fromhex("".join(lines[:-1])))
        save(side + "_json", lines[-1])


def statements():
    seen = {}
    for case in cases("identity.json"):
        kind = case["kind"]
        if kind not in ("certificate", "prekey", "leave", "list", "rotate") or seen.get(kind, 0) >= 2:
            continue
        seen[kind] = seen.get(kind, 0) + 1
        signed = bytes.fromhex(case["signed"])
        signatures = [case[name] for name in ("signature", "aik_signature", "accept_signature") if name in case]
        save("statements", signed)
        save("statements", signed[1 + signed[0]:] + bytes.fromhex("".join(signatures)))


def messages():
    for case in cases("messages.json"):
        if case["kind"] == "chain":
            for entry in case["entries"][:2]:
                save("content", bytes.fromhex(entry["content"]))
                save("content", bytes.fromhex(entry["padded"]))
        if case["kind"] == "checkpoint":
            save("content", bytes.fromhex(case["body"]))


def slices():
    kept = {}
    for case in cases("ratchet.json"):
        for step in case.get("steps", []):
            if "slice" in step and step["slice"]:
                data = bytes.fromhex(step["slice"])
                if kept.setdefault(len(data), 0) < 2:
                    kept[len(data)] += 1
                    save("slice", data)


def rest():
    id16, b32, b64 = "00" * 16, "A" * 43 + "=", "A" * 86 + "=="
    statement = {"signed": "AAAA", "signature": b64}
    certificate = {"signed": "AAAA", "aik_signature": b64, "accept_signature": b64}
    prekey = {"id": 1, "created_ms": 1, "key": b32, "signature": b64}
    proof = {"challenge": b32, "client_nonce": b32, "origin": "http://127.0.0.1:7400", "signature": b64}
    keys = {"signed": prekey, "last_resort_kem": prekey, "one_time": [{"id": 3, "key": b32}], "one_time_kem": [prekey]}
    tokens = {"access_token": "a", "access_expires_ms": 1, "refresh_token": "r", "refresh_expires_ms": 2}
    device_keys = {"device": id16, "prekeys": keys}
    bodies = {
        0: {"username": "alice", "aik": b32, "recovery": b32, "certificate": certificate, "list": statement, "prekeys": keys, "proof": proof},
        1: {"account": id16, "device": id16, "proof": proof},
        2: {"account": id16, "device": id16},
        3: {"refresh_token": "r"},
        4: {"rotate": statement, "list": statement, "certificates": [certificate], "prekeys": [device_keys], "device": id16, "proof": proof},
        5: {"list": statement, "certificates": [certificate], "prekeys": [device_keys]},
        7: keys,
        8: {"devices": [id16]},
        9: {"challenge": b32, "expires_ms": 1},
        10: {"account": id16, "device": id16, "tokens": tokens},
        13: {"account": id16, "username": "alice", "newest_version": 1, "leaves": [], "more": False,
             "statements": [{"kind": "devices", "version": 1, "list": statement, "certificates": [certificate]}]},
        17: {"account": id16, "list_version": 1,
             "bundles": [{"device": id16, "signed": prekey, "kem_kind": 2, "kem": prekey, "one_time": None, "limited": False}]},
        19: {"code": "RATE_LIMITED", "message": "", "retry": "after", "after_ms": 5},
    }
    for which, body in bodies.items():
        save("rest_bodies", bytes([which]) + json.dumps(body).encode())


def plans():
    """Damage plans: what to damage, then offset u16, action, value."""
    for which in range(8):
        for at in (0, 1, 9, 40, 69, 70, 150):
            save("incoming", bytes([which]) + at.to_bytes(2, "big") + b"\x00\xff")
    for which in (0, 1, *range(64, 73)):
        save("stored_state", bytes([which]))
        save("stored_state", bytes([which, 0, 20, 0, 1, 0, 60, 2, 0]))
    save("sealed_value", bytes([0, 5, 0, 1]))
    save("sealed_value", bytes([1]) + (8).to_bytes(4, "big") * 3 + bytes(16 + 24 + 48))
    for text in ("http://127.0.0.1:7400", "https://Chat.Example/path?x", "wss://[::1]", "alice.b_c-1", "00" * 16):
        save("names", text)


for part in (exchange, statements, messages, slices, rest, plans):
    part()
