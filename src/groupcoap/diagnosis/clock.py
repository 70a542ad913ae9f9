"""The wall clock. Timers are monotonic and need none; validity periods and logs do."""

from __future__ import annotations

import ctypes
from datetime import UTC, datetime
from pathlib import Path

from .finding import Finding, ok, warning

EARLIEST = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
"""Seconds since 1970: nothing of this program is older."""

TOLERANCE = 60.0
"""Seconds that a file may seem to be of the future: those of file servers have clocks of their own."""

_STA_UNSYNC = 0x40  # linux/timex.h
_TIMESYNCD = Path("/run/systemd/timesync/synchronized")


class _Timex(ctypes.Structure):
    """The beginning of `struct timex`, and more room than the rest of it needs."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def synchronized() -> bool | None:
    """Whether something keeps the clock right; None if that cannot be found out."""
    if _TIMESYNCD.exists():
        return True
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    timex = _Timex()  # modes 0: only read
    if adjtimex is None or adjtimex(ctypes.byref(timex)) < 0:
        return None
    return not timex.status & _STA_UNSYNC


def check_clock(now: float, newest: float, kept: bool | None) -> Finding:
    """Whether the clock can be right: `now` and the time of the newest of the device's files are in seconds since
    1970; `kept`: as `synchronized` says."""
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    advice = "set it, and let it be synchronized, before validity periods or logs count"
    command = ("timedatectl", "set-ntp", "true")
    if now < EARLIEST:
        return warning("clock", f"{shown} is before this program was written", advice, *command)
    if now < newest - TOLERANCE:
        return warning("clock", f"{shown} is before the newest of the device's files was written", advice, *command)
    if kept is False:
        return warning(
            "clock",
            f"{shown}; nothing keeps it right",
            "let it be synchronized, if logs are to be compared",
            *command,
        )
    return ok("clock", f"{shown}, {'synchronized' if kept else 'as far as can be seen'}")
