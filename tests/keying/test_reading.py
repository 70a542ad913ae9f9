from __future__ import annotations

import math
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import refused as refusal

from groupcoap.errors import MisuseError, Reason, Rejected
from groupcoap.keying import reading
from groupcoap.keying.reading import MAX_DEPTH, OTHER, Malformed, decode

keys = st.integers(-(1 << 64), (1 << 64) - 1) | st.text(max_size=5) | st.binary(max_size=5)
leaves = keys | st.booleans() | st.none() | st.floats(allow_nan=False) | st.binary(min_size=250, max_size=300)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_what_another_encoder_makes_is_read_as_it_was(value: Any) -> None:
    assert decode(cbor2.dumps(value)) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    try:
        value = decode(data)
    except Malformed:
        return
    assert value is not None or data


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("1b0000000000000005", 5),
        ("3b000000000000000a", -11),
        ("5f4101420203ff", b"\x01\x02\x03"),
        ("7f6161626263ff", "abc"),
        ("5fff", b""),
        ("9f01820203ff", [1, [2, 3]]),
        ("bf0102ff", {1: 2}),
        ("f93c00", 1.0),
        ("fa3fc00000", 1.5),
        ("fb3ff8000000000000", 1.5),
        ("f4", False),
        ("f5", True),
        ("f6", None),
        ("a201c1000203", {1: OTHER, 2: 3}),
    ],
)
def test_forms_that_one_encoder_or_another_uses(data: str, value: object) -> None:
    assert decode(bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    "data",
    [
        "",
        "0000",
        "ff",
        "1c",
        "1f",
        "3f",
        "df00",
        "df",
        "f818",
        "fc",
        "fe",
        "18",
        "1900",
        "fb00",
        "42ff",
        "62c328",
        "7f61c3ff",
        "5f6161ff",
        "5f5f4101ffff",
        "5f41",
        "8201",
        "81ff",
        "9f01",
        "a101",
        "a1ff",
        "a101ff",
        "bf01ff",
        "c1ff",
        "a201020103",
        "bf01020103ff",
        "a2010218010a",
        "a1800000",
        "9bffffffffffffffff",
        "bbffffffffffffffff",
        "5bffffffffffffffff",
    ],
)
def test_what_is_not_one_sound_item_is_malformed(data: str) -> None:
    with pytest.raises(Malformed):
        decode(bytes.fromhex(data))


def test_depth_is_bounded() -> None:
    assert decode(b"\x81" * (MAX_DEPTH - 1) + b"\x00")
    for head in (b"\x81", b"\xc1", b"\x9f", b"\xa1\x00"):
        with pytest.raises(Malformed):
            decode(head * 5000)


def test_not_a_number_is_a_number_of_no_use() -> None:
    value = decode(bytes.fromhex("f97e00"))
    assert isinstance(value, float)
    assert math.isnan(value)
    with pytest.raises(Malformed):
        reading.seconds(value, "a time")


@pytest.mark.parametrize(
    "call",
    [
        lambda: reading.fields([], "it"),
        lambda: reading.needed({}, 1, "it"),
        lambda: reading.octets("text", "it"),
        lambda: reading.octets(b"", "it", 1),
        lambda: reading.octets(b"12", "it", 0, 1),
        lambda: reading.integer(True, "it"),
        lambda: reading.integer(1.0, "it"),
        lambda: reading.integer(-1, "it"),
        lambda: reading.integer(2, "it", 0, 1),
        lambda: reading.seconds(True, "it"),
        lambda: reading.seconds("1", "it"),
        lambda: reading.seconds(-0.5, "it"),
        lambda: reading.seconds(math.inf, "it"),
        lambda: reading.text(b"", "it"),
        lambda: reading.text("ää", "it", 3),
        lambda: reading.boolean(1, "it"),
        lambda: reading.array({}, "it"),
        lambda: reading.array([1], "it", 2),
    ],
)
def test_a_field_that_is_not_what_it_must_be_is_named(call: Any) -> None:
    with pytest.raises(Malformed, match="it"):
        call()


@pytest.mark.parametrize("error", [Malformed("bad"), MisuseError("bad")])
def test_whose_fault_it_is_depends_on_who_reads(error: Exception) -> None:
    def parse() -> None:
        raise error

    assert refusal(reading.refusing(parse)).title == "bad"
    with pytest.raises(Rejected, match="bad") as caught:
        reading.rejecting(parse)()
    assert caught.value.reason is Reason.MALFORMED


def test_other_items_say_no_more_than_that() -> None:
    assert repr(OTHER) == "OTHER"


@pytest.mark.parametrize("data", ["a1f500", "a1f93c0000", "a1f600", "a1c10000"])
def test_the_key_of_a_field_is_a_number_or_a_string_and_nothing_that_is_equal_to_one(data: str) -> None:
    with pytest.raises(Malformed):
        reading.fields(decode(bytes.fromhex(data)), "it")
