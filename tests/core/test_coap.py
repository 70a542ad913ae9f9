from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.errors import MisuseError, Reason, Rejected
from support import attempt, messages, options, refused

CODES = {
    "EMPTY": "0.00",
    "GET": "0.01",
    "POST": "0.02",
    "PUT": "0.03",
    "DELETE": "0.04",
    "FETCH": "0.05",
    "CHANGED": "2.04",
    "CONTENT": "2.05",
    "CONTINUE": "2.31",
    "BAD_REQUEST": "4.00",
    "UNAUTHORIZED": "4.01",
    "FORBIDDEN": "4.03",
    "SERVICE_UNAVAILABLE": "5.03",
}
OPTIONS = {
    "URI_HOST": 3,
    "ETAG": 4,
    "OBSERVE": 6,
    "URI_PORT": 7,
    "OBJECT_SECURITY": 9,
    "URI_PATH": 11,
    "URI_PATH_ABBREV": 13,
    "MAX_AGE": 14,
    "URI_QUERY": 15,
    "BLOCK2": 23,
    "BLOCK1": 27,
    "SIZE2": 28,
    "PROXY_URI": 35,
    "PROXY_SCHEME": 39,
    "SIZE1": 60,
    "REPEAT": 252,
    "NO_RESPONSE": 258,
    "REQUEST_TAG": 292,
}

any_message = messages(st.integers(1, 0xFF), kind=st.integers(0, 3))


def test_the_numbers_are_those_of_the_registries() -> None:
    """RFC 7252 §12.1.1, §12.1.2, §12.2; RFC 7641, 7959, 7967, 8132, 9175; the page for 9 and 252."""
    assert (coap.CON, coap.NON, coap.ACK, coap.RST) == (0, 1, 2, 3)
    codes = {name: coap.code_text(value) for name, value in vars(coap).items() if name in CODES}
    assert codes == CODES
    assert {name: value for name, value in vars(coap).items() if name in OPTIONS} == OPTIONS


@given(any_message)
def test_what_is_encoded_decodes_to_the_same(message: Message) -> None:
    assert coap.decode(coap.encode(message)) == message


@given(
    st.one_of(
        st.binary(max_size=80),
        st.builds(lambda first, rest: bytes((0x40 | first,)) + rest, st.integers(0, 0x3F), st.binary(max_size=80)),
    )
)
def test_any_bytes_are_rejected_or_encode_to_themselves_again(datagram: bytes) -> None:
    outcome = attempt(lambda: coap.decode(datagram))
    assert outcome is Reason.MALFORMED or (isinstance(outcome, Message) and coap.encode(outcome) == datagram)


@given(options(st.integers(0, 0xFFFF)), st.binary(max_size=20))
def test_options_and_payload_survive_from_any_position(found: coap.Options, payload: bytes) -> None:
    data = coap.encode_options(found) + (b"\xff" + payload if payload else b"")
    assert coap.decode_options(b"\xd0\xff" + data, 2) == (found, payload)


@pytest.mark.parametrize(
    ("datagram", "what"),
    [
        ("", "header"),
        ("400100", "header"),
        ("00010000", "version"),
        ("80010000", "version"),
        ("c0010000", "version"),
        ("49010000" + "00" * 20, "token longer"),
        ("4f010000" + "00" * 20, "token longer"),
        ("44010000aabbcc", "token cut"),
        ("40000000ff00", "empty message"),
        ("41000000aa", "empty message"),
        ("40010000ff", "marker without payload"),
        ("40010000f0", "reserved nibble"),
        ("400100000f", "reserved nibble"),
        ("40010000f0" + "000001", "reserved nibble"),
        ("400100000f" + "000001" + "00" * 270, "reserved nibble"),
        ("40010000d0", "cut short"),
        ("40010000e000", "cut short"),
        ("400100000d", "cut short"),
        ("400100000e00", "cut short"),
        ("4001000003aabb", "option cut short"),
        ("400100000d00" + "aa" * 12, "option cut short"),
        ("40010000e0fef3", "above 65535"),
        ("40010000e0fef3" + "10", "above 65535"),
        ("40010000e0ffff", "above 65535"),
        ("400100000e0100" + "00" * 525 + "ff", "marker without payload"),
    ],
)
def test_a_malformed_datagram_is_rejected_with_what_is_wrong(datagram: str, what: str) -> None:
    with pytest.raises(Rejected, match=what) as caught:
        coap.decode(bytes.fromhex(datagram))
    assert caught.value.reason is Reason.MALFORMED


def test_the_highest_option_number_is_accepted() -> None:
    assert coap.decode(bytes.fromhex("40010000e0fef2")).options == ((0xFFFF, b""),)


