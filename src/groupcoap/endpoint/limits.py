"""Bounded tables and rates: what a flood may cost."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class RecentTable(Generic[Key, Value]):
    """A table that keeps at most `size` entries for at most `lifetime` seconds; the oldest goes first."""

    def __init__(self, size: int, lifetime: float) -> None:
        self._size = size
        self._lifetime = lifetime
        self._entries: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def get(self, key: Key, now: float) -> Value | None:
        """The entry, unless it is too old."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0] + self._lifetime < now:
            del self._entries[key]
            return None
        return found[1]

    def put(self, key: Key, value: Value, now: float) -> None:
        self._entries.pop(key, None)
        self._entries[key] = (now, value)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def pop(self, key: Key) -> Value | None:
        found = self._entries.pop(key, None)
        return None if found is None else found[1]

    def __len__(self) -> int:
        return len(self._entries)


class RateLimit:
    """At most `rate` events a second on average, and `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._last: float | None = None

    def allow(self, now: float) -> bool:
        """Whether one more may happen now."""
        if self._last is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
