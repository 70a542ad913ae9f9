"""Run-time state that must survive: sequence numbers and replay windows, by (group, Gid, own Endpoint ID).

Records of the journal, oldest first, later ones overriding earlier ones:

    ["key", group, gid, own_id]                            there is state for this Security Context, with the
                                                           windows of all own Endpoint IDs under this Gid so far
    ["reserve", group, gid, own_id, end]                   numbers below `end` count as used
    ["window", group, gid, own_id, sender_id, highest, bits]
    ["forget", group, gid]                                 none of this is needed, or trusted, any more
    ["stop", [[group, gid, own_id, next], …]]              clean stop: numbers from `next` on are unused
    ["run", random]                                        a process has taken over

Byte strings are hex, a pure listener's `own_id` is null.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Final, Protocol, Self
from weakref import WeakSet

from ..core.sequence import MAXIMUM, SequenceNumbers
from ..core.window import WIDTH
from ..errors import FileFault, MisuseError, SequenceNumbersExhausted, StateLost
from .atomic import remove_left_behind
from .journal import (
    Journal,
    Lock,
    Record,
    Records,
    check_gids,
    check_original,
    create_journal,
    look_at_lock,
    read_journal,
)
from .pending import PendingRequests

BLOCK: Final = 256
"""Sequence numbers reserved at once: so many are lost at most by an unclean stop."""

COMPACT_AT: Final = 1 << 20
"""Bytes that the journal may grow by until it is compacted."""

PENDING_SUFFIX: Final = ".pending"
"""What the name of the file of pending requests has in addition."""

MIN_PREFIX: Final = 8
"""Bytes of a Group Prefix at least."""

MAX_FORGOTTEN: Final = 1024
"""Gids remembered as forgotten, so that none comes back with its numbers starting again."""


@dataclass(frozen=True, slots=True)
class StateKey:
    """What run-time state belongs to. `own_id` is None for a pure listener, which has windows but no sequence
    numbers."""

    group: str
    gid: bytes
    own_id: bytes | None


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """A sender's replay window as it was last recorded: see `core.window.ReplayWindow`."""

    highest: int
    bits: int


class RuntimeState(Protocol):
    """Where endpoints keep what they must not forget."""

    def sequence_numbers(self, group: str, gid: bytes, own_id: bytes) -> SequenceNumbers:
        """The sequence numbers of this Sender Context: the same object at each call. `StateLost` if there is no
        such state."""

    def windows(self, group: str, gid: bytes, own_id: bytes | None) -> dict[bytes, StoredWindow]:
        """The last recorded window of each sender {Endpoint ID: window}. `StateLost` if there is no such state."""

    def record_window(
        self, group: str, gid: bytes, own_id: bytes | None, sender_id: bytes, highest: int, bits: int
    ) -> None:
        """Record a sender's window; to be called before what it lets through is delivered. `StateLost` if there
        is no such state, `FileFault` if it cannot be made durable."""

    def claim(self, group: str, gid: bytes, own_id: bytes | None) -> None:
        """Take the exclusive use of this Security Context. `MisuseError` if somebody has it: two endpoints, each
        with windows of its own, would answer one request twice with one nonce."""

    def release(self, group: str, gid: bytes, own_id: bytes | None) -> None:
        """Give the exclusive use back."""

    def add_key(self, group: str, gid: bytes, own_id: bytes | None) -> None:
        """Begin state for a new Security Context, or for another own Endpoint ID in one: sequence numbers then
        begin anew, since the Sender Key is new, and windows are those that there are already under this Gid, since
        the keys of others are not. Sequence numbers that there are go on.

        `StateLost` if this Gid was forgotten, or is older than one that was used (see `is_older`): its sequence
        numbers would start again."""

    def knows(self, group: str) -> bool:
        """Whether there is or was state for any Gid of this group. Then one that was never heard of is new."""

    def forget(self, group: str, gid: bytes) -> None:
        """Drop everything about this Gid, for good."""

    @property
    def pending(self) -> PendingRequests:
        """The requests that wait for answers."""

    def close(self) -> None:
        """A clean stop: no sequence numbers are given out any more."""


