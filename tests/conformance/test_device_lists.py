"""Signed device lists: fetching and verifying those of others, publishing one's own (sections 2 and 3)."""

import secrets

import pytest

import connection
import statements as st
from client import REST, Device, Person, fetch_verified, now_ms
from connection import Refused
from refusal import refused
from wire import b64, unb64


def aik_of(person):
    return person.aik.public_key().public_bytes_raw()


def verified(asking, person, pinned=None):
    return fetch_verified(asking, person.id, aik_of(person), pinned)


def test_first_list_verifies(alice, bob):
    got = verified(alice.device, bob)
    assert got.list.version == 1 and set(got.certificates) == {bob.device.id}
    assert got.list.recovery == bob.recovery
    assert got.certificates[bob.device.id].ed == bob.device.ed.public_key().public_bytes_raw()


def test_chain_verifies_from_nothing_and_from_a_pin(alice, bob):
    pin = verified(alice.device, bob)
    second = bob.link()
    third = bob.link()
    bob.publish([bob.device, third])
    for start in (None, pin):
        got = verified(alice.device, bob, start)
        assert got.list.version == 4 and set(got.certificates) == {bob.device.id, third.id}
    assert second.id not in got.certificates


def test_nothing_above_the_newest(alice, bob):
    answer = alice.device.get(f"/v1/accounts/{bob.id.hex()}/devices?since_version=1")
    assert answer["statements"] == [] and answer["newest_version"] == 1 and answer["more"] is False
    assert (answer["account"], answer["username"]) == (bob.id.hex(), bob.username)


def test_a_list_is_given_as_it_was_signed(alice, bob):
    (statement,) = alice.device.get(f"/v1/accounts/{bob.id.hex()}/devices?since_version=0")["statements"]
    assert unb64(statement["list"]["signed"]) == bob.lists[0]
    signed, aik_signature, accept_signature = bob.device.certificate()
    assert statement["certificates"] == [bob.device.certificate_json()]
    assert st.read_certificate(signed, aik_signature, accept_signature).device == bob.device.id


def test_certificates_come_once(alice, bob):
    bob.link()
    answer = alice.device.get(f"/v1/accounts/{bob.id.hex()}/devices?since_version=0")
    assert [len(statement["certificates"]) for statement in answer["statements"]] == [1, 1]


def test_long_histories_come_in_parts(alice):
    """Thirty versions, whether or not the server parts them."""
    bob = Person().register()
    for _ in range(29):
        bob.publish([bob.device])
    assert verified(alice.device, bob).list.version == 30


def test_of_nobody(alice):
    with refused("UNKNOWN_ACCOUNT"):
        alice.device.get(f"/v1/accounts/{secrets.token_hex(16)}/devices?since_version=0")


def test_own_devices(alice):
    second = alice.link()
    text = str(alice.device.get("/v1/devices"))
    assert alice.device.id.hex() in text and second.id.hex() in text


def publish_signed(person, signed, certificates=(), prekeys=()):
    body = {"list": signed, "certificates": [device.certificate_json() for device in certificates], "prekeys": list(prekeys)}
    return person.device.post("/v1/devices/list", body)


@pytest.mark.parametrize("version, prev_hash", [(1, st.NO_HASH), (3, None), (2**63, None), (2**64 - 1, None)])
def test_not_the_next_version(bob, version, prev_hash):
    with refused("DEVICE_LIST_CONFLICT", "refresh"):
        publish_signed(bob, bob.sign_list(bob.devices, version=version, prev_hash=prev_hash))


@pytest.mark.parametrize("version, prev_hash", [(0, st.NO_HASH), (0, None), (1, None), (2, st.NO_HASH)])
def test_no_version_of_any_list(bob, version, prev_hash):
    """Version 1, and no other, follows nothing: such lists are wrong in themselves."""
    with refused({"INVALID_FRAME", "DEVICE_LIST_CONFLICT"}):
        publish_signed(bob, bob.sign_list(bob.devices, version=version, prev_hash=prev_hash))


def test_prev_hash_of_something_else(bob):
    with refused("DEVICE_LIST_CONFLICT", "refresh"):
        publish_signed(bob, bob.sign_list(bob.devices, prev_hash=secrets.token_bytes(32)))


def test_two_writers_of_one_version(bob):
    """Two lists for version 2, both signed right: one wins, the other learns of it."""
    first, second = bob.sign_list(bob.devices), bob.sign_list([bob.device, other := Device(bob, 2)])
    publish_signed(bob, first)
    with refused("DEVICE_LIST_CONFLICT", "refresh"):
        publish_signed(bob, second, [other], [other.prekeys_json()])


def test_signed_by_another_key(bob):
    signed = bob.sign_list(bob.devices)
    signed["signature"] = b64(Person().aik.sign(unb64(signed["signed"])))
    with refused("SIGNATURE_INVALID"):
        publish_signed(bob, signed)


def test_devices_not_ascending_or_twice(bob):
    bob.link()
    for order in (lambda rows: sorted(rows, reverse=True), lambda rows: [min(rows)] * 2, lambda rows: sorted([*rows] * 2)):
        with refused({"SIGNATURE_INVALID", "INVALID_FRAME", "DEVICE_LIST_CONFLICT"}):
            publish_signed(bob, bob.sign_list(bob.devices, order=order))


