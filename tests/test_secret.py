from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable

import pytest

from groupcoap.secret import Secret

VALUE = bytes.fromhex("5ec2e75ec2e75ec2e75ec2e75ec2e75e")


def test_the_bytes_come_out_only_when_asked_for() -> None:
    assert Secret(VALUE).reveal() == VALUE
    assert len(Secret(VALUE)) == 16


@pytest.mark.parametrize(
    "text",
    [repr, str, "{}".format, "{!r}".format, "%s".__mod__, lambda secret: repr([secret]), lambda s: f"{s!s:>40}"],
)
def test_no_text_shows_the_value(text: Callable[[Secret], str]) -> None:
    shown = text(Secret(VALUE))
    assert "16 bytes" in shown
    assert VALUE.hex() not in shown
    assert repr(VALUE) not in shown


def test_no_traceback_shows_the_value() -> None:
    secret = Secret(VALUE)
    try:
        raise ValueError(secret)
    except ValueError as error:
        lines = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "<secret of 16 bytes>" in lines
    assert VALUE.hex() not in lines


@pytest.mark.parametrize("store", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_is_not_pickled_or_copied(store: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError):
        store(Secret(VALUE))


def test_a_secret_keeps_its_own_bytes() -> None:
    source = bytearray(VALUE)
    secret = Secret(memoryview(source))  # type: ignore[arg-type]
    source[0] ^= 0xFF
    assert secret.reveal() == VALUE


def test_a_secret_has_no_other_attributes() -> None:
    assert not hasattr(Secret(VALUE), "__dict__")
