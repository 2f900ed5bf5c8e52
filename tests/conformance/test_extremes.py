"""The largest numbers that the fields hold: refused, or kept as they are; never a fault of the server."""

import pytest

import connection
import wire
from connection import Refused

LARGE = [2**63 - 1, 2**63, 2**64 - 1]


@pytest.mark.parametrize("after", LARGE)
def test_page_far_beyond_the_head(talk, alice, bob, after):
    a, b, conversation = talk
    a.send(alice.device.compose(bob))
    try:
        page = b.request("page", conversation=conversation, after_seq=after, limit=5)
        assert not page.entries and not page.absent and page.head == 1
    except Refused as error:
        assert error.code == "INVALID_FRAME", error


@pytest.mark.parametrize("field", ["sender_list_version", "recipient_list_version"])
@pytest.mark.parametrize("value", LARGE)
def test_a_list_version_is_the_same_live_and_kept(talk, alice, bob, field, value):
    a, b, conversation = talk
    try:
        a.send(alice.device.compose(bob, **{field: value}))
    except Refused as error:
        assert error.code == "INVALID_FRAME", error
        return
    live = b.delivered(conversation, 1)
    (kept,) = b.request("page", conversation=conversation, after_seq=0, limit=5).entries
    assert getattr(live, field) == getattr(kept, field) == value
    assert live == kept


@pytest.mark.parametrize("value", LARGE)
def test_a_device_counter_is_remembered_as_it_was(talk, alice, bob, dialled, value):
    a, _, _ = talk
    taken = 0
    try:
        a.send(alice.device.compose(bob, device_counter=value))
        taken = value
    except Refused as error:
        assert error.code in ("INVALID_FRAME", "STALE_STORE"), error
    a.close()
    assert dialled().hello(alice.device).device_counter == taken


@pytest.mark.parametrize("value", LARGE)
def test_an_epoch_is_taken_once(alice, value):
    """Whether or not so large an epoch is taken, it is not taken twice."""
    for attempt in range(2):
        with connection.Connection() as c:
            try:
                c.request("hello", token=alice.device.token, version=1, epoch=value)
                assert attempt == 0
            except Refused as error:
                assert error.code in ("INVALID_FRAME", "STALE_STORE"), error


def test_since_version_far_above_the_newest(stranger):
    for since in LARGE:
        answer = stranger.device.get(f"/v1/accounts/{stranger.id.hex()}/devices?since_version={since}")
        assert answer["statements"] == [] and answer["newest_version"] == stranger.version


def test_read_and_ack_far_beyond_the_head(talk, alice, bob):
    a, b, conversation = talk
    a.send(alice.device.compose(bob))
    for value in LARGE:
        for kind, fields in (("ack", {"cursors": [{"conversation": conversation, "seq": value}]}), ("read", {"conversation": conversation, "seq": value})):
            with pytest.raises(Refused) as caught:
                b.request(kind, **fields)
            assert caught.value.error.code == wire.ERROR["ACK_BEYOND_HEAD"]
