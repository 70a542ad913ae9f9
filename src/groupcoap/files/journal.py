"""An append-only file of records under an exclusive lock: the mechanics below the run-time state.

    {"format": "groupcoap-state", "version": 2}
    90a1c2e3 ["file", lineage, incarnation, machine, device, inode, born]
    5f3c9a01 ["reserve", …]

One record per line: CRC-32 of the rest, a space, JSON. A record counts once `append` has returned, which is after
fdatasync. So a last line that is not whole was never acted upon and is dropped; anything else that is wrong means
that something durable was lost, and the file is refused.

The first record says which file this is, so that a copy, and a file that was brought back from one, is noticed:
each replacement makes a new file with a higher incarnation of the same lineage. The lock's file, beside it, is a
witness of the last of them and of how long it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

from ..errors import FileFault, StateCopied, StateLocked, StateLost
from .atomic import PRIVATE_MODE, describe, write_atomically
from .binding import Binding
from .documents import MAX_SIZE

FORMAT = "groupcoap-state"
VERSION = 2
LOCK_SUFFIX = ".lock"
_LOST_SECTOR = bytes(16)

Record = list[Any]
Records = list[tuple[int, Record]]
"""(line number, record)"""

MIGRATIONS: Mapping[int, Callable[[Records], Records]] = {1: lambda records: records}
"""`MIGRATIONS[n]` turns the records of version n into those of version n + 1. Version 1 did not say which file it
was: it is taken as it stands, once."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which file this is. `lineage`: of all files that took each other's place, random hex. `incarnation`: how
    often that has happened; 0 in a file that was made for a device and has never been used."""

    lineage: str
    incarnation: int
    binding: Binding

    @property
    def record(self) -> Record:
        """As it stands in the file."""
        binding = self.binding
        return [
            "file",
            self.lineage,
            self.incarnation,
            binding.machine,
            binding.device,
            binding.inode,
            binding.born,
        ]

    @classmethod
    def read(cls, record: Record) -> Origin | None:
        """From a file's first record; None if it is none."""
        if len(record) != 7 or record[0] != "file":
            return None
        _, lineage, incarnation, machine, *numbers = record
        if not isinstance(lineage, str) or type(incarnation) is not int or not isinstance(machine, str | None):
            return None
        if any(type(number) is not int for number in numbers[:2]) or type(numbers[2]) not in (int, type(None)):
            return None
        return cls(lineage, incarnation, Binding(machine, *numbers))


@dataclass(frozen=True, slots=True)
class Witness:
    """What the lock's file remembers of the last file that was there: its lineage, incarnation and size in
    bytes."""

    lineage: str
    incarnation: int
    size: int


Mark = tuple[int, int]
"""(incarnation, size in bytes) as an extended attribute of the file has it: what is copied into the file leaves
that as it is."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A file that was read: its records (without the first), what it says it is (None: version 1 did not say),
    what it is, its size in bytes, and what is marked on it."""

    records: Records
    origin: Origin | None
    binding: Binding
    size: int
    mark: Mark | None


def encode_record(record: Record) -> bytes:
    """One line, with its newline."""
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(text), text)


def encode_journal(origin: Origin, records: Iterable[Record]) -> bytes:
    """A whole file of the newest version."""
    header = json.dumps({"format": FORMAT, "version": VERSION}).encode() + b"\n"
    return header + b"".join(encode_record(record) for record in (origin.record, *records))


def create_journal(
    path: Path, records: Iterable[Record], *, lineage: str | None = None, replace: bool = False
) -> None:
    """Write the file of a device that has never run, of this lineage or a new one. `FileFault` if there is one
    already (without `replace`), or it cannot be written."""
    lineage = lineage or os.urandom(16).hex()
    write_atomically(
        path, lambda file: encode_journal(Origin(lineage, 0, Binding.of(file)), records), replace=replace
    )