@dataclass(slots=True)
class _Contents:
    """What the records say so far. `marks`: the first number that is not known to be used. `run`: names the process
    that has the file, or had it last."""

    run: str = ""

    marks: dict[StateKey, int] = field(default_factory=dict)
    windows: dict[StateKey, dict[bytes, StoredWindow]] = field(default_factory=dict)
    forgotten: dict[tuple[str, bytes], None] = field(default_factory=dict)

    def add(self, key: StateKey) -> None:
        self.marks.setdefault(key, 0)
        self.windows[key] = _all_windows(self.windows, key)

    def forget(self, group: str, gid: bytes) -> None:
        for key in [key for key in self.marks if (key.group, key.gid) == (group, gid)]:
            del self.marks[key], self.windows[key]
        self.forgotten[group, gid] = None
        if len(self.forgotten) > MAX_FORGOTTEN:
            del self.forgotten[self._dispensable()]

    def _dispensable(self) -> tuple[str, bytes]:
        """The oldest of those that a later Gid with the same prefix keeps from coming back as well, or if there are
        none the oldest: a group with a new prefix would lose all that is known of the former ones otherwise."""
        for group, gid in self.forgotten:
            if any(is_older(gid, known) for known in self.gids(group)):
                return group, gid
        return next(iter(self.forgotten))

    def gids(self, group: str) -> set[bytes]:
        """Every Gid of this group that is known or was forgotten."""
        return {key.gid for key in self.marks if key.group == group} | {
            gid for name, gid in self.forgotten if name == group
        }

    def latest_gids(self) -> dict[str, str]:
        """{group: the Gid that there was state for last, in hex}."""
        return {key.group: key.gid.hex() for key in self.marks}

    def records(self) -> Iterable[Record]:
        """As few records as say the same."""
        if self.run:
            yield ["run", self.run]
        for group, gid in self.forgotten:
            yield ["forget", group, gid.hex()]
        for key, mark in self.marks.items():
            yield ["key", *_key_json(key)]
            if mark:
                yield ["reserve", *_key_json(key), mark]
            for sender_id, window in self.windows[key].items():
                yield ["window", *_key_json(key), sender_id.hex(), window.highest, window.bits]


def _key_json(key: StateKey) -> list[Any]:
    return [key.group, key.gid.hex(), None if key.own_id is None else key.own_id.hex()]


def _key(group: Any, gid: Any, own_id: Any) -> StateKey:
    if not isinstance(group, str):
        raise ValueError("a group that is no text")
    return StateKey(group, bytes.fromhex(gid), None if own_id is None else bytes.fromhex(own_id))


def _number(value: Any, at_most: int) -> int:
    if type(value) is not int or not 0 <= value <= at_most:
        raise ValueError("a number out of range")
    return value


def _apply_key(contents: _Contents, *key: Any) -> None:
    contents.add(_key(*key))


def _numbered(contents: _Contents, group: Any, gid: Any, own_id: Any) -> StateKey:
    """The key of state that has sequence numbers."""
    key = _key(group, gid, own_id)
    if key.own_id is None or key not in contents.marks:
        raise ValueError("sequence numbers without a key")
    return key


def _apply_reserve(contents: _Contents, group: Any, gid: Any, own_id: Any, end: Any) -> None:
    key = _numbered(contents, group, gid, own_id)
    end = _number(end, MAXIMUM + 1)
    if end < contents.marks[key]:
        raise ValueError("a reservation that takes numbers back")
    contents.marks[key] = end


def _apply_window(contents: _Contents, group: Any, gid: Any, own_id: Any, sender: Any, *window: Any) -> None:
    highest, bits = window
    stored = StoredWindow(_number(highest, MAXIMUM), _number(bits, (1 << WIDTH) - 1))
    contents.windows[_key(group, gid, own_id)][bytes.fromhex(sender)] = stored


def _apply_forget(contents: _Contents, group: Any, gid: Any) -> None:
    key = _key(group, gid, None)
    contents.forget(key.group, key.gid)


def _apply_stop(contents: _Contents, numbers: Any) -> None:
    for *key, unused in numbers:  # a clean stop gives back what was reserved and not used
        contents.marks[_numbered(contents, *key)] = _number(unused, MAXIMUM + 1)


def _apply_run(contents: _Contents, run: Any) -> None:
    if not isinstance(run, str):
        raise ValueError("a run that is no text")
    contents.run = run