def test_a_new_device_needs_its_certificate(bob):
    with refused({"SIGNATURE_INVALID", "INVALID_FRAME", "DEVICE_LIST_CONFLICT", "PREKEY_INVALID"}):
        publish_signed(bob, bob.sign_list([bob.device, Device(bob, 2)]))


def test_a_certificate_for_another_version(bob):
    other = Device(bob, 3)
    with refused({"SIGNATURE_INVALID", "INVALID_FRAME", "DEVICE_LIST_CONFLICT"}):
        publish_signed(bob, bob.sign_list([bob.device, other]), [other], [other.prekeys_json()])


def test_eleven_devices_are_too_many(bob):
    others = [Device(bob, 2) for _ in range(10)]
    prekeys = [other.prekeys_json() for other in others]
    with refused({"SIGNATURE_INVALID", "INVALID_FRAME", "DEVICE_LIST_CONFLICT", "TOO_LARGE"}):
        publish_signed(bob, bob.sign_list([bob.device, *others]), others, prekeys)


def test_ten_devices(alice, bob):
    others = [Device(bob, 2) for _ in range(9)]
    bob.publish([bob.device, *others], [other.prekeys_json() for other in others])
    assert len(verified(alice.device, bob).certificates) == 10


def test_somebody_elses_list(alice, bob):
    """Alice's token publishes no list of Bob's, however well signed."""
    body = {"list": bob.sign_list(bob.devices), "certificates": [], "prekeys": []}
    with refused({"SIGNATURE_INVALID", "INVALID_FRAME", "DEVICE_LIST_CONFLICT", "NOT_FOUND"}):
        alice.device.post("/v1/devices/list", body)


def test_a_revoked_device_is_cut(bob, opened):
    second = bob.link()
    connected = opened(second)
    bob.publish([bob.device])
    assert connected.ended().reason == "DEVICE_REVOKED"
    with connection.Connection() as again, pytest.raises(Refused) as caught:
        again.hello(second)
    assert caught.value.code in ("DEVICE_REVOKED", "UNAUTHENTICATED")


def test_delete_names_the_device(alice, bob):
    second = bob.link()
    signed = bob.sign_list([bob.device])
    body = {"list": signed, "certificates": [], "prekeys": []}
    with refused({"INVALID_FRAME", "DEVICE_LIST_CONFLICT", "NOT_FOUND"}):
        REST.call("DELETE", f"/v1/devices/{bob.device.id.hex()}", body, bob.device.token)
    assert REST.call("DELETE", f"/v1/devices/{second.id.hex()}", body, bob.device.token)["version"] == 3
    assert set(verified(alice.device, bob).certificates) == {bob.device.id}


def test_leaving(alice, bob, opened):
    second = bob.link()
    connected = opened(second)
    signed = st.leave_string(bob.id, second.id, bob.version)
    second.post("/v1/devices/leave", {"signed": b64(signed), "signature": b64(second.ed.sign(signed))})
    assert connected.ended().reason == "DEVICE_REVOKED"
    answer = alice.device.get(f"/v1/accounts/{bob.id.hex()}/devices?since_version=0")
    assert answer["newest_version"] == 2
    (leave,) = answer["leaves"]
    assert unb64(leave["signed"]) == signed
    st.verify(second.ed.public_key().public_bytes_raw(), unb64(leave["signature"]), signed)
    assert {one["device"] for one in alice.device.post(f"/v1/accounts/{bob.id.hex()}/bundles", {})["bundles"]} == {bob.device.id.hex()}


def test_leaving_is_signed_by_the_one_who_leaves(bob):
    second = bob.link()
    signed = st.leave_string(bob.id, second.id, bob.version)
    with refused("SIGNATURE_INVALID"):
        second.post("/v1/devices/leave", {"signed": b64(signed), "signature": b64(bob.device.ed.sign(signed))})
    with refused("DEVICE_LIST_CONFLICT"):
        old = st.leave_string(bob.id, second.id, 1)
        second.post("/v1/devices/leave", {"signed": b64(old), "signature": b64(second.ed.sign(old))})
    second.get("/v1/devices")


def test_own_devices_are_told_of_a_new_list(bob, opened):
    watching = opened(bob.device)
    bob.link()
    told = watching.push("device_list_changed")
    assert told.account == bob.id and told.version == 2


def test_acquainted_peers_are_told_of_a_new_list(acquainted, alice, bob):
    a, _, _ = acquainted
    bob.link()
    told = a.push("device_list_changed", lambda told: told.account == bob.id)
    assert told.version == 2


def test_the_checks_of_this_client_can_fail(bob):
    """The verification above refuses what is forged."""
    certificate = bob.device.certificate()
    good = (bob.lists[0], bob.aik.sign(bob.lists[0]), [certificate])
    st.verify_chain([good], bob.id, aik_of(bob))
    other = Person()
    forged = st.list_string(bob.id, aik_of(bob), bob.recovery, 2, secrets.token_bytes(32), now_ms(),
                            [(bob.device.id, st.certificate_hash(*certificate))])
    for bad in (
        [(good[0], other.aik.sign(good[0]), [certificate])],
        [(good[0], good[1], [])],
        [(good[0], good[1], [(certificate[0], certificate[1], bob.device.mls.sign(certificate[0]))])],
        [good, (forged, bob.aik.sign(forged), [])],
        [good, good],
        [],
    ):
        with pytest.raises(st.NotVerified):
            st.verify_chain(bad, bob.id, aik_of(bob))
