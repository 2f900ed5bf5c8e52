"""Sending, delivering, acknowledging, coming back (sections 5 and 6)."""

import secrets
import time

import pytest

import statements as st
import wire
from client import now_ms
from connection import BINARY, JSON, Refused
from refusal import refused


def same_message(delivered, send, device, sender):
    """The Deliver holds what was sent, with this device's slice."""
    assert delivered.conversation == send.conversation and delivered.client_msg_id == send.client_msg_id
    assert (delivered.sender_account, delivered.sender_device) == (sender.person.id, sender.id)
    assert delivered.body == send.body and delivered.slice == b"slice for " + device.id
    assert (delivered.sender_list_version, delivered.recipient_list_version) == (send.sender_list_version, send.recipient_list_version)
    assert delivered.absent == 0 and delivered.checkpoint == send.checkpoint


@pytest.mark.parametrize("from_, to", [(BINARY, BINARY), (JSON, JSON), (BINARY, JSON), (JSON, BINARY)])
def test_there_and_back(alice, bob, opened, from_, to):
    a, b = opened(alice.device, from_), opened(bob.device, to)
    sent = alice.device.compose(bob, body=bytes(range(256)))
    accepted = a.send(sent)
    assert accepted.client_msg_id == sent.client_msg_id and accepted.seq == 1 and not accepted.duplicate
    assert abs(accepted.at_ms - now_ms()) < 60_000
    got = b.delivered(sent.conversation, 1)
    same_message(got, sent, bob.device, alice.device)
    assert got.at_ms == accepted.at_ms
    back = bob.device.compose(alice)
    assert b.send(back).seq == 2
    same_message(a.delivered(back.conversation, 2), back, alice.device, bob.device)


def test_the_sender_is_not_sent_its_own_live(talk, alice, bob):
    a, b, conversation = talk
    a.send(alice.device.compose(bob))
    b.send(bob.device.compose(alice))
    a.delivered(conversation, 2)
    a.barrier()
    assert a.kept_of("deliver") == []


def test_two_senders_interleaved_make_one_dense_order(talk, alice, bob):
    a, b, conversation = talk
    count = 40
    mine = [alice.device.compose(bob) for _ in range(count)]
    theirs = [bob.device.compose(alice) for _ in range(count)]
    asked = [(a.ask_send(x), b.ask_send(y)) for x, y in zip(mine, theirs)]
    seqs_a = [a.answer(x).seq for x, _ in asked]
    seqs_b = [b.answer(y).seq for _, y in asked]
    assert sorted(seqs_a + seqs_b) == list(range(1, 2 * count + 1))
    assert seqs_a == sorted(seqs_a) and seqs_b == sorted(seqs_b)
    by_seq = dict(zip(seqs_a + seqs_b, [m.client_msg_id for m in mine + theirs]))
    for c, foreign in ((a, seqs_b), (b, seqs_a)):
        for seq in foreign:
            assert c.delivered(conversation, seq).client_msg_id == by_seq[seq]
    page = a.request("page", conversation=conversation, after_seq=0, limit=200)
    assert [entry.seq for entry in page.entries] == list(range(1, 2 * count + 1)) and page.head == 2 * count
    assert [entry.client_msg_id for entry in page.entries] == [by_seq[seq] for seq in range(1, 2 * count + 1)]
    times = [entry.at_ms for entry in page.entries]
    assert times == sorted(times)


def test_pipelined_sends_are_numbered_and_answered_in_order(talk, alice, bob):
    a, b, conversation = talk
    requests = [a.ask_send(alice.device.compose(bob)) for _ in range(64)]
    answers = [a.first(lambda frame: frame.id) for _ in requests]
    assert [frame.id for frame in answers] == requests
    assert [frame.accepted.seq for frame in answers] == list(range(1, 65))
    for seq in range(1, 65):
        b.delivered(conversation, seq)


def test_catch_up_after_being_away(alice, bob, opened):
    a = opened(alice.device)
    sent = [alice.device.compose(bob) for _ in range(5)]
    for send in sent:
        a.send(send)
    b = opened(bob.device, caught_up=False)
    first = [b.first(lambda frame: frame.WhichOneof("kind") in ("deliver", "caught_up")) for _ in range(6)]
    assert [frame.WhichOneof("kind") for frame in first] == ["deliver"] * 5 + ["caught_up"]
    for seq, (frame, send) in enumerate(zip(first, sent), 1):
        assert frame.deliver.seq == seq and frame.id == 0
        same_message(frame.deliver, send, bob.device, alice.device)


