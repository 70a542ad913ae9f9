"""Run-time state: no sequence number twice and no window forgotten, whatever ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupcoap.core.sequence import MAXIMUM, SequenceNumbers
from groupcoap.errors import (
    FileFault,
    GroupcoapError,
    MisuseError,
    SequenceNumbersExhausted,
    StateCopied,
    StateLocked,
    StateLost,
)
from groupcoap.files import journal as journal_module
from groupcoap.files import state as state_module
from groupcoap.files.journal import create_journal
from groupcoap.files.state import BLOCK, EndpointState, MemoryState, RuntimeState, StateKey, StoredWindow

GID = bytes(range(12))
KEY = StateKey("room", GID, b"\x01")
PURE = StateKey("room", GID, None)
KEYED = ("room", GID, b"\x01")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.journal"
    EndpointState.create(path, [KEY])
    return path


def crash(state: EndpointState) -> None:
    """What the operating system does when the process dies: nothing is written any more, the lock goes."""
    state._orphan()


def write(path: Path, records: list[list[Any]]) -> None:
    """A file with these records, in place of any other."""
    create_journal(path, records, replace=True)


def taken(numbers: SequenceNumbers, count: int) -> list[int]:
    return [numbers.take() for _ in range(count)]


def test_a_new_state_starts_at_zero_with_no_windows(path: Path) -> None:
    with EndpointState.open(path) as state:
        assert taken(state.sequence_numbers(*KEYED), 3) == [0, 1, 2]
        assert state.windows(*KEYED) == {}
        assert state.keys == (KEY,)
        assert state.stopped_cleanly
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_clean_stop_wastes_no_number(path: Path) -> None:
    with EndpointState.open(path) as state:
        taken(state.sequence_numbers(*KEYED), 3)
    with EndpointState.open(path) as state:
        assert state.stopped_cleanly
        assert state.sequence_numbers(*KEYED).take() == 3


def test_after_an_unclean_stop_the_reserved_range_counts_as_used(path: Path) -> None:
    state = EndpointState.open(path)
    taken(state.sequence_numbers(*KEYED), 3)
    crash(state)
    with EndpointState.open(path) as state:
        assert not state.stopped_cleanly
        assert state.sequence_numbers(*KEYED).take() == BLOCK
    with EndpointState.open(path) as state:
        assert state.sequence_numbers(*KEYED).take() == BLOCK + 1


def test_a_crash_before_the_first_number_wastes_none(path: Path) -> None:
    for _ in range(3):
        state = EndpointState.open(path)
        state.sequence_numbers(*KEYED)
        crash(state)
    with EndpointState.open(path) as state:
        assert state.sequence_numbers(*KEYED).take() == 0


def test_the_reservation_is_durable_before_a_number_is_given_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EndpointState.open(path) as state:
        numbers = state.sequence_numbers(*KEYED)

        def fail(_descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(FileFault, match="cannot be written"):
                numbers.take()
        with pytest.raises(FileFault, match="earlier failure"):
            state.record_window(*KEYED, b"\x02", 1, 1)


def test_the_same_numbers_object_each_time(path: Path) -> None:
    with EndpointState.open(path) as state:
        assert state.sequence_numbers(*KEYED) is state.sequence_numbers(*KEYED)


def test_numbers_kept_beyond_the_end_give_nothing(path: Path) -> None:
    with EndpointState.open(path) as state:
        numbers = state.sequence_numbers(*KEYED)
        assert numbers.take() == 0
    for _ in range(2 * BLOCK):
        with pytest.raises(MisuseError):
            numbers.take()
    with EndpointState.open(path) as state:
        assert state.sequence_numbers(*KEYED).take() == 1


def test_closing_while_another_thread_takes_numbers(path: Path) -> None:
    state = EndpointState.open(path)
    numbers = state.sequence_numbers(*KEYED)
    got: list[int] = []
    started = threading.Event()

    def take_on() -> None:
        with suppress(MisuseError):
            while True:
                got.append(numbers.take())
                started.set()

    threads = [threading.Thread(target=take_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    state.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    with EndpointState.open(path) as state:
        assert state.sequence_numbers(*KEYED).take() > max(got)
    assert len(got) == len(set(got))


def test_numbers_run_out(path: Path) -> None:
    write(path, [["key", "room", GID.hex(), "01"], ["reserve", "room", GID.hex(), "01", MAXIMUM]])
    with EndpointState.open(path) as state:
        numbers = state.sequence_numbers(*KEYED)
        assert numbers.take() == MAXIMUM
        with pytest.raises(SequenceNumbersExhausted):
            numbers.take()
    with EndpointState.open(path) as state, pytest.raises(SequenceNumbersExhausted):
        state.sequence_numbers(*KEYED).take()


def test_windows_come_back_the_last_record_counts(path: Path) -> None:
    state = EndpointState.open(path)
    state.record_window(*KEYED, b"\x02", 5, 0b11)
    state.record_window(*KEYED, b"", 0, 1)
    state.record_window(*KEYED, b"\x02", 7, 0b1101)
    expected = {b"\x02": StoredWindow(7, 0b1101), b"": StoredWindow(0, 1)}
    assert state.windows(*KEYED) == expected
    crash(state)
    for _ in range(2):
        with EndpointState.open(path) as state:
            assert state.windows(*KEYED) == expected


def test_a_pure_listener_has_windows_only(tmp_path: Path) -> None:
    path = tmp_path / "state.journal"
    EndpointState.create(path, [PURE])
    with EndpointState.open(path) as state:
        state.record_window("room", GID, None, b"\x00", 3, 1)
        with pytest.raises(StateLost):
            state.sequence_numbers("room", GID, b"")
    with EndpointState.open(path) as state:
        assert state.windows("room", GID, None) == {b"\x00": StoredWindow(3, 1)}


@pytest.mark.parametrize(("highest", "bits"), [(-1, 0), (MAXIMUM + 1, 1), (0, 1 << 32), (0, -1)])
def test_a_window_that_could_not_be_loaded_is_not_recorded(path: Path, highest: int, bits: int) -> None:
    with EndpointState.open(path) as state, pytest.raises(MisuseError):
        state.record_window(*KEYED, b"\x02", highest, bits)
    EndpointState.open(path).close()


def test_what_the_state_does_not_know_is_lost(path: Path) -> None:
    with EndpointState.open(path) as state:
        with pytest.raises(StateLost, match=r"has nothing for group 'hall'.*provision --renew"):
            state.sequence_numbers("hall", GID, b"\x01")
        with pytest.raises(StateLost, match="Endpoint ID '02'"):
            state.windows("room", GID, b"\x02")
        with pytest.raises(StateLost, match="a pure listener"):
            state.record_window("room", GID, None, b"\x02", 1, 1)


def test_a_missing_file_is_lost_state_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StateLost, match="provision --renew"):
        EndpointState.open(tmp_path / "state.journal")
    assert os.listdir(tmp_path) == []


def test_an_existing_state_is_never_overwritten(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileFault, match="exists already"):
        EndpointState.create(path, [])
    assert path.read_bytes() == before


def test_a_new_epoch(path: Path) -> None:
    renewed = ("room", b"the next gid", b"\x01")
    with EndpointState.open(path) as state:
        taken(state.sequence_numbers(*KEYED), 2)
        state.add_key(*renewed)
        state.add_key(*renewed)
        assert state.sequence_numbers(*renewed).take() == 0
        state.add_key(*renewed)
    with EndpointState.open(path) as state:
        assert state.sequence_numbers(*renewed).take() == 1
        assert state.sequence_numbers(*KEYED).take() == 2


def test_forgetting_is_for_good(path: Path) -> None:
    state = EndpointState.open(path)
    numbers = state.sequence_numbers(*KEYED)
    numbers.take()
    state.record_window(*KEYED, b"\x02", 5, 1)
    state.forget("room", GID)
    with pytest.raises(MisuseError):
        numbers.take()
    crash(state)
    for _ in range(2):
        with EndpointState.open(path) as state:
            with pytest.raises(StateLost):
                state.windows(*KEYED)
            with pytest.raises(StateLost, match="has forgotten Gid"):
                state.add_key(*KEYED)


def test_what_was_forgotten_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MAX_FORGOTTEN", 3)
    with EndpointState.open(path) as state:
        for number in range(10):
            state.forget("room", bytes((number,)) * 12)
    with EndpointState.open(path) as state:
        assert list(state._contents.forgotten) == [("room", bytes((number,)) * 12) for number in (7, 8, 9)]


def test_the_journal_stays_small_while_running(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "COMPACT_AT", 2000)
    state = EndpointState.open(path)
    numbers = state.sequence_numbers(*KEYED)
    sizes = []
    for number in range(100):
        taken(numbers, BLOCK // 2)
        state.record_window(*KEYED, b"\x02", number, 1)
        sizes.append(path.stat().st_size)
    assert max(sizes) < 2800
    with pytest.raises(StateLocked):
        EndpointState.open(path)
    crash(state)
    with EndpointState.open(path) as state:
        assert state.windows(*KEYED) == {b"\x02": StoredWindow(99, 1)}
        assert state.sequence_numbers(*KEYED).take() == 50 * BLOCK


def test_only_one_may_hold_it(path: Path) -> None:
    with EndpointState.open(path), pytest.raises(StateLocked, match=str(path)):
        EndpointState.open(path)
    EndpointState.open(path).close()


def test_a_damaged_state_is_not_left_locked(path: Path) -> None:
    good = path.read_bytes()
    path.write_bytes(good.replace(b"room", b"r00m"))
    for _ in range(2):
        with pytest.raises(FileFault, match="line 3: is damaged"):
            EndpointState.open(path)
    path.write_bytes(good)
    EndpointState.open(path).close()


@pytest.mark.parametrize(
    "record",
    [
        ["unknown"],
        [["key"]],
        ["key", "room", "00"],
        ["key", 1, "00", "00"],
        ["key", "room", "0", "00"],
        ["key", "room", 0, "00"],
        ["reserve", "room", GID.hex(), "02", 1],
        ["reserve", "room", GID.hex(), None, 1],
        ["reserve", "room", GID.hex(), "01", -1],
        ["reserve", "room", GID.hex(), "01", MAXIMUM + 2],
        ["reserve", "room", GID.hex(), "01", True],
        ["window", "room", GID.hex(), "01", "02", -1, 0],
        ["window", "room", GID.hex(), "01", "02", 0],
        ["window", "hall", GID.hex(), "01", "02", 0, 0],
        ["forget", "room"],
        ["stop", 1],
        ["stop", [["room"]]],
        ["stop", [["hall", GID.hex(), "01", 1]]],
        ["stop", [["room", GID.hex(), None, 1]]],
    ],
)
def test_a_record_that_makes_no_sense_is_refused(path: Path, record: list[Any]) -> None:
    write(path, [["key", "room", GID.hex(), "01"], record])
    with pytest.raises(FileFault, match="line 4: is not a known record"):
        EndpointState.open(path)


def test_closing_twice_and_using_afterwards(path: Path) -> None:
    state = EndpointState.open(path)
    state.close()
    state.close()
    with pytest.raises(MisuseError, match="closed"):
        state.record_window(*KEYED, b"", 0, 1)
    with pytest.raises(MisuseError, match="closed"):
        state.add_key("x", GID, None)


def test_a_failed_journal_is_closed_quietly(path: Path) -> None:
    state = EndpointState.open(path)
    state._journal.failed = True
    state.close()
    EndpointState.open(path).close()


def torn_states() -> list[tuple[str, Callable[[EndpointState], object]]]:
    return [
        ("reserve", lambda state: taken(state.sequence_numbers(*KEYED), 1)),
        ("window", lambda state: state.record_window(*KEYED, b"\x02", 9, 3)),
        ("key", lambda state: state.add_key("room", b"the next gid", b"\x01")),
        ("forget", lambda state: state.forget("hall", GID)),
        ("stop", lambda state: state.close()),
    ]


def dies_writing(
    monkeypatch: pytest.MonkeyPatch, state: EndpointState, act: Callable[[], object], cut: int
) -> bool:
    """Do this and die when `cut` bytes of what it appends are in the file; False if there are not so many."""
    write = os.write
    complete = False

    def torn(descriptor: int, data: bytes) -> int:
        nonlocal complete
        complete = cut > len(data)
        write(descriptor, data[:cut])
        raise OSError("killed")

    with monkeypatch.context() as patch, suppress(FileFault):
        patch.setattr(os, "write", torn)
        act()
    crash(state)
    return not complete


@pytest.mark.parametrize(("kind", "act"), torn_states(), ids=[kind for kind, _ in torn_states()])
def test_killed_at_every_byte_of_an_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, act: Callable[[EndpointState], object]
) -> None:
    for cut in count():
        path = tmp_path / f"{cut}.journal"
        EndpointState.create(path, [KEY])
        state = EndpointState.open(path)
        highest = taken(state.sequence_numbers(*KEYED), BLOCK)[-1]
        state.record_window(*KEYED, b"\x02", 5, 1)
        if not dies_writing(monkeypatch, state, lambda state=state: act(state), cut):  # type: ignore[misc]
            break
        with EndpointState.open(path) as state:
            # what was being recorded had no effect yet, and may or may not count
            assert state.windows(*KEYED)[b"\x02"] in (StoredWindow(5, 1), StoredWindow(9, 3))
            assert state.sequence_numbers(*KEYED).take() in (highest + 1, 2 * BLOCK)
    assert cut > 20
    assert {"window": 40, "reserve": 30, "key": 30, "forget": 30, "stop": 20}[kind] < cut


def test_whatever_is_cut_off_what_was_durable_is_noticed(path: Path) -> None:
    state = EndpointState.open(path)
    taken(state.sequence_numbers(*KEYED), BLOCK)
    state.record_window(*KEYED, b"\x02", 5, 1)
    crash(state)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(FileFault):
            EndpointState.open(path)
    path.write_bytes(whole)
    EndpointState.open(path).close()


WORKER = """
import sys
from pathlib import Path
from groupcoap.files.state import EndpointState
with EndpointState.open(Path(sys.argv[1])) as state:
    numbers = state.sequence_numbers("room", bytes(range(12)), b"\\x01")
    while True:
        number = numbers.take()
        state.record_window("room", bytes(range(12)), b"\\x01", b"\\x02", number, 1)
        print(number, flush=True)
