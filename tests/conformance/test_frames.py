"""Frames that are not right, frames that are unusual, and what is no answer (section 4)."""

import json
import os
import struct

import pytest

import connection
import statements as st
import wire
from connection import BINARY, JSON
from refusal import refused

MAX_FRAME = 65536


def masked(opcode, payload, fin=True, length=None, mask=True):
    """One WebSocket frame as a client sends it; `length` may claim more than there is."""
    length = len(payload) if length is None else length
    out = bytes([opcode | (0x80 if fin else 0)])
    flag = 0x80 if mask else 0
    if length < 126:
        out += bytes([flag | length])
    elif length < 65536:
        out += bytes([flag | 126]) + struct.pack(">H", length)
    else:
        out += bytes([flag | 127]) + struct.pack(">Q", length)
    key = os.urandom(4) if mask else b""
    return out + key + (bytes(byte ^ key[at % 4] for at, byte in enumerate(payload)) if mask else payload)


def padded_ping(size, request_id=9):
    """A Ping of exactly this size: the rest is a field that no schema knows."""
    head = wire.frame("ping", request_id).SerializeToString()
    room = size - len(head) - 2
    for length_bytes in (1, 2, 3):
        data = room - length_bytes
        varint = varint_of(data)
        if len(varint) == length_bytes:
            return head + b"\xa2\x06" + varint + bytes(data)
    raise AssertionError(size)


def varint_of(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


@pytest.mark.parametrize("data", [
    b"", b"\x08\x05", b"\xff\xff\xff", b"\x08\x05\x62", b"\x08\x05\x6a\x00", os.urandom(40) + b"\xff", b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
], ids=["empty", "no kind", "garbage", "cut off", "unknown kind", "random", "long varint"])
def test_not_a_frame(alice, opened, data):
    c = opened(alice.device)
    c.ws.send(data)
    end = c.ended()
    assert (end.reason, end.code) == ("INVALID_FRAME", 1002)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"id":"5"}', '{"id":"5","nonsense":{}}', '{"id":5,"ping":7}', '{"id":"x","ping":{}}',
                                  '{"id":"5","hello":{"token":7}}', '{"id":"-1","ping":{}}'])
def test_not_a_json_frame(alice, opened, text):
    c = opened(alice.device, JSON)
    c.ws.send(text)
    end = c.ended()
    assert (end.reason, end.code) == ("INVALID_FRAME", 1002)


def test_text_on_binary(alice, opened):
    c = opened(alice.device)
    c.ws.send('{"id":"1","ping":{}}')
    end = c.ended()
    assert (end.reason, end.code) == ("INVALID_FRAME", 1002)


def test_binary_on_json(alice, opened):
    c = opened(alice.device, JSON)
    c.ws.send(wire.frame("ping", 1).SerializeToString())
    end = c.ended()
    assert (end.reason, end.code) == ("INVALID_FRAME", 1002)


@pytest.mark.parametrize("kind", ["hello", "send", "page", "get_conversations", "watch_presence", "set_presence", "renew", "ping"])
def test_what_may_not_be_a_notice(alice, opened, kind):
    c = opened(alice.device)
    c.notify(kind)
    end = c.ended()
    assert (end.reason, end.code) == ("INVALID_FRAME", 1002)


@pytest.mark.parametrize("kind, fields", [
    ("ack", {"cursors": [{"conversation": bytes(16), "seq": 9}]}), ("ack", {"cursors": [{"conversation": bytes(3), "seq": 9}]}),
    ("read", {"conversation": bytes(16), "seq": 9}), ("read", {"conversation": b"", "seq": 0}), ("typing", {"conversation": bytes(16), "peer": bytes(1)}),
])
def test_a_notice_that_is_refused_is_ignored(alice, opened, kind, fields):
    c = opened(alice.device)
    c.notify(kind, **fields)
    c.barrier()
    assert not answers(c)


@pytest.mark.parametrize("kind, fields", [
    ("ack", {"cursors": [{"conversation": bytes(15), "seq": 1}]}), ("read", {"conversation": bytes(17), "seq": 1}),
    ("typing", {"conversation": bytes(16), "peer": bytes(15), "active": True}), ("page", {"conversation": b"", "after_seq": 0, "limit": 1}),
])
def test_a_bad_value_is_refused_and_the_connection_lives_on(alice, opened, kind, fields):
    c = opened(alice.device)
    with refused("INVALID_FRAME", "never"):
        c.request(kind, **fields)
    c.barrier()


