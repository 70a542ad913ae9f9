"""Messages of the core as aiocoap's and back, compared with what aiocoap itself makes of the same datagram."""

# mypy: allow-untyped-calls
from __future__ import annotations

import pytest
from aiocoap.message import Direction
from aiocoap.message import Message as AiocoapMessage
from aiocoap.numbers import ContentFormat
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.options import Options
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.endpoint.messages import from_core, to_core
from groupcoap.errors import MisuseError, Reason, Rejected

REMOTE = object()

STRINGS = (3, 8, 11, 15, 20, 35, 39)
NUMBERS = (6, 7, 13, 14, 16, 28, 60, 258)  # format uint
BLOCKS = (23, 27)
OPAQUE = (1, 4, 5, 9, 19, 21, 31, 252, 292, 548, 2049, 65000, 65535)


def datagram_of(message: AiocoapMessage) -> bytes:
    """What aiocoap itself sends for this message."""
    message.direction = Direction.OUTGOING
    datagram: bytes = message.encode()
    return datagram


def uints(limit: int) -> st.SearchStrategy[bytes]:
    return st.integers(0, limit).map(coap.uint_bytes)


option = st.one_of(
    st.tuples(st.sampled_from(STRINGS), st.text(max_size=20).map(str.encode)),
    st.tuples(st.sampled_from(NUMBERS), uints(2**32 - 1)),
    st.tuples(st.sampled_from(BLOCKS), uints(2**24 - 1)),
    st.tuples(st.sampled_from((12, 17)), uints(65535)),
    st.tuples(st.sampled_from(OPAQUE), st.binary(max_size=300)),
)
messages = st.builds(
    lambda kind, code, message_id, token, options, payload: Message(
        kind, code, message_id, token, tuple(sorted(options, key=lambda item: item[0])), payload
    ),
    st.integers(0, 3),
    st.integers(1, 255),
    st.integers(0, 65535),
    st.binary(max_size=8),
    st.lists(option, max_size=8),
    st.binary(max_size=40),
)


@given(messages)
def test_there_and_back(message: Message) -> None:
    assert to_core(from_core(message, REMOTE)) == message


@given(messages)
def test_same_as_aiocoaps_own_decoding(message: Message) -> None:
    ours = from_core(message, REMOTE)
    theirs = AiocoapMessage.decode(coap.encode(message), REMOTE)
    assert vars(ours).keys() == vars(theirs).keys()
    for name in ("version", "code", "mtype", "mid", "token", "payload", "remote", "direction"):
        assert getattr(ours, name) == getattr(theirs, name), name
        assert type(getattr(ours, name)) is type(getattr(theirs, name)), name
    pairs = list(zip(ours.opt.option_list(), theirs.opt.option_list(), strict=True))
    assert [(type(o), o.number, type(o.number), o.value) for o, _ in pairs] == [
        (type(t), t.number, type(t.number), t.value) for _, t in pairs
    ]


@given(messages)
def test_same_as_aiocoaps_own_encoding(message: Message) -> None:
    ours = from_core(message, REMOTE)
    assert datagram_of(ours) == coap.encode(message)
    assert to_core(AiocoapMessage.decode(coap.encode(message))) == message


def test_incoming_from_the_remote() -> None:
    message = from_core(Message(coap.NON, coap.GET, 7, b"t", (), b""), REMOTE)
    assert message.direction is Direction.INCOMING
    assert message.remote is REMOTE


def test_options_as_an_application_sets_them() -> None:
    message = AiocoapMessage(code=coap.PUT, payload=b"on", _mtype=coap.NON, _mid=0x1234, _token=b"tok")
    message.opt.uri_query = ["a=b", "ü"]
    message.opt.content_format = ContentFormat.CBOR
    message.opt.block1 = (3, True, 5)
    message.opt.observe = 0
    message.opt.if_none_match = True
    message.opt.uri_path = ["light", ""]
    message.opt.request_tag = [b"1", b"2"]
    assert to_core(message) == Message(
        coap.NON,
        coap.PUT,
        0x1234,
        b"tok",
        (
            (5, b""),
            (6, b""),
            (11, b"light"),
            (11, b""),
            (12, b"\x3c"),
            (15, b"a=b"),
            (15, "ü".encode()),
            (27, b"\x3d"),
            (292, b"1"),
            (292, b"2"),
        ),
        b"on",
    )


