"""What the tests share: people, and connections that are closed at the end of the test that opened them."""

import contextlib

import pytest

import client
import connection
import statements as st


def pytest_configure():
    if not client.SERVER:
        pytest.exit("set KITH_SERVER to the address of a running server, like http://127.0.0.1:7400", returncode=2)


@pytest.fixture
def rest():
    return client.REST


@pytest.fixture
def alice():
    return client.Person().register()


@pytest.fixture
def bob():
    return client.Person().register()


@pytest.fixture(scope="session")
def stranger():
    """Somebody for questions that change nothing."""
    return client.Person().register()


@pytest.fixture(scope="session", autouse=True)
def quiet():
    """A connection that says nothing from the beginning of the tests on."""
    with connection.online(client.Person().register().device, create_connection=connection.CountsPings) as c:
        yield c


@pytest.fixture
def opened():
    """Opens connections that have said Hello and are caught up."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **how: stack.enter_context(connection.online(*args, **how))


@pytest.fixture
def dialled():
    """Opens connections that have not said anything."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **how: stack.enter_context(connection.Connection(*args, **how))


@pytest.fixture
def talk(alice, bob, opened):
    """Alice and Bob online, and the id of their conversation."""
    return opened(alice.device), opened(bob.device), st.direct_conversation(alice.id, bob.id)


@pytest.fixture
def acquainted(alice, bob, talk):
    """As `talk`, after both have sent and acknowledged both messages."""
    a, b, conversation = talk
    assert a.send(alice.device.compose(bob)).seq == 1
    b.delivered(conversation, 1)
    assert b.send(bob.device.compose(alice)).seq == 2
    a.delivered(conversation, 2)
    for one in (a, b):
        one.ack(conversation, 2)
        one.barrier()
    return talk
