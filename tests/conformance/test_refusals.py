"""Refused and repeated sends (section 5)."""

import secrets

import pytest

import statements as st
from client import Person
from connection import Refused
from refusal import refused
from wire import b64


def test_a_retry_gives_the_original_answer(talk, alice, bob):
    a, b, conversation = talk
    send = alice.device.compose(bob)
    first = a.send(send)
    a.send(alice.device.compose(bob))
    again = a.send(send)
    assert (again.seq, again.at_ms, again.duplicate) == (first.seq, first.at_ms, True)
    assert a.send(send, restart=True).duplicate
    b.delivered(conversation, 2)
    (state,) = a.request("get_conversations", conversations=[conversation]).items
    assert state.head == 2


def test_a_retry_after_a_reconnect(talk, alice, bob, opened):
    a, b, _ = talk
    send = alice.device.compose(bob)
    first = a.send(send)
    a.close()
    again = opened(alice.device).send(send)
    assert (again.seq, again.at_ms, again.duplicate) == (first.seq, first.at_ms, True)


def test_a_retry_whose_answer_was_never_read(talk, alice, bob, opened):
    """The connection ends right after the send: the message is there once, whether the first got through or the second."""
    a, b, conversation = talk
    send = alice.device.compose(bob)
    a.ask_send(send)
    a.close()
    again = opened(alice.device)
    assert again.send(send).seq == 1
    assert again.send(alice.device.compose(bob)).seq == 2
    b.delivered(conversation, 2)


def test_a_retry_whatever_has_changed_since(talk, alice, bob):
    """The lists have changed: a new message would be refused, the old one is answered as before."""
    a, _, _ = talk
    send = alice.device.compose(bob)
    first = a.send(send)
    bob.link()
    again = a.send(send)
    assert (again.seq, again.duplicate) == (first.seq, True)


def test_a_retry_among_pipelined(talk, alice, bob):
    a, _, _ = talk
    one, two = alice.device.compose(bob), alice.device.compose(bob)
    requests = [a.ask_send(x) for x in (one, two, one, two, one)]
    assert [(r.seq, r.duplicate) for r in map(a.answer, requests)] == [(1, False), (2, False), (1, True), (2, True), (1, True)]


def test_the_same_id_of_another_device_is_another_message(talk, alice, bob):
    a, b, _ = talk
    one = alice.device.compose(bob)
    assert a.send(one).seq == 1
    other = bob.device.compose(alice, client_msg_id=one.client_msg_id)
    accepted = b.send(other)
    assert accepted.seq == 2 and not accepted.duplicate


def test_earlier_refused_until_restart(talk, alice, bob):
    a, b, conversation = talk
    good = alice.device.compose(bob)
    bad = alice.device.compose(bob)
    del bad.slices[:]
    later = [alice.device.compose(bob) for _ in range(3)]
    requests = [a.ask_send(x) for x in (good, bad, *later)]
    assert a.answer(requests[0]).seq == 1
    with refused("DEVICES_CHANGED", "refresh"):
        a.answer(requests[1])
    for request in requests[2:]:
        with refused("EARLIER_REFUSED", "same"):
            a.answer(request)
    bad.slices.add(device=bob.device.id, data=b"slice for " + bob.device.id)
    with refused("EARLIER_REFUSED", "same"):
        a.send(bad)  # without restart
    assert a.send(bad, restart=True).seq == 2
    assert [a.send(x).seq for x in later] == [3, 4, 5]
    assert b.delivered(conversation, 2).client_msg_id == bad.client_msg_id


def test_a_refusal_holds_up_its_own_conversation_only(talk, alice, bob, stranger):
    a, _, _ = talk
    bad = alice.device.compose(bob)
    del bad.slices[:]
    with refused("DEVICES_CHANGED"):
        a.send(bad)
    other = alice.device.compose(stranger)
    assert a.send(other).seq == 1
    with refused("EARLIER_REFUSED"):
        a.send(alice.device.compose(bob))


def test_a_refusal_ends_with_its_connection(talk, alice, bob, opened):
    a, _, _ = talk
    bad = alice.device.compose(bob)
    del bad.slices[:]
    with refused("DEVICES_CHANGED"):
        a.send(bad)
    a.close()
    alice.device.counter -= 1
    assert opened(alice.device).send(alice.device.compose(bob)).seq == 1


def test_devices_changed_missing(talk, alice, bob):
    a, _, _ = talk
    send = alice.device.compose(bob)
    second = bob.link()
    with refused("DEVICES_CHANGED", "refresh") as caught:
        a.send(send)
    changed = caught.value.error.devices_changed
    assert [(ref.account, ref.device) for ref in changed.missing] == [(bob.id, second.id)] and not changed.extra


def test_devices_changed_extra(talk, alice, bob):
    a, _, _ = talk
    second = bob.link()
    send = alice.device.compose(bob)
    bob.publish([bob.device])
    with refused("DEVICES_CHANGED", "refresh") as caught:
        a.send(send)
    changed = caught.value.error.devices_changed
    assert [ref.device for ref in changed.extra] == [second.id] and not changed.missing


def test_devices_changed_of_the_sender(talk, alice, bob):
    a, _, _ = talk
    send = alice.device.compose(bob)
    second = alice.link()
    with refused("DEVICES_CHANGED", "refresh") as caught:
        a.send(send)
    assert [(ref.account, ref.device) for ref in caught.value.error.devices_changed.missing] == [(alice.id, second.id)]
    send.own_slices.add(device=second.id, data=b"x")
    assert a.send(send, restart=True).seq == 1


