from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core.option import (
    FLAG_GID,
    FLAG_KID,
    MAX_LENGTH,
    decode_prefix,
    encode_prefix,
    partial_iv_bytes,
)
from groupcoap.errors import MisuseError, Reason
from support import attempt, refused

numbers = st.one_of(st.integers(0, 300), st.integers(0, (1 << 40) - 1))


@given(
    flags=st.sampled_from([FLAG_KID, 0x28, 0xE8]),
    number=st.none() | numbers,
    gid=st.none() | st.binary(max_size=40),
    rest=st.binary(max_size=80),
)
def test_a_prefix_survives_and_leaves_the_rest(
    flags: int, number: int | None, gid: bytes | None, rest: bytes
) -> None:
    partial_iv = None if number is None else partial_iv_bytes(number)
    decoded = decode_prefix(encode_prefix(flags, partial_iv, gid) + rest)
    assert decoded[1:] == (partial_iv, gid, rest)
    assert decoded[0] & ~(FLAG_GID | 7) == flags


@given(st.binary(max_size=MAX_LENGTH + 5))
def test_any_value_is_rejected_or_encodes_to_itself_again(value: bytes) -> None:
    outcome = attempt(lambda: decode_prefix(value))
    if isinstance(outcome, Reason):
        assert outcome is Reason.MALFORMED
    else:
        flags, partial_iv, gid, rest = outcome
        again = encode_prefix(flags & ~(FLAG_GID | 7), partial_iv, gid) + rest if value else b""
        assert again == value


@pytest.mark.parametrize(
    "value",
    [
        "00",
        "0000",
        "0e" + "01" * 6,
        "0f" + "01" * 7,
        "01",
        "0d01020304",
        "0a0001",
        "0b000000",
        "18",
        "1805aabb",
        "190104aabbcc",
        "08" + "00" * 255,
    ],
    ids=[
        "all-zero flag byte",
        "all-zero flag byte with more",
        "Partial IV of 6",
        "Partial IV of 7",
        "no Partial IV",
        "Partial IV cut short",
        "leading zero",
        "all zeros",
        "no Gid length",
        "Gid cut short",
        "Gid behind the Partial IV cut short",
        "longer than 255",
    ],
)
def test_a_malformed_value_is_rejected(value: str) -> None:
    with refused(Reason.MALFORMED):
        decode_prefix(bytes.fromhex(value))


def test_an_empty_gid_is_one_and_so_is_the_longest() -> None:
    assert decode_prefix(b"\x18\0") == (0x18, None, b"", b"")
    assert decode_prefix(b"\x19\x05\0") == (0x19, b"\x05", b"", b"")
    assert encode_prefix(0, None, bytes(MAX_LENGTH)) == b"\x10\xff" + bytes(255)


def test_an_empty_value_has_nothing_in_it() -> None:
    assert decode_prefix(b"") == (0, None, None, b"")


def test_number_zero_is_one_zero_byte() -> None:
    assert partial_iv_bytes(0) == b"\0"
    assert decode_prefix(b"\x09\0")[1] == b"\0"


def test_the_longest_value_is_accepted() -> None:
    assert decode_prefix(b"\x08" + bytes(254))[3] == bytes(254)


@pytest.mark.parametrize("length", range(1, 6))
def test_a_partial_iv_has_one_to_five_bytes(length: int) -> None:
    lowest, highest = 256 ** (length - 1) if length > 1 else 0, 256**length - 1
    for number in (lowest, highest):
        value = number.to_bytes(length, "big")
        assert partial_iv_bytes(number) == value
        assert decode_prefix(encode_prefix(FLAG_KID, value, b"g") + b"kid")[1:] == (value, b"g", b"kid")


@given(numbers)
def test_a_partial_iv_is_big_endian_without_leading_zeros(number: int) -> None:
    value = partial_iv_bytes(number)
    assert int.from_bytes(value, "big") == number
    assert len(value) <= 5
    assert len(value) == 1 or value[0]


def test_a_gid_that_has_no_length_byte_is_not_encoded() -> None:
    with pytest.raises(MisuseError):
        encode_prefix(FLAG_KID, b"\x01", bytes(256))
