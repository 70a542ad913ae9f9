"""CoAP messages as values (RFC 7252 §3): one datagram parsed, serialized and checked in one place."""

from __future__ import annotations

from typing import Final, NamedTuple

from ..errors import MisuseError, Reason, Rejected

CON, NON, ACK, RST = range(4)

EMPTY = 0x00
GET, POST, PUT, DELETE, FETCH = 0x01, 0x02, 0x03, 0x04, 0x05
CREATED, DELETED, CHANGED, CONTENT, CONTINUE = 0x41, 0x42, 0x44, 0x45, 0x5F
BAD_REQUEST, UNAUTHORIZED, BAD_OPTION, FORBIDDEN = 0x80, 0x81, 0x82, 0x83
NOT_FOUND, METHOD_NOT_ALLOWED, CONFLICT, UNSUPPORTED_CONTENT_FORMAT = 0x84, 0x85, 0x89, 0x8F
SERVICE_UNAVAILABLE = 0xA3

# Option numbers that some part of the core handles by name.
URI_HOST, ETAG, OBSERVE, URI_PORT, OBJECT_SECURITY = 3, 4, 6, 7, 9
URI_PATH, CONTENT_FORMAT, URI_PATH_ABBREV, MAX_AGE, URI_QUERY, HOP_LIMIT = 11, 12, 13, 14, 15, 16
BLOCK2, BLOCK1, SIZE2 = 23, 27, 28
PROXY_URI, PROXY_SCHEME, SIZE1 = 35, 39, 60
REPEAT, NO_RESPONSE, REQUEST_TAG = 252, 258, 292

Options = tuple[tuple[int, bytes], ...]

_new = tuple.__new__  # a NamedTuple made this way costs a third; its own constructor does nothing else


class Message(NamedTuple):
    """One CoAP message. `options` are (number, value) in ascending order of number, repeatable ones in their
    order of occurrence; no payload is `b""`."""

    type: int
    code: int
    message_id: int
    token: bytes
    options: Options
    payload: bytes

    def option(self, number: int) -> bytes | None:
        """The value of the first option with this number, or None."""
        for n, value in self.options:
            if n == number:
                return value
        return None


BYTE: Final = tuple(bytes((value,)) for value in range(256))
"""Every single byte as bytes: looking one up costs a third of making it."""

KIND: Final = tuple(1 if 0 < code < 0x20 else 2 if 0x40 <= code < 0xC0 else 0 for code in range(256))
"""For every code: 1 a request, 2 a response, 0 neither."""


def is_request(code: int) -> bool:
    """Whether this is a request code, 0.01 to 0.31."""
    return KIND[code] == 1


def is_response(code: int) -> bool:
    """Whether this is a response code: class 2, 4 or 5 (or the unused 3)."""
    return KIND[code] == 2


def code_text(code: int) -> str:
    """A code as people write it, such as 2.05."""
    return f"{code >> 5}.{code & 0x1F:02d}"


def uint_value(value: bytes) -> int:
    """An option value of format uint (RFC 7252 §3.2)."""
    return int.from_bytes(value, "big")


def uint_bytes(number: int) -> bytes:
    """The shortest encoding of an option value of format uint; 0 is empty."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def decode(datagram: bytes) -> Message:
    """Parse a whole datagram. `Rejected` (malformed) if it is not a CoAP message."""
    if len(datagram) < 4:
        raise Rejected(Reason.MALFORMED, "shorter than a CoAP header")
    first = datagram[0]
    token_end = 4 + (first & 0x0F)
    if first >> 6 != 1:
        raise Rejected(Reason.MALFORMED, "CoAP version is not 1")
    if token_end > 12:
        raise Rejected(Reason.MALFORMED, "token longer than 8 bytes")
    if token_end > len(datagram):
        raise Rejected(Reason.MALFORMED, "token cut short")
    code = datagram[1]
    if code == EMPTY and len(datagram) != 4:
        raise Rejected(Reason.MALFORMED, "bytes after the Message ID of an empty message")
    options, payload = decode_options(datagram, token_end)
    message_id = datagram[2] << 8 | datagram[3]
    return _new(Message, (first >> 4 & 3, code, message_id, datagram[4:token_end], options, payload))


def encode(message: Message) -> bytes:
    """The datagram of a message. `MisuseError` if a field is out of range."""
    kind, code, message_id, token, options, payload = message
    if len(token) > 8 or not 0 <= message_id <= 0xFFFF or not 0 <= code <= 0xFF or not 0 <= kind <= 3:
        raise MisuseError("a CoAP header field is out of range")
    head = bytes((0x40 | kind << 4 | len(token), code, message_id >> 8, message_id & 0xFF))
    return encode_options(options, head + token, payload)


def encode_options(options: Options, before: bytes = b"", payload: bytes = b"") -> bytes:
    """Options in delta encoding from 0 (RFC 7252 §3.1), behind what comes `before` them and followed by the payload
    with its marker, if there is one. `MisuseError` if they are not in ascending order or above 65535."""
    parts = [before]
    previous = 0
    for number, value in options:
        delta = number - previous
        length = len(value)
        if 0 <= delta < 13 and length < 13:  # nearly every option
            parts.append(BYTE[delta << 4 | length])
        else:
            parts.append(_option_head(delta, length))
        parts.append(value)
        previous = number
    if previous > 0xFFFF:
        raise MisuseError("option number above 65535")
    if payload:
        parts.append(b"\xff")
        parts.append(payload)
    return b"".join(parts)


def _option_head(delta: int, length: int) -> bytes:
    if delta < 0:
        raise MisuseError("options are not in ascending order")
    delta_nibble, delta_bytes = _extended(delta)
    length_nibble, length_bytes = _extended(length)
    return bytes((delta_nibble << 4 | length_nibble,)) + delta_bytes + length_bytes


def _extended(value: int) -> tuple[int, bytes]:
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes((value - 13,))
    if value < 65805:
        return 14, (value - 269).to_bytes(2, "big")
    raise MisuseError("an option delta or length is out of range")


def decode_options(data: bytes, at: int = 0, ignored: frozenset[int] = frozenset()) -> tuple[Options, bytes]:
    """Parse options and payload from position `at` to the end, leaving out options in `ignored`. `Rejected`
    (malformed) for a reserved nibble, an option cut short, a number above 65535, or a payload marker with nothing
    behind it."""
    options = []
    number = 0
    end = len(data)
    while at < end:
        head = data[at]
        at += 1
        length = head & 0x0F
        if head < 0xD0 and length < 13:  # nearly every option
            number += head >> 4
        elif head == 0xFF:
            if at == end:
                raise Rejected(Reason.MALFORMED, "payload marker without payload")
            break
        else:
            delta, at = _read_extended(head >> 4, data, at)
            length, at = _read_extended(length, data, at)
            number += delta
        value_end = at + length
        if value_end > end:
            raise Rejected(Reason.MALFORMED, "option cut short")
        if number not in ignored:
            options.append((number, data[at:value_end]))
        at = value_end
    if number > 0xFFFF:
        raise Rejected(Reason.MALFORMED, "option number above 65535")
    return tuple(options), data[at:]


def _read_extended(nibble: int, data: bytes, at: int) -> tuple[int, int]:
    if nibble < 13:
        return nibble, at
    if nibble == 15:
        raise Rejected(Reason.MALFORMED, "reserved nibble in an option header")
    size = nibble - 12
    base = 13 if nibble == 13 else 269
    return base + int.from_bytes(data[at : at + size], "big"), at + size  # cut short: the option is, too