def test_plain_types_in_the_core() -> None:
    message = to_core(from_core(Message(coap.NON, coap.GET, 7, b"t", ((11, b"a"), (65001, b"b")), b""), REMOTE))
    for value in (message.type, message.code, message.message_id, *(number for number, _ in message.options)):
        assert type(value) is int


def test_leading_zeros_of_a_number_are_read() -> None:
    message = from_core(Message(coap.NON, coap.CONTENT, 7, b"", ((6, b"\0\5"), (12, b"\0\x3c")), b""), REMOTE)
    assert message.opt.observe == 5
    assert message.opt.content_format == ContentFormat.CBOR


@pytest.mark.parametrize(
    "bad",
    [(11, b"\xff"), (3, b"\xc3"), (35, b"\x80coap"), (12, b"\1\0\0"), (17, bytes(3))],
    ids=lambda item: f"{item[0]}-{item[1].hex()}",
)
def test_value_not_of_the_options_format(bad: tuple[int, bytes]) -> None:
    with pytest.raises(Rejected) as caught:
        from_core(Message(coap.NON, coap.GET, 7, b"", (bad,), b""), REMOTE)
    assert caught.value.reason is Reason.MALFORMED
    assert str(bad[0]) in caught.value.detail


@pytest.mark.parametrize("missing", ["code", "mtype", "mid"])
def test_not_ready_to_be_sent(missing: str) -> None:
    message = from_core(Message(coap.NON, coap.GET, 7, b"", (), b""), REMOTE)
    setattr(message, missing, None)
    with pytest.raises(MisuseError):
        to_core(message)


@pytest.mark.parametrize(("name", "value"), [("uri_host", b"bytes"), ("observe", -1), ("uri_host", "\ud800")])
def test_application_value_that_cannot_be_encoded(name: str, value: object) -> None:
    message = AiocoapMessage(code=coap.GET, _mtype=coap.NON, _mid=1)
    setattr(message.opt, name, value)
    with pytest.raises(MisuseError):
        to_core(message)


def test_nothing_is_shared() -> None:
    message = from_core(Message(coap.NON, coap.GET, 7, b"", ((11, b"a"),), b""), REMOTE)
    before = to_core(message)
    message.opt.uri_path = ["b"]
    assert before.options == ((11, b"a"),)


def test_format_given_by_the_application() -> None:
    """As `OptionNumber.set_format` documents for options of one's own."""
    from aiocoap.optiontypes import UintOption

    number = OptionNumber(65101)
    number.set_format(UintOption)
    (option,) = from_core(Message(coap.NON, coap.GET, 7, b"", ((65101, b"\1\0"),), b""), REMOTE).opt.option_list()
    assert option.value == 256


@pytest.mark.parametrize("name", ["option_list", "add_option"])
def test_aiocoaps_options_have(name: str) -> None:
    assert callable(getattr(Options, name))
    assert callable(OptionNumber.create_option)


def test_numbers_without_a_name_are_not_remembered() -> None:
    """aiocoap's Enums would keep each of them for ever."""
    before = [len(kind._value2member_map_) for kind in (OptionNumber, ContentFormat)]
    for number in range(60_000, 61_000):
        value = number.to_bytes(2, "big")
        message = Message(coap.NON, coap.PUT, 1, b"", ((12, value), (17, value), (number, b"x")), b"body")
        made = from_core(message, None)
        assert (made.opt.content_format, made.opt.accept) == (number, number)
        assert to_core(made) == message
        copy = made.copy()
        assert copy.opt.content_format == number
        assert [int(option.number) for option in copy.opt.option_list()] == [12, 17, number]
    assert [len(kind._value2member_map_) for kind in (OptionNumber, ContentFormat)] == before


def test_numbers_with_a_name_are_the_same_as_aiocoaps() -> None:
    message = from_core(Message(coap.NON, coap.PUT, 1, b"", ((12, b"\x3c"),), b"body"), None)
    assert message.opt.content_format is ContentFormat.CBOR
