"""Which file, on which machine, run-time state belongs to: what tells a copy from the original."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

MACHINE_ID_FILES: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))

_STATX_BTIME: Final = 0x800  # linux/stat.h
_AT_EMPTY_PATH: Final = 0x1000
_STATX_SIZE: Final = 256
_BTIME_AT: Final = 80


@dataclass(frozen=True, slots=True)
class Binding:
    """A file as it cannot be copied: device and inode number, time of birth in nanoseconds (None where the file
    system keeps none; without it a later file may have the same inode number), and a hash of the machine's id (None
    where it has none)."""

    machine: str | None
    device: int
    inode: int
    born: int | None

    @classmethod
    def of(cls, descriptor: int) -> Binding:
        """Of this open file. `OSError` if it cannot be looked at."""
        status = os.fstat(descriptor)
        return cls(machine_id(), status.st_dev, status.st_ino, _born(descriptor))

    def difference(self, other: Binding) -> str:
        """What shows that `other` is not the same file on the same machine, for people; empty if nothing does."""
        if self.machine != other.machine:
            return "another machine's"
        if self.device != other.device:
            return "from another file system"
        if self.inode != other.inode or self.born != other.born:
            return "a copy, or was brought back from one"
        return ""


def machine_id() -> str | None:
    """A hash of this machine's id that says nothing about the id itself; None if the machine has none."""
    for path in MACHINE_ID_FILES:
        try:
            text = path.read_text("ascii").strip()
        except (OSError, ValueError):
            continue
        if text:
            return sha256(b"groupcoap state on " + text.encode()).hexdigest()[:32]
    return None


@cache
def _statx() -> Any:
    """The C library's function, None where it has none."""
    return getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


def _born(descriptor: int) -> int | None:
    """Python's `os.stat` does not give the time of birth on Linux."""
    statx = _statx()
    if statx is None:
        return None
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer) != 0:
        return None
    if not ctypes.c_uint32.from_buffer_copy(buffer).value & _STATX_BTIME:
        return None
    seconds = ctypes.c_int64.from_buffer_copy(buffer, _BTIME_AT).value
    return seconds * 10**9 + ctypes.c_uint32.from_buffer_copy(buffer, _BTIME_AT + 8).value
