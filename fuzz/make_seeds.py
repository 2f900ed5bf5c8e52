#!/usr/bin/env python3
"""Makes fuzz/corpus from what the repository already holds: the worked exchange of docs/protocol.md and the test vectors."""

import base64
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


def worked_frames():
    """Frames of clients and of the server, in both forms."""
    page = (ROOT / "docs" / "protocol.md").read_text()
    for step in re.search(r"## 9.*?```text\n(.*?)```", page, re.S).group(1).split("\n\n"):
        name, *lines = step.strip().split("\n")
        yield ">" in name, bytes.fromhex("".join(lines[:-1])), lines[-1].encode()


def exchange():
    for from_client, binary, text in worked_frames():
        side = "client_frame" if from_client else "server_frame"
        save(side, binary)
        save(side + "_json", text)


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


def short(data):
    """Bytes behind their length, as the targets read them."""
    data = data.encode() if isinstance(data, str) else data
    return bytes([len(data)]) + data


def number(value):
    """As the targets read numbers."""
    if value < 200:
        return bytes([value])
    return bytes([200]) + value.to_bytes(2, "big") if value < 1 << 16 else bytes([255]) + value.to_bytes(8, "big")


def masked(first, payload, mask=b"\x01\x02\x03\x04"):
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([first]) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def websockets():
    # which: codec, then the limit (index 4: 65,536), then what is tried.
    limit, raw, rules, out = 4 << 1, 0 << 4, 2 << 4, 3 << 4
    cuts = [short(b"\x01"), short(b"\x05\x00\xff\x02"), short(b"")]
    for number_, (from_client, binary, text) in enumerate(worked_frames()):
        cut = cuts[number_ % 3]
        if not from_client:
            save("websocket_codec", bytes([limit | out]) + cut + bytes(48) + b"\x04" + len(binary).to_bytes(2, "big") + binary)
            save("websocket_codec", bytes([limit | out | 1]) + cut + bytes(48) + b"\x04" + len(binary).to_bytes(2, "big") + binary)
            continue
        save("websocket_codec", bytes([limit | raw]) + cut + masked(0x82, binary) + masked(0x89, b"ping"))
        save("websocket_codec", bytes([limit | raw | 1]) + cut + masked(0x81, text) + masked(0x88, b"\x03\xe8"))
        half = len(binary) // 2
        save("websocket_codec", bytes([limit | raw]) + cut + masked(0x02, binary[:half]) + masked(0x8a, b"") + masked(0x80, binary[half:]))
        save("websocket_codec", bytes([limit | rules]) + cut + short(b"\x02\x00\x05\x01\x02\x03\x04\x01") + binary)
        save("websocket_codec", bytes([limit | rules | 1]) + cut + short(b"\x00") + text)
    for which in range(5):
        save("websocket_codec", bytes([limit | out]) + cuts[1] + bytes(range(48)) + bytes([which]) + bytes(range(90)))


