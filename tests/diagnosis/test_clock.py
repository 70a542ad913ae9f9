"""Checks of the wall clock, each failing and passing."""

from __future__ import annotations

import pytest

from groupcoap.diagnosis import Level
from groupcoap.diagnosis.clock import EARLIEST, TOLERANCE, check_clock, synchronized

NOW = EARLIEST + 1e6


@pytest.mark.parametrize(
    ("now", "newest", "kept", "level", "says"),
    [
        (NOW, NOW, True, Level.OK, ", synchronized"),
        (NOW, NOW, None, Level.OK, ", as far as can be seen"),
        (NOW, NOW + TOLERANCE, True, Level.OK, ", synchronized"),
        (NOW, NOW, False, Level.WARNING, "nothing keeps it right"),
        (NOW, NOW + TOLERANCE + 1, True, Level.WARNING, "is before the newest of the device's files was written"),
        (EARLIEST - 1, 0, True, Level.WARNING, "2024-12-31 23:59:59 UTC is before this program was written"),
        (0, 0, False, Level.WARNING, "1970-01-01 00:00:00 UTC is before this program was written"),
    ],
)
def test_the_clock_can_be_right_or_not(
    now: float, newest: float, kept: bool | None, level: Level, says: str
) -> None:
    finding = check_clock(now, newest, kept)
    assert finding.level is level
    assert says in finding.found
    assert bool(finding.command) == (level is not Level.OK)


def test_linux_says_whether_the_clock_is_kept_right() -> None:
    assert synchronized() is not None
