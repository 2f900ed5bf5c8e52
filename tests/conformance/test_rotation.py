"""The recovery key replaces the identity key (sections 2 and 3, and the OpenAPI description)."""

import copy

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import statements as st
from client import Device, Person, fetch_verified, tokens_of
from refusal import refused
from wire import b64, unb64


def public(key):
    return key.public_key().public_bytes_raw()


def successor(person):
    """The same account under a new identity key, with one new device, and the request that makes it so."""
    new = copy.copy(person)
    new.aik, new.recovery_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    new.recovery = public(new.recovery_key)
    version = person.version + 1
    rotate = st.rotate_string(person.id, public(person.aik), public(new.aik), new.recovery, version, st.sha256(person.lists[-1]))
    new.devices = [Device(new, version + 1)]
    new.lists = [*person.lists, rotate]
    signed = new.sign_list(new.devices)
    body = {
        "rotate": {"signed": b64(rotate), "signature": b64(person.recovery_key.sign(rotate))}, "list": signed,
        "certificates": [new.device.certificate_json()], "prekeys": [new.device.prekeys_json()],
        "device": new.device.id.hex(), "proof": new.device.proof(),
    }
    return new, body


def rotate(rest, person, body):
    return tokens_of(rest.post(f"/v1/accounts/{person.id.hex()}/rotate", body))


def test_rotation(rest, alice, bob, opened):
    connected = opened(bob.device)
    pinned = fetch_verified(alice.device, bob.id, public(bob.aik))
    new, body = successor(bob)
    new.device.tokens = rotate(rest, bob, body)
    assert connected.ended().reason == "DEVICE_REVOKED"
    with refused("DEVICE_REVOKED"):
        bob.device.get("/v1/devices")
    found = alice.device.get(f"/v1/users/{bob.username}")
    assert found["account"] == bob.id.hex() and unb64(found["aik"]) == public(new.aik) and found["list_version"] == 3
    answer = alice.device.get(f"/v1/accounts/{bob.id.hex()}/devices?since_version={pinned.list.version}")
    first, second = answer["statements"]
    assert (first["kind"], first["version"], second["kind"], second["version"]) == ("rotate", 2, "devices", 3)
    assert unb64(first["rotate"]["signed"]) == new.lists[-1]
    st.verify(bob.recovery, unb64(first["rotate"]["signature"]), new.lists[-1])
    listed = st.read_list(unb64(second["list"]["signed"]), unb64(second["list"]["signature"]))
    assert (listed.aik, listed.recovery, listed.prev_hash) == (public(new.aik), new.recovery, st.sha256(new.lists[-1]))
    assert set(listed.devices) == {new.device.id}
    new.device.get("/v1/keys")
    opened(new.device).barrier()


def test_signed_by_the_identity_key_only(rest, bob):
    _, body = successor(bob)
    body["rotate"]["signature"] = b64(bob.aik.sign(unb64(body["rotate"]["signed"])))
    with refused("SIGNATURE_INVALID"):
        rotate(rest, bob, body)
    bob.device.get("/v1/devices")


def test_without_recovery_key(rest):
    """A declined recovery key is 32 zeros: nothing verifies under it."""
    bob = Person(recovery=False).register()
    bob.recovery_key = Ed25519PrivateKey.generate()
    _, body = successor(bob)
    with refused({"SIGNATURE_INVALID", "INVALID_FRAME", "DEVICE_LIST_CONFLICT"}):
        rotate(rest, bob, body)
    bob.device.get("/v1/devices")


@pytest.mark.parametrize("signature", [bytes(64), (1).to_bytes(32, "little") + bytes(32)], ids=["zeros", "identity"])
def test_without_recovery_key_by_the_zero_key(rest, signature):
    """Thirty-two zeros decode to a point of order 4: a lax check would take constants for signatures."""
    bob = Person(recovery=False).register()
    bob.recovery_key = Ed25519PrivateKey.generate()
    _, body = successor(bob)
    body["rotate"]["signature"] = b64(signature)
    with refused({"SIGNATURE_INVALID", "INVALID_FRAME", "DEVICE_LIST_CONFLICT"}):
        rotate(rest, bob, body)


def test_the_same_rotation_for_another_account(rest, alice, bob):
    _, body = successor(bob)
    with refused({"SIGNATURE_INVALID", "INVALID_FRAME", "CHALLENGE_INVALID", "DEVICE_LIST_CONFLICT"}):
        rotate(rest, alice, body)
    alice.device.get("/v1/devices")
