"""One way to say that a call must be refused."""

import contextlib

import pytest

from client import ApiError
from connection import Refused


@contextlib.contextmanager
def refused(code, retry=None, status=None):
    """The block must end in exactly this refusal, by REST or in a frame. `code` may be a set where the page leaves a choice."""
    with pytest.raises((ApiError, Refused)) as caught:
        yield caught
    codes = {code} if isinstance(code, str) else code
    assert caught.value.code in codes, caught.value
    if retry:
        assert caught.value.retry.removeprefix("RETRY_").lower() == retry, caught.value
    if status:
        assert caught.value.status == status, caught.value
