"""Class E and class U, plaintexts, and Proxy-Uri (core/splitting.py)."""

from __future__ import annotations

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.splitting import with_option
from groupcoap.errors import MisuseError, Rejected

from ..choices import Choices
from ..group import choose_options

_CLASS_U = {coap.URI_HOST, coap.OBSERVE, coap.URI_PORT, coap.OBJECT_SECURITY, coap.PROXY_URI, coap.PROXY_SCHEME}
_URI = (coap.URI_PATH, coap.URI_QUERY)


def check(data: bytes) -> None:
    """One of three: any plaintext in any outer message, a message that is split and joined, a Proxy-Uri."""
    choices = Choices(data)
    (_join, _split, _proxy_uri)[choices.below(3)](choices)


def _join(choices: Choices) -> None:
    """`Rejected`, or a message with nothing of class U from inside, and nothing of class E from outside."""
    options = with_option(choose_options(choices), coap.OBJECT_SECURITY, b"\x08")
    outer = Message(coap.NON, choices.byte(), 1, b"", options, b"ciphertext")
    plaintext = choices.rest()
    try:
        message = MULTICAST_OSCORE_04.join(outer, plaintext)
    except Rejected:
        return
    inside, payload = coap.decode_options(plaintext, 1)
    assert (message.code, message.payload) == (plaintext[0], payload)
    kept = [o for o in outer.options if o[0] in _CLASS_U and o[0] != coap.OBJECT_SECURITY]
    expected = [*kept, *(o for o in inside if o[0] not in _CLASS_U)]
    assert list(message.options) == sorted(expected, key=lambda option: option[0])
    assert coap.is_request(message.code) == coap.is_request(outer.code)


def _split(choices: Choices) -> None:
    """`MisuseError`, or parts that are joined to the same message again."""
    options = tuple(o for o in choose_options(choices) if o[0] != coap.PROXY_URI)
    message = Message(coap.NON, choices.byte(), 1, b"", options, choices.rest())
    try:
        code, outer, plaintext = MULTICAST_OSCORE_04.split(message)
    except MisuseError:
        return
    received = message._replace(
        code=code, options=with_option(outer, coap.OBJECT_SECURITY, b"\x08"), payload=b"ciphertext"
    )
    assert MULTICAST_OSCORE_04.join(received, plaintext) == message


def _proxy_uri(choices: Choices) -> None:
    """`MisuseError`, or a Proxy-Uri without path and query, which splits into itself, and these inside."""
    uri = choices.one_of((b"coap://", b"HTTP://", b"coaps://[::1]:5684/", b"")) + choices.rest()
    message = Message(coap.NON, coap.GET, 1, b"", ((coap.PROXY_URI, uri),), b"")
    try:
        _, outer, plaintext = MULTICAST_OSCORE_04.split(message)
    except MisuseError:
        return
    ((number, base),) = outer
    assert number == coap.PROXY_URI
    scheme, _, authority = base.decode().partition("://")
    assert scheme
    assert authority
    assert not set("/?#@") & set(authority)
    inside, payload = coap.decode_options(plaintext, 1)
    assert not payload
    assert all(number in _URI and len(value) <= 255 for number, value in inside)
    assert MULTICAST_OSCORE_04.split(message._replace(options=outer))[1] == outer