@pytest.mark.parametrize("request_id", [1, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize("subprotocol", [BINARY, JSON])
def test_ids_are_the_clients(alice, opened, request_id, subprotocol):
    c = opened(alice.device, subprotocol)
    c.write(wire.frame("ping", request_id))
    assert c.answer(request_id).DESCRIPTOR.name == "Pong"


def test_an_id_may_be_used_again_after_its_answer(alice, opened):
    c = opened(alice.device)
    for _ in range(3):
        c.write(wire.frame("ping", 5))
        c.answer(5)


def test_every_request_gets_one_answer(alice, opened):
    c = opened(alice.device)
    ids = [c.ask("ping") for _ in range(50)]
    for request in ids:
        c.answer(request)
    c.barrier()
    assert not answers(c)


def answers(c):
    """What was kept and is no push that may come at any time."""
    return [frame for frame in c.kept if frame.id or frame.WhichOneof("kind") != "keys_low"]


def test_unknown_fields_are_ignored(alice, opened):
    c = opened(alice.device)
    c.ws.send(padded_ping(100))
    assert c.answer(9).DESCRIPTOR.name == "Pong"
    inner = wire.frame("ping", 10).SerializeToString().replace(b"\x62\x00", b"\x62\x04\xa2\x06\x01x")
    assert len(inner) > 4
    c.ws.send(inner)
    assert c.answer(10).DESCRIPTOR.name == "Pong"


@pytest.mark.parametrize("text", ['{"id":"9","ping":{"new":{"a":[1]}}}', '{"id":"9","ping":{},"new":true}', '{"new":{"b":null},"id":"9","ping":{}}'])
def test_unknown_fields_in_json_are_ignored(alice, opened, text):
    c = opened(alice.device, JSON)
    c.ws.send(text)
    assert c.answer(9).DESCRIPTOR.name == "Pong"


def test_fragmented_with_a_control_frame_between(alice, opened):
    c = opened(alice.device)
    data = wire.frame("ping", 7).SerializeToString()
    pongs = []

    def parts():
        for byte in data:
            pongs.append(c.ws.ping())
            yield bytes([byte])

    c.ws.send(parts())
    assert c.answer(7).DESCRIPTOR.name == "Pong"
    assert pongs and all(pong.wait(connection.DEADLINE) for pong in pongs)


def test_several_frames_in_one_segment_and_one_in_several(alice, opened):
    c = opened(alice.device)
    frames = b"".join(masked(2, wire.frame("ping", n).SerializeToString()) for n in (11, 12, 13))
    c.ws.socket.sendall(frames[:-2])
    c.answer(11), c.answer(12)
    c.ws.socket.sendall(frames[-2:])
    c.answer(13)


def test_the_largest_frame(alice, opened):
    c = opened(alice.device)
    data = padded_ping(MAX_FRAME)
    assert len(data) == MAX_FRAME
    c.ws.send(data)
    assert c.answer(9).DESCRIPTOR.name == "Pong"


def test_one_byte_too_large(alice, opened):
    c = opened(alice.device)
    c.ws.send(padded_ping(MAX_FRAME + 1))
    end = c.ended()
    assert (end.reason, end.code) == ("TOO_LARGE", 1009)


@pytest.mark.parametrize("claimed", [MAX_FRAME + 1, 2**30, 2**62])
def test_refused_by_its_length_before_it_is_read(alice, opened, claimed):
    c = opened(alice.device)
    c.ws.socket.sendall(masked(2, b"", length=claimed))
    assert c.ended().reason == "TOO_LARGE"


def test_too_large_in_fragments(alice, opened):
    c = opened(alice.device)
    for at in range(3):
        c.ws.socket.sendall(masked(0 if at else 2, bytes(30_000), fin=False))
    assert c.ended().reason == "TOO_LARGE"


def test_too_large_before_hello(dialled):
    c = dialled()
    c.ws.socket.sendall(masked(2, b"", length=2**30))
    assert c.ended().reason in ("TOO_LARGE", "HELLO_REQUIRED")


@pytest.mark.parametrize("data", [
    masked(2, wire.frame("ping", 5).SerializeToString(), mask=False), masked(3, b""), masked(0xB, b""), masked(0, b"x"),
    masked(9, bytes(126)), masked(9, b"", fin=False), masked(0x42, b"\x08\x05\x62\x00"),
], ids=["unmasked", "reserved opcode", "reserved control", "continuation of nothing", "long ping", "fragmented ping", "reserved bit"])
def test_what_rfc_6455_forbids(alice, opened, data):
    c = opened(alice.device)
    c.ws.socket.sendall(data)
    end = c.ended()
    assert end.code in (1002, None) and end.reason in ("INVALID_FRAME", None)


def test_text_that_is_not_utf8(alice, opened):
    c = opened(alice.device, JSON)
    c.ws.socket.sendall(masked(1, b'{"id":"1","ping":{}, "x":"\xff"}'))
    assert c.ended().code in (1002, 1007, None)


def test_the_largest_message_arrives(talk, alice, bob):
    """What is accepted can be delivered: no frame to the receiver is larger than the limit either."""
    a, b, conversation = talk
    low, high = 60_000, MAX_FRAME
    send = alice.device.compose(bob, body=bytes(low))
    assert a.send(send).seq == 1
    b.delivered(conversation, 1)
    room = high - len(wire.ClientFrame(id=a.next_id + 1, send=alice.device.compose(bob, body=bytes(low))).SerializeToString()) + low
    largest = alice.device.compose(bob, body=bytes(room))
    largest.device_counter -= 1
    alice.device.counter -= 1
    try:
        accepted = a.send(largest)
    except connection.Refused as refusal:
        assert refusal.code == "TOO_LARGE"
    else:
        got = b.delivered(conversation, accepted.seq)
        assert got.body == largest.body and max(map(len, b.raw)) <= MAX_FRAME


# JSON


def test_json_names_and_numbers(alice, bob, opened):
    """Original field names, 64-bit integers as numbers, enums left out: all are proto3's mapping."""
    c, conversation = opened(alice.device, JSON), st.direct_conversation(alice.id, bob.id)
    send = alice.device.compose(bob)
    body = {
        "id": 7, "send": {
            "conversation": wire.b64(conversation), "recipient": wire.b64(bob.id), "client_msg_id": wire.b64(send.client_msg_id),
            "body": wire.b64(send.body), "slices": [{"device": wire.b64(bob.device.id), "data": wire.b64(b"x")}], "own_slices": [],
            "device_counter": 1, "sender_list_version": "1", "recipientListVersion": 1, "checkpoint": False,
        },
    }
    c.ws.send(json.dumps(body))
    assert c.answer(7).seq == 1
    text = json.loads(c.raw[-1])
    assert set(text) == {"id", "accepted"} and text["id"] == "7"
    assert set(text["accepted"]) == {"clientMsgId", "seq", "atMs"}  # `duplicate` is at its default
    assert text["accepted"]["seq"] == "1" and isinstance(text["accepted"]["atMs"], str)


@pytest.mark.parametrize("text", ['{"id":"7","ping":{},"hello":null}', '{"id":"7","getConversations":{"conversations":null}}',
                                  '{"id":"7","watchPresence":{"accounts":[]},"renew":null}'])
def test_json_null_is_a_default(alice, opened, text):
    """As in proto3's mapping: null stands for a field that is not there."""
    c = opened(alice.device, JSON)
    c.ws.send(text)
    assert c.answer(7).DESCRIPTOR.name != "Error"


def test_json_kind_that_is_null_is_none(alice, opened):
    c = opened(alice.device, JSON)
    c.ws.send('{"id":"7","ping":null}')
    assert c.ended().reason == "INVALID_FRAME"


def test_json_twice_a_kind(alice, opened):
    c = opened(alice.device, JSON)
    c.ws.send('{"id":"7","ping":{},"renew":{"token":"x"}}')
    assert c.ended().reason == "INVALID_FRAME"


def test_json_numbers_for_strings(alice, opened):
    """64-bit integers are strings, and numbers are accepted."""
    c = opened(alice.device, JSON)
    for text in ('{"id":7,"ping":{}}', '{"id":"7","ping":{}}'):
        c.ws.send(text)
        assert c.answer(7).DESCRIPTOR.name == "Pong"


def test_json_bytes_that_are_no_base64(alice, opened):
    c = opened(alice.device, JSON)
    c.ws.send('{"id":"7","page":{"conversation":"***","limit":1}}')
    end = c.ended()
    assert (end.reason, end.code) == ("INVALID_FRAME", 1002)


def test_json_errors_carry_names(alice, opened):
    c = opened(alice.device, JSON)
    request = c.ask("renew", token="x")
    with refused("UNAUTHENTICATED"):
        c.answer(request)
    assert json.loads(c.raw[-1])["error"]["code"] == "UNAUTHENTICATED" and json.loads(c.raw[-1])["error"]["retry"] == "RETRY_NEVER"


def test_both_subprotocols_say_the_same(alice, bob, opened):
    """One conversation, looked at through both: equal frames."""
    a, conversation = opened(alice.device), st.direct_conversation(alice.id, bob.id)
    for _ in range(3):
        a.send(alice.device.compose(bob))
    seen = []
    for subprotocol in (BINARY, JSON):
        c = opened(bob.device, subprotocol)
        seen.append(([d.SerializeToString(deterministic=True) for d in c.kept_of("deliver")],
                     c.request("page", conversation=conversation, after_seq=0, limit=10).SerializeToString(deterministic=True),
                     c.request("get_conversations", conversations=[conversation]).SerializeToString(deterministic=True)))
        c.close()
    assert seen[0] == seen[1] and len(seen[0][0]) == 3
