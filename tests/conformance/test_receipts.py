"""Watermarks, typing and presence (section 7): only between those who have both sent."""

import pytest

import statements as st
from client import Person
from refusal import refused


def mark(c, account, wanted):
    """Waits for a Watermarks push about the account for which `wanted` holds; gives the item."""
    def holds(push):
        return any(item.account == account and wanted(item) for item in push.items)

    push = c.push("watermarks", holds)
    return next(item for item in push.items if item.account == account and wanted(item))


def test_no_watermarks_before_both_have_sent(talk, alice, bob):
    a, b, conversation = talk
    a.send(alice.device.compose(bob))
    b.ack(conversation, 1)
    b.request("read", conversation=conversation, seq=1)
    a.request("read", conversation=conversation, seq=1)
    (state,) = a.request("get_conversations", conversations=[conversation]).items
    assert not state.HasField("peer") and state.own_read == 1
    assert b.send(bob.device.compose(alice)).seq == 2
    a.delivered(conversation, 2)
    assert not [item for push in a.kept_of("watermarks") for item in push.items if item.read or item.delivered > 2]


def test_delivered_and_read(acquainted, alice, bob):
    a, b, conversation = acquainted
    assert a.send(alice.device.compose(bob)).seq == 3
    b.ack(conversation, 3)
    assert mark(a, bob.id, lambda item: item.delivered == 3).conversation == conversation
    b.request("read", conversation=conversation, seq=3)
    assert mark(a, bob.id, lambda item: item.read == 3).delivered == 3
    (state,) = a.request("get_conversations", conversations=[conversation]).items
    assert (state.peer.account, state.peer.conversation, state.peer.delivered, state.peer.read) == (bob.id, conversation, 3, 3)
    (state,) = b.request("get_conversations", conversations=[conversation]).items
    assert state.own_read == 3 and state.peer.read == 0


def test_without_read_only_delivered_moves(acquainted, alice, bob):
    a, b, conversation = acquainted
    a.send(alice.device.compose(bob))
    b.notify("ack", cursors=[{"conversation": conversation, "seq": 3}])
    assert mark(a, bob.id, lambda item: item.delivered == 3).read == 0


def test_some_device_is_enough_for_delivered(acquainted, alice, bob, opened):
    a, b, conversation = acquainted
    second = opened(bob.link())
    a.send(alice.device.compose(bob))
    second.delivered(conversation, 3)
    second.ack(conversation, 3)
    mark(a, bob.id, lambda item: item.delivered == 3)
    (state,) = b.request("get_conversations", conversations=[conversation]).items
    assert state.cursor == 2


def test_read_does_not_go_back_nor_beyond_the_head(acquainted, alice, bob):
    a, b, conversation = acquainted
    b.request("read", conversation=conversation, seq=2)
    b.request("read", conversation=conversation, seq=1)
    with refused("ACK_BEYOND_HEAD"):
        b.request("read", conversation=conversation, seq=3)
    (state,) = b.request("get_conversations", conversations=[conversation]).items
    assert state.own_read == 2


def test_own_other_devices_learn_what_was_read(acquainted, alice, bob, opened):
    _, b, conversation = acquainted
    second = opened(bob.link())
    b.request("read", conversation=conversation, seq=2)
    (state,) = second.request("get_conversations", conversations=[conversation]).items
    assert state.own_read == 2


def test_a_checkpoint_counts_as_sending(talk, alice, bob):
    a, b, conversation = talk
    a.send(alice.device.compose(bob))
    b.send(bob.device.compose(alice, checkpoint=True))
    b.ack(conversation, 2)
    mark(a, bob.id, lambda item: item.delivered == 1)


def test_nobody_is_told_that_a_checkpoint_was_delivered(acquainted, alice, bob):
    a, b, conversation = acquainted
    seq = a.send(alice.device.compose(bob, checkpoint=True)).seq
    b.delivered(conversation, seq)
    b.ack(conversation, seq)
    b.barrier()
    later = a.send(alice.device.compose(bob)).seq
    b.delivered(conversation, later)
    b.ack(conversation, later)
    told = mark(a, bob.id, lambda item: item.delivered >= seq)
    assert told.delivered == later


