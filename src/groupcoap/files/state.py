"""Run-time state that must survive: sequence numbers and replay windows, by (group, Gid, own Endpoint ID).

Records of the journal, oldest first, later ones overriding earlier ones:

    ["key", group, gid, own_id]                            there is state for this Security Context
    ["reserve", group, gid, own_id, end]                   numbers below `end` count as used
    ["window", group, gid, own_id, sender_id, highest, bits]
    ["forget", group, gid]                                 none of this is needed, or trusted, any more
    ["stop", [[group, gid, own_id, next], …]]              clean stop: numbers from `next` on are unused

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

from ..core.sequence import MAXIMUM, SequenceNumbers
from ..core.window import WIDTH
from ..errors import FileFault, MisuseError, SequenceNumbersExhausted, StateLost
from .atomic import write_atomically
from .journal import Journal, Lock, Record, encode_journal, read_journal

BLOCK: Final = 256
"""Sequence numbers reserved at once: so many are lost at most by an unclean stop."""

COMPACT_AT: Final = 1 << 20
"""Bytes that the journal may grow by until it is compacted."""

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
        """Begin state for a new Security Context; nothing happens if there is such state. `StateLost` if this Gid
        was forgotten: its sequence numbers would start again."""

    def forget(self, group: str, gid: bytes) -> None:
        """Drop everything about this Gid, for good."""

    def close(self) -> None:
        """A clean stop: no sequence numbers are given out any more."""


@dataclass(slots=True)
class _Contents:
    """What the records say so far. `marks`: the first number that is not known to be used."""

    marks: dict[StateKey, int] = field(default_factory=dict)
    windows: dict[StateKey, dict[bytes, StoredWindow]] = field(default_factory=dict)
    forgotten: dict[tuple[str, bytes], None] = field(default_factory=dict)

    def add(self, key: StateKey) -> None:
        self.marks.setdefault(key, 0)
        self.windows.setdefault(key, {})

    def forget(self, group: str, gid: bytes) -> None:
        for key in [key for key in self.marks if (key.group, key.gid) == (group, gid)]:
            del self.marks[key], self.windows[key]
        self.forgotten[group, gid] = None
        if len(self.forgotten) > MAX_FORGOTTEN:
            del self.forgotten[next(iter(self.forgotten))]

    def records(self) -> Iterable[Record]:
        """As few records as say the same."""
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


def _apply_reserve(contents: _Contents, group: Any, gid: Any, own_id: Any, end: Any) -> None:
    key = _key(group, gid, own_id)
    if key.own_id is None or key not in contents.marks:
        raise ValueError("a reservation without a key")
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
        contents.marks[_key(*key)] = _number(unused, MAXIMUM + 1)


_APPLY: Mapping[str, Callable[..., None]] = {
    "key": _apply_key,
    "reserve": _apply_reserve,
    "window": _apply_window,
    "forget": _apply_forget,
    "stop": _apply_stop,
}


def _load(path: Path) -> tuple[_Contents, bool]:
    """(what the file says, whether its last record is a clean stop)"""
    contents = _Contents()
    kind = None
    for line, record in read_journal(path):
        kind, *values = record
        try:
            _APPLY[kind](contents, *values)
        except (KeyError, TypeError, ValueError):
            raise FileFault(path, f"line {line}: is not a known record; provision this device again") from None
    return contents, kind == "stop"


class EndpointState:
    """The run-time state of one device, in a journal that this process alone holds.

    Made by `open`. Every record is durable when the method that makes it returns. Methods may be called from any
    thread. `stopped_cleanly`: whether the process before this one closed it."""

    __slots__ = (
        "_claimed",
        "_closed",
        "_contents",
        "_guard",
        "_journal",
        "_lock",
        "_numbers",
        "_size",
        "stopped_cleanly",
    )

    def __init__(self, contents: _Contents, journal: Journal, lock: Lock, stopped_cleanly: bool) -> None:
        self.stopped_cleanly = stopped_cleanly
        self._contents = contents
        self._journal = journal
        self._lock = lock
        self._size = journal.size
        self._guard = RLock()
        self._closed = False
        self._claimed: set[StateKey] = set()
        self._numbers: dict[StateKey, SequenceNumbers] = {}

    @staticmethod
    def create(path: Path, keys: Iterable[StateKey]) -> None:
        """Write the state of a device that has never run: nothing sent, nothing seen, under these keys.
        `FileFault` if there is a file, which is never overwritten, or none can be written."""
        contents = _Contents()
        for key in keys:
            contents.add(key)
        write_atomically(path, encode_journal([*contents.records(), ["stop", []]]), replace=False)

    @classmethod
    def open(cls, path: Path) -> EndpointState:
        """Lock the state, read it and compact it.

        `StateLost` if the file is missing, `StateLocked` if it is in use, `FileFault` if it is damaged or cannot
        be written."""
        if not os.path.exists(path):
            read_journal(path)  # says what is wrong, and leaves no lock file behind
        lock = Lock(path)
        try:
            contents, clean = _load(path)
            journal = Journal(path)
            journal.replace(contents.records())
        except BaseException:
            lock.release()
            raise
        return cls(contents, journal, lock, clean)

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
            if key not in self._contents.marks:
                self._append(["key", *_key_json(key)])
                self._contents.add(key)

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


def _check_window(highest: int, bits: int) -> None:
    """What would not be taken back on loading must not be written."""
    if not 0 <= highest <= MAXIMUM or not 0 <= bits < 1 << WIDTH:
        raise MisuseError("a replay window that is empty or out of range")


def _unknown(key: StateKey) -> str:
    own = "a pure listener" if key.own_id is None else f"Endpoint ID {key.own_id.hex()!r}"
    return (
        f"has nothing for group {key.group!r}, Gid {key.gid.hex()}, {own}: sequence numbers would repeat; "
        "provision this device again"
    )


def _forgotten(group: str, gid: bytes) -> str:
    return f"has forgotten Gid {gid.hex()} of group {group!r}: sequence numbers would repeat; renew the group"


class MemoryState:
    """A `RuntimeState` that lasts as long as the object: for tests and benches. It knows every key from the
    start; nothing is durable, so it must never stand behind keys that are used twice."""

    __slots__ = ("_claimed", "_forgotten", "_numbers", "_windows")

    def __init__(self) -> None:
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
