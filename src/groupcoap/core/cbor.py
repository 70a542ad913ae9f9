"""CBOR byte strings in shortest form, for structures that are put together from parts prepared before."""

from __future__ import annotations

from .coap import BYTE


def bstr_head(length: int) -> bytes:
    """The head of a CBOR byte string of this length."""
    if length < 24:
        return BYTE[0x40 | length]
    if length < 256:
        return b"\x58" + BYTE[length]
    if length < 65536:
        return b"\x59" + length.to_bytes(2, "big")
    return b"\x5a" + length.to_bytes(4, "big")


def bstr(value: bytes) -> bytes:
    """A CBOR byte string."""
    return bstr_head(len(value)) + value