def test_an_empty_message_is_four_bytes() -> None:
    message = Message(coap.ACK, coap.EMPTY, 0x1234, b"", (), b"")
    assert coap.decode(bytes.fromhex("60001234")) == message
    assert coap.encode(message).hex() == "60001234"


@pytest.mark.parametrize("kind", range(4))
def test_the_extremes_of_a_header_are_there_and_back(kind: int) -> None:
    for code, message_id, token in ((1, 0, b""), (0xFF, 0xFFFF, b"\xff" * 8)):
        message = Message(kind, code, message_id, token, (), b"")
        head = bytes((0x40 | kind << 4 | len(token), code)) + message_id.to_bytes(2, "big")
        assert coap.encode(message) == head + token
        assert coap.decode(head + token) == message


@pytest.mark.parametrize("boundary", [0, 12, 13, 268, 269])
def test_deltas_and_lengths_take_the_shortest_form(boundary: int) -> None:
    extra = 0 if boundary < 13 else 1 if boundary < 269 else 2
    assert len(coap.encode_options(((boundary, b""),))) == 1 + extra
    assert len(coap.encode_options(((1, bytes(boundary)),))) == 1 + extra + boundary


BOUNDARIES = (0, 1, 12, 13, 14, 268, 269, 270, 525)


@pytest.mark.parametrize("delta", [*BOUNDARIES, 0xFFFF])
@pytest.mark.parametrize("length", [*BOUNDARIES, 65804])
def test_every_delta_with_every_length_is_there_and_back(delta: int, length: int) -> None:
    found = ((delta, bytes(length)), (delta, b"again"))
    assert coap.decode_options(coap.encode_options(found, b"", b"x")) == (found, b"x")


@pytest.mark.parametrize(
    "message",
    [
        Message(coap.NON, coap.GET, 0, bytes(9), (), b""),
        Message(coap.NON, coap.GET, -1, b"", (), b""),
        Message(coap.NON, coap.GET, 0x10000, b"", (), b""),
        Message(coap.NON, -1, 0, b"", (), b""),
        Message(coap.NON, 0x100, 0, b"", (), b""),
        Message(-1, coap.GET, 0, b"", (), b""),
        Message(4, coap.GET, 0, b"", (), b""),
        Message(coap.NON, coap.GET, 0, b"", ((11, b"b"), (3, b"a")), b""),
        Message(coap.NON, coap.GET, 0, b"", ((-1, b""),), b""),
        Message(coap.NON, coap.GET, 0, b"", ((0x10000, b""),), b""),
        Message(coap.NON, coap.GET, 0, b"", ((40000, b""), (80000, b"")), b""),
        Message(coap.NON, coap.GET, 0, b"", ((1, bytes(65805)),), b""),
        Message(coap.NON, coap.GET, 0, b"", ((1, bytes(65806)),), b""),
    ],
    ids=lambda message: f"{message.type}-{message.code}-{message.message_id}-{len(message.options)}",
)
def test_a_message_that_could_not_be_decoded_again_is_not_encoded(message: Message) -> None:
    with pytest.raises(MisuseError):
        coap.encode(message)


def test_the_first_option_with_a_number_is_found() -> None:
    message = Message(coap.NON, coap.GET, 0, b"", ((11, b"a"), (11, b"b")), b"")
    assert message.option(coap.URI_PATH) == b"a"
    assert message.option(coap.URI_QUERY) is None
    assert message.option(coap.URI_HOST) is None


def test_an_option_with_a_large_number_is_found_in_a_message_that_came() -> None:
    message = Message(coap.NON, coap.GET, 0, b"", ((coap.REQUEST_TAG, b"\x01"),), b"")
    assert coap.decode(coap.encode(message)).option(coap.REQUEST_TAG) == b"\x01"


@pytest.mark.parametrize("code", range(256))
def test_every_code_is_a_request_a_response_or_neither(code: int) -> None:
    code_class, detail = code >> 5, code & 0x1F
    assert coap.is_request(code) == (code_class == 0 and detail > 0)
    assert coap.is_response(code) == (code_class in (2, 3, 4, 5))
    assert coap.code_text(code) == f"{code_class}.{detail:02}"


@given(st.integers(0, 1 << 64))
def test_uint_option_values_are_shortest_and_survive(number: int) -> None:
    value = coap.uint_bytes(number)
    assert coap.uint_value(value) == number
    assert not value.startswith(b"\0")


def test_options_that_are_to_be_ignored_are_left_out_and_still_counted() -> None:
    data = coap.encode_options(((3, b"h"), (6, b""), (11, b"a"), (300, b"x")), b"", b"payload")
    assert coap.decode_options(data, 0, frozenset((3, 11))) == (((6, b""), (300, b"x")), b"payload")


def test_malformed_options_alone_are_rejected() -> None:
    with refused(Reason.MALFORMED):
        coap.decode_options(b"\xff")