def connections():
    """Text or not, a head and a cursor for each of three peers, lengths of bodies, Hello said for us, then steps."""
    begin = bytes([0, 5, 2, 9, 0, 0, 0, 20, 3, 0])
    ask, finish, resolve = 0, 19, 14
    level = bytes([finish] * 14)
    send = bytes([ask, 0, 0, 0, 0, 40, 7])
    for text in (0, 1):
        begin = bytes([text]) + begin[1:]
        save("connection", begin + level)
        save("connection", begin + level + send * 3 + bytes([resolve, 100] * 3))
        save("connection", begin + level + send + send + bytes([resolve, 250, resolve, 100]) + bytes([ask, 0, 0, 0, 1, 40, 7]) + bytes([resolve, 100]))
        save("connection", begin + bytes([26, 1]) + level + bytes([26, 1, 26, 2, 25, 1]) + level + bytes([25, 3]) + level)
        for kind in range(4, 14):
            save("connection", begin + level + bytes([ask, 1, kind, 3, 1, 1, 1, 1, finish, 24, 1]))
        save("connection", begin + level + bytes([29]) + send * 8 + bytes([29]) + send)
        for signal in range(12):
            save("connection", begin + level + send + bytes([25, signal, 31, 255, 255, 0, 0, 25, 5]) + level)
        for _, binary, _ in worked_frames():
            save("connection", begin + level + bytes([12]) + len(binary).to_bytes(2, "big") + binary + level)
    save("connection", b"\x00\x01\x01\x01\x01\x01\x01\x01\x01\xff" + bytes([ask, 0, 4, 3, 9, 9, 1]) + level)
    save("connection", b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff" + bytes([ask, 0, 13]))


def tokens():
    device = bytes(range(32))
    for expires, now in ((1_000, 5), (5, 1_000), (1 << 60, 1 << 59)):
        save("access_token", device + number(expires) + number(now) + b"\x01\x04" + b"\x00\x05\x00A")
        save("challenge", device + number(expires) + number(now) + bytes(32) + bytes(8) + b"\x11" + bytes(64))
    save("access_token", "AQ" + "A" * 96)


def addresses():
    hops = ["6.6.6.6, 1.1.1.1, 10.9.9.9", "::ffff:1.1.1.1", "rubbish, 10.0.0.9", "2001:db8::1"]
    for socket in (b"\x01\x07", b"\x00\x08\x08\x08\x08", b"\x03", b"\x02" + bytes(10) + b"\xff\xff\x0a\x00\x00\x01"):
        for networks in ([], ["10.0.0.0/8", "::1"], ["0.0.0.0/0", "::/0", "fd00::/8"]):
            save("forwarded", socket + bytes([len(networks)]) + b"".join(map(short, networks)) + b"\x01" + b"".join(map(short, hops)))


def configurations():
    files = [
        'listen = "0.0.0.0:7400"\npublic_url = "https://chat.example"\n[http]\ntrusted_proxies = ["10.0.0.0/8", "::1"]\n',
        '[sessions]\nmax_frame_bytes = 65536\nkeep_alive_ms = 30000\n[retention]\ndays = 30\n[registration]\npolicy = "invite"\n',
        'data = "./kith-data"\n[tls]\ncertificate = "a"\nkey = "b"\n[log]\nformat = "json"\n[tokens]\naccess_seconds = 600\n',
    ]
    variables = [("PUBLIC_URL", "http://[::1]:80/"), ("SESSIONS__MAX_PAGE", "7"), ("HTTP_TRUSTED_PROXIES", "10.0.0.1, ::1")]
    for file in files:
        save("config", b"\x00" + file.encode())
    for name, value in variables:
        save("config", b"\x01" + short(name) + short(value) + files[1].encode())


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def record(**fields):
    """A protobuf message of fields f1, f2, …"""
    out = b""
    for name, value in fields.items():
        tag = int(name[1:])
        if isinstance(value, int):
            out += varint(tag << 3) + varint(value)
        else:
            out += varint(tag << 3 | 2) + varint(len(value)) + value
    return out


def rows():
    id16, id32 = bytes(range(16)), bytes(range(32))
    text = record(f1=record(f1=b"hello"))
    records = {
        0: [record(f1=id16, f2=id16, f3=b"alice", f4=b"http://127.0.0.1:7400", f5=1, f6=id16, f7=9, f8=3, f9=104)],
        1: [record(f1=id16, f2=b"bob"), record(f1=id16, f3=id32, f4=id32, f5=1)],
        2: [record(f1=id16, f2=3, f3=b"\x01\x02", f4=b"\x05")],
        3: [b"", id32],
        4: [record(f1=id16, f2=1, f3=1, f4=7, f5=id32, f6=1, f13=5, f14=record(f1=1, f2=9, f3=1, f4=1), f15=3)],
        5: [id32],
        6: [id32],
        7: [id32],
        8: [id32],
        9: [record(f1=1, f2=1, f3=id16, f4=text), record(f2=4, f3=id16, f5=record(f1=id16), f7=b"\x01", f8=b"\x02")],
        10: [record(f1=1, f2=1, f3=4)],
        11: [
            record(f1=1, f2=id16, f3=id16, f4=5, f5=1, f6=text),
            record(f2=id16, f3=id16, f9=1, f10=2, f11=3),
            record(f2=id16, f9=12, f13=9),
            record(f2=id16, f12=1, f13=4),
        ],
        12: [id32],
    }
    for place, values in records.items():
        for value in values:
            for row in (1, 2):
                save("store_rows", bytes([place, row, row, 0, 1]) + value)
            save("store_rows", bytes([place | 0x80, 1, 1, 0, 1]) + value)


def wire_statements():
    b64, account = "A" * 86 + "==", "00" * 16
    labels = {"list": 0, "rotate": 2, "leave": 3}
    seen = set()
    for case in cases("identity.json"):
        kind = case["kind"]
        if kind not in labels or kind in seen:
            continue
        seen.add(kind)
        signed = bytes.fromhex(case["signed"])
        fields = signed[1 + signed[0]:]
        statement = b"\x00" + len(fields).to_bytes(2, "big") + fields + bytes(64)
        if kind == "list":
            save("wire_statements", b"\x01\x01\x01\x01\x00" + statement + b"\x00\x00" + short("bob"))
        elif kind == "rotate":
            save("wire_statements", b"\x01\x01\x01\x01\x01" + statement + b"\x00" + short("bob"))
        else:
            save("wire_statements", b"\x01\x01\x00\x01" + statement + short("bob"))
        body = {"signed": base64.b64encode(signed).decode(), "signature": b64}
        statements = {"list": [{"kind": "devices", "version": 1, "list": body, "certificates": []}],
                      "rotate": [{"kind": "rotate", "version": 2, "rotate": body}]}.get(kind, [])
        leaves = [body] if kind == "leave" else []
        history = {"account": account, "username": "bob", "newest_version": 1, "leaves": leaves, "more": False, "statements": statements}
        save("wire_statements", b"\x00" + json.dumps(history).encode())
    prekey = {"id": 1, "created_ms": 1, "key": "A" * 43 + "=", "signature": b64}
    kem = {"id": 2, "created_ms": 1, "key": base64.b64encode(bytes(1_184)).decode(), "signature": b64}
    one_time = {"id": 3, "key": "A" * 43 + "="}
    for one in (one_time, None):
        bundle = {"device": account, "signed": prekey, "kem_kind": 2, "kem": kem, "one_time": one, "limited": False}
        save("wire_statements", b"\x02" + json.dumps({"account": account, "list_version": 1, "bundles": [bundle]}).encode())
    save("wire_statements", b"\x03\x01\x00\x05" + bytes(32) + b"\x00\x01\x01" + bytes(64 + 32) + b"\x02\x01\x01\x01" + bytes(64 + 1_184))
    save("wire_statements", b"\x04" + record(f1=bytes(16), f2=bytes(range(16))))
    save("wire_statements", b"\x04" + record(f1=bytes(120)))


def log_rows():
    for count in range(4):
        index = b"".join((n + 1).to_bytes(8, "little") + (5 + n).to_bytes(4, "little") for n in range(count))
        content = b"body" + b"".join(bytes([n]) * (5 + n) for n in range(count))
        blob = (4).to_bytes(4, "little") + count.to_bytes(2, "little") + index + content
        save("log_rows", b"\x03\x01\x02\x09" + blob)
        save("log_rows", b"\x03\x01\x02\x09" + blob[:-1])


for part in (exchange, statements, messages, slices, rest, plans, websockets, connections, tokens, addresses, configurations, rows, wire_statements,
             log_rows):
    part()
