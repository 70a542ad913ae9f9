"""How many members may catch up at once: the rest is told when to come again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ..core import coap
from ..errors import Refused

RATE = 200.0
"""Catch-ups per second."""
BURST = 100


class CatchUps:
    """A rate for all members together. Who is turned away is told to come again at a time of its own, so that they
    do not all come at once."""

    def __init__(
        self,
        rate: float = RATE,
        burst: int = BURST,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._rate, self._burst = rate, burst
        self._clock, self._uniform = clock, uniform
        self._left, self._at = float(burst), clock()

    def take(self) -> None:
        """Count one more. `Refused`, 5.03 with Max-Age, if it is one too many."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            raise Refused(coap.SERVICE_UNAVAILABLE, "too many at once", retry_after=self._uniform(1, 5))
        self._left -= 1