@pytest.mark.parametrize("as_notice", [True, False])
def test_typing(acquainted, alice, bob, as_notice):
    a, b, conversation = acquainted
    for active in (True, False):
        fields = {"conversation": conversation, "peer": bob.id, "active": active}
        if as_notice:
            a.notify("typing", **fields)
        else:
            assert a.request("typing", **fields).DESCRIPTOR.name == "Done"
        seen = b.push("peer_typing")
        assert (seen.conversation, seen.account, seen.active) == (conversation, alice.id, active)


def test_typing_before_both_have_sent_is_dropped(talk, alice, bob):
    a, b, conversation = talk
    a.request("typing", conversation=conversation, peer=bob.id, active=True)
    a.send(alice.device.compose(bob))
    a.request("typing", conversation=conversation, peer=bob.id, active=True)
    a.send(alice.device.compose(bob))
    b.delivered(conversation, 2)
    b.barrier()
    assert not b.kept_of("peer_typing")


def test_typing_into_a_conversation_of_others(acquainted, alice, bob, stranger, opened):
    a, b, conversation = acquainted
    s = opened(stranger.device)
    s.notify("typing", conversation=conversation, peer=bob.id, active=True)
    s.barrier()
    a.request("typing", conversation=conversation, peer=bob.id, active=True)
    assert b.push("peer_typing").account == alice.id
    b.barrier()
    assert not b.kept_of("peer_typing")


def watch(c, *people):
    """Watches, and gives the current state of each."""
    c.request("watch_presence", accounts=[person.id for person in people])
    return {person.id: c.push("presence", lambda p, who=person.id: p.account == who) for person in people}


def test_presence(acquainted, alice, bob, opened):
    a, b, _ = acquainted
    assert watch(a, bob)[bob.id].online
    b.close()
    gone = a.push("presence", lambda p: p.account == bob.id and not p.online)
    assert gone.last_seen_ms > 0
    opened(bob.device)
    assert a.push("presence", lambda p: p.account == bob.id and p.online).last_seen_ms == 0


def test_presence_with_two_devices(acquainted, alice, bob, opened):
    """Offline only when the last device is gone."""
    a, b, _ = acquainted
    second = opened(bob.link())
    watch(a, bob)
    b.close()
    second.barrier()
    a.barrier()
    assert all(p.online for p in a.kept_of("presence"))
    second.close()
    a.push("presence", lambda p: p.account == bob.id and not p.online)


def test_presence_of_strangers_is_left_out(talk, alice, bob, stranger, opened):
    a, b, conversation = talk
    a.send(alice.device.compose(bob))  # only one of them has sent
    s = opened(stranger.device)
    a.request("watch_presence", accounts=[bob.id, stranger.id, Person().id])
    a.barrier()
    s.barrier()
    assert not a.kept_of("presence")


def test_watching_replaces(acquainted, alice, bob):
    a, b, _ = acquainted
    watch(a, bob)
    a.request("watch_presence", accounts=[])
    b.close()
    a.barrier()
    assert not a.kept_of("presence")


def test_hidden_presence(acquainted, alice, bob, opened):
    a, b, _ = acquainted
    assert watch(a, bob)[bob.id].online
    b.request("set_presence", hidden=True)
    hidden = a.push("presence", lambda p: p.account == bob.id and not p.online)
    assert hidden.last_seen_ms == 0
    b.request("watch_presence", accounts=[alice.id])
    b.barrier()
    assert not any(p.online or p.last_seen_ms for p in b.kept_of("presence"))
    b.close()
    again = opened(bob.device)  # kept by the server
    state = watch(a, bob)[bob.id]
    assert not state.online and state.last_seen_ms == 0
    again.request("set_presence", hidden=False)
    a.push("presence", lambda p: p.account == bob.id and p.online)


@pytest.mark.parametrize("request_, field", [("watch_presence", "accounts"), ("get_conversations", "conversations")])
def test_lists_that_are_too_long(alice, opened, request_, field):
    c = opened(alice.device)
    ids = [st.sha256(bytes([n % 256, n // 256]))[:16] for n in range(257)]
    with refused("INVALID_FRAME", "never"):
        c.request(request_, **{field: ids})
    c.request(request_, **{field: ids[:256]})
    with refused("INVALID_FRAME", "never"):
        c.request(request_, **{field: [bytes(15)]})
