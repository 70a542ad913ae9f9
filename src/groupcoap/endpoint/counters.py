"""Counters of what was received and dropped, by reason, and of limits that were reached."""

from __future__ import annotations

from ..errors import Busy, Limit, Reason, Rejected


class Counters:
    """How many messages were delivered, how many refused for which reason, and how often each limit was reached,
    since the endpoint was opened."""

    def __init__(self) -> None:
        self.delivered_requests = 0
        self.delivered_responses = 0
        self.challenges_sent = 0
        self.errors_sent = 0
        self._rejected = dict.fromkeys(Reason, 0)
        self._limited = dict.fromkeys(Limit, 0)

    def reject(self, rejection: Rejected) -> None:
        """Count a refused message."""
        self._rejected[rejection.reason] += 1
        if isinstance(rejection, Busy):
            self.reached(rejection.limit)

    def reached(self, limit: Limit) -> None:
        """Count something that a limit stood against, or that had to go because of it."""
        self._limited[limit] += 1

    @property
    def rejected(self) -> dict[Reason, int]:
        """Refused messages by reason."""
        return {reason: count for reason, count in self._rejected.items() if count}

    @property
    def limited(self) -> dict[Limit, int]:
        """How often each limit was reached. What was refused is also counted in `rejected`, as busy."""
        return {limit: count for limit, count in self._limited.items() if count}
