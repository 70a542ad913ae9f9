"""Taking messages apart and putting them together again: class E and class U (OSCORE-06 §4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from ..errors import MisuseError, Reason, Rejected
from . import coap
from .coap import BYTE, KIND, Message, Options, decode_options, encode_options

if TYPE_CHECKING:
    from .profile import Profile

_DEFAULT_PORTS = {"coap": 5683, "coaps": 5684, "http": 80, "https": 443}
_new = tuple.__new__  # a NamedTuple made this way costs a third; its own constructor does nothing else
_UNRESERVED_AND_SUB_DELIMS = "-._~!$&'()*+,;="


def split_options(options: Options, class_u: frozenset[int]) -> tuple[Options, Options]:
    """(inner, outer) of a message to be protected. Proxy-Uri is decomposed (§4.2.3.3).

    `MisuseError` if the message already carries Object-Security or a Proxy-Uri that is not one."""
    for number, _ in options:
        if number in class_u:
            break
    else:
        return options, ()  # nearly every group request
    inner: list[tuple[int, bytes]] = []
    outer: list[tuple[int, bytes]] = []
    decomposed = False
    for number, value in options:
        if number == coap.OBJECT_SECURITY:
            raise MisuseError("the message is protected already")
        if number == coap.PROXY_URI:
            base, inside = _decompose(value)
            outer.append((number, base))
            inner.extend(inside)
            decomposed = True
        else:
            (outer if number in class_u else inner).append((number, value))
    if decomposed:
        if any(n in (coap.URI_HOST, coap.URI_PORT, coap.URI_PATH, coap.URI_QUERY) for n, _ in options):
            raise MisuseError("Uri-* options beside Proxy-Uri (RFC 7252 §5.10.2)")
        inner.sort(key=lambda option: option[0])
    return tuple(inner), tuple(outer)


def with_option(options: Options, number: int, value: bytes) -> Options:
    """These options with one more, in ascending order."""
    if not options:
        return ((number, value),)
    return tuple(sorted((*options, (number, value)), key=lambda option: option[0]))


def encode_plaintext(code: int, inner: Options, payload: bytes) -> bytes:
    """Original code ‖ class E options ‖ (0xFF ‖ payload, if any) (§5.2)."""
    return encode_options(inner, BYTE[code], payload)


def joining(class_u: frozenset[int], kept: frozenset[int]) -> Callable[[Profile, Message, bytes], Message]:
    """The `join` of a profile: outer options stay only if in `kept`, inner ones only if not in `class_u`.

    Made as a method, not called by one: it runs for every message."""

    def join(_profile: Profile, outer: Message, plaintext: bytes) -> Message:
        if not plaintext:
            raise Rejected(Reason.MALFORMED, "empty plaintext")
        kind, outer_code, message_id, token, outer_options, _ = outer
        code = plaintext[0]
        side = KIND[code]
        if not side or side != KIND[outer_code]:
            raise Rejected(Reason.MALFORMED, f"inner code {coap.code_text(code)} in {coap.code_text(outer_code)}")
        options, payload = decode_options(plaintext, 1, class_u)
        if len(outer_options) > 1:
            outside = [option for option in outer_options if option[0] in kept]
            if outside:
                options = tuple(sorted([*outside, *options], key=lambda option: option[0]))
        return _new(Message, (kind, code, message_id, token, options, payload))

    return join


def _decompose(value: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Proxy-Uri → (scheme://host[:port], Uri-Path and Uri-Query options) by RFC 7252 §6.4 and §6.5."""
    try:
        uri = value.decode("utf-8")
    except UnicodeDecodeError:
        raise MisuseError("Proxy-Uri is not UTF-8") from None
    scheme, colon, rest = uri.partition("://")
    if not colon or not scheme or "#" in uri:
        raise MisuseError("Proxy-Uri is not an absolute URI without fragment")
    before_query, has_query, query = rest.partition("?")
    authority, _, path = before_query.partition("/")
    if not authority or "@" in authority:
        raise MisuseError("Proxy-Uri without a host, or with user information")
    inside = [(coap.URI_PATH, _unquoted(segment)) for segment in path.split("/")] if path else []
    if has_query:
        inside += [(coap.URI_QUERY, _unquoted(argument)) for argument in query.split("&")]
    return f"{scheme.lower()}://{_authority(scheme.lower(), authority)}".encode(), inside


def _authority(scheme: str, authority: str) -> str:
    host, port = authority, ""
    if ":" in authority[authority.rfind("]") + 1 :]:
        host, _, port = authority.rpartition(":")
    if port and (not port.isascii() or not port.isdigit() or len(port) > 9 or not 0 < int(port) < 65536):
        raise MisuseError("Proxy-Uri with a port that is not one")
    if not host:
        raise MisuseError("Proxy-Uri without a host")
    if host.startswith("["):
        if not host.endswith("]"):
            raise MisuseError("Proxy-Uri with an IP literal that does not end in ]")
        host = host.lower()
    else:
        host = quote(unquote_to_bytes(host.lower()).lower(), safe=_UNRESERVED_AND_SUB_DELIMS)
    if not port or int(port) == _DEFAULT_PORTS.get(scheme):
        return host
    return f"{host}:{int(port)}"


def _unquoted(part: str) -> bytes:
    value = unquote_to_bytes(part)
    if len(value) > 255:
        raise MisuseError("Proxy-Uri with a path segment or query argument longer than 255 bytes")
    return value