def read_journal(path: Path) -> Contents:
    """What is in a file, records oldest first and in the newest version.

    `StateLost` if there is no such file, or it is damaged anywhere but in a last line that is not whole;
    `FileFault` if it cannot be read as it is, or is of a newer version."""
    data, binding, mark = _read(path)
    lines = data.split(b"\n")
    if len(lines) == 1:
        # The header is written by atomic replacement, so it cannot be torn.
        raise StateLost(path, "line 1: is damaged; renew the group with provision --renew")
    version = _version(path, lines[0])
    if len(lines) > 2 and not lines[-1] and _LOST_SECTOR in lines[-2]:
        lines = [*lines[:-2], b""]  # the last append's sectors reached the disk out of order
    records = []
    for number, line in enumerate(lines[1:-1], start=2):
        record = decode_record(line)
        if record is None:
            raise StateLost(path, f"line {number}: is damaged; renew the group with provision --renew")
        records.append((number, record))
    whole = decode_record(lines[-1])
    if whole is not None:  # only its newline is missing
        records.append((len(lines), whole))
    origin = None
    if version > 1:
        origin = Origin.read(records.pop(0)[1]) if records else None
        if origin is None:
            raise StateLost(path, "line 2: does not say which file this is; renew the group with provision --renew")
    for step in range(version, VERSION):
        records = MIGRATIONS[step](records)
    return Contents(records, origin, binding, len(data), mark)


def _read(path: Path) -> tuple[bytes, Binding, Mark | None]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
            status = os.fstat(file.fileno())
            binding = Binding.of(file.fileno())
            mark = _read_mark(file.fileno())
    except FileNotFoundError:
        raise StateLost(
            path,
            "the run-time state is missing and sequence numbers would repeat; "
            "renew the group with provision --renew",
        ) from None
    except (OSError, ValueError) as error:
        raise FileFault(path, f"cannot be read ({describe(error)}); check the path and its mode") from None
    if len(data) > MAX_SIZE:
        raise FileFault(path, f"is larger than {MAX_SIZE} bytes; renew the group with provision --renew")
    if data.startswith(b'{"format": "' + FORMAT.encode()):
        if stat.S_IMODE(status.st_mode) & 0o077:
            # Whoever can turn sequence numbers back has the group's keys in effect.
            raise FileFault(path, f"is open to others; run: chmod 600 {path}")
        if status.st_nlink > 1:
            raise FileFault(path, "has a second name, under which it would not be locked; remove that one")
    return data, binding, mark


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


