"""Run-time state (files/state.py, files/journal.py, files/pending.py)."""

from __future__ import annotations

import json
from math import inf, isfinite

from groupcoap.errors import FileFault, SequenceNumbersExhausted
from groupcoap.files.binding import Binding
from groupcoap.files.journal import LOCK_SUFFIX, Origin, Record, encode_journal, encode_record
from groupcoap.files.pending import BOOT_ID_FILE
from groupcoap.files.state import PENDING_SUFFIX, EndpointState, StateKey, StoredWindow

from ..choices import Choices
from ..documents import choose_changes, directory, written
from ..group import LAMP, NAME, SWITCH, gid

_PATH = directory("state") / "state.journal"
_LOCK = _PATH.with_name(_PATH.name + LOCK_SUFFIX)
_PENDING = _PATH.with_name(_PATH.name + PENDING_SUFFIX)
_RUN = "7a" * 16
_LINEAGE = "5f" * 16
_KEY = [NAME, gid().hex(), LAMP.hex()]
_WINDOW = StoredWindow(7, 255)
_RECORDS: tuple[Record, ...] = (
    ["key", *_KEY],
    ["reserve", *_KEY, 256],
    ["window", *_KEY, SWITCH.hex(), 7, 255],
    ["key", NAME, gid(1).hex(), None],
    ["window", NAME, gid(1).hex(), None, SWITCH.hex(), 1 << 33, 1],
    ["forget", NAME, gid(1).hex()],
    ["stop", [[*_KEY, 3]]],
    ["stop", []],
    ["run", _RUN],
)
_REQUESTS: tuple[Record, ...] = (
    ["sent", "70", *_KEY, "07", 1.5, 1e12, ["02", "80"]],
    ["answered", "70", "02"],
    ["ended", "70"],
)


def check(data: bytes) -> None:
    """`FileFault`, which looking at it without using it says as well; or state in which nothing goes back: numbers
    go on upwards and windows stay, after a clean stop and without one."""
    choices = Choices(data)
    for path in (_PATH, _LOCK):
        path.unlink(missing_ok=True)
    if choices.below(4) == 3:
        written(_LOCK, _choose_lock(choices))
    written(_PENDING, _choose_pending(choices) if choices.flag() else b"")
    written(_PATH, choices.rest() if choices.below(8) == 7 else _choose_journal(choices))
    report = EndpointState.examine(_PATH)
    try:
        state = EndpointState.open(_PATH)
    except FileFault:
        assert report.fault is not None
        return
    assert report.fault is None
    assert set(report.used) == set(state.keys)
    for request in state.pending.left_over.values():
        assert isinstance(request.group, str)
        assert isfinite(request.sent)
        assert isfinite(request.deadline)
    for clean in (choices.flag(), True):
        taken = {key: _use(state, key) for key in state.keys}
        _stop(state, clean)
        state = EndpointState.open(_PATH)
        assert state.stopped_cleanly == clean
        for key, number in taken.items():
            assert state.windows(key.group, key.gid, key.own_id)[SWITCH] == _WINDOW
            number_now = _take(state, key)
            assert number_now > number or number_now == inf
    state.close()


def _choose_journal(choices: Choices) -> bytes:
    """A file of chosen records that says rightly which file it is; sometimes cut short, or one byte changed."""
    records = _choose_records(choices, _RECORDS)
    written(_PATH, b"")
    with _PATH.open("rb") as file:
        origin = Origin(_LINEAGE, choices.below(2), Binding.of(file.fileno()))
    content = encode_journal(origin, records)
    how, at = choices.below(8), choices.number(2) % len(content)
    if how == 6:
        return content[:at]
    if how == 7:
        return content[:at] + bytes((choices.byte(),)) + content[at + 1 :]
    return content


def _choose_lock(choices: Choices) -> bytes:
    """What a process before has left beside the state: who it was, what it has seen last, and Gids."""
    if choices.below(4) == 3:
        return choices.some()
    lineage, incarnation, size = choices.one_of((_LINEAGE, "00" * 16)), choices.below(3), choices.number(2)
    gids = choose_changes(choices, {NAME: gid(choices.below(3)).hex()})
    return b"%-10d\n%b %012d %012d\n%b" % (1, lineage.encode(), incarnation, size, json.dumps(gids).encode())


def _choose_pending(choices: Choices) -> bytes:
    """Requests of the run before, in this boot; sometimes with one byte changed."""
    head = ["of", BOOT_ID_FILE.read_text("ascii").strip(), _RUN]
    content = b"".join(map(encode_record, [head, *_choose_records(choices, _REQUESTS)]))
    if choices.below(4) == 3:
        at = choices.number(2) % len(content)
        return content[:at] + bytes((choices.byte(),)) + content[at + 1 :]
    return content


def _choose_records(choices: Choices, good: tuple[Record, ...]) -> list[Record]:
    records = [choose_changes(choices, choices.one_of(good)) for _ in range(choices.below(8))]
    return [record for record in records if isinstance(record, list)]


def _use(state: EndpointState, key: StateKey) -> float:
    """Record a window, and take a sequence number."""
    state.record_window(key.group, key.gid, key.own_id, SWITCH, _WINDOW.highest, _WINDOW.bits)
    return _take(state, key)


def _take(state: EndpointState, key: StateKey) -> float:
    """The next number; infinity where there is none, or none any more."""
    if key.own_id is None:
        return inf
    try:
        return state.sequence_numbers(key.group, key.gid, key.own_id).take()
    except SequenceNumbersExhausted:
        return inf


def _stop(state: EndpointState, clean: bool) -> None:
    """Close it, or let go of it with nothing written, as of a process that is killed."""
    if clean:
        state.close()
    else:
        state._orphan()
