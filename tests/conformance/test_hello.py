"""The beginning and the end of a connection (section 4)."""

import secrets

import httpx
import pytest
from websockets.exceptions import InvalidStatus

import client
import connection
import wire
from connection import BINARY, JSON, Refused


def close_after_refusal(c, **changes):
    """Says Hello, expects its refusal and then the end; gives the code and the retry advice."""
    with pytest.raises(Refused) as caught:
        c.hello(**changes)
    c.ended()
    return caught.value.code, caught.value.retry


@pytest.mark.parametrize("subprotocol", [BINARY, JSON])
def test_welcome(alice, dialled, subprotocol):
    c = dialled(subprotocol)
    welcome = c.hello(alice.device)
    assert (welcome.account, welcome.device) == (alice.id, alice.device.id)
    assert welcome.version == 1 and list(welcome.features) == []
    assert welcome.device_counter == 0 and welcome.device_list_version == 1 and welcome.previous_epoch == 0
    assert abs(welcome.server_time_ms - client.now_ms()) < 60_000
    assert welcome.token_expires_ms == alice.device.tokens["access_expires_ms"]
    limits = welcome.limits
    assert (limits.max_frame_bytes, limits.keep_alive_ms, limits.max_sends_in_flight) == (65536, 30000, 64)
    assert (limits.catch_up_window, limits.max_page) == (1024, 256)
    c.push("caught_up")


def test_previous_epoch_counter_and_list_version(alice, bob, dialled, opened):
    a = opened(alice.device)
    for _ in range(3):
        a.send(alice.device.compose(bob))
    alice.link()
    alice.device.epoch += 10
    welcome = dialled().hello(alice.device)
    assert (welcome.previous_epoch, welcome.device_counter, welcome.device_list_version) == (1, 3, 2)


@pytest.mark.parametrize("offered, chosen", [
    ([BINARY], BINARY), ([JSON], JSON), ([BINARY, JSON], BINARY), ([JSON, BINARY], JSON), (["other", JSON], JSON),
])
def test_subprotocol(dialled, offered, chosen):
    assert dialled(offered=offered).ws.subprotocol == chosen


@pytest.mark.parametrize("offered", [["other"], None])
def test_no_subprotocol(dialled, offered):
    with pytest.raises(InvalidStatus) as caught:
        dialled(offered=offered)
    assert caught.value.response.status_code == 400


def test_no_extension(dialled):
    from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

    c = dialled(extensions=[ClientPerMessageDeflateFactory()])
    assert c.ws.protocol.extensions == [] and "sec-websocket-extensions" not in c.ws.response.headers


def test_plain_get(rest):
    answer = rest.raw("GET", "/v1/ws")
    assert 400 <= answer.status_code < 500


def test_foreign_browser_origin(dialled):
    with pytest.raises(InvalidStatus) as caught:
        dialled(origin="https://evil.example")
    assert 400 <= caught.value.response.status_code < 500


@pytest.mark.parametrize("subprotocol", [BINARY, JSON])
def test_forged_tokens(alice, dialled, subprotocol):
    token = alice.device.token
    middle = len(token) // 2
    for forged in ("", "x", token[:-1], token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1:], secrets.token_hex(400)):
        assert close_after_refusal(dialled(subprotocol), device=alice.device, token=forged) == ("UNAUTHENTICATED", "RETRY_NEVER")


def test_version_zero(alice, dialled):
    assert close_after_refusal(dialled(), device=alice.device, version=0)[0] == "UNSUPPORTED_VERSION"


def test_a_newer_version_is_answered_with_the_servers(alice, dialled):
    assert dialled().hello(alice.device, version=7).version == 1


def test_unknown_features_are_ignored(alice, dialled):
    assert list(dialled().hello(alice.device, features=["kith.future"]).features) == []


