"""Those who read late, or not at all (sections 4 and 6)."""

import secrets
import time

import statements as st


def gather(c, conversation, head, deadline=60):
    """Follows rule 1 of section 6: drops repeats, holds back what is early, pages for a hole that lasts 300 ms. Gives the messages in order."""
    until, early, out = time.monotonic() + deadline, {}, []
    while len(out) < head:
        assert time.monotonic() < until, f"{len(out)} of {head}"
        try:
            got = c.push("deliver", lambda d: d.conversation == conversation, 0.3)
            early[got.seq] = got
        except TimeoutError:
            after = len(out)
            while entries := c.request("page", conversation=conversation, after_seq=after, limit=50).entries:
                early |= {got.seq: got for got in entries}
                after = entries[-1].seq
        while len(out) + 1 in early:
            out.append(early.pop(len(out) + 1))
    return out


def test_a_slow_reader_loses_nothing(alice, bob, opened):
    """Bob stops reading while six megabytes come for him."""
    count, size = 200, 30_000
    a, b = opened(alice.device), opened(bob.device, max_queue=1)
    conversation = st.direct_conversation(alice.id, bob.id)
    sent = [alice.device.compose(bob, body=secrets.token_bytes(size)) for _ in range(count)]
    for send in sent:
        a.send(send)
    got = gather(b, conversation, count)
    assert [d.client_msg_id for d in got] == [send.client_msg_id for send in sent]
    assert all(d.body == send.body for d, send in zip(got, sent))


def test_a_slow_reader_holds_up_nobody(alice, bob, stranger, opened):
    a, _, s = opened(alice.device), opened(bob.device, max_queue=1, close_timeout=0.1), opened(stranger.device)
    for _ in range(100):
        a.send(alice.device.compose(bob, body=secrets.token_bytes(30_000)))
    send = alice.device.compose(stranger)
    seq = a.send(send).seq
    assert s.delivered(send.conversation, seq).client_msg_id == send.client_msg_id


def test_a_quiet_connection_is_pinged(quiet):
    assert quiet.ws.pinged.wait(quiet.welcome.limits.keep_alive_ms / 1000 + 5)
    quiet.barrier()
