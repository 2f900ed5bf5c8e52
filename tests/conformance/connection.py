"""A WebSocket connection that speaks either subprotocol, over the `websockets` library's blocking client."""

import collections
import threading
import time

from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode
from websockets.sync.client import ClientConnection, connect

import page
import wire
from client import DEADLINE, SERVER

BINARY, JSON = "kith.v1", "kith.v1.json"
ADDRESS = "ws" + SERVER[4:] + "/v1/ws"


class Closed(Exception):
    """The server has closed. `goodbye`: the name of its reason, or None where it said nothing. `code`: the close code."""

    def __init__(self, goodbye, code):
        self.goodbye, self.code = goodbye, code
        super().__init__(f"{goodbye and wire.ERROR_NAME[goodbye.reason]}, close code {code}")

    @property
    def reason(self):
        return self.goodbye and wire.ERROR_NAME[self.goodbye.reason]


class Refused(Exception):
    """An `Error` in answer to a request."""

    def __init__(self, error):
        self.error, self.code = error, wire.ERROR_NAME[error.code]
        self.retry = {number: name for name, number in wire.RETRY.items()}[error.retry]
        assert error.message, error
        assert self.retry in ("RETRY_AFTER", "RETRY_" + page.CODES[self.code].retry.upper()), error
        assert (error.after_ms > 0) == (self.retry == "RETRY_AFTER"), error
        super().__init__(f"{self.code} {self.retry} {error.message}")


class CountsPings(ClientConnection):
    """Notes that the server has sent a ping."""

    def __init__(self, *args, **how):
        self.pinged = threading.Event()
        super().__init__(*args, **how)

    def process_event(self, event):
        if getattr(event, "opcode", None) is Opcode.PING:
            self.pinged.set()
        super().process_event(event)


class Connection:
    """One open WebSocket. Frames that are not what a caller waits for are kept, in order, for those who ask later."""

    def __init__(self, subprotocol=BINARY, **how):
        offered = how.pop("offered", [subprotocol])
        plain = {"close_timeout": DEADLINE, "compression": None, "max_size": None, "max_queue": None, "ping_interval": None, "proxy": None, "legacy": True}
        self.ws = connect(ADDRESS, subprotocols=offered, open_timeout=DEADLINE, **(plain | how))
        self.json = self.ws.subprotocol == JSON
        self.kept, self.goodbye, self.next_id, self.raw = collections.deque(), None, 1, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.ws.close()

    # Sending

    def write(self, frame):
        self.ws.send(wire.to_json(frame) if self.json else frame.SerializeToString())

    def ask(self, kind, **fields):
        """Sends a request and gives its id."""
        self.next_id += 1
        self.write(wire.frame(kind, self.next_id, **fields))
        return self.next_id

    def ask_send(self, send, restart=False):
        out = wire.ClientFrame(id=self.next_id + 1, send=send)
        out.send.restart = restart
        self.next_id += 1
        self.write(out)
        return self.next_id

    def notify(self, kind, **fields):
        self.write(wire.frame(kind, 0, **fields))

    # Receiving

    def read(self, until):
        """The next frame from the socket, whatever it is."""
        try:
            data = self.ws.recv(timeout=max(0.0, until - time.monotonic()))
        except ConnectionClosed as closed:
            raise Closed(self.goodbye, closed.rcvd.code if closed.rcvd else None) from closed
        assert isinstance(data, str) == self.json, f"a message of the wrong type on {self.ws.subprotocol}"
        self.raw.append(data)
        frame = wire.from_json(data, wire.ServerFrame()) if self.json else wire.ServerFrame.FromString(data)
        assert frame.WhichOneof("kind"), f"a frame without a kind: {data!r}"
        assert self.goodbye is None, f"a frame after Goodbye: {frame}"
        if frame.WhichOneof("kind") == "goodbye":
            self.goodbye = frame.goodbye
        return frame

    def first(self, wanted, deadline=DEADLINE):
        """The first frame, kept or new, for which `wanted` holds; the others stay kept. TimeoutError when none comes in time."""
        for at, frame in enumerate(self.kept):
            if wanted(frame):
                del self.kept[at]
                return frame
        until = time.monotonic() + deadline
        while not wanted(frame := self.read(until)):
            self.kept.append(frame)
        return frame

    def answer(self, request_id, deadline=DEADLINE):
        """The answer to a request; `Refused` if it is an Error."""
        frame = self.first(lambda frame: frame.id == request_id, deadline)
        if frame.WhichOneof("kind") == "error":
            raise Refused(frame.error)
        return getattr(frame, frame.WhichOneof("kind"))

    def push(self, kind, wanted=lambda _: True, deadline=DEADLINE):
        """The first push of a kind for which `wanted` holds."""
        frame = self.first(lambda frame: frame.id == 0 and frame.WhichOneof("kind") == kind and wanted(getattr(frame, kind)), deadline)
        return getattr(frame, kind)

    def request(self, kind, **fields):
        return self.answer(self.ask(kind, **fields))

    def send(self, send, restart=False):
        """Sends a message and gives its Accepted."""
        return self.answer(self.ask_send(send, restart))

    def send_all(self, sends, window=32):
        """Sends messages, some of them at a time under way; gives their Accepteds."""
        out = []
        for at in range(0, len(sends), window):
            requests = [self.ask_send(send) for send in sends[at:at + window]]
            out += [self.answer(request, 60) for request in requests]
        return out

    def barrier(self):
        """Everything that the server had queued for this connection before has been read when this returns."""
        pong = self.request("ping")
        assert pong.DESCRIPTOR.name == "Pong", pong

    def kept_of(self, kind):
        return [getattr(frame, kind) for frame in self.kept if frame.WhichOneof("kind") == kind]

    def ended(self, deadline=DEADLINE):
        """Reads to the end of the connection and says how it ended."""
        until = time.monotonic() + deadline
        while True:
            try:
                self.kept.append(self.read(until))
            except Closed as closed:
                return closed

    # The protocol

    def hello(self, device, **changes):
        """Says Hello with the next epoch of the device's store and gives the Welcome."""
        device.epoch += 1
        fields = {"token": device.token, "version": 1, "epoch": device.epoch} | changes
        welcome = self.request("hello", **fields)
        assert welcome.DESCRIPTOR.name == "Welcome", welcome
        return welcome

    def delivered(self, conversation, seq, deadline=DEADLINE):
        """The Deliver of one message; repeats of what was taken before are not looked for."""
        return self.push("deliver", lambda d: d.conversation == conversation and d.seq == seq, deadline)

    def ack(self, conversation, seq):
        return self.request("ack", cursors=[{"conversation": conversation, "seq": seq}])


def online(device, subprotocol=BINARY, caught_up=True, **how):
    """A connection of the device, caught up with what it had missed."""
    connection = Connection(subprotocol, **how)
    try:
        connection.welcome = connection.hello(device)
        if caught_up:
            connection.push("caught_up")
    except BaseException:
        connection.close()
        raise
    return connection
