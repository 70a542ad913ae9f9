from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core.cbor import bstr, bstr_head


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, "40"),
        (23, "57"),
        (24, "5818"),
        (255, "58ff"),
        (256, "590100"),
        (65535, "59ffff"),
        (65536, "5a00010000"),
        (1 << 24, "5a01000000"),
    ],
)
def test_the_head_of_a_byte_string_is_the_shortest_there_is(length: int, head: str) -> None:
    assert bstr_head(length).hex() == head


@given(st.binary(max_size=300))
def test_a_byte_string_is_encoded_as_by_cbor2(value: bytes) -> None:
    assert bstr(value) == cbor2.dumps(value)


@pytest.mark.parametrize("length", [65535, 65536])
def test_a_long_byte_string_too(length: int) -> None:
    assert bstr(bytes(length)) == cbor2.dumps(bytes(length))
