"""Counters of what was received and dropped, by reason."""

from __future__ import annotations

from collections import Counter

from ..errors import Reason, Rejected


class Counters:
    """How many messages were delivered, and refused for which reason, since the endpoint was opened."""

    def __init__(self) -> None:
        self.delivered_requests = 0
        self.delivered_responses = 0
        self.challenges_sent = 0
        self.errors_sent = 0
        self._rejected: Counter[Reason] = Counter()

    def reject(self, rejection: Rejected) -> None:
        self._rejected[rejection.reason] += 1

    @property
    def rejected(self) -> dict[Reason, int]:
        """Refused messages by reason."""
        return dict(self._rejected)
