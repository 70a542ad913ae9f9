"""An append-only file of records under an exclusive lock: the mechanics below the run-time state.

    {"format": "groupcoap-state", "version": 1}
    5f3c9a01 ["reserve", …]

One record per line: CRC-32 of the rest, a space, JSON. A record counts once `append` has returned, which is after
fdatasync. So a last line without its newline was never acted upon and is dropped; anything else that is wrong means
that something durable was lost, and the file is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

from ..errors import FileFault, StateLocked, StateLost
from .atomic import PRIVATE_MODE, describe, write_atomically
from .documents import MAX_SIZE

FORMAT = "groupcoap-state"
VERSION = 1
LOCK_SUFFIX = ".lock"

Record = list[Any]
Records = list[tuple[int, Record]]
"""(line number, record)"""

MIGRATIONS: Mapping[int, Callable[[Records], Records]] = {}
"""`MIGRATIONS[n]` turns the records of version n into those of version n + 1."""


def encode_record(record: Record) -> bytes:
    """One line, with its newline."""
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(text), text)


def encode_journal(records: Iterable[Record]) -> bytes:
    """A whole file of the newest version."""
    header = json.dumps({"format": FORMAT, "version": VERSION}).encode() + b"\n"
    return header + b"".join(encode_record(record) for record in records)


def read_journal(path: Path) -> Records:
    """The records of a file, oldest first, in the newest version.

    `StateLost` if there is no such file, `FileFault` if it cannot be read, is of a newer version, or is damaged
    anywhere but in a last line without newline."""
    lines = _read(path).split(b"\n")
    if len(lines) == 1:
        # The header is written by atomic replacement, so it cannot be torn.
        raise FileFault(path, "line 1: is damaged; provision this device again")
    version = _version(path, lines[0])
    records = []
    for number, line in enumerate(lines[1:-1], start=2):
        record = _decode(line)
        if record is None:
            raise FileFault(path, f"line {number}: is damaged; provision this device again")
        records.append((number, record))
    whole = _decode(lines[-1])
    if whole is not None:  # only its newline is missing
        records.append((len(lines), whole))
    for step in range(version, VERSION):
        records = MIGRATIONS[step](records)
    return records


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
            open_to_others = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077
    except FileNotFoundError:
        raise StateLost(
            path, "the run-time state is missing and sequence numbers would repeat; provision this device again"
        ) from None
    except (OSError, ValueError) as error:
        raise FileFault(path, f"cannot be read ({describe(error)}); check the path and its mode") from None
    if len(data) > MAX_SIZE:
        raise FileFault(path, f"is larger than {MAX_SIZE} bytes; provision this device again")
    if open_to_others and data.startswith(b'{"format": "' + FORMAT.encode()):
        # Whoever can turn sequence numbers back has the group's keys in effect.
        raise FileFault(path, f"is open to others; run: chmod 600 {path}")
    return data


def _version(path: Path, line: bytes) -> int:
    try:
        header = json.loads(line)
        if header["format"] != FORMAT or type(header["version"]) is not int or header["version"] < 1:
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FileFault(path, f"line 1: is not the head of a {FORMAT} file; give the right file") from None
    version: int = header["version"]
    if version > VERSION:
        raise FileFault(path, f"is of version {version}, newer than this program knows; upgrade groupcoap")
    return version


def _decode(line: bytes) -> Record | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % crc32(text):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, list) and record else None


class Lock:
    """The exclusive right to a state file, held on a file beside it, which outlives the state file's replacement.

    `StateLocked` if somebody has it, be it this same process. Released by `release`, or by the operating system
    when the process ends."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        beside = Path(os.path.realpath(path) + LOCK_SUFFIX)
        try:
            self._descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        except (OSError, ValueError) as error:
            raise FileFault(beside, f"cannot be opened ({describe(error)}); check the path and its mode") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            holder = self._holder()
            self.release()
            raise StateLocked(f"{path}: is in use by {holder}; stop it first, or use another device") from None
        except OSError as error:
            self.release()
            raise FileFault(beside, f"cannot be locked ({describe(error)}); use a local file system") from None

    def _holder(self) -> str:
        text = os.pread(self._descriptor, 20, 0).strip()
        return f"process {text.decode()}" if text.isdigit() else "another process"

    def release(self) -> None:
        """Give the right back."""
        with suppress(OSError):
            os.close(self._descriptor)


class Journal:
    """An existing state file, open for appending; the caller holds its lock.

    Once anything has `failed` it takes no more records: what is durable is then not known. `size`: bytes."""

    __slots__ = ("_descriptor", "failed", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self.size = 0
        self.failed = False
        self._descriptor = -1

    def replace(self, records: Iterable[Record]) -> None:
        """Make these the whole content, atomically. `FileFault` if that fails."""
        try:
            data = encode_journal(records)
            write_atomically(self.path, data, replace=True)
            self.close()
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except FileFault:
            self.failed = True
            raise
        except OSError as error:
            self._fail(error)
        self.size = len(data)

    def append(self, record: Record) -> None:
        """Add a record; it is durable on return. `FileFault` if that fails: then what was to follow must not be
        done."""
        if self.failed or self._descriptor < 0:
            raise FileFault(self.path, "takes no more records after an earlier failure; restart")
        line = encode_record(record)
        try:
            if os.write(self._descriptor, line) != len(line):
                raise OSError("no space left")
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._fail(error)
        self.size += len(line)

    def _fail(self, error: OSError) -> NoReturn:
        # Half a line may stand at the end; nothing follows it, so it will be dropped as torn.
        self.failed = True
        raise FileFault(self.path, f"cannot be written ({describe(error)}); make room or mend it, then restart")

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
