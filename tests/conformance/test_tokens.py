"""Access and refresh tokens (section 3)."""

import secrets

import pytest

from refusal import refused
from client import tokens_of


def refresh(rest, token):
    return tokens_of(rest.patient("POST", "/v1/token/refresh", {"refresh_token": token}))


def test_refresh_gives_working_tokens(rest, alice):
    tokens = refresh(rest, alice.device.tokens["refresh_token"])
    assert tokens["refresh_token"] != alice.device.tokens["refresh_token"]
    rest.get("/v1/devices", tokens["access_token"])


def test_the_old_one_is_good_while_the_new_one_is_unused(rest, alice):
    """The answer to the first refresh was lost."""
    first = alice.device.tokens["refresh_token"]
    refresh(rest, first)
    again = refresh(rest, first)
    refresh(rest, again["refresh_token"])


def test_the_old_one_after_the_new_one_was_used_ends_all(rest, alice):
    first = alice.device.tokens["refresh_token"]
    second = refresh(rest, first)["refresh_token"]
    third = refresh(rest, second)["refresh_token"]
    with refused("UNAUTHENTICATED"):
        refresh(rest, first)
    with refused("UNAUTHENTICATED"):
        refresh(rest, third)


def test_other_logins_live_on(rest, alice):
    first = alice.device.tokens["refresh_token"]
    other = alice.device.login()["refresh_token"]
    third = refresh(rest, refresh(rest, first)["refresh_token"])["refresh_token"]
    with refused("UNAUTHENTICATED"):
        refresh(rest, first)
    with refused("UNAUTHENTICATED"):
        refresh(rest, third)
    refresh(rest, other)


@pytest.mark.parametrize("token", ["", "x", "A" * 43, "A" * 5000])
def test_no_refresh_token(rest, token):
    with refused("UNAUTHENTICATED"):
        refresh(rest, token)


def test_an_access_token_refreshes_nothing(rest, alice):
    with refused("UNAUTHENTICATED"):
        refresh(rest, alice.device.token)


def test_a_refresh_token_gives_no_access(rest, alice):
    with refused("UNAUTHENTICATED", "never", 401):
        rest.get("/v1/devices", alice.device.tokens["refresh_token"])


def forgeries(token):
    """Tokens that look like the real one."""
    yield token[:-1]
    yield token + "A"
    yield token.swapcase()
    for at in range(0, len(token), 7):
        changed = "B" if token[at] != "B" else "C"
        yield token[:at] + changed + token[at + 1:]
    yield secrets.token_urlsafe(len(token))[:len(token)]


def test_forged_access_tokens(rest, alice):
    tried = 0
    for forged in forgeries(alice.device.token):
        with refused("UNAUTHENTICATED"):
            rest.get("/v1/devices", forged)
        tried += 1
    assert tried > 8
    rest.get("/v1/devices", alice.device.token)


def test_no_token_at_all(rest, alice):
    for path in ("/v1/devices", "/v1/keys", f"/v1/users/{alice.username}", f"/v1/accounts/{alice.id.hex()}/devices?since_version=0"):
        with refused("UNAUTHENTICATED", "never", 401):
            rest.get(path)


@pytest.mark.parametrize("scheme", ["Basic", "Token", ""])
def test_another_scheme(rest, alice, scheme):
    answer = rest.raw("GET", "/v1/devices", headers={"Authorization": f"{scheme} {alice.device.token}".strip()})
    assert answer.status_code == 401 and answer.json()["code"] == "UNAUTHENTICATED"


def test_tokens_of_a_revoked_device_end_at_once(rest, alice):
    second = alice.link()
    second.get("/v1/devices")
    alice.publish([alice.device])
    with refused("DEVICE_REVOKED"):
        second.get("/v1/devices")
    with refused({"DEVICE_REVOKED", "UNAUTHENTICATED"}):
        refresh(rest, second.tokens["refresh_token"])
    with refused({"DEVICE_REVOKED", "SIGNATURE_INVALID", "UNAUTHENTICATED"}):
        second.login()
