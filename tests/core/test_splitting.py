from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.coap import Message, Options
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.splitting import with_option
from groupcoap.errors import MisuseError, Reason
from support import attempt, messages, refused, request, response

CLASS_U = {coap.URI_HOST, coap.OBSERVE, coap.URI_PORT, coap.PROXY_URI, coap.PROXY_SCHEME}

protectable = messages(st.one_of(st.integers(0x01, 0x1F), st.integers(0x40, 0xBF)))


def join(message: Message, plaintext: bytes, outer_options: Options = ()) -> Message:
    """A received message with this outer side, put together."""
    code = coap.POST if coap.is_request(message.code) else coap.CHANGED
    outer = message._replace(code=code, options=with_option(outer_options, coap.OBJECT_SECURITY, b"\x08"))
    return MULTICAST_OSCORE_04.join(outer, plaintext)


@given(protectable)
def test_what_is_taken_apart_goes_together_again(message: Message) -> None:
    code, outer, plaintext = MULTICAST_OSCORE_04.split(message)
    received = message._replace(
        code=code, options=with_option(outer, coap.OBJECT_SECURITY, b"\x08"), payload=b"ciphertext"
    )
    assert MULTICAST_OSCORE_04.join(received, plaintext) == message


@given(protectable)
def test_only_class_u_options_travel_outside_and_only_the_others_inside(message: Message) -> None:
    _, outer, plaintext = MULTICAST_OSCORE_04.split(message)
    inner, payload = coap.decode_options(plaintext, 1)
    assert plaintext[0] == message.code
    assert payload == message.payload
    assert {number for number, _ in outer} <= CLASS_U
    assert not {number for number, _ in inner} & CLASS_U
    assert sorted((*inner, *outer)) == sorted(message.options)


@pytest.mark.parametrize("option", [(), ((coap.URI_HOST, b"h"),)], ids=["nothing outside", "a host outside"])
@pytest.mark.parametrize(
    ("message", "plain", "observing"),
    [(request(coap.PUT), coap.POST, coap.FETCH), (response(0x85), coap.CHANGED, coap.CONTENT)],
    ids=["request", "response"],
)
def test_the_outer_code_says_only_whether_there_is_observe(
    message: Message, plain: int, observing: int, option: Options
) -> None:
    assert MULTICAST_OSCORE_04.split(message._replace(options=option))[0] == plain
    with_observe = message._replace(options=(*option, (coap.OBSERVE, b"")))
    assert MULTICAST_OSCORE_04.split(with_observe)[0] == observing


@pytest.mark.parametrize("code", [0x00, 0x20, 0x3F, 0xC0, 0xE1])
def test_a_code_that_is_neither_request_nor_response_is_not_protected(code: int) -> None:
    with pytest.raises(MisuseError):
        MULTICAST_OSCORE_04.split(request(code))


def test_a_protected_message_is_not_protected_again() -> None:
    with pytest.raises(MisuseError):
        MULTICAST_OSCORE_04.split(request(coap.GET, (coap.OBJECT_SECURITY, b"\x08")))


# ---- receiving

OUTER_NOISE = (coap.URI_PATH, coap.MAX_AGE, coap.BLOCK1, coap.BLOCK2, coap.SIZE1, coap.REPEAT, 2049, 65000)


@pytest.mark.parametrize("number", OUTER_NOISE)
@pytest.mark.parametrize("inside", [True, False], ids=["also inside", "outside only"])
def test_an_outer_class_e_option_is_discarded(number: int, inside: bool) -> None:
    own = ((number, b"in"),) if inside else ()
    plaintext = bytes((coap.GET,)) + coap.encode_options(own)
    assert join(request(), plaintext, ((number, b"out"),)).options == own


@pytest.mark.parametrize("number", [*sorted(CLASS_U), coap.OBJECT_SECURITY])
def test_an_inner_class_u_option_is_discarded(number: int) -> None:
    inner = tuple(sorted([(coap.URI_PATH, b"a"), (number, b"in"), (coap.URI_QUERY, b"q")]))
    plaintext = bytes((coap.GET,)) + coap.encode_options(inner)
    assert join(request(), plaintext).options == ((coap.URI_PATH, b"a"), (coap.URI_QUERY, b"q"))


