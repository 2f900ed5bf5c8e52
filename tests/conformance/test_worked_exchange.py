"""The worked exchange of the page: that its two encodings agree, and that the server speaks just so (section 9)."""

import json
import time

import pytest

import page
import statements as st
import wire
from client import DEADLINE, Person
from connection import BINARY, JSON, online
from refusal import refused

STEPS = page.steps()
ALICE, BOB = bytes([0xA1]) * 16, bytes([0xB0]) * 16


def frame_of(step):
    return (wire.ClientFrame if step.from_client else wire.ServerFrame).FromString(step.binary)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.title)
def test_both_encodings_agree(step):
    frame = frame_of(step)
    assert frame.SerializeToString(deterministic=True) == step.binary
    assert json.loads(wire.to_json(frame)) == json.loads(step.json)
    assert wire.from_json(step.json, type(frame)()) == frame


def test_all_steps_are_there():
    titles = [step.title for step in STEPS]
    assert titles == ["alice > hello", "alice < welcome", "alice < caught up", "alice > send", "alice < accepted", "bob < deliver",
                      "bob > ack (a notice: id 0)", "an error"]


def test_conversation_id_of_the_page():
    assert frame_of(STEPS[3]).send.conversation == st.direct_conversation(ALICE, BOB)


class Exchange:
    """Replays the page for two real people: its bytes with their ids, tokens and times put in."""

    def __init__(self, subprotocol, alice, bob):
        self.json, self.alice, self.bob = subprotocol == JSON, alice, bob

    def frame(self, number):
        frame = frame_of(STEPS[number])
        kind = getattr(frame, frame.WhichOneof("kind"))
        self.put_ids(kind)
        return frame, kind

    def put_ids(self, message):
        a, b = self.alice, self.bob
        known = {ALICE: a.id, BOB: b.id, bytes([0x0A]) * 16: a.device.id, bytes([0x0B]) * 16: b.device.id,
                 st.direct_conversation(ALICE, BOB): st.direct_conversation(a.id, b.id)}
        for field, value in message.ListFields():
            if field.message_type:
                for inner in (value if field.is_repeated else [value]):
                    self.put_ids(inner)
            elif field.type == field.TYPE_BYTES:
                setattr(message, field.name, known.get(value, value))

    def encoded(self, number, frame):
        """As the page would print it. JSON: the text of the page with the values put in, key order and all."""
        if not self.json:
            return frame.SerializeToString(deterministic=True)
        return json.dumps(ordered_like(json.loads(STEPS[number].json), json.loads(wire.to_json(frame))), separators=(",", ":"))

    def write(self, connection, number, **values):
        frame, kind = self.frame(number)
        for name, value in values.items():
            setattr(kind, name, value)
        connection.ws.send(self.encoded(number, frame))

    def expect(self, connection, number, **values):
        """The next frame on the connection is, byte for byte, the page's with the values put in."""
        frame, kind = self.frame(number)
        connection.read(time.monotonic() + DEADLINE)
        for name, value in values.items():
            setattr(kind, name, value(connection.raw[-1]) if callable(value) else value)
        assert connection.raw[-1] == self.encoded(number, frame)


def ordered_like(shape, value):
    """`value` with the keys in the order of `shape`, where both have them; others last."""
    if isinstance(value, dict):
        return {key: ordered_like(shape.get(key), value[key]) for key in [*(k for k in shape if k in value), *(k for k in value if k not in shape)]}
    if isinstance(value, list):
        return [ordered_like(a, b) for a, b in zip(shape, value)]
    return value


def server_frame(data):
    return wire.from_json(data, wire.ServerFrame()) if isinstance(data, str) else wire.ServerFrame.FromString(data)


@pytest.mark.parametrize("subprotocol", [BINARY, JSON])
def test_the_server_speaks_like_the_page(dialled, subprotocol):
    alice, bob = (Person().register(one_time=100, one_time_kem=100) for _ in range(2))  # so that no KeysLow comes between
    x = Exchange(subprotocol, alice, bob)
    a, b = dialled(subprotocol), dialled(subprotocol)
    x.write(a, 0, token=alice.device.token)
    x.expect(a, 1, server_time_ms=lambda raw: server_frame(raw).welcome.server_time_ms, token_expires_ms=alice.device.tokens["access_expires_ms"])
    x.expect(a, 2)
    b.hello(bob.device)
    b.push("caught_up")
    x.write(a, 3)
    x.expect(a, 4, at_ms=lambda raw: server_frame(raw).accepted.at_ms)
    x.expect(b, 5, at_ms=server_frame(a.raw[-1]).accepted.at_ms)
    x.write(b, 6)
    (state,) = b.request("get_conversations", conversations=[st.direct_conversation(alice.id, bob.id)]).items
    assert state.cursor == 1


def test_the_error_of_the_page(talk, alice, bob):
    a, _, _ = talk
    a.close()
    for subprotocol in (BINARY, JSON):
        with online(alice.device, subprotocol) as c:
            bad = alice.device.compose(bob)
            del bad.slices[:]
            with refused("DEVICES_CHANGED"):
                c.send(bad)
            request = c.ask_send(bad)
            c.first(lambda frame: frame.id == request)
            frame = frame_of(STEPS[7])
            frame.id, frame.error.message = request, server_frame(c.raw[-1]).error.message
            assert server_frame(c.raw[-1]) == frame
