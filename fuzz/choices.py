"""An input as a sequence of choices, taken from its front: the fuzzer changes bytes, the target gets fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Bytes to decide by. Once they are used up every number is 0 and every string empty, so that a cut input is
    a simple one."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> bool:
        """Whether there is anything to choose by."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """0 to 255."""
        if self._at >= len(self._data):
            return 0
        value = self._data[self._at]
        self._at += 1
        return value

    def below(self, end: int) -> int:
        """0 to `end` - 1, for an end of at most 256."""
        return self.byte() % end

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def number(self, size: int) -> int:
        """An unsigned number of so many bytes, big endian."""
        return int.from_bytes(self.take(size).ljust(size, b"\0"), "big")

    def take(self, size: int) -> bytes:
        """So many bytes, or what is left."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def some(self) -> bytes:
        """A string of at most 255 bytes, its length in front."""
        return self.take(self.byte())

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(max(len(self._data) - self._at, 0))

    def one_of(self, choices: Sequence[T]) -> T:
        """One of at most 256."""
        return choices[self.below(len(choices))]