@pytest.mark.parametrize("number", sorted(CLASS_U))
def test_an_outer_class_u_option_is_kept_in_order(number: int) -> None:
    plaintext = bytes((coap.GET,)) + coap.encode_options(((1, b"x"), (60, b"y")))
    assert join(request(), plaintext, ((number, b"out"),)).options == ((1, b"x"), (number, b"out"), (60, b"y"))


@pytest.mark.parametrize(
    ("message", "plaintext"),
    [
        (request(), b""),
        (request(), bytes((coap.CONTENT,))),
        (request(), bytes((coap.EMPTY,))),
        (request(), bytes((0xE1,))),
        (response(), bytes((coap.GET,))),
        (response(), bytes((0xC0,))),
        (request(), bytes((coap.GET, 0xFF))),
        (request(), bytes((coap.GET, 0xF0))),
        (request(), bytes((coap.GET, 0x0F))),
        (request(), bytes((coap.GET, 0x04, 0x00))),
        (request(), bytes((coap.GET, 0xE0, 0xFF, 0xFF))),
    ],
)
def test_a_malformed_plaintext_is_rejected(message: Message, plaintext: bytes) -> None:
    with refused(Reason.MALFORMED):
        join(message, plaintext)


def test_an_empty_message_carries_no_plaintext_even_of_its_own_kind() -> None:
    with refused(Reason.MALFORMED):
        MULTICAST_OSCORE_04.join(request(coap.EMPTY), bytes((coap.EMPTY,)))


@given(st.binary(max_size=40))
def test_any_plaintext_is_rejected_or_becomes_a_request(plaintext: bytes) -> None:
    outcome = attempt(lambda: join(request(), plaintext))
    assert outcome is Reason.MALFORMED or (isinstance(outcome, Message) and coap.is_request(outcome.code))


# ---- Proxy-Uri


def decomposed(uri: bytes, *more: tuple[int, bytes]) -> tuple[Options, Options]:
    """(outer, inner) options of a GET with this Proxy-Uri."""
    message = request(coap.GET, *sorted((*more, (coap.PROXY_URI, uri))))
    _, outer, plaintext = MULTICAST_OSCORE_04.split(message)
    return outer, coap.decode_options(plaintext, 1)[0]


@pytest.mark.parametrize(
    ("uri", "outside", "inside"),
    [
        (b"coap://example.com", b"coap://example.com", []),
        (b"coap://example.com/", b"coap://example.com", []),
        (b"coap://example.com/a/b", b"coap://example.com", [(11, b"a"), (11, b"b")]),
        (b"coap://example.com/a/", b"coap://example.com", [(11, b"a"), (11, b"")]),
        (b"coap://example.com//a", b"coap://example.com", [(11, b""), (11, b"a")]),
        (b"coap://example.com/a?b=c&d", b"coap://example.com", [(11, b"a"), (15, b"b=c"), (15, b"d")]),
        (b"coap://example.com?b", b"coap://example.com", [(15, b"b")]),
        (b"coap://example.com?b/c?d", b"coap://example.com", [(15, b"b/c?d")]),
        (b"coap://example.com?", b"coap://example.com", [(15, b"")]),
        (b"coap://example.com/a%2Fb?c%26d", b"coap://example.com", [(11, b"a/b"), (15, b"c&d")]),
        ("coap://example.com/ä".encode(), b"coap://example.com", [(11, "ä".encode())]),
        (b"COAP://Example.COM/A", b"coap://example.com", [(11, b"A")]),
        (b"coap://example.com:5683/a", b"coap://example.com", [(11, b"a")]),
        (b"coap://example.com:5684/a", b"coap://example.com:5684", [(11, b"a")]),
        (b"coaps://example.com:5684/a", b"coaps://example.com", [(11, b"a")]),
        (b"http://example.com:80/a", b"http://example.com", [(11, b"a")]),
        (b"https://example.com:443/a", b"https://example.com", [(11, b"a")]),
        (b"https://example.com:80/a", b"https://example.com:80", [(11, b"a")]),
        (b"coap://example.com:1/a", b"coap://example.com:1", [(11, b"a")]),
        (b"coap://example.com:65535/a", b"coap://example.com:65535", [(11, b"a")]),
        (b"coap://example.com:/a", b"coap://example.com", [(11, b"a")]),
        (b"coap://example.com:06000/a", b"coap://example.com:6000", [(11, b"a")]),
        (b"coap://example.com:000006000/a", b"coap://example.com:6000", [(11, b"a")]),
        (b"coap://h/" + b"a" * 255 + b"?" + b"b" * 255, b"coap://h", [(11, b"a" * 255), (15, b"b" * 255)]),
        (b"coap://[2001:DB8::1]/a", b"coap://[2001:db8::1]", [(11, b"a")]),
        (b"coap://[2001:db8::1]:61616/a", b"coap://[2001:db8::1]:61616", [(11, b"a")]),
        (b"coap://ex%61mple.com/", b"coap://example.com", []),
        (b"coap://a%20b/", b"coap://a%20b", []),
        (b"other://example.com:5683/a", b"other://example.com:5683", [(11, b"a")]),
    ],
)
def test_a_proxy_uri_leaves_path_and_query_inside(
    uri: bytes, outside: bytes, inside: list[tuple[int, bytes]]
) -> None:
    outer, inner = decomposed(uri)
    assert outer == ((coap.PROXY_URI, outside),)
    assert list(inner) == inside