def test_what_is_not_acknowledged_comes_again(alice, bob, opened):
    a, conversation = opened(alice.device), st.direct_conversation(alice.id, bob.id)
    for _ in range(4):
        a.send(alice.device.compose(bob))
    b = opened(bob.device)
    assert [d.seq for d in b.kept_of("deliver")] == [1, 2, 3, 4]
    b.ack(conversation, 2)
    b.close()
    again = opened(bob.device)
    assert [d.seq for d in again.kept_of("deliver")] == [3, 4]
    again.notify("ack", cursors=[{"conversation": conversation, "seq": 4}])
    again.barrier()
    again.close()
    assert opened(bob.device).kept_of("deliver") == []


def test_live_deliveries_that_were_not_acknowledged_come_again(talk, alice, bob, opened):
    a, b, conversation = talk
    a.send(alice.device.compose(bob))
    b.delivered(conversation, 1)
    b.close()
    assert [d.seq for d in opened(bob.device).kept_of("deliver")] == [1]


def test_own_messages_come_absent(alice, bob, opened):
    a, conversation = opened(alice.device), st.direct_conversation(alice.id, bob.id)
    sent = alice.device.compose(bob)
    a.send(sent)
    a.close()
    again = opened(alice.device)
    (own,) = again.kept_of("deliver")
    assert own.seq == 1 and own.absent == wire.ABSENT["ABSENT_REASON_OWN"]
    assert own.client_msg_id == sent.client_msg_id and own.body == b"" and own.slice == b""
    again.ack(conversation, 1)
    again.close()
    assert opened(alice.device).kept_of("deliver") == []


def test_ack_of_several_conversations_at_once(alice, bob, stranger, opened):
    a, b = opened(alice.device), opened(bob.device)
    s = opened(stranger.device)
    cursors = []
    for c, device in ((a, alice.device), (s, stranger.device)):
        sent = device.compose(bob)
        cursors.append({"conversation": sent.conversation, "seq": c.send(sent).seq})
    b.request("ack", cursors=cursors)
    b.close()
    assert opened(bob.device).kept_of("deliver") == []


def test_ack_is_cumulative_and_never_goes_back(alice, bob, opened):
    a, conversation = opened(alice.device), st.direct_conversation(alice.id, bob.id)
    for _ in range(3):
        a.send(alice.device.compose(bob))
    b = opened(bob.device)
    b.ack(conversation, 3)
    b.ack(conversation, 1)
    (state,) = b.request("get_conversations", conversations=[conversation]).items
    assert state.cursor == 3


def test_ack_beyond_head(talk, alice, bob, opened):
    a, b, conversation = talk
    a.send(alice.device.compose(bob))
    with refused("ACK_BEYOND_HEAD"):
        b.ack(conversation, 2)
    with refused("ACK_BEYOND_HEAD"):
        b.ack(conversation, 2**63)
    (state,) = b.request("get_conversations", conversations=[conversation]).items
    assert state.cursor == 0
    b.notify("ack", cursors=[{"conversation": conversation, "seq": 2}])  # a refused notice is ignored
    b.barrier()
    b.close()
    assert [d.seq for d in opened(bob.device).kept_of("deliver")] == [1]


def test_ack_by_a_stranger(talk, alice, bob, stranger, opened):
    a, b, conversation = talk
    a.send(alice.device.compose(bob))
    with refused("NOT_A_MEMBER"):
        opened(stranger.device).ack(conversation, 1)


def test_several_devices(alice, bob, opened):
    second_a, second_b = alice.link(), bob.link()
    a1, a2, b1, b2 = (opened(device) for device in (alice.device, second_a, bob.device, second_b))
    sent = alice.device.compose(bob)
    a1.send(sent)
    for c, device in ((a2, second_a), (b1, bob.device), (b2, second_b)):
        same_message(c.delivered(sent.conversation, 1), sent, device, alice.device)
    assert a2.send(second_a.compose(bob)).seq == 2
    a1.delivered(sent.conversation, 2)


def test_each_device_has_its_own_cursor(alice, bob, opened):
    second = bob.link()
    a, conversation = opened(alice.device), st.direct_conversation(alice.id, bob.id)
    a.send(alice.device.compose(bob))
    b = opened(bob.device)
    b.ack(conversation, 1)
    assert [d.seq for d in opened(second).kept_of("deliver")] == [1]


def test_before_linked(alice, bob, opened):
    """A device linked later never gets what was sent before."""
    a, conversation = opened(alice.device), st.direct_conversation(alice.id, bob.id)
    for _ in range(3):
        a.send(alice.device.compose(bob))
    late = bob.link()
    a.send(alice.device.compose(bob))
    c = opened(late)
    reason = wire.ABSENT["ABSENT_REASON_BEFORE_LINKED"]
    covered = {seq for r in c.kept_of("absent") if r.reason == reason for seq in range(r.from_seq, r.to_seq + 1)}
    covered |= {d.seq for d in c.kept_of("deliver") if d.absent == reason}
    assert covered in ({1, 2, 3}, set())  # said, or begun after it
    assert [d.seq for d in c.kept_of("deliver") if not d.absent] == [4]
    c.ack(conversation, 4)


