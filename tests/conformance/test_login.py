"""Challenges and logging in with the device's key (sections 2 and 3)."""

import secrets

import pytest

import curve
from client import Device, Person, now_ms, tokens_of
from refusal import refused
from wire import b64, unb64


def login(rest, body):
    return tokens_of(rest.patient("POST", "/v1/login", body))


def test_login(rest, stranger):
    tokens = login(rest, stranger.device.login_body())
    assert now_ms() < tokens["access_expires_ms"] <= now_ms() + 11 * 60_000
    assert now_ms() + 29 * 86_400_000 < tokens["refresh_expires_ms"] <= now_ms() + 31 * 86_400_000
    rest.get("/v1/devices", tokens["access_token"])


def test_a_challenge_is_fresh_and_lasts_a_minute(rest, stranger):
    first, second = (rest.challenge(stranger.id, stranger.device.id) for _ in range(2))
    assert first["challenge"] != second["challenge"]
    assert now_ms() < first["expires_ms"] <= now_ms() + 61_000


def test_challenges_do_not_tell_who_exists(rest, stranger):
    known = rest.challenge(stranger.id, stranger.device.id)
    unknown = rest.challenge(secrets.token_bytes(16), secrets.token_bytes(16))
    assert set(known) == set(unknown)
    assert len(unb64(known["challenge"])) == len(unb64(unknown["challenge"])) == 32


def test_a_challenge_works_once(rest, stranger):
    body = stranger.device.login_body()
    login(rest, body)
    with refused("CHALLENGE_INVALID"):
        login(rest, body)


def test_two_challenges_at_a_time(rest, stranger):
    device = stranger.device
    first, second = rest.challenge(stranger.id, device.id), rest.challenge(stranger.id, device.id)
    login(rest, device.login_body(challenge=first))
    login(rest, device.login_body(challenge=second))


def test_a_challenge_never_given(rest, stranger):
    made_up = {"challenge": b64(secrets.token_bytes(32)), "expires_ms": now_ms() + 50_000}
    with refused("CHALLENGE_INVALID"):
        login(rest, stranger.device.login_body(challenge=made_up))


def test_a_challenge_of_another_device(rest, stranger):
    other = rest.challenge(stranger.id, secrets.token_bytes(16))
    with refused("CHALLENGE_INVALID"):
        login(rest, stranger.device.login_body(challenge=other))


def test_the_signed_expiry_is_the_given_one(rest, stranger):
    challenge = rest.challenge(stranger.id, stranger.device.id)
    challenge["expires_ms"] += 1
    with refused("SIGNATURE_INVALID"):
        login(rest, stranger.device.login_body(challenge=challenge))


@pytest.mark.parametrize("other", ["https://elsewhere.example:443", "http://127.0.0.1", "http://127.0.0.1:1", ""])
def test_wrong_origin(rest, stranger, other):
    body = stranger.device.login_body(signed_origin=other or "x")
    with refused("ORIGIN_MISMATCH", "never"):
        login(rest, body)


def test_origin_sent_is_not_the_origin_signed(rest, stranger):
    """What an attacker in the middle would do: pass on a proof made for his own address."""
    body = stranger.device.login_body(signed_origin="https://elsewhere.example:443")
    body["proof"]["origin"] = stranger.device.proof()["origin"]
    with refused("SIGNATURE_INVALID"):
        login(rest, body)


def test_another_key(rest, stranger):
    with refused("SIGNATURE_INVALID", "never"):
        login(rest, stranger.device.login_body(sign=Device(stranger).ed.sign))


def test_the_identity_key_is_no_device_key(rest, stranger):
    with refused("SIGNATURE_INVALID"):
        login(rest, stranger.device.login_body(sign=stranger.aik.sign))


def test_unknown_account_is_refused_like_a_wrong_key(rest, stranger):
    with refused("SIGNATURE_INVALID"):
        login(rest, Person().device.login_body())
    with refused("SIGNATURE_INVALID"):
        login(rest, Device(stranger).login_body())


@pytest.mark.parametrize("how", ["large S", "small R", "torsion in R"])
def test_signatures_that_a_lax_check_takes(rest, stranger, how):
    device = stranger.device
    forge = {
        "large S": lambda signed: curve.with_large_s(device.ed.sign(signed)),
        "small R": lambda signed: curve.small_r(device.seed, signed),
        "torsion in R": lambda signed: curve.sign(device.seed, signed, curve.order_eight()),
    }[how]
    with refused("SIGNATURE_INVALID"):
        login(rest, device.login_body(sign=forge))
    login(rest, device.login_body(sign=lambda signed: curve.sign(device.seed, signed)))


@pytest.mark.parametrize("change", [{"surprise": 1}, {"account": "zz" * 16}, {"account": "ab"}, {"account": None}])
def test_body_that_does_not_fit(rest, stranger, change):
    with refused("INVALID_FRAME", "never", 400):
        login(rest, stranger.device.login_body() | change)


def test_upper_case_hex(rest, stranger):
    """Ids are 32 lower-case hex digits."""
    upper = stranger.id.hex().upper()
    assert upper != upper.lower()
    with refused("INVALID_FRAME"):
        rest.post("/v1/login/challenge", {"account": upper, "device": stranger.device.id.hex()})