def decode_record(line: bytes) -> Record | None:
    """The record of a line without its newline; None if it is not whole."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % crc32(text):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, list) and record else None


def check_original(path: Path, contents: Contents, witness: Witness | None) -> None:
    """`StateCopied` unless this is the file that it says it is, and the last of its lineage as far as the witness
    knows.

    A file that was made for a device and never used may have been carried to another machine, once."""
    origin = contents.origin
    if witness is not None:
        if origin is None:
            _copied(path, "older than what was here")
        if origin.lineage == witness.lineage and (
            origin.incarnation < witness.incarnation
            or (origin.incarnation == witness.incarnation and contents.size < witness.size)
        ):
            _copied(path, "older than what was here")
    if origin is None:
        return
    if contents.mark is not None and (origin.incarnation, contents.size) < contents.mark:
        _copied(path, "older than what was here")
    made_on = origin.binding.machine
    if origin.incarnation == 0 and made_on is not None and made_on != contents.binding.machine:
        return
    difference = origin.binding.difference(contents.binding)
    if difference:
        _copied(path, difference)


IsNewer = Callable[[str, str], bool]
"""Whether the first Gid, in hex, comes after the second."""


def check_gids(path: Path, is_newer: IsNewer, gids: Mapping[str, str], before: Mapping[str, str]) -> None:
    """For a file that was never used: `StateCopied` if one of its {group: Gid in hex} was, under another state that
    was here `before`."""
    for group, gid in gids.items():
        if group in before and not is_newer(gid, before[group]):
            _copied(path, f"for a Gid of group {group!r} that was used here before")


def _copied(path: Path, what: str) -> NoReturn:
    raise StateCopied(
        path,
        f"is {what}, and sequence numbers would repeat; use the original where it was, "
        "or renew the group with provision --renew",
    )


_PID = 10
_LINEAGE = 32
_COUNT = 12
_WITNESS_AT = _PID + 1
_SIZE_AT = _WITNESS_AT + _LINEAGE + 1 + _COUNT + 1
_GIDS_AT = _SIZE_AT + _COUNT + 1
_MARK = "user.groupcoap.state"


class Lock:
    """The exclusive right to a state file, held on a file beside it, which outlives the state file's replacement.

    `StateLocked` if somebody has it, be it this same process. Released by `release`, or by the operating system
    when the process ends. `witness`: what the one before left. `gids`: {group: its latest Gid here, in hex}."""

    __slots__ = ("_descriptor", "gids", "witness")

    def __init__(self, path: Path) -> None:
        beside = lock_file(path)
        try:
            self._descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        except (OSError, ValueError) as error:
            raise FileFault(beside, f"cannot be opened ({describe(error)}); check the path and its mode") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.witness = _read_witness(self._descriptor)
            self.gids = _read_gids(self._descriptor)
            os.pwrite(self._descriptor, b"%-*d\n" % (_PID, os.getpid()), 0)
        except BlockingIOError:
            holder = _holder(self._descriptor)
            self.release()
            raise StateLocked(f"{path}: is in use by {holder}; stop it first, or use another device") from None
        except OSError as error:
            self.release()
            raise FileFault(beside, f"cannot be locked ({describe(error)}); use a local file system") from None

    def remember(self, witness: Witness) -> None:
        """Be a witness of this. `OSError` if that fails."""
        text = f"{witness.lineage:{_LINEAGE}} {witness.incarnation:0{_COUNT}} {witness.size:0{_COUNT}}\n"
        os.pwrite(self._descriptor, text.encode(), _WITNESS_AT)
        self._check()

    def remember_gids(self, gids: dict[str, str]) -> None:
        """Be a witness of these groups' latest Gids. `OSError` if that fails."""
        self.gids |= gids
        text = json.dumps(self.gids).encode()
        os.pwrite(self._descriptor, text, _GIDS_AT)
        os.ftruncate(self._descriptor, _GIDS_AT + len(text))

    def remember_size(self, size: int) -> None:
        """Be a witness of the file's present size in bytes. Never ahead of what is durable: a witness that is
        behind does no harm. `OSError` if that fails."""
        os.pwrite(self._descriptor, b"%0*d" % (_COUNT, size), _SIZE_AT)
        self._check()

    def _check(self) -> None:
        """`OSError` if the lock's file was removed: somebody else may have the right too, and have read the state
        before what was written last."""
        if not os.fstat(self._descriptor).st_nlink:
            raise OSError("its lock file was removed while in use")

    def release(self) -> None:
        """Give the right back. Once: the number may be another file's by now."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)


def lock_file(path: Path) -> Path:
    """Where the lock of this state file is."""
    return Path(os.path.realpath(path) + LOCK_SUFFIX)


def look_at_lock(path: Path) -> tuple[str | None, Witness | None, dict[str, str]]:
    """(who has the lock of this state file, None: nobody; the witness; its Gids), without taking it. `FileFault` if
    the lock's file cannot be looked at."""
    beside = lock_file(path)
    try:
        descriptor = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, None, {}
    except (OSError, ValueError) as error:
        raise FileFault(beside, f"cannot be opened ({describe(error)}); check the path and its mode") from None
    try:
        held = _is_held(os.fstat(descriptor))
        return _holder(descriptor) if held else None, _read_witness(descriptor), _read_gids(descriptor)
    finally:
        os.close(descriptor)


def _is_held(file: os.stat_result) -> bool:
    """Whether a lock on this file is in the system's list. Trying to lock it, be it for a moment, could turn away
    the process whose it is."""
    try:
        locks = Path("/proc/locks").read_text("ascii")
    except OSError:
        return False
    where = f" {os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino} "
    return any(where in line for line in locks.splitlines() if "FLOCK" in line)


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, _PID, 0).strip()
    return f"process {text.decode()}" if text.isdigit() else "another process"


