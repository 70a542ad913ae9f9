"""What a device and its manager say to each other to set up an association, as bytes: docs/group-manager.md §2.

Nothing of it is protected. Whether both ends got the same is known when a message is verified with the keys that
follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import cbor2

from ..core import coap
from ..errors import MisuseError, Reason, Refused, Rejected
from .context import MAX_ID

CONTENT_FORMAT: Final = 60
"""application/cbor, of request and response."""
PATH: Final = ("associate",)
HANDLE: Final = 8
NONCE: Final = 8
CHALLENGE: Final = 8
"""Bytes of each."""

_HANDLE, _N1, _N2, _ID1, _ID2, _CHALLENGE = 0, 40, 42, 43, 44, 46
_MAX_SIZE: Final = 128
"""Bytes of the longest that is looked at: who sends it has not shown who he is."""


class _Wrong(Exception):
    """The text says what is."""


def _entries(payload: bytes, lengths: dict[int, range]) -> list[bytes]:
    """The byte strings under these labels, each of a length in its range. Other labels are ignored. `_Wrong`."""
    if len(payload) > _MAX_SIZE:
        raise _Wrong("too long")
    stream = BytesIO(payload)
    try:
        value = cbor2.load(stream)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, MemoryError, OverflowError):
        raise _Wrong("not CBOR") from None
    if stream.read(1) or not isinstance(value, dict):
        raise _Wrong("not one CBOR map")
    found: list[bytes] = []
    for label, allowed in lengths.items():
        entry = value.get(label)
        if type(entry) is not bytes or len(entry) not in allowed:
            raise _Wrong(f"label {label} is missing, or not a byte string of a length that it may have")
        found.append(entry)
    return found


def _exactly(length: int) -> range:
    return range(length, length + 1)


_ID_LENGTHS: Final = range(MAX_ID + 1)


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """A device asks for an association. `handle`: names it at the manager, 8 bytes. `nonce`: N1, 8 random bytes.
    `recipient_id`: ID1, the device's Recipient ID, 0 to 7 bytes."""

    handle: bytes
    nonce: bytes
    recipient_id: bytes

    def encode(self) -> bytes:
        return cbor2.dumps({_HANDLE: self.handle, _N1: self.nonce, _ID1: self.recipient_id})

    @classmethod
    def parse(cls, payload: bytes) -> AssociateRequest:
        """`Refused` (4.00) if it is malformed."""
        lengths = {_HANDLE: _exactly(HANDLE), _N1: _exactly(NONCE), _ID1: _ID_LENGTHS}
        try:
            return cls(*_entries(payload, lengths))
        except _Wrong as wrong:
            raise Refused(coap.BAD_REQUEST, str(wrong)) from None


@dataclass(frozen=True, slots=True)
class AssociateResponse:
    """The manager's half. `nonce`: N2, 8 random bytes. `recipient_id`: ID2, the manager's Recipient ID, 0 to 7
    bytes. `challenge`: N_S, the kdcchallenge for proofs of possession, 8 random bytes."""

    nonce: bytes
    recipient_id: bytes
    challenge: bytes

    def encode(self) -> bytes:
        return cbor2.dumps({_N2: self.nonce, _ID2: self.recipient_id, _CHALLENGE: self.challenge})

    @classmethod
    def parse(cls, payload: bytes) -> AssociateResponse:
        """`Rejected` (malformed)."""
        lengths = {_N2: _exactly(NONCE), _ID2: _ID_LENGTHS, _CHALLENGE: _exactly(CHALLENGE)}
        try:
            return cls(*_entries(payload, lengths))
        except _Wrong as wrong:
            raise Rejected(Reason.MALFORMED, f"answer to a set-up: {wrong}") from None


def check_handle(handle: bytes) -> None:
    """`MisuseError` if it cannot be one."""
    if len(handle) != HANDLE:
        raise MisuseError(f"a handle has {HANDLE} bytes")