def test_page(alice, bob, opened):
    a, b, conversation = opened(alice.device), opened(bob.device), st.direct_conversation(alice.id, bob.id)
    sent = [alice.device.compose(bob) for _ in range(7)]
    for send in sent:
        a.send(send)
    page = b.request("page", conversation=conversation, after_seq=2, limit=3)
    assert [d.seq for d in page.entries] == [3, 4, 5] and page.head == 7 and page.conversation == conversation
    same_message(page.entries[0], sent[2], bob.device, alice.device)
    assert [d.seq for d in b.request("page", conversation=conversation, after_seq=5, limit=100).entries] == [6, 7]
    assert not b.request("page", conversation=conversation, after_seq=7, limit=10).entries
    own = a.request("page", conversation=conversation, after_seq=0, limit=1)
    assert own.entries[0].absent == wire.ABSENT["ABSENT_REASON_OWN"]
    b.close()
    assert len(opened(bob.device).kept_of("deliver")) == 7  # paging moves no cursor


def test_page_of_large_messages_fits_into_a_frame(talk, alice, bob):
    a, b, conversation = talk
    count, size = 6, 30_000
    for _ in range(count):
        a.send(alice.device.compose(bob, body=secrets.token_bytes(size)))
    seen, after = [], 0
    while after < count:
        page = b.request("page", conversation=conversation, after_seq=after, limit=256)
        assert page.entries and len(b.raw[-1]) <= 65536
        seen += [d.seq for d in page.entries]
        after = seen[-1]
    assert seen == list(range(1, count + 1))


@pytest.mark.parametrize("limit", [257, 2**32 - 1])
def test_page_limit(talk, alice, bob, limit):
    """Asking for more than `max_page` is refused, or gives no more than that."""
    a, b, conversation = talk
    a.send_all([alice.device.compose(bob, body=b"m") for _ in range(260)])
    try:
        assert len(b.request("page", conversation=conversation, after_seq=0, limit=limit).entries) <= 256
    except Refused as error:
        assert error.code == "INVALID_FRAME"


def test_page_by_a_stranger(talk, alice, bob, stranger, opened):
    a, _, conversation = talk
    a.send(alice.device.compose(bob))
    s = opened(stranger.device)
    with refused("NOT_A_MEMBER"):
        s.request("page", conversation=conversation, after_seq=0, limit=10)


def test_catch_up_pauses_at_the_window(alice, bob, opened, dialled):
    """With more missed than the window, it goes on only as acknowledgements come."""
    a, conversation = opened(alice.device), st.direct_conversation(alice.id, bob.id)
    total, window = 1100, 1024
    a.send_all([alice.device.compose(bob, body=b"m") for _ in range(total)])
    b = opened(bob.device, caught_up=False)
    for seq in range(1, window + 1):
        b.delivered(conversation, seq, 60)
    b.barrier()
    assert not b.kept_of("caught_up") and max([d.seq for d in b.kept_of("deliver")], default=0) < total
    b.ack(conversation, window)
    for seq in range(window + 1, total + 1):
        b.delivered(conversation, seq, 60)
    b.push("caught_up")


def test_get_conversations(talk, alice, bob, stranger):
    a, b, conversation = talk
    other = st.direct_conversation(alice.id, stranger.id)
    foreign = st.direct_conversation(bob.id, stranger.id)
    assert not a.request("get_conversations", conversations=[conversation]).items  # nothing was sent yet
    for _ in range(3):
        a.send(alice.device.compose(bob))
    b.ack(conversation, 2)
    (state,) = b.request("get_conversations", conversations=[conversation, other, foreign]).items
    assert (state.conversation, state.head, state.first, state.cursor) == (conversation, 3, 1, 2)
    assert state.own_read == 0 and not state.HasField("peer")
    (state,) = a.request("get_conversations", conversations=[conversation]).items
    assert state.cursor == 0 and not state.HasField("peer")


def test_what_everybody_has_is_deleted(acquainted, opened):
    """Both have acknowledged both messages: nothing is kept."""
    a, _, conversation = acquainted
    until = time.monotonic() + 20
    while True:
        (state,) = a.request("get_conversations", conversations=[conversation]).items
        assert (state.head, state.cursor) == (2, 2) and time.monotonic() < until, state
        if state.first == 3:
            break
    page = a.request("page", conversation=conversation, after_seq=0, limit=10)
    assert not page.entries and page.head == 2
    assert [seq for r in page.absent for seq in range(r.from_seq, r.to_seq + 1)] == [1, 2]
