"""Loggers that a flood cannot fill a disk with."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

from .limits import RateLimit, RecentTable

RATE: Final = 10.0
"""Lines of one kind per second, at the level of a warning or above, on average; `BURST` at once."""
BURST: Final = 100
_KINDS: Final = 128
_LIFETIME: Final = 3600.0


class _Kind:
    """The lines that one statement of a program writes."""

    __slots__ = ("left_out", "rate")

    def __init__(self) -> None:
        self.rate = RateLimit(RATE, BURST)
        self.left_out = 0


class _Sparing(logging.Filter):
    """Lets through so many lines of each kind. The next one says how many were left out before it."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: RecentTable[tuple[str, str], _Kind] = RecentTable(_KINDS, _LIFETIME)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now, key = monotonic(), (record.name, str(record.msg))
        kind = self._kinds.get(key, now) or _Kind()
        self._kinds.put(key, kind, now)
        if not kind.rate.allow(now):
            kind.left_out += 1
            return False
        if kind.left_out:
            record.msg = f"{record.msg} (and {kind.left_out} more like it before)"
            kind.left_out = 0
        return True


_SPARING: Final = _Sparing()


def sparing_logger(name: str) -> logging.Logger:
    """The logger with this name, for what peers can cause: warnings and errors that repeat are left out."""
    logger = logging.getLogger(name)
    logger.addFilter(_SPARING)  # once, however often it is called
    return logger
