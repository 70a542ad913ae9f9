"""The words of CoAP: names of codes, options and content formats, and option values as people read them."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ..core import coap
from ..core.group_oscore import GROUP_OSCORE
from ..core.profile import Profile
from .text import payload_text, printable

TYPES = ("CON, confirmable", "NON, non-confirmable", "ACK, acknowledgement", "RST, reset")

_CODES = {
    0x00: "empty",
    0x01: "GET",
    0x02: "POST",
    0x03: "PUT",
    0x04: "DELETE",
    0x05: "FETCH",
    0x06: "PATCH",
    0x07: "iPATCH",
    0x41: "Created",
    0x42: "Deleted",
    0x43: "Valid",
    0x44: "Changed",
    0x45: "Content",
    0x5F: "Continue",
    0x80: "Bad Request",
    0x81: "Unauthorized",
    0x82: "Bad Option",
    0x83: "Forbidden",
    0x84: "Not Found",
    0x85: "Method Not Allowed",
    0x86: "Not Acceptable",
    0x88: "Request Entity Incomplete",
    0x89: "Conflict",
    0x8C: "Precondition Failed",
    0x8D: "Request Entity Too Large",
    0x8F: "Unsupported Content-Format",
    0x96: "Unprocessable Entity",
    0x9D: "Too Many Requests",
    0xA0: "Internal Server Error",
    0xA1: "Not Implemented",
    0xA2: "Bad Gateway",
    0xA3: "Service Unavailable",
    0xA4: "Gateway Timeout",
    0xA5: "Proxying Not Supported",
    0xA8: "Hop Limit Reached",
}

_CONTENT_FORMATS = {
    0: "text/plain",
    40: "application/link-format",
    42: "application/octet-stream",
    50: "application/json",
    60: "application/cbor",
    110: "application/senml+json",
    112: "application/senml+cbor",
}


class _Format(Enum):
    EMPTY = "empty"
    OPAQUE = "opaque"
    TEXT = "text"
    UINT = "uint"
    BLOCK = "block"
    CONTENT = "content format"


class _Option(NamedTuple):
    name: str
    format: _Format
    class_u: bool = False


_OPTIONS = {
    1: _Option("If-Match", _Format.OPAQUE),
    coap.URI_HOST: _Option("Uri-Host", _Format.TEXT, class_u=True),
    coap.ETAG: _Option("ETag", _Format.OPAQUE),
    5: _Option("If-None-Match", _Format.EMPTY),
    coap.OBSERVE: _Option("Observe", _Format.UINT, class_u=True),
    coap.URI_PORT: _Option("Uri-Port", _Format.UINT, class_u=True),
    8: _Option("Location-Path", _Format.TEXT),
    coap.OBJECT_SECURITY: _Option("Object-Security", _Format.OPAQUE, class_u=True),
    coap.URI_PATH: _Option("Uri-Path", _Format.TEXT),
    12: _Option("Content-Format", _Format.CONTENT),
    coap.MAX_AGE: _Option("Max-Age", _Format.UINT),
    coap.URI_QUERY: _Option("Uri-Query", _Format.TEXT),
    16: _Option("Hop-Limit", _Format.UINT),
    17: _Option("Accept", _Format.CONTENT),
    20: _Option("Location-Query", _Format.TEXT),
    coap.BLOCK2: _Option("Block2", _Format.BLOCK),
    coap.BLOCK1: _Option("Block1", _Format.BLOCK),
    coap.SIZE2: _Option("Size2", _Format.UINT),
    coap.PROXY_URI: _Option("Proxy-Uri", _Format.TEXT, class_u=True),
    coap.PROXY_SCHEME: _Option("Proxy-Scheme", _Format.TEXT, class_u=True),
    coap.SIZE1: _Option("Size1", _Format.UINT),
    coap.REPEAT: _Option("Repeat", _Format.OPAQUE),
    coap.NO_RESPONSE: _Option("No-Response", _Format.UINT),
    coap.REQUEST_TAG: _Option("Request-Tag", _Format.OPAQUE),
}


def code_name(code: int) -> str:
    """A code with its name, such as `2.05 Content`."""
    name = _CODES.get(code)
    return coap.code_text(code) if name is None else f"{coap.code_text(code)} {name}"


# What has another name or class in the RFCs that came of the draft (RFC 8613 §4.1, RFC 8768 §3): Observe stands
# inside and outside there.
_NAMES_TODAY = {coap.OBJECT_SECURITY: "OSCORE", coap.REPEAT: "Echo"}
_CLASSES_TODAY = {coap.OBSERVE: "E and U", coap.HOP_LIMIT: "U"}


def option_name(number: int, profile: Profile | None = None) -> str:
    """An option's name in this profile (None: the draft's), with its number where it has none here."""
    known = _OPTIONS.get(number)
    if profile is GROUP_OSCORE and number in _NAMES_TODAY:
        return _NAMES_TODAY[number]
    return f"option {number}" if known is None else known.name


def option_class(number: int, profile: Profile | None = None) -> str:
    """Whether this option is encrypted (E), travels outside, unprotected (U), or both, in this profile (None: the
    draft's, multicast-oscore-04 §6). Unknown ones are encrypted."""
    known = _OPTIONS.get(number)
    usual = "U" if known is not None and known.class_u else "E"
    return _CLASSES_TODAY.get(number, usual) if profile is GROUP_OSCORE else usual


def option_value(number: int, value: bytes) -> str:
    """An option's value as its format says; in hex if it is of no known format."""
    known = _OPTIONS.get(number)
    kind = _Format.OPAQUE if known is None else known.format
    if kind is _Format.TEXT:
        return payload_text(value)
    if kind is _Format.UINT:
        return str(coap.uint_value(value))
    if kind is _Format.CONTENT:
        number = coap.uint_value(value)
        return f"{number} {printable(_CONTENT_FORMATS.get(number, ''))}".strip()
    if kind is _Format.BLOCK:
        return _block(coap.uint_value(value))
    return value.hex() or "(empty)"


def _block(value: int) -> str:
    """RFC 7959 §2.2."""
    more = "more follow" if value & 8 else "the last"
    return f"block {value >> 4}, {more}, {1 << (value & 7) + 4} bytes"
