"""What the server allows, what it says about it, and how it refuses more (sections 3 and 8)."""

import json
import re
import time

import pytest

import page
import wire
from client import ApiError, PATIENCE, Person
from page import TEXT
from refusal import refused


def test_limits_with_and_without_a_token(rest, stranger):
    public, own = rest.get("/v1/limits"), rest.get("/v1/limits", stranger.device.token)
    assert public and set(own) >= set(public) and own != public  # with a token: what is left
    assert "65536" in json.dumps(public)


def test_limits_with_a_bad_token(rest):
    with refused("UNAUTHENTICATED"):
        rest.get("/v1/limits", "nonsense")


def test_openapi_names_every_call_of_the_page(rest):
    described = rest.get("/v1/openapi.json")
    assert described["openapi"].startswith("3.")
    calls = set(re.findall(r"`(GET|POST|DELETE) (/v1/[^ `?]*)", TEXT)) - {("GET", "/v1/ws"), ("GET", "/v1/openapi.json")}
    assert len(calls) >= 15
    for method, path in calls:
        assert method.lower() in described["paths"].get(path, {}), (method, path)


def test_openapi_is_valid(rest):
    """What generators of clients stumble over: every answer has a description, every reference leads somewhere."""
    described = rest.get("/v1/openapi.json")
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                assert "description" in answer, f"{method} {path} {status}"
            named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path)), path
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(described)):
        assert name in described["components"]["schemas"], name


def test_page_names_every_call_of_openapi(rest):
    for path, methods in rest.get("/v1/openapi.json")["paths"].items():
        assert path in TEXT, path
        assert set(methods) <= {"get", "post", "delete", "parameters"}


def test_unknown_path(rest, stranger):
    with refused("NOT_FOUND", "never", 404):
        rest.get("/v1/nothing", stranger.device.token)


def test_wrong_method(rest):
    with refused("METHOD_NOT_ALLOWED", "never", 405):
        rest.call("DELETE", "/v1/accounts")


def test_ids_in_paths(stranger):
    for bad in ("xyz", "AB" * 16, "ab" * 15, "ab" * 17):
        with refused({"INVALID_FRAME", "NOT_FOUND"}, "never"):
            stranger.device.get(f"/v1/accounts/{bad}/devices?since_version=0")


@pytest.mark.parametrize("query", ["since_version=x", "since_version=-1", "since_version=0&surprise=1"])
def test_bad_queries(stranger, query):
    with refused("INVALID_FRAME", "never", 400):
        stranger.device.get(f"/v1/accounts/{stranger.id.hex()}/devices?{query}")


def test_oversized_body(rest):
    answer = rest.raw("POST", "/v1/login/challenge", content=b'{"account":"' + b"a" * 8_000_000, headers={"content-type": "application/json"})
    assert answer.status_code == 413 and ApiError(answer).code == "TOO_LARGE"


def test_body_of_another_type(rest):
    answer = rest.raw("POST", "/v1/login/challenge", content=b"account=1", headers={"content-type": "application/x-www-form-urlencoded"})
    error = ApiError(answer)
    assert error.code == "INVALID_FRAME" and error.retry == "never"


def test_errors_say_nothing_about_people(rest, stranger):
    with pytest.raises(ApiError) as caught:
        stranger.device.get("/v1/users/wolpertinger.here")
    assert "wolpertinger" not in json.dumps(caught.value.body)


def test_rate_limit_says_when(rest):
    """Asking without end is limited at some point; after the time given it works again."""
    asker = Person().register()
    until = time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < until, "never limited"
        try:
            asker.device.get(f"/v1/users/{asker.username}")
        except ApiError as error:
            limited = error
            break
    assert (limited.code, limited.retry, limited.status) == ("RATE_LIMITED", "after", 429)
    assert 0 < limited.after_ms <= int(limited.headers["retry-after"]) * 1000
    if limited.after_ms < PATIENCE * 1000:
        rest.patient("GET", f"/v1/users/{asker.username}", token=asker.device.token)


def test_error_table_of_the_page():
    """The page's table has every code of the schema, with its number."""
    assert {name: code.number for name, code in page.CODES.items()} == {n: c for n, c in wire.ERROR.items() if n != "ERROR_CODE_UNSPECIFIED"}
