"""The replay window: DTLS type (RFC 6347 §4.1.2.6), 32 wide, starts empty (OSCORE-06 §3.2.3)."""

from __future__ import annotations

WIDTH = 32
_MASK = (1 << WIDTH) - 1


class ReplayWindow:
    """Which sequence numbers of one sender have been seen.

    Bit i of the map stands for `highest - i`. An empty window has `highest` -1 and takes any number; after
    that, numbers lower than the first but inside the window are still new (multicast-oscore-04 §9).

    Like everything in the core that changes state, a window belongs to one thread; `accept` is then atomic, for
    nothing can run in between."""

    __slots__ = ("_bits", "_highest")

    def __init__(self, highest: int = -1, bits: int = 0) -> None:
        self._highest = highest
        self._bits = bits & _MASK

    @property
    def highest(self) -> int:
        """The highest number seen, -1 while empty."""
        return self._highest

    @property
    def bits(self) -> int:
        """The bit map, for storing: 32 bits, the least significant one stands for `highest`."""
        return self._bits

    def is_new(self, number: int) -> bool:
        """Whether this number would be accepted. Changes nothing."""
        behind = self._highest - number
        return behind < 0 or (behind < WIDTH and not self._bits >> behind & 1)

    def accept(self, number: int) -> bool:
        """Check and update in one atomic step: True, and from then on seen, if the number was new."""
        behind = self._highest - number
        if behind < 0:
            # an empty window (-1) shifts its empty map: nothing lower counts as seen
            self._bits = (self._bits << -behind | 1) & _MASK if behind > -WIDTH else 1
            self._highest = number
            return True
        if behind >= WIDTH or self._bits >> behind & 1:
            return False
        self._bits |= 1 << behind
        return True

    def start_at(self, number: int) -> None:
        """From now on this number and all below it are seen (baseline, challenge–response, lost state)."""
        self._highest = number
        self._bits = _MASK

    def __repr__(self) -> str:
        return f"ReplayWindow(highest={self._highest}, bits={self._bits:#010x})"