def test_other_options_keep_their_place_beside_a_decomposed_proxy_uri() -> None:
    _, inner = decomposed(b"coap://h/p?q", (1, b"if"), (12, b""), (17, b"x"), (60, b"s"))
    assert [number for number, _ in inner] == [1, 11, 12, 15, 17, 60]


@pytest.mark.parametrize(
    "uri",
    [
        b"\xff\xfe",
        b"example.com/a",
        b"coap:example.com",
        b"://example.com",
        b"coap://",
        b"coap:///a",
        b"coap://?q",
        b"coap://example.com/a#fragment",
        b"coap://me@example.com/a",
        b"coap://:5683/a",
        b"coap://[::",
        b"coap://[::1/a",
        b"coap://[::1]x/a",
        b"coap://example.com:0/",
        b"coap://example.com:65536/",
        b"coap://example.com:65537/",
        b"coap://example.com:0000006000/",
        b"coap://example.com:port/",
        b"coap://example.com:+80/",
        "coap://example.com:٣/".encode(),
        b"coap://example.com:" + b"9" * 5000 + b"/",
        b"coap://example.com/" + b"a" * 256,
        b"coap://example.com/?" + b"a" * 256,
    ],
    ids=lambda uri: repr(uri[:30]),
)
def test_what_is_no_proxy_uri_is_refused(uri: bytes) -> None:
    with pytest.raises(MisuseError):
        decomposed(uri)


@pytest.mark.parametrize("number", [coap.URI_HOST, coap.URI_PORT, coap.URI_PATH, coap.URI_QUERY])
def test_a_proxy_uri_beside_a_uri_option_is_refused(number: int) -> None:
    with pytest.raises(MisuseError):
        decomposed(b"coap://h/p", (number, b"x"))


@given(st.binary(max_size=60))
def test_any_proxy_uri_is_refused_or_loses_path_and_query(value: bytes) -> None:
    try:
        outer, _ = decomposed(b"coap://" + value)
    except MisuseError:
        return
    base = outer[0][1].removeprefix(b"coap://")
    assert base
    assert not set(base) & set(b"/?#@ ")


@given(
    st.lists(st.text(max_size=8), max_size=4),
    st.lists(st.text(max_size=8), max_size=4),
)
def test_percent_encoded_path_and_query_come_back_as_options(path: list[str], query: list[str]) -> None:
    def encoded(part: str) -> str:
        return "".join(f"%{byte:02X}" for byte in part.encode())

    uri = "coap://h/" + "/".join(map(encoded, path)) + ("?" + "&".join(map(encoded, query)) if query else "")
    _, inner = decomposed(uri.encode())
    assert [value.decode() for number, value in inner if number == coap.URI_PATH] == (path if path != [""] else [])
    assert [value.decode() for number, value in inner if number == coap.URI_QUERY] == query


def test_an_option_is_inserted_in_order() -> None:
    assert with_option((), 9, b"x") == ((9, b"x"),)
    assert with_option(((3, b"a"), (11, b"b")), 9, b"x") == ((3, b"a"), (9, b"x"), (11, b"b"))
