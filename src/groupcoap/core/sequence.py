"""Sender Sequence Numbers: each is given out once, ever (OSCORE-06 §5.2).

Numbers are reserved ahead of use through a function that makes the reservation durable; after a crash the
reserved range counts as used. Reading and incrementing is one atomic step.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from threading import Lock

from ..errors import MisuseError, SequenceNumbersExhausted

MAXIMUM = (1 << 40) - 1

Reserve = Callable[[int], int]


def _nothing() -> None:
    pass


def _reserve_all(_next: int) -> int:
    return MAXIMUM + 1


class SequenceNumbers:
    """Gives out sequence numbers from `first` on.

    `reserve(n)` is called before number `n`, the first not yet reserved, is given out; it returns the end
    (exclusive) of the range that is now durably reserved. The default reserves everything: for a context that
    lives in memory only."""

    __slots__ = ("_counter", "_end", "_given", "_lock", "_low", "_reserve", "_reserved", "_tell")

    def __init__(self, first: int = 0, reserve: Reserve = _reserve_all) -> None:
        if first < 0:
            raise MisuseError("a sequence number is not negative")
        self._counter = count(first)
        self._reserve = reserve
        self._reserved = self._end = first  # at `_end` there is something to be done before the next is given out
        self._low = MAXIMUM + 1
        self._tell: Callable[[], None] = _nothing
        self._given = first - 1
        self._lock = Lock()

    def take(self) -> int:
        """The next number, never given out again. `SequenceNumbersExhausted` past 2^40 - 1."""
        number = self._given = next(self._counter)  # atomic: no two callers get the same
        if number >= self._end:
            self._extend(number)
        return number

    def watch(self, left: int, tell: Callable[[], None]) -> None:
        """Call `tell`, once, in the thread that takes a number when fewer than this many are left after it. What
        was to be called before is not."""
        with self._lock:
            self._low = MAXIMUM + 1 - left
            self._tell = tell
            if self._end >= 0:
                self._end = min(self._reserved, self._low)

    @property
    def exhausted(self) -> bool:
        """Whether the last number is used, or they were revoked: then nothing may be sent any more, be it without a
        number of its own."""
        return self._given >= MAXIMUM or self._end < 0

    def revoke(self) -> None:
        """Give out no more: from now on every number is asked for from `reserve`, which must refuse. For the child
        of a fork, so nothing is waited for."""
        self._end = -1
        self._lock = Lock()

    def _extend(self, number: int) -> None:
        if number > MAXIMUM:
            raise SequenceNumbersExhausted("no sequence numbers left under this Sender Context")
        tell = _nothing
        with self._lock:
            if self._end < 0:
                self._reserved = -1
            while number >= self._reserved:
                end = self._reserve(self._reserved)
                if end <= self._reserved:
                    raise MisuseError("a reservation of sequence numbers must grow")
                self._reserved = min(end, MAXIMUM + 1)
            if number >= self._low:
                tell, self._tell, self._low = self._tell, _nothing, MAXIMUM + 1
            self._end = min(self._reserved, self._low)
        tell()

    def __repr__(self) -> str:
        return f"<SequenceNumbers reserved up to {self._reserved}>"