_APPLY: Mapping[str, Callable[..., None]] = {
    "key": _apply_key,
    "reserve": _apply_reserve,
    "window": _apply_window,
    "forget": _apply_forget,
    "stop": _apply_stop,
    "run": _apply_run,
}


def _apply(path: Path, records: Records) -> tuple[_Contents, bool]:
    """(what the records say, whether the last one is a clean stop)"""
    contents = _Contents()
    kind = None
    for line, record in records:
        kind, *values = record
        try:
            _APPLY[kind](contents, *values)
        except (KeyError, TypeError, ValueError):
            raise StateLost(path, f"line {line}: is not a known record; renew the group") from None
    return contents, kind == "stop"


@dataclass(frozen=True, slots=True)
class StateReport:
    """What a look at a state file has shown, without locking or changing it.

    `fault`: why an endpoint could not use it (but for the lock); then the rest may be empty. `holder`: who has its
    lock. `used`: {what there is state for: sequence numbers used or reserved}. `forgotten`: (group, Gid) that must
    never be used again. `lineage`: of the file, None if it is not known; `never_used`: the file was made for a
    device that has not run yet. `stopped_cleanly`: by the process before, or the one before `holder`."""

    path: Path
    fault: FileFault | None
    holder: str | None = None
    used: Mapping[StateKey, int] = field(default_factory=dict)
    forgotten: tuple[tuple[str, bytes], ...] = ()
    lineage: str | None = None
    never_used: bool = False
    stopped_cleanly: bool = False


def extend_unused(report: StateReport, keys: Iterable[StateKey]) -> None:
    """Give the state of a device that has never run, as `report` has shown it, these keys in addition. It stays the
    same file in effect: where a copy of it has been carried and used, it is still too old. `FileFault` if it cannot
    be written."""
    records = _unused_records((*report.used, *keys), report.forgotten)
    create_journal(report.path, records, lineage=report.lineage, replace=True)


def _unused_records(keys: Iterable[StateKey], forgotten: Iterable[tuple[str, bytes]]) -> list[Record]:
    contents = _Contents()
    for group, gid in forgotten:
        contents.forget(group, gid)
    for key in keys:
        contents.add(key)
    return [*contents.records(), ["stop", []]]


_open_states: WeakSet[EndpointState] = WeakSet()


def _after_fork() -> None:
    """In the child: the parent goes on, so nothing may be used here. No lock is waited for: its holder may be a
    thread that the child does not have."""
    for state in tuple(_open_states):
        state._orphan()


os.register_at_fork(after_in_child=_after_fork)


