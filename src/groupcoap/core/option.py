"""The part of the Object-Security option value that all profiles share (OSCORE-06 §8.1).

    flags | Partial IV (n bytes) | s (1 byte) | Gid (s bytes) | rest, which only the profile can split

The Gid stands first so that the Security Context, and with it the profile, can be looked up before the rest
is touched.
"""

from __future__ import annotations

from ..errors import MisuseError, Reason, Rejected
from .coap import BYTE

FLAG_KID = 0x08
FLAG_GID = 0x10
MAX_LENGTH = 255


OptionPrefix = tuple[int, bytes | None, bytes | None, bytes]
"""(flags as received, Partial IV or None, Gid or None, the rest). A plain tuple: it is made for every datagram."""


def decode_prefix(value: bytes) -> OptionPrefix:
    """Split off the common prefix. `Rejected` (malformed) for a reserved Partial IV length, a leading zero,
    a value cut short, or the single byte 00 (an all-zero flag byte means an empty value)."""
    length = len(value)
    if not length:
        return 0, None, None, b""
    flags = value[0]
    size = flags & 7
    at = 1 + size
    if size > 5 or not at <= length <= MAX_LENGTH:
        raise Rejected(Reason.MALFORMED, "Partial IV of a reserved length or cut short")
    if size > 1 and not value[1]:
        raise Rejected(Reason.MALFORMED, "Partial IV with a leading zero")
    partial_iv = value[1:at] if size else None
    if flags & FLAG_GID:
        gid_at = at + 1
        if length < gid_at or length < (end := gid_at + value[at]):
            raise Rejected(Reason.MALFORMED, "Gid cut short")
        return flags, partial_iv, value[gid_at:end], value[end:]
    if not flags:
        raise Rejected(Reason.MALFORMED, "an all-zero flag byte means an empty value")
    return flags, partial_iv, None, value[at:]


def encode_prefix(flags: int, partial_iv: bytes | None, gid: bytes | None) -> bytes:
    """The common prefix with these further flags; lengths and the Gid flag are filled in here."""
    head = flags
    if partial_iv is not None:
        head |= len(partial_iv)
    if gid is None:
        return BYTE[head] + (partial_iv or b"")
    length = len(gid)
    if length > MAX_LENGTH:
        raise MisuseError("Gid longer than 255 bytes")
    return b"".join((BYTE[head | FLAG_GID], partial_iv or b"", BYTE[length], gid))


def partial_iv_bytes(number: int) -> bytes:
    """A sequence number as Partial IV: big endian, no leading zeros; 0 is 00."""
    if number < 256:
        return BYTE[number]
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