@pytest.mark.parametrize("back", [0, 1])
def test_stale_epoch(alice, dialled, opened, back):
    alice.device.epoch = 7
    first = opened(alice.device)
    assert close_after_refusal(dialled(), device=alice.device, epoch=alice.device.epoch - back) == ("STALE_STORE", "RETRY_REFRESH")
    first.barrier()  # the older connection lives


def test_stale_epoch_tells_which_one_is_known(alice, dialled, opened):
    """So that a store which was copied back can go on above it instead of guessing."""
    alice.device.epoch = 40
    opened(alice.device).close()
    known = alice.device.epoch
    with pytest.raises(Refused) as caught:
        dialled().hello(alice.device, epoch=3)
    assert (caught.value.code, caught.value.error.known_epoch) == ("STALE_STORE", known)
    dialled().hello(alice.device, epoch=caught.value.error.known_epoch + 1)


def test_epoch_zero(alice, dialled):
    assert close_after_refusal(dialled(), device=alice.device, epoch=0)[0] in ("STALE_STORE", "INVALID_FRAME")


def test_stale_epoch_after_the_connection_ended(alice, dialled, opened):
    opened(alice.device).close()
    assert close_after_refusal(dialled(), device=alice.device, epoch=alice.device.epoch)[0] == "STALE_STORE"


def test_a_newer_connection_replaces_the_older(alice, opened):
    first = opened(alice.device)
    second = opened(alice.device)
    end = first.ended()
    assert end.reason == "REPLACED" and end.goodbye.reconnect_within_ms == 0
    second.barrier()


def test_two_devices_of_an_account_do_not_replace_each_other(alice, opened):
    first, second = opened(alice.device), opened(alice.link())
    first.barrier()
    second.barrier()


def test_hello_must_be_first(dialled):
    c = dialled()
    c.ask("ping")
    assert c.ended().reason == "HELLO_REQUIRED"


def test_hello_must_come_in_time(dialled):
    assert dialled().ended(deadline=12).reason == "HELLO_REQUIRED"


def test_a_second_hello(alice, opened):
    c = opened(alice.device)
    alice.device.epoch += 1
    request = c.ask("hello", token=alice.device.token, version=1, epoch=alice.device.epoch)
    try:
        c.answer(request)
    except Refused as error:
        assert error.code == "INVALID_FRAME"
    except connection.Closed as closed:
        assert closed.reason == "INVALID_FRAME"
    else:
        pytest.fail("a second Hello was welcomed")


def test_renew(alice, opened):
    c = opened(alice.device)
    alice.device.login()
    assert c.request("renew", token=alice.device.token).DESCRIPTOR.name == "Done"
    c.barrier()


def test_renew_with_another_devices_token(alice, stranger, opened):
    c = opened(alice.device)
    for token in (stranger.device.token, alice.link().token, "x"):
        with pytest.raises(Refused) as caught:
            c.request("renew", token=token)
        assert caught.value.code == "UNAUTHENTICATED"


def test_ping(alice, opened):
    pong = opened(alice.device).request("ping")
    assert abs(pong.server_time_ms - client.now_ms()) < 60_000


def test_websocket_ping(alice, opened):
    assert opened(alice.device).ws.ping().wait(connection.DEADLINE)


def test_closing(alice, opened):
    c = opened(alice.device)
    c.close()
    assert c.ws.protocol.close_rcvd is not None


def test_upgrade_needs_no_authorization_header(dialled):
    """The token is in the first frame; a header with one is no one's business."""
    dialled(additional_headers={"Authorization": "Bearer nonsense"})


def test_metrics_and_health(rest):
    for path in ("/healthz", "/readyz", "/metrics"):
        assert rest.raw("GET", path).status_code == httpx.codes.OK
    assert "# TYPE" in rest.raw("GET", "/metrics").text


def test_error_codes_of_the_schema_are_dense():
    """The numbers this client knows, for a look at the page."""
    assert sorted(wire.ERROR.values()) == list(range(len(wire.ERROR)))
