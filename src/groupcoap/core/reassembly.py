"""Messages in blocks (RFC 7959): put together, in bounds. Above all those that a proxy has cut into outer blocks
(OSCORE-06 §4.2.3.2), of which nothing is authentic before all are there."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from typing import NamedTuple

from ..errors import Limit, Reason, Rejected
from . import coap
from .coap import Message

LIFETIME = 60.0
"""Seconds that an unfinished assembly is kept after its latest piece."""
MIN_BLOCK = 16
"""Bytes of the smallest block there is."""
_NOT_COMPARED = frozenset((coap.BLOCK1, coap.SIZE1, coap.BLOCK2, coap.OBSERVE))
_TAKEN_OFF = frozenset((coap.BLOCK1, coap.SIZE1))

Source = tuple[Hashable, Hashable]
"""(the peer that assemblies are counted for, which of its endpoints)"""


class Bound(NamedTuple):
    """How many there may be, and what that limit is called."""

    limit: Limit
    most: int


class Progress(Enum):
    """What becomes of a piece that does not complete its message."""

    CONTINUE = "continue"
    """The next one is awaited: 2.31 answers this one."""


class _Assembly:
    __slots__ = ("deadline", "payload", "peer", "started_last")

    def __init__(self, peer: Hashable) -> None:
        self.payload = bytearray()
        self.started_last = -1
        self.deadline = 0.0
        self.peer = peer


class Reassembler:
    """Puts Block1 requests together: at most `total` at once, and `each` of one peer.

    `full` is told the limit that stands against one more. If it returns, the oldest goes, of this peer or of all;
    if it raises, the new one is refused with that."""

    def __init__(self, total: Bound, each: Bound, full: Callable[[Limit], object]) -> None:
        self._total = total
        self._each = each
        self._full = full
        self._assemblies: dict[tuple[object, ...], _Assembly] = {}

    def feed(self, source: Source, message: Message, now: float, max_size: int) -> Message | Progress:
        """Take one piece, with a Block1 option, from `source`: the whole message if it was the last one, which may
        have a payload of `max_size` bytes.

        `Rejected`: malformed (a gap, a wrong size), or larger than `max_size`; the assembly is given up."""
        number, more, size = parse_block(message.option(coap.BLOCK1) or b"")
        key = (source, message.code, tuple(o for o in message.options if o[0] not in _NOT_COMPARED))
        assembly = self._assembly(key, source[0], number, now)
        start = number * size
        if start == assembly.started_last and more and assembly.payload[start:] == message.payload:
            return Progress.CONTINUE  # a repetition: our answer was lost
        if number == 0 and assembly.payload:
            assembly = self._begin(key, source[0], now)  # another block 0: a new attempt
        length = len(message.payload)
        if start != len(assembly.payload) or length > size or (more and length != size):
            del self._assemblies[key]
            raise Rejected(Reason.MALFORMED, f"block {number} does not follow")
        if start + length > max_size:
            del self._assemblies[key]
            raise Rejected(Reason.TOO_LARGE)
        assembly.payload += message.payload
        assembly.started_last = start
        assembly.deadline = now + LIFETIME
        if more:
            return Progress.CONTINUE
        del self._assemblies[key]
        options = tuple(option for option in message.options if option[0] not in _TAKEN_OFF)
        return message._replace(options=options, payload=bytes(assembly.payload))

    def _assembly(self, key: tuple[object, ...], peer: Hashable, number: int, now: float) -> _Assembly:
        found = self._assemblies.get(key)
        if found is not None and found.deadline >= now:
            return found
        if number != 0:
            self._assemblies.pop(key, None)
            raise Rejected(Reason.MALFORMED, f"block {number} without those before it")
        return self._begin(key, peer, now)

    def _begin(self, key: tuple[object, ...], peer: Hashable, now: float) -> _Assembly:
        self._assemblies.pop(key, None)
        self._make_room(peer, now)
        assembly = self._assemblies[key] = _Assembly(peer)
        return assembly

    def _make_room(self, peer: Hashable, now: float) -> None:
        for key in [key for key, assembly in self._assemblies.items() if assembly.deadline < now]:
            del self._assemblies[key]
        own = [key for key, assembly in self._assemblies.items() if assembly.peer == peer]
        if len(own) >= self._each.most:
            self._full(self._each.limit)
            del self._assemblies[own[0]]
        if len(self._assemblies) >= self._total.most:
            self._full(self._total.limit)
            del self._assemblies[next(iter(self._assemblies))]

    def __len__(self) -> int:
        return len(self._assemblies)


class AnswerAssembly:
    """One answer, of at most `max_size` bytes of payload, that a proxy has cut into outer Block2. Takes as many
    pieces as two attempts need at most: nothing of them is authentic, and each costs a message."""

    __slots__ = ("_etag", "_left", "_max_size", "_payload")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._left = 2 * (max_size // MIN_BLOCK + 1)
        self._payload = b""
        self._etag: bytes | None = None

    def feed(self, piece: Message) -> Message | bytes:
        """Take the next piece: the whole answer if it was the last one, else the Block2 value to ask for.

        `Rejected`: malformed (a gap, a wrong size, another ETag), or larger than `max_size`; the next piece must
        then be the first one."""
        if not self._left:
            raise Rejected(Reason.TOO_LARGE, "too many outer blocks")
        self._left -= 1
        number, more, size = parse_block(piece.option(coap.BLOCK2) or b"")
        etag = piece.option(coap.ETAG)
        before, self._payload = self._payload if number else b"", b""
        length = len(piece.payload)
        if number * size != len(before) or length > size or (more and length != size):
            raise Rejected(Reason.MALFORMED, f"outer block {number} of an answer does not follow")
        if number and etag != self._etag:
            raise Rejected(Reason.MALFORMED, "outer blocks of two answers")
        if len(before) + length > self._max_size:
            raise Rejected(Reason.TOO_LARGE)
        payload = before + piece.payload
        if more:
            self._payload, self._etag = payload, etag
            return coap.uint_bytes((number + 1) << 4 | size.bit_length() - 5)
        options = tuple(o for o in piece.options if o[0] not in (coap.BLOCK2, coap.SIZE2, coap.ETAG))
        return piece._replace(options=options, payload=payload)


def is_piece(value: bytes | None) -> bool:
    """Whether this Block option stands on a part of a message. `Rejected` (malformed)."""
    return value is not None and parse_block(value)[:2] != (0, False)


def parse_block(value: bytes) -> tuple[int, bool, int]:
    """(number, more, size in bytes) of a Block option (RFC 7959 §2.2). `Rejected` (malformed)."""
    if len(value) > 3 or (value and value[-1] & 7 == 7):
        raise Rejected(Reason.MALFORMED, "Block option of a reserved size or length")
    number = coap.uint_value(value)
    return number >> 4, bool(number & 8), 1 << (number & 7) + 4