def test_a_left_device_gets_no_slice(talk, alice, bob):
    a, _, _ = talk
    second = bob.link()
    signed = st.leave_string(bob.id, second.id, bob.version)
    second.post("/v1/devices/leave", {"signed": b64(signed), "signature": b64(second.ed.sign(signed))})
    with refused("DEVICES_CHANGED") as caught:
        a.send(alice.device.compose(bob))
    assert [ref.device for ref in caught.value.error.devices_changed.extra] == [second.id]
    bob.devices.remove(second)
    alice.device.counter -= 1
    assert a.send(alice.device.compose(bob), restart=True).seq == 1


def test_a_checkpoint_may_leave_out_devices(talk, alice, bob, opened):
    a, b, conversation = talk
    second = bob.link()
    send = alice.device.compose(bob, checkpoint=True)
    del send.slices[:]
    send.slices.add(device=bob.device.id, data=b"slice for " + bob.device.id)
    assert a.send(send).seq == 1
    assert b.delivered(conversation, 1).checkpoint
    (entry,) = opened(second).kept_of("deliver") or [None]
    assert entry is not None and entry.absent == 2 and entry.seq == 1 and entry.body == b""


def test_a_checkpoint_for_a_device_on_no_list(talk, alice, bob):
    a, _, _ = talk
    send = alice.device.compose(bob, checkpoint=True)
    send.slices.add(device=secrets.token_bytes(16), data=b"x")
    with refused("DEVICES_CHANGED"):
        a.send(send)


def test_the_conversation_of_others(talk, alice, bob, stranger):
    a, _, _ = talk
    with refused("NOT_A_MEMBER"):
        a.send(alice.device.compose(bob, conversation=st.direct_conversation(bob.id, stranger.id)))


def test_a_conversation_id_out_of_the_air(talk, alice, bob):
    a, _, _ = talk
    with refused("NOT_A_MEMBER"):
        a.send(alice.device.compose(bob, conversation=secrets.token_bytes(16)))


def test_to_oneself(talk, alice):
    a, _, _ = talk
    with refused({"NOT_A_MEMBER", "INVALID_FRAME"}):
        a.send(alice.device.compose(alice))


def test_to_nobody(talk, alice):
    a, _, _ = talk
    nobody = Person()
    nobody.lists = [b"x"]
    with refused("UNKNOWN_ACCOUNT"):
        a.send(alice.device.compose(nobody))


@pytest.mark.parametrize("change", [
    {"body": b""}, {"client_msg_id": bytes(15)}, {"client_msg_id": b""}, {"client_msg_id": bytes(17)}, {"conversation": bytes(15)},
    {"recipient": bytes(17)}, {"recipient": b""}, {"device_counter": 0},
])
def test_bad_values(talk, alice, bob, change):
    a, _, _ = talk
    send = alice.device.compose(bob, **change)
    with refused("INVALID_FRAME", "never"):
        a.send(send)
    a.barrier()


def test_a_slice_twice(talk, alice, bob):
    a, _, _ = talk
    send = alice.device.compose(bob)
    send.slices.add(device=bob.device.id, data=b"again")
    with refused({"INVALID_FRAME", "DEVICES_CHANGED"}):
        a.send(send)


def test_a_slice_for_oneself(talk, alice, bob):
    a, _, _ = talk
    send = alice.device.compose(bob)
    send.own_slices.add(device=alice.device.id, data=b"me")
    with refused({"INVALID_FRAME", "DEVICES_CHANGED"}):
        a.send(send)


@pytest.mark.parametrize("counters", [[1, 2, 3], [1, 5, 3], [2**40]])
def test_welcome_knows_the_largest_counter_accepted(talk, alice, bob, dialled, counters):
    """Whether or not the server takes one that is not the next, it remembers the largest that it took."""
    a, _, _ = talk
    taken = [0]
    for counter in counters:
        try:
            a.send(alice.device.compose(bob, device_counter=counter), restart=True)
            taken.append(counter)
        except Refused as error:
            assert error.code in ("INVALID_FRAME", "STALE_STORE"), error
    a.close()
    assert dialled().hello(alice.device).device_counter == max(taken)


def test_a_refused_send_does_not_use_up_its_counter(talk, alice, bob, dialled):
    a, _, _ = talk
    send = alice.device.compose(bob)
    del send.slices[:]
    with refused("DEVICES_CHANGED"):
        a.send(send)
    a.close()
    assert dialled().hello(alice.device).device_counter == 0


def test_more_in_flight_than_allowed(talk, alice, bob):
    """Up to 64 unanswered: with more, none may be lost or numbered out of order."""
    a, _, _ = talk
    sends = [alice.device.compose(bob) for _ in range(200)]
    requests = [a.ask_send(x) for x in sends]
    seqs, refusals = [], []
    for request in requests:
        try:
            seqs.append(a.answer(request).seq)
        except Exception as error:
            assert getattr(error, "code", None) in ("OVERLOADED", "RATE_LIMITED", "EARLIER_REFUSED"), error
            refusals.append(error)
    assert seqs == list(range(1, len(seqs) + 1)) and len(seqs) >= 64
    if refusals:
        assert a.send(sends[len(seqs)], restart=True).seq == len(seqs) + 1


def test_a_device_on_no_list_can_not_send(alice, bob, opened):
    second = alice.link()
    c = opened(second)
    alice.publish([alice.device])
    assert c.ended().reason == "DEVICE_REVOKED"
