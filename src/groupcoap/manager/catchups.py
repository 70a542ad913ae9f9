"""How often members may catch up and change something: who asks for more is told when to come again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ..core import coap
from ..endpoint.limits import RateLimit
from ..errors import Refused

RATE = 200.0
"""Catch-ups per second, and look-ups of credentials."""
BURST = 100
RATE_OF_EACH, BURST_OF_EACH = 20.0, 40
"""Of one device: it must not use up what is there for all."""
CHANGES, BURST_OF_CHANGES = 1.0, 40
"""Joins, Endpoint IDs, credentials and leaves per second, of one device: each writes to the database, and may be a
renewal for all."""

Uniform = Callable[[float, float], float]


class CatchUps:
    """A rate for all members together. Who is turned away is told to come again at a time of its own, so that they
    do not all come at once."""

    def __init__(
        self,
        rate: float = RATE,
        burst: int = BURST,
        clock: Callable[[], float] = time.monotonic,
        uniform: Uniform = random.uniform,
    ) -> None:
        self._all = RateLimit(rate, burst)
        self._each = Paces(RATE_OF_EACH, BURST_OF_EACH, clock, uniform)
        self._clock, self._uniform = clock, uniform

    def take(self, device: str) -> None:
        """Count one more. `Refused`, 5.03 with Max-Age, if it is one too many."""
        self._each.take(device)
        if not self._all.allow(self._clock()):
            raise _too_many(self._uniform)


class Paces:
    """A rate for each device. There are no more of them than are enrolled."""

    def __init__(
        self,
        rate: float = CHANGES,
        burst: int = BURST_OF_CHANGES,
        clock: Callable[[], float] = time.monotonic,
        uniform: Uniform = random.uniform,
    ) -> None:
        self._rate, self._burst = rate, burst
        self._clock, self._uniform = clock, uniform
        self._of: dict[str, RateLimit] = {}

    def take(self, device: str) -> None:
        """As `CatchUps.take`."""
        own = self._of.setdefault(device, RateLimit(self._rate, self._burst))
        if not own.allow(self._clock()):
            raise _too_many(self._uniform)


def _too_many(uniform: Uniform) -> Refused:
    return Refused(coap.SERVICE_UNAVAILABLE, "too many at once", retry_after=uniform(1, 5))
