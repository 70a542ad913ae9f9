"""The replay window: DTLS type (RFC 6347 §4.1.2.6), 32 wide, starts empty (OSCORE-06 §3.2.3)."""

from __future__ import annotations

WIDTH = 32
_MASK = (1 << WIDTH) - 1


class ReplayWindow:
    """Which sequence numbers of one sender have been seen.

    Bit i of the map stands for `highest - i`. An empty window has `highest` -1 and takes any number; after
    that, numbers lower than the first but inside the window are still new (multicast-oscore-04 §9).

    `highest` (-1 while empty) and `bits` (32 of them) are there to be read and stored.

    Like everything in the core that changes state, a window belongs to one thread; `accept` is then atomic, for
    nothing can run in between."""

    __slots__ = ("bits", "highest")

    def __init__(self, highest: int = -1, bits: int = 0) -> None:
        self.highest = highest
        self.bits = bits & _MASK

    def is_new(self, number: int) -> bool:
        """Whether this number would be accepted. Changes nothing."""
        behind = self.highest - number
        return behind < 0 or (behind < WIDTH and not self.bits >> behind & 1)

    def accept(self, number: int) -> bool:
        """Check and update in one atomic step: True, and from then on seen, if the number was new."""
        behind = self.highest - number
        if behind < 0:
            # an empty window (-1) shifts its empty map: nothing lower counts as seen
            self.bits = (self.bits << -behind | 1) & _MASK if behind > -WIDTH else 1
            self.highest = number
            return True
        if behind >= WIDTH or self.bits >> behind & 1:
            return False
        self.bits |= 1 << behind
        return True

    def start_at(self, number: int) -> None:
        """From now on this number and all below it are seen (baseline, challenge–response, lost state)."""
        self.highest = number
        self.bits = _MASK

    def __repr__(self) -> str:
        return f"ReplayWindow(highest={self.highest}, bits={self.bits:#010x})"
