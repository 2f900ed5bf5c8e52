"""People by name: exactly, or not at all (section 3)."""

import secrets

import pytest

from refusal import refused
from wire import unb64


def test_look_up(alice, stranger):
    found = stranger.device.get(f"/v1/users/{alice.username}")
    assert found["account"] == alice.id.hex() and found["username"] == alice.username and found["list_version"] == 1
    assert unb64(found["aik"]) == alice.aik.public_key().public_bytes_raw()


def test_of_oneself(stranger):
    assert stranger.device.get(f"/v1/users/{stranger.username}")["account"] == stranger.id.hex()


@pytest.mark.parametrize("near", [lambda n: n[:-1], lambda n: n + "x", lambda n: n[:-1] + "_", lambda n: n[:-1] + "%25", lambda n: "%25"])
def test_nothing_near_it(stranger, near):
    with refused({"NOT_FOUND", "USERNAME_INVALID"}):
        stranger.device.get(f"/v1/users/{near(stranger.username)}")


def test_nobody(stranger):
    with refused("NOT_FOUND"):
        stranger.device.get(f"/v1/users/u{secrets.token_hex(8)}")


def test_list_version_follows(alice, stranger):
    alice.link()
    assert stranger.device.get(f"/v1/users/{alice.username}")["list_version"] == 2
