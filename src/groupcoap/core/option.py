"""The part of the Object-Security option value that all profiles share (OSCORE-06 §8.1).

    flags | Partial IV (n bytes) | s (1 byte) | Gid (s bytes) | rest, which only the profile can split

The Gid stands first so that the Security Context, and with it the profile, can be looked up before the rest
is touched.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import MisuseError, Reason, Rejected

FLAG_KID = 0x08
FLAG_GID = 0x10
MAX_LENGTH = 255


class OptionPrefix(NamedTuple):
    """`flags` as received; `partial_iv` and `gid` None where absent; `rest` not yet split."""

    flags: int
    partial_iv: bytes | None
    gid: bytes | None
    rest: bytes


def decode_prefix(value: bytes) -> OptionPrefix:
    """Split off the common prefix. `Rejected` (malformed) for a reserved Partial IV length, a leading zero,
    a value cut short, or the single byte 00 (an all-zero flag byte means an empty value)."""
    if not value:
        return OptionPrefix(0, None, None, b"")
    if len(value) > MAX_LENGTH:
        raise Rejected(Reason.MALFORMED, "Object-Security longer than 255 bytes")
    flags = value[0]
    size = flags & 7
    at = 1 + size
    if size > 5:
        raise Rejected(Reason.MALFORMED, "reserved Partial IV length")
    if len(value) < at:
        raise Rejected(Reason.MALFORMED, "Partial IV cut short")
    partial_iv = value[1:at] if size else None
    if size > 1 and value[1] == 0:
        raise Rejected(Reason.MALFORMED, "Partial IV with a leading zero")
    if not flags & FLAG_GID:
        if not flags:
            raise Rejected(Reason.MALFORMED, "an all-zero flag byte means an empty value")
        return OptionPrefix(flags, partial_iv, None, value[at:])
    if len(value) == at or len(value) < at + 1 + value[at]:
        raise Rejected(Reason.MALFORMED, "Gid cut short")
    end = at + 1 + value[at]
    return OptionPrefix(flags, partial_iv, value[at + 1 : end], value[end:])


def encode_prefix(flags: int, partial_iv: bytes | None, gid: bytes | None) -> bytes:
    """The common prefix with these further flags; lengths and the Gid flag are filled in here."""
    head = flags
    if partial_iv is not None:
        head |= len(partial_iv)
    if gid is None:
        return bytes((head,)) + (partial_iv or b"")
    if len(gid) > MAX_LENGTH:
        raise MisuseError("Gid longer than 255 bytes")
    return bytes((head | FLAG_GID,)) + (partial_iv or b"") + bytes((len(gid),)) + gid


def partial_iv_bytes(number: int) -> bytes:
    """A sequence number as Partial IV: big endian, no leading zeros; 0 is 00."""
    return number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")