class EndpointState:
    """The run-time state of one device, in a journal that this process alone holds.

    Made by `open`. Every record is durable when the method that makes it returns. Methods may be called from any
    thread. In a child of `fork` it is closed. `stopped_cleanly`: whether the process before this one closed it."""

    __slots__ = (
        "__weakref__",
        "_claimed",
        "_closed",
        "_contents",
        "_guard",
        "_journal",
        "_lock",
        "_numbers",
        "_pending",
        "_size",
        "stopped_cleanly",
    )

    def __init__(
        self,
        contents: _Contents,
        journal: Journal,
        lock: Lock,
        pending: PendingRequests,
        stopped_cleanly: bool,
    ) -> None:
        self._pending = pending
        self.stopped_cleanly = stopped_cleanly
        self._contents = contents
        self._journal = journal
        self._lock = lock
        self._size = journal.size
        self._guard = RLock()
        self._closed = False
        self._claimed: set[StateKey] = set()
        self._numbers: dict[StateKey, SequenceNumbers] = {}
        _open_states.add(self)

    @staticmethod
    def create(
        path: Path,
        keys: Iterable[StateKey],
        *,
        forgotten: Iterable[tuple[str, bytes]] = (),
        replace: bool = False,
    ) -> None:
        """Write the state of a device that has never run: nothing sent, nothing seen, under these keys; nothing to
        be used any more under those (group, Gid) that are `forgotten`.

        `FileFault` if there is a file (which is overwritten only with `replace`), or none can be written."""
        create_journal(path, _unused_records(keys, forgotten), replace=replace)

    @classmethod
    def open(cls, path: Path) -> EndpointState:
        """Lock the state, read it and compact it.

        `StateLost` if the file is missing or damaged, `StateCopied` if it is not the original, `StateLocked` if it
        is in use, `FileFault` if it cannot be read or written."""
        if not os.path.exists(path):
            read_journal(path)  # says what is wrong, and leaves no lock file behind
        lock = Lock(path)
        try:
            remove_left_behind(path)
            journal = Journal(path, lock)
            contents, clean = _apply(path, journal.load())
            journal.refuse_gids_of_before(_is_newer, contents.latest_gids())
            before, contents.run = contents.run, os.urandom(16).hex()
            journal.replace(contents.records())
            journal.remember_gids(contents.latest_gids())  # now that the file is no longer one that was never used
            pending = PendingRequests(Path(f"{os.path.realpath(path)}{PENDING_SUFFIX}"), contents.run, before)
        except BaseException:
            lock.release()
            raise
        return cls(contents, journal, lock, pending, clean)

    @staticmethod
    def examine(path: Path) -> StateReport:
        """Look at a state file without locking or changing it. Nothing is raised: what is wrong is reported."""
        holder = None
        try:
            holder, witness, gids = look_at_lock(path)
            read = read_journal(path)
            check_original(path, read, witness)
            contents, clean = _apply(path, read.records)
            if read.origin is None or read.origin.incarnation == 0:
                check_gids(path, _is_newer, contents.latest_gids(), gids)
        except FileFault as fault:
            return StateReport(path, fault, holder)
        lineage, incarnation = (None, 1) if read.origin is None else (read.origin.lineage, read.origin.incarnation)
        forgotten = tuple(contents.forgotten)
        return StateReport(path, None, holder, contents.marks, forgotten, lineage, incarnation == 0, clean)

    @property
    def pending(self) -> PendingRequests:
        """As `RuntimeState.pending`: on disk, but not beyond the machine's own life."""
        return self._pending

    @property
    def keys(self) -> tuple[StateKey, ...]:
        """What there is state for."""
        return tuple(self._contents.marks)

    def sequence_numbers(self, group: str, gid: bytes, own_id: bytes) -> SequenceNumbers:
        """As `RuntimeState.sequence_numbers`. Numbers are reserved in blocks of `BLOCK`, durably; taking one
        raises `FileFault` if that fails and `MisuseError` once the state is closed."""
        with self._guard:
            key = self._known(StateKey(group, gid, own_id))
            numbers = self._numbers.get(key)
            if numbers is None:
                numbers = SequenceNumbers(self._contents.marks[key], self._reserve(key))
                self._numbers[key] = numbers
            return numbers

    def windows(self, group: str, gid: bytes, own_id: bytes | None) -> dict[bytes, StoredWindow]:
        """As `RuntimeState.windows`."""
        with self._guard:
            return dict(self._contents.windows[self._known(StateKey(group, gid, own_id))])

    def record_window(
        self, group: str, gid: bytes, own_id: bytes | None, sender_id: bytes, highest: int, bits: int
    ) -> None:
        """As `RuntimeState.record_window`."""
        _check_window(highest, bits)
        with self._guard:
            key = self._known(StateKey(group, gid, own_id))
            self._append(["window", *_key_json(key), sender_id.hex(), highest, bits])
            self._contents.windows[key][sender_id] = StoredWindow(highest, bits)
            self._compact_if_large()

    def claim(self, group: str, gid: bytes, own_id: bytes | None) -> None:
        """As `RuntimeState.claim`."""
        _claim(self._claimed, StateKey(group, gid, own_id))

    def release(self, group: str, gid: bytes, own_id: bytes | None) -> None:
        """As `RuntimeState.release`."""
        self._claimed.discard(StateKey(group, gid, own_id))

    def add_key(self, group: str, gid: bytes, own_id: bytes | None) -> None:
        """As `RuntimeState.add_key`."""
        key = StateKey(group, gid, own_id)
        with self._guard:
            if (group, gid) in self._contents.forgotten:
                raise StateLost(self._journal.path, _forgotten(group, gid))
            known = key in self._contents.marks
            if not known and any(is_older(gid, other) for other in self._contents.gids(group)):
                raise StateLost(self._journal.path, _superseded(group, gid))
            windows = self._contents.windows
            if not known or windows[key] != _all_windows(windows, key):
                self._append(["key", *_key_json(key)])  # in one record: without the windows a replay could pass
                self._contents.add(key)
                self._journal.remember_gids({group: gid.hex()})

    def knows(self, group: str) -> bool:
        """As `RuntimeState.knows`."""
        return bool(self._contents.gids(group))

    def forget(self, group: str, gid: bytes) -> None:
        """As `RuntimeState.forget`. Sequence numbers that were handed out before give no more."""
        with self._guard:
            self._append(["forget", group, gid.hex()])
            ended = []
            for key in [key for key in self._numbers if (key.group, key.gid) == (group, gid)]:
                ended.append((self._numbers.pop(key), self._contents.marks[key]))
            self._contents.forget(group, gid)
            self._compact_if_large()
        for numbers, end in ended:
            _drain(numbers, end)

    def close(self) -> None:
        """A clean stop: sequence numbers that were reserved but not used are given back, the lock is released.
        `FileFault` if that cannot be recorded, which is then no worse than an unclean stop."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
        unused = self._unused()  # without the guard, which a thread that is taking a number may wait for
        with self._guard:
            try:
                if not self._journal.failed:
                    self._journal.append(["stop", unused])
            finally:
                self._pending.close()
                self._journal.close()
                self._lock.release()

    def _orphan(self) -> None:
        """This is a child of the process whose state it is."""
        self._guard = RLock()
        self._closed = True
        for numbers in self._numbers.values():
            numbers.revoke()
        self._pending.close()
        self._journal.close()
        self._lock.release()

    def _unused(self) -> list[list[Any]]:
        """[group, gid, own_id, next] for every Sender Context that numbers were taken from."""
        marks = self._contents.marks
        return [[*_key_json(key), _drain(numbers, marks[key])] for key, numbers in self._numbers.items()]

    def _reserve(self, key: StateKey) -> Callable[[int], int]:
        def reserve(number: int) -> int:
            with self._guard:
                if self._closed or key not in self._contents.marks:
                    raise MisuseError("the run-time state is closed: no more sequence numbers")
                end = min(max(number, self._contents.marks[key]) + BLOCK, MAXIMUM + 1)
                self._append(["reserve", *_key_json(key), end])
                self._contents.marks[key] = end
                self._compact_if_large()
                return end

        return reserve

    def _known(self, key: StateKey) -> StateKey:
        if key not in self._contents.marks:
            raise StateLost(self._journal.path, _unknown(key))
        return key

    def _append(self, record: Record) -> None:
        if self._closed:
            raise MisuseError("the run-time state is closed")
        self._journal.append(record)

    def _compact_if_large(self) -> None:
        if self._journal.size - self._size > COMPACT_AT:
            self._journal.replace(self._contents.records())
            self._size = self._journal.size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _drain(numbers: SequenceNumbers, end: int) -> int:
    """Take all that is left of a reservation that ends at `end` and can no longer be extended. Returns the first
    number that nobody but this function has got: whoever still holds `numbers` gets no more out of it."""
    taken = set()
    while True:
        try:
            taken.add(numbers.take())
        except (MisuseError, SequenceNumbersExhausted):
            break
    while end - 1 in taken:  # another thread may have taken one in between: below it all count as used
        end -= 1
    return end


def _claim(claimed: set[StateKey], key: StateKey) -> None:
    if key in claimed:
        raise MisuseError(f"another endpoint uses the state of group {key.group!r} (Gid {key.gid.hex()}) already")
    claimed.add(key)


def _all_windows(windows: Mapping[StateKey, dict[bytes, StoredWindow]], key: StateKey) -> dict[bytes, StoredWindow]:
    """What was recorded of each sender under this Gid, whatever this endpoint's own Endpoint ID was: of two windows
    of one sender, which began as one, the later has all that the earlier has."""
    merged = dict(windows.get(key, {}))
    for other, recorded in windows.items():
        if (other.group, other.gid) == (key.group, key.gid):
            for sender_id, window in recorded.items():
                mine = merged.get(sender_id, window)
                later = max(mine, window, key=lambda one: one.highest)
                bits = mine.bits | window.bits if mine.highest == window.highest else later.bits
                merged[sender_id] = StoredWindow(later.highest, bits)
    return merged


def _check_window(highest: int, bits: int) -> None:
    """What would not be taken back on loading must not be written."""
    if not 0 <= highest <= MAXIMUM or not 0 <= bits < 1 << WIDTH:
        raise MisuseError("a replay window that is empty or out of range")


def _unknown(key: StateKey) -> str:
    own = "a pure listener" if key.own_id is None else f"Endpoint ID {key.own_id.hex()!r}"
    return (
        f"has nothing for group {key.group!r}, Gid {key.gid.hex()}, {own}: sequence numbers would repeat; "
        "renew the group with provision --renew"
    )


def _forgotten(group: str, gid: bytes) -> str:
    return f"has forgotten Gid {gid.hex()} of group {group!r}: sequence numbers would repeat; renew the group"


def _superseded(group: str, gid: bytes) -> str:
    return f"has seen a later Gid of group {group!r} than {gid.hex()}; give this device the group file of today"


def is_older(gid: bytes, known: bytes) -> bool:
    """Whether this Gid has the same Group Prefix as a known one (multicast-oscore-04 §8: at least 8 bytes) and a
    lower Group Epoch.

    Only then do two Gids say which was first. A new prefix says nothing: a Group Manager takes a random one that it
    has never used before its epoch wraps, or when it has been restored, and what comes with it are new keys. That a
    Gid of a former prefix does not come back is seen to by what is known of that prefix, or was forgotten, of which
    the latest stays (`_Contents._dispensable`)."""
    return len(gid) == len(known) and gid[:MIN_PREFIX] == known[:MIN_PREFIX] and gid < known


def _is_newer(gid: str, known: str) -> bool:
    return gid != known and not is_older(bytes.fromhex(gid), bytes.fromhex(known))


class MemoryState:
    """A `RuntimeState` that lasts as long as the object: for tests and benches. It knows every key from the
    start; nothing is durable, so it must never stand behind keys that are used twice."""

    __slots__ = ("_claimed", "_forgotten", "_numbers", "_windows", "pending")

    def __init__(self) -> None:
        self.pending = PendingRequests()
        self._claimed: set[StateKey] = set()
        self._numbers: dict[StateKey, SequenceNumbers] = {}
        self._windows: dict[StateKey, dict[bytes, StoredWindow]] = {}
        self._forgotten: set[tuple[str, bytes]] = set()

    def sequence_numbers(self, group: str, gid: bytes, own_id: bytes) -> SequenceNumbers:
        """As `RuntimeState.sequence_numbers`, from 0 on."""
        self._check(group, gid)
        return self._numbers.setdefault(StateKey(group, gid, own_id), SequenceNumbers())

    def windows(self, group: str, gid: bytes, own_id: bytes | None) -> dict[bytes, StoredWindow]:
        """As `RuntimeState.windows`."""
        self._check(group, gid)
        return dict(self._windows.get(StateKey(group, gid, own_id), {}))

    def record_window(
        self, group: str, gid: bytes, own_id: bytes | None, sender_id: bytes, highest: int, bits: int
    ) -> None:
        """As `RuntimeState.record_window`."""
        _check_window(highest, bits)
        self._check(group, gid)
        self._windows.setdefault(StateKey(group, gid, own_id), {})[sender_id] = StoredWindow(highest, bits)

    def claim(self, group: str, gid: bytes, own_id: bytes | None) -> None:
        """As `RuntimeState.claim`."""
        _claim(self._claimed, StateKey(group, gid, own_id))

    def release(self, group: str, gid: bytes, own_id: bytes | None) -> None:
        """As `RuntimeState.release`."""
        self._claimed.discard(StateKey(group, gid, own_id))

    def add_key(self, group: str, gid: bytes, own_id: bytes | None) -> None:
        """As `RuntimeState.add_key`."""
        self._check(group, gid)
        key = StateKey(group, gid, own_id)
        self._windows[key] = _all_windows(self._windows, key)

    def knows(self, group: str) -> bool:
        """As `RuntimeState.knows`: every group."""
        return True

    def forget(self, group: str, gid: bytes) -> None:
        """As `RuntimeState.forget`."""
        self._forgotten.add((group, gid))
        for key in [key for key in self._windows if (key.group, key.gid) == (group, gid)]:
            del self._windows[key]

    def close(self) -> None:
        """Nothing to be done."""

    def _check(self, group: str, gid: bytes) -> None:
        if (group, gid) in self._forgotten:
            raise StateLost("(memory)", _forgotten(group, gid))
