"""Class E and class U, plaintexts, and Proxy-Uri (core/splitting.py)."""

from __future__ import annotations

from groupcoap.core import coap
from groupcoap.core.coap import Message, Options
from groupcoap.core.policy import PROFILES
from groupcoap.core.profile import Profile
from groupcoap.core.splitting import with_option
from groupcoap.errors import MisuseError, Rejected

from ..choices import Choices
from ..group import choose_options

_PROFILES = tuple(PROFILES.values())
_CLASS_U = {coap.URI_HOST, coap.URI_PORT, coap.OBJECT_SECURITY, coap.PROXY_URI, coap.PROXY_SCHEME}
_ALSO_CLASS_U = {"multicast-oscore-04": {coap.OBSERVE}, "group-oscore": {coap.HOP_LIMIT}}
_URI = (coap.URI_PATH, coap.URI_QUERY)


def check(data: bytes) -> None:
    """One of three: any plaintext in any outer message, a message that is split and joined, a Proxy-Uri."""
    choices = Choices(data)
    profile = choices.one_of(_PROFILES)
    (_join, _split, _proxy_uri)[choices.below(3)](choices, profile)


def _join(choices: Choices, profile: Profile) -> None:
    """`Rejected`, or a message with nothing of class U from inside, and nothing of class E from outside."""
    options = with_option(choose_options(choices), coap.OBJECT_SECURITY, b"\x08")
    outer = Message(coap.NON, choices.byte(), 1, b"", options, b"ciphertext")
    plaintext = choices.rest()
    try:
        message = profile.join(outer, plaintext)
    except Rejected:
        return
    inside, payload = coap.decode_options(plaintext, 1)
    assert (message.code, message.payload) == (plaintext[0], payload)
    class_u = _CLASS_U | _ALSO_CLASS_U[profile.name]
    kept = [o for o in outer.options if o[0] in class_u and o[0] != coap.OBJECT_SECURITY]
    expected = [*kept, *(o for o in inside if o[0] not in class_u)]
    assert list(message.options) == sorted(expected, key=lambda option: option[0])
    assert coap.is_request(message.code) == coap.is_request(outer.code)


def _split(choices: Choices, profile: Profile) -> None:
    """`MisuseError`, or parts that are joined to the same message again."""
    options = tuple(o for o in choose_options(choices) if o[0] != coap.PROXY_URI)
    message = Message(coap.NON, choices.byte(), 1, b"", options, choices.rest())
    try:
        code, outer, plaintext = profile.split(message)
    except MisuseError:
        return
    received = message._replace(
        code=code, options=with_option(outer, coap.OBJECT_SECURITY, b"\x08"), payload=b"ciphertext"
    )
    if profile.rules.inner_observe:
        options = _with_one_observe(options, empty=coap.is_response(message.code))
    assert profile.join(received, plaintext) == message._replace(options=options)


def _with_one_observe(options: Options, *, empty: bool) -> Options:
    """The first Observe option alone, which cannot be repeated; its value is `empty` in a notification."""
    observe = [o for o in options if o[0] == coap.OBSERVE][:1]
    if empty:
        observe = [(number, b"") for number, _ in observe]
    others = (o for o in options if o[0] != coap.OBSERVE)
    return tuple(sorted([*others, *observe], key=lambda option: option[0]))


def _proxy_uri(choices: Choices, profile: Profile) -> None:
    """`MisuseError`, or a Proxy-Uri without path and query, which splits into itself, and these inside."""
    uri = choices.one_of((b"coap://", b"HTTP://", b"coaps://[::1]:5684/", b"")) + choices.rest()
    message = Message(coap.NON, coap.GET, 1, b"", ((coap.PROXY_URI, uri),), b"")
    try:
        _, outer, plaintext = profile.split(message)
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
    assert profile.split(message._replace(options=outer))[1] == outer