"""


@pytest.mark.processes
def test_kill_9_in_the_middle(path: Path) -> None:
    seen: list[int] = []
    for lines in (1, 40, 300, 7):
        with subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path)], stdout=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdout is not None
            for _ in range(lines):
                seen.append(int(worker.stdout.readline()))
            if lines == 40:
                with pytest.raises(StateLocked, match=f"process {worker.pid}"):
                    EndpointState.open(path)
            worker.kill()
            seen.extend(int(line) for line in worker.stdout if line.endswith("\n"))
            worker.wait()
        assert len(seen) == len(set(seen))
        with EndpointState.open(path) as state:
            assert not state.stopped_cleanly
            assert state.windows(*KEYED)[b"\x02"].highest >= seen[-1]
            assert state.sequence_numbers(*KEYED).take() > max(seen)
            seen.append(state.sequence_numbers(*KEYED).take())


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["take", "window", "crash", "stop"]), st.integers(0, 300)), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS)
def test_random_histories_never_repeat_a_number(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("state") / "state.journal"
    EndpointState.create(path, [KEY])
    state = EndpointState.open(path)
    last, windows = -1, {}
    for action, amount in actions:
        if action == "take":
            for number in taken(state.sequence_numbers(*KEYED), amount):
                assert number > last
                last = number
        elif action == "window":
            sender = bytes((amount % 3,))
            state.record_window(*KEYED, sender, amount, 1)
            windows[sender] = StoredWindow(amount, 1)
        else:
            if action == "crash":
                crash(state)
            else:
                state.close()
            state = EndpointState.open(path)
            assert state.stopped_cleanly == (action == "stop")
        assert state.windows(*KEYED) == windows
    state.close()


def test_memory_state_has_the_same_interface() -> None:
    state: RuntimeState = MemoryState()
    state.add_key(*KEYED)
    assert taken(state.sequence_numbers(*KEYED), 2) == [0, 1]
    assert state.sequence_numbers(*KEYED).take() == 2
    state.record_window(*KEYED, b"\x02", 5, 1)
    assert state.windows(*KEYED) == {b"\x02": StoredWindow(5, 1)}
    assert state.windows("room", GID, None) == {}
    state.forget("room", GID)
    for use in (lambda: state.windows(*KEYED), lambda: state.add_key(*KEYED)):
        with pytest.raises(GroupcoapError):
            use()
    with pytest.raises(MisuseError):
        state.record_window(*KEYED, b"\x02", -1, 0)
    state.close()


def test_the_durable_state_is_a_runtime_state(path: Path) -> None:
    state: RuntimeState = EndpointState.open(path)
    state.close()


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o666])
def test_a_state_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "state.journal"
    EndpointState.create(path, [StateKey("room", b"12345678", b"\x01")])
    path.chmod(mode)
    with pytest.raises(FileFault, match="chmod 600"):
        EndpointState.open(path)


def test_a_reservation_that_takes_numbers_back_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "state.journal"
    key = ["room", b"12345678".hex(), "01"]
    records: list[list[Any]] = [["key", *key], ["reserve", *key, 512], ["reserve", *key, 256]]
    write(path, records)
    with pytest.raises(FileFault, match="not a known record"):
        EndpointState.open(path)


@pytest.mark.parametrize("durable", [True, False])
def test_one_security_context_is_used_by_one_endpoint(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "state.journal"
    EndpointState.create(path, [StateKey("room", b"12345678", b"\x01")])
    with EndpointState.open(path) as opened:
        state: RuntimeState = opened if durable else MemoryState()
        state.claim("room", b"12345678", b"\x01")
        with pytest.raises(MisuseError, match="another endpoint"):
            state.claim("room", b"12345678", b"\x01")
        state.release("room", b"12345678", b"\x01")
        state.claim("room", b"12345678", b"\x01")


def test_looking_changes_nothing(path: Path) -> None:
    before = path.read_bytes()
    report = EndpointState.examine(path)
    assert (report.fault, report.holder, report.used, report.never_used, report.stopped_cleanly) == (
        None,
        None,
        {KEY: 0},
        True,
        True,
    )
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    with EndpointState.open(path) as state:
        state.sequence_numbers(*KEYED).take()
        report = EndpointState.examine(path)
        assert report.holder == f"process {os.getpid()}"
        assert report.used == {KEY: BLOCK}
        assert not report.never_used
    path.unlink()
    assert isinstance(EndpointState.examine(path).fault, StateLost)


def test_an_older_gid_of_the_same_prefix_is_refused(path: Path) -> None:
    prefix = GID[:8]
    with EndpointState.open(path) as state:
        state.add_key("room", prefix + b"\xff" * 4, b"\x01")
        for older in (prefix + b"\xff\xff\xff\xfe", prefix + bytes(4)):
            with pytest.raises(StateLost, match="has seen a later Gid"):
                state.add_key("room", older, b"\x01")
        state.add_key("hall", prefix + bytes(4), b"\x01")
        state.add_key("room", prefix + b"\x00", b"\x01")
        state.forget("hall", prefix + bytes(4))
        assert state.knows("hall")
        assert not state.knows("cellar")
        with pytest.raises(StateLost):
            state.add_key("hall", prefix + bytes(4), b"\x01")


def test_what_is_forgotten_from_the_start_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "state.journal"
    EndpointState.create(path, [], forgotten=[("room", GID)])
    with EndpointState.open(path) as state:
        with pytest.raises(StateLost, match="has forgotten"):
            state.add_key(*KEYED)
        state.add_key("room", GID[:8] + b"\xff" * 4, b"\x01")


def test_a_child_of_fork_has_no_state(path: Path) -> None:
    state = EndpointState.open(path)
    numbers = state.sequence_numbers(*KEYED)
    assert numbers.take() == 0
    child = os.fork()
    if child == 0:
        failures = 0
        for use in (numbers.take, lambda: state.record_window(*KEYED, b"\x02", 5, 1)):
            try:
                use()
            except MisuseError:
                failures += 1
        state.close()
        os._exit(failures)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert numbers.take() == 1
    state.record_window(*KEYED, b"\x02", 5, 1)
    with pytest.raises(StateLocked):
        EndpointState.open(path)
    state.close()
    with EndpointState.open(path) as state:
        assert state.stopped_cleanly
        assert state.sequence_numbers(*KEYED).take() == 2


def test_a_lock_file_that_was_removed_lets_nobody_use_a_number_of_another(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EndpointState.open(path)
    numbers = first.sequence_numbers(*KEYED)
    mine = {numbers.take() for _ in range(state_module.BLOCK)}
    os.unlink(f"{path}.lock")
    replace = journal_module.Journal.replace

    def meanwhile(journal: journal_module.Journal, records: Any) -> None:
        # The other one has read the journal: what is added to it now, it does not know.
        with pytest.raises(FileFault, match="its lock file was removed"):
            numbers.take()
        replace(journal, records)

    monkeypatch.setattr(journal_module.Journal, "replace", meanwhile)
    with EndpointState.open(path) as second:
        assert second.sequence_numbers(*KEYED).take() not in mine
    with pytest.raises(FileFault):
        numbers.take()


def test_a_child_of_fork_does_not_keep_the_state_locked(path: Path) -> None:
    state = EndpointState.open(path)
    go_on, end = os.pipe()
    running, runs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.write(runs, b"x")
        os.read(go_on, 1)
        os._exit(0)
    try:
        os.read(running, 1)
        state.close()
        EndpointState.open(path).close()
    finally:
        for descriptor in (end, go_on, running, runs):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_a_gid_that_was_used_here_under_another_state_is_refused(path: Path) -> None:
    """A directory that was carried twice, the second time with a state made for the Gid that is in use by then."""
    later = GID[:8] + b"\xff\xff\xff\x00"
    with EndpointState.open(path) as state:
        state.add_key("room", later, b"\x01")
    for gid in (GID, later):
        EndpointState.create(path, [StateKey("room", gid, b"\x01")], replace=True)
        assert isinstance(EndpointState.examine(path).fault, StateCopied)
        with pytest.raises(StateCopied, match="was used here before"):
            EndpointState.open(path)
    for gid in (GID[:8] + b"\xff\xff\xff\x01", b"another prefix"):
        EndpointState.create(path, [StateKey("room", gid, b"\x01")], replace=True)
        EndpointState.open(path).close()


def test_a_kill_before_the_gids_are_remembered_does_no_harm(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("remember_gids", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"groupcoap.files.state.Journal.{name}", killed)
            with pytest.raises(KeyboardInterrupt):
                EndpointState.open(path)
    EndpointState.open(path).close()


# ---- another own Endpoint ID, another Group Prefix

NEW_ID = b"\x5e"


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "killed"])
def test_another_own_endpoint_id_begins_with_the_windows_and_with_numbers_from_zero(
    path: Path, stopped: bool
) -> None:
    state = EndpointState.open(path)
    assert taken(state.sequence_numbers(*KEYED), 3) == [0, 1, 2]
    state.record_window(*KEYED, b"\x02", 5, 1)
    state.record_window(*KEYED, b"\x03", 7, 3)
    state.add_key("room", GID, NEW_ID)
    assert state.windows("room", GID, NEW_ID) == state.windows(*KEYED)
    state.record_window("room", GID, NEW_ID, b"\x02", 6, 3)
    assert state.sequence_numbers("room", GID, NEW_ID).take() == 0
    if stopped:
        state.close()
    else:
        crash(state)
    for _ in range(2):
        with EndpointState.open(path) as state:
            state.add_key("room", GID, NEW_ID)  # as at every start
            assert state.windows("room", GID, NEW_ID) == {b"\x02": StoredWindow(6, 3), b"\x03": StoredWindow(7, 3)}
            assert state.windows(*KEYED)[b"\x02"] == StoredWindow(5, 1)
    with EndpointState.open(path) as state:
        assert state.sequence_numbers("room", GID, NEW_ID).take() == (1 if stopped else BLOCK)
        assert state.sequence_numbers(*KEYED).take() == (3 if stopped else BLOCK)


def test_a_former_own_endpoint_id_that_comes_back_misses_nothing(path: Path) -> None:
    with EndpointState.open(path) as state:
        assert taken(state.sequence_numbers(*KEYED), 2) == [0, 1]
        state.record_window(*KEYED, b"\x02", 5, 0b001)
        state.add_key("room", GID, NEW_ID)
        state.record_window("room", GID, NEW_ID, b"\x02", 5, 0b101)
        state.record_window("room", GID, NEW_ID, b"\x03", 1, 1)
        state.add_key(*KEYED)
        merged = {b"\x02": StoredWindow(5, 0b101), b"\x03": StoredWindow(1, 1)}
        assert state.windows(*KEYED) == merged
        assert state.sequence_numbers(*KEYED).take() == 2
        size = path.stat().st_size
        state.add_key(*KEYED)
        assert path.stat().st_size == size  # nothing new, nothing written
    with EndpointState.open(path) as state:
        assert state.windows(*KEYED) == merged


def test_windows_of_another_gid_or_group_are_not_taken(path: Path) -> None:
    later = GID[:8] + b"\xff" * 4
    with EndpointState.open(path) as state:
        state.record_window(*KEYED, b"\x02", 5, 1)
        for group, gid in (("room", later), ("hall", GID)):
            state.add_key(group, gid, NEW_ID)
            assert state.windows(group, gid, NEW_ID) == {}


def test_under_another_own_endpoint_id_too_what_was_forgotten_or_is_older_is_refused(path: Path) -> None:
    later = GID[:8] + b"\xff" * 4
    with EndpointState.open(path) as state:
        state.add_key("room", later, b"\x01")
        between = GID[:8] + b"\xff\xff\xff\xfe"
        with pytest.raises(StateLost, match="has seen a later Gid"):
            state.add_key("room", between, NEW_ID)
        state.forget("room", later)
        with pytest.raises(StateLost, match="has forgotten"):
            state.add_key("room", later, NEW_ID)


def test_a_new_group_prefix_is_taken_and_the_former_one_stays_closed(path: Path) -> None:
    other = b"\x00" * 8  # lower than the former as a number
    with EndpointState.open(path) as state:
        state.add_key("room", GID[:8] + b"\xff" * 4, b"\x01")
        state.add_key("room", other + bytes(4), b"\x01")
        for gid in (GID, GID[:8] + b"\xff" * 4):
            state.forget("room", gid)
    with EndpointState.open(path) as state:
        for gid in (GID, GID[:8] + b"\x20" + bytes(3)):
            with pytest.raises(StateLost):
                state.add_key("room", gid, b"\x01")
        state.add_key("room", other + b"\0\0\0\1", b"\x01")


def test_the_latest_gid_of_a_former_prefix_is_not_forgotten_to_be_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "MAX_FORGOTTEN", 3)
    former = GID[:8] + b"\xf0" + bytes(3)
    with EndpointState.open(path) as state:
        state.add_key("room", former, b"\x01")
        for gid in (GID, former):
            state.forget("room", gid)
        for number in range(6):
            gid = b"another!" + bytes((0, 0, 0, number))
            state.add_key("room", gid, b"\x01")
            state.forget("room", gid)
    with EndpointState.open(path) as state:
        for gid in (former, GID, b"another!" + bytes(4)):
            with pytest.raises(StateLost):
                state.add_key("room", gid, b"\x01")


@pytest.mark.parametrize("durable", [True, False])
def test_memory_and_journal_agree_on_another_own_endpoint_id(path: Path, durable: bool) -> None:
    state: EndpointState | MemoryState = EndpointState.open(path) if durable else MemoryState()
    state.record_window(*KEYED, b"\x02", 5, 1)
    state.add_key("room", GID, NEW_ID)
    assert state.windows("room", GID, NEW_ID) == {b"\x02": StoredWindow(5, 1)}
    assert state.sequence_numbers("room", GID, NEW_ID).take() == 0
    state.close()
