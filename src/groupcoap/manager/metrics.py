"""What the manager counts."""

from __future__ import annotations

from collections import Counter


class Counts:
    """Counters by name, for `status` and for Prometheus."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, by: int = 1) -> None:
        """Count something that happened."""
        self._counts[name] += by

    def values(self) -> dict[str, int]:
        """All that was counted so far."""
        return dict(self._counts)
