"""Outer blocks: a proxy may have cut a protected request into pieces (OSCORE-06 §4.2.3.2).

Nothing of a piece is authentic before all are there, so the sizes and the number of assemblies are bounded, and the
oldest goes first."""

from __future__ import annotations

from enum import Enum

from ..errors import Reason, Rejected
from . import coap
from .coap import Message

MAX_ASSEMBLIES = 8
LIFETIME = 60.0
"""Seconds that an unfinished assembly is kept."""


class Progress(Enum):
    """What becomes of a piece that does not complete its message."""

    CONTINUE = "continue"
    """The next one is awaited: 2.31 answers this one."""


class _Assembly:
    __slots__ = ("deadline", "payload", "started_last")

    def __init__(self, deadline: float) -> None:
        self.payload = b""
        self.started_last = -1
        self.deadline = deadline


class Reassembler:
    """Puts outer Block1 requests together. `max_size`: MAX_UNFRAGMENTED_SIZE, bytes of payload."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._assemblies: dict[tuple[object, ...], _Assembly] = {}

    def feed(self, source: object, message: Message, now: float) -> Message | Progress:
        """Take one piece, with an outer Block1, from `source`: the whole message if it was the last one.

        `Rejected`: malformed (a gap, a wrong size), or larger than `max_size`; the assembly is given up."""
        number, more, size = parse_block(message.option(coap.BLOCK1) or b"")
        options = tuple(option for option in message.options if option[0] not in (coap.BLOCK1, coap.SIZE1))
        key = (source, message.code, options)
        assembly = self._assembly(key, number, now)
        start = number * size
        if start == assembly.started_last and more and assembly.payload[start:] == message.payload:
            return Progress.CONTINUE  # a repetition: our answer was lost
        if number == 0 and assembly.payload:
            assembly = self._begin(key, now)  # another block 0: a new attempt
        length = len(message.payload)
        if start != len(assembly.payload) or length > size or (more and length != size):
            del self._assemblies[key]
            raise Rejected(Reason.MALFORMED, f"outer block {number} does not follow")
        if start + length > self._max_size:
            del self._assemblies[key]
            raise Rejected(Reason.TOO_LARGE)
        assembly.payload += message.payload
        assembly.started_last = start
        if more:
            return Progress.CONTINUE
        del self._assemblies[key]
        return message._replace(options=options, payload=assembly.payload)

    def _assembly(self, key: tuple[object, ...], number: int, now: float) -> _Assembly:
        found = self._assemblies.get(key)
        if found is not None and found.deadline >= now:
            return found
        if number != 0:
            self._assemblies.pop(key, None)
            raise Rejected(Reason.MALFORMED, f"outer block {number} without those before it")
        return self._begin(key, now)

    def _begin(self, key: tuple[object, ...], now: float) -> _Assembly:
        self._assemblies.pop(key, None)
        if len(self._assemblies) >= MAX_ASSEMBLIES:
            del self._assemblies[next(iter(self._assemblies))]
        assembly = self._assemblies[key] = _Assembly(now + LIFETIME)
        return assembly


def parse_block(value: bytes) -> tuple[int, bool, int]:
    """(number, more, size in bytes) of a Block option (RFC 7959 §2.2). `Rejected` (malformed)."""
    if len(value) > 3 or (value and value[-1] & 7 == 7):
        raise Rejected(Reason.MALFORMED, "Block option of a reserved size or length")
    number = coap.uint_value(value)
    return number >> 4, bool(number & 8), 1 << (number & 7) + 4