def _read_witness(descriptor: int) -> Witness | None:
    parts = os.pread(descriptor, _GIDS_AT - _WITNESS_AT, _WITNESS_AT).split()
    if len(parts) != 3 or not parts[1].isdigit() or not parts[2].isdigit():
        return None  # not there, or torn by a power failure: then only the binding can tell
    return Witness(parts[0].decode("ascii", "replace"), int(parts[1]), int(parts[2]))


def _read_gids(descriptor: int) -> dict[str, str]:
    try:
        gids = json.loads(os.pread(descriptor, MAX_SIZE, _GIDS_AT))
    except (ValueError, RecursionError):
        return {}  # not there, or torn
    pairs = gids.items() if isinstance(gids, dict) else ()
    return {group: gid for group, gid in pairs if _is_hex(gid)}


def _is_hex(gid: object) -> bool:
    return isinstance(gid, str) and len(gid) % 2 == 0 and set(gid) <= set("0123456789abcdef")


def _read_mark(descriptor: int) -> Mark | None:
    try:
        incarnation, size = os.getxattr(descriptor, _MARK).split()
        return int(incarnation), int(size)
    except (OSError, ValueError):
        return None  # never used, or a file system without extended attributes


class Journal:
    """An existing state file, open for appending under its lock.

    Once anything has `failed` it takes no more records: what is durable is then not known. `size`: bytes. `path`:
    as it was given."""

    __slots__ = ("_descriptor", "_lineage", "_lock", "failed", "incarnation", "path", "size")

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path = path
        self.size = 0
        self.failed = False
        self.incarnation = 0
        self._lineage = os.urandom(16).hex()
        self._lock = lock
        self._descriptor = -1

    def load(self) -> Records:
        """The file's records. Raises as `read_journal` and `check_original` do."""
        contents = read_journal(self.path)
        check_original(self.path, contents, self._lock.witness)
        if contents.origin is not None:
            self._lineage = contents.origin.lineage
            self.incarnation = contents.origin.incarnation
        return contents.records

    def refuse_gids_of_before(self, is_newer: IsNewer, gids: Mapping[str, str]) -> None:
        """As `check_gids`, if this file was never used."""
        if self.incarnation == 0:
            check_gids(self.path, is_newer, gids, self._lock.gids)

    def remember_gids(self, gids: dict[str, str]) -> None:
        """Let the lock be a witness of these groups' latest Gids. `FileFault` if that fails."""
        try:
            self._lock.remember_gids(gids)
        except OSError as error:
            self._fail(error)

    def replace(self, records: Iterable[Record]) -> None:
        """Make these the whole content, atomically. `FileFault` if that fails."""
        incarnation = self.incarnation + 1
        try:
            write_atomically(
                self.path,
                lambda file: encode_journal(Origin(self._lineage, incarnation, Binding.of(file)), records),
                replace=True,
            )
            self.close()
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self.size = os.fstat(self._descriptor).st_size
            self.incarnation = incarnation
            self._lock.remember(Witness(self._lineage, incarnation, self.size))
            self._set_mark()
        except FileFault:
            self.failed = True
            raise
        except OSError as error:
            self._fail(error)

    def append(self, record: Record) -> None:
        """Add a record; it is durable on return. `FileFault` if that fails: then what was to follow must not be
        done."""
        if self.failed or self._descriptor < 0:
            raise FileFault(self.path, "takes no more records after an earlier failure; restart")
        line = encode_record(record)
        try:
            if os.fstat(self._descriptor).st_nlink != 1:
                raise OSError("was removed or replaced while in use")
            if os.write(self._descriptor, line) != len(line):
                raise OSError("no space left")
            os.fdatasync(self._descriptor)
            self.size += len(line)
            self._lock.remember_size(self.size)
            self._set_mark()
        except OSError as error:
            self._fail(error)

    def _set_mark(self) -> None:
        with suppress(OSError):  # where there are no extended attributes, the lock's file must do
            os.setxattr(self._descriptor, _MARK, b"%d %d" % (self.incarnation, self.size))

    def _fail(self, error: OSError) -> NoReturn:
        # Half a line may stand at the end; nothing follows it, so it will be dropped as torn.
        self.failed = True
        raise FileFault(self.path, f"cannot be written ({describe(error)}); make room or mend it, then restart")

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
