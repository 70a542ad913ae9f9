"""What the program's exit code says: the one place where the numbers stand."""

from __future__ import annotations

from enum import IntEnum

from ..errors import (
    ContextExpired,
    EnvironmentFault,
    FileFault,
    GroupcoapError,
    NetworkFault,
    Refused,
    StateLocked,
    StoreFault,
)


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    INCOMPLETE = 1
    """It ran, but not all is as it should be: answers missing, vectors failed, a datagram refused."""
    USAGE = 2
    BAD_FILE = 3
    STATE_LOCKED = 4
    NETWORK = 5
    """The network, or a Group Manager that is not reached."""
    DATABASE = 6
    """Of a Group Manager."""
    REFUSED = 7
    """By a Group Manager."""
    INTERRUPTED = 130
    """Ctrl-C, as shells number it."""


_BY_ERROR: tuple[tuple[type[GroupcoapError], Exit], ...] = (
    (StateLocked, Exit.STATE_LOCKED),
    (FileFault, Exit.BAD_FILE),
    (NetworkFault, Exit.NETWORK),
    (ContextExpired, Exit.NETWORK),
    (StoreFault, Exit.DATABASE),
    (Refused, Exit.REFUSED),
    (EnvironmentFault, Exit.BAD_FILE),
    (GroupcoapError, Exit.USAGE),
)


def exit_code(error: GroupcoapError) -> Exit:
    """The exit code for an error that ends the program."""
    return next(code for kind, code in _BY_ERROR if isinstance(error, kind))
