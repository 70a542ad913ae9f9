"""Requests that wait for answers: they outlive their process, and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from groupcoap.files import pending as pending_module
from groupcoap.files.journal import encode_record
from groupcoap.files.pending import PendingRequest, PendingRequests
from groupcoap.files.state import EndpointState, StateKey

GID = bytes(range(12))
KEY = StateKey("room", GID, b"\x01")
NOW = time.monotonic()


def request(number: int = 1) -> PendingRequest:
    return PendingRequest(
        bytes((number,)), "room", GID, b"\x01", b"\x05", NOW, NOW + 1e6, frozenset((b"\x02", b"\x03", b""))
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.pending"


def next_run(path: Path, before: str = "one", run: str = "two") -> dict[bytes, PendingRequest]:
    found = PendingRequests(path, run, before)
    found.close()
    return found.left_over


def test_what_was_sent_and_answered_is_there_for_the_next_process(path: Path) -> None:
    first = PendingRequests(path, "one", "")
    first.sent(request(1))
    first.sent(request(2))
    first.answered(b"\x01", b"\x02")
    first.answered(b"\x09", b"\x02")
    first.ended(b"\x02")
    first.ended(b"\x09")
    expected = request(1)
    expected.answered.add(b"\x02")
    assert next_run(path) == {b"\x01": expected}  # as the process left it, without a word of farewell
    assert next_run(path, "two", "three") == {b"\x01": expected}
    assert path.stat().st_mode & 0o777 == 0o600


def test_of_another_run_or_boot_nothing_counts(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> None:
        first = PendingRequests(path, "one", "")
        first.sent(request())
        first.close()

    written()
    assert next_run(path, "another") == {}
    written()
    assert next_run(path, "") == {}
    written()
    (tmp_path / "boot").write_text("another boot\n")
    with monkeypatch.context() as patch:
        patch.setattr(pending_module, "BOOT_ID_FILE", tmp_path / "boot")
        assert next_run(path) == {}
        patch.setattr(pending_module, "BOOT_ID_FILE", tmp_path / "missing")
        written()
        assert next_run(path) == {}  # a boot that cannot be told from another is never the same


def test_taken_over_and_ended(path: Path) -> None:
    first = PendingRequests(path, "one", "")
    first.sent(request())
    second = PendingRequests(path, "two", "one")
    second.ended(b"\x01")
    assert second.left_over == {}
    assert next_run(path, "two", "three") == {}


def test_cut_off_at_any_byte_it_is_read_as_far_as_it_is_whole(path: Path) -> None:
    first = PendingRequests(path, "one", "")
    for number in range(3):
        first.sent(request(number))
        first.answered(bytes((number,)), b"\x02")
    first.ended(b"\x00")
    first.close()
    whole = path.read_bytes()
    seen = set()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        seen.add(tuple(sorted(next_run(path))))
    assert seen == {(), (b"\0",), (b"\0", b"\1"), (b"\0", b"\1", b"\2"), (b"\1", b"\2")}


@pytest.mark.parametrize(
    "record",
    [
        ["sent"],
        ["sent", "01"],
        ["sent", "01", "room", "00", "01", "05", "x", 1.0, []],
        ["sent", "0", "room", "00", "01", "05", 1.0, 2.0, []],
        ["sent", 1, "room", "00", "01", "05", 1.0, 2.0, []],
        ["sent", "01", "room", "00", "01", "05", 1.0, 2.0, 7],
        ["sent", "02", "room", "00", "01", "05", 2.0, 2.0, []],
        ["sent", "02", "room", "00", "01", "05", 1.0, float("nan"), []],
        ["sent", "02", "room", "00", "01", "05", 1.0, float("inf"), []],
        ["sent", "02", "room", "00", "01", "05", 1.0, 10**400, []],
        ["sent", "02", 7, "00", "01", "05", 1.0, 2.0, []],
        ["answered", "09", "02"],
        ["answered", "01"],
        ["ended", "09"],
        ["unknown", "01"],
        [7],
    ],
)
def test_what_makes_no_sense_ends_the_reading(path: Path, record: list[object]) -> None:
    first = PendingRequests(path, "one", "")
    first.sent(request(1))
    first.close()
    with path.open("ab") as file:
        file.write(encode_record(record) + encode_record(["ended", "01"]))
    assert list(next_run(path)) == [b"\x01"]


def test_the_file_stays_small(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_module, "COMPACT_AT", 3000)
    first = PendingRequests(path, "one", "")
    first.sent(request(200))
    first.answered(b"\xc8", b"\x02")
    sizes = []
    for number in range(100):
        first.sent(request(number))
        first.ended(bytes((number,)))
        sizes.append(path.stat().st_size)
    assert max(sizes) < 3300
    assert min(sizes[30:]) < 1000
    assert next_run(path)[b"\xc8"].answered == {b"\x02"}


def test_what_nobody_takes_over_is_not_handed_on_for_ever(path: Path) -> None:
    old = request(1)
    old.deadline = time.monotonic() - pending_module.LEFT_OVER_FOR - 1
    old.sent = old.deadline - 7
    first = PendingRequests(path, "one", "")
    first.sent(old)
    first.sent(request(2))
    assert list(next_run(path)) == [b"\x02"]
    assert list(next_run(path, "two", "three")) == [b"\x02"]


def test_much_that_is_pending_is_not_written_anew_each_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_module, "COMPACT_AT", 500)
    replaced: list[Path] = []
    replace = os.replace

    def counted(source: Path, target: Path) -> None:
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", counted)
    first = PendingRequests(path, "one", "")
    for number in range(100):
        first.sent(request(number))
    assert path.stat().st_size > 10_000
    assert len(replaced) < 30


@pytest.mark.parametrize("written", [0, 5])
def test_an_answer_that_cannot_be_written_does_not_leave_its_request_over(
    path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    first = PendingRequests(path, "one", "")
    first.sent(request(1))
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:written]))
    first.answered(b"\x01", b"\x02")
    monkeypatch.undo()
    assert next_run(path) == {}
    assert os.listdir(path.parent) == []


def test_what_cannot_be_written_is_not_remembered_and_said_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = PendingRequests(path, "one", "")

    def fail(_descriptor: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        first.sent(request(1))
    first.sent(request(2))
    first.answered(b"\x02", b"\x02")
    assert caplog.text.count("requests are not remembered any more (No space left on device)") == 1
    assert next_run(path) == {}
    blocked = PendingRequests(path.parent / "none" / "state.pending", "one", "")
    blocked.sent(request(1))
    assert "No such file" in caplog.text


def test_in_memory_alone_nothing_is_left_over() -> None:
    memory = PendingRequests()
    memory.sent(request())
    memory.answered(b"\x01", b"\x02")
    memory.ended(b"\x01")
    assert memory.left_over == {}


def test_beside_the_state(tmp_path: Path) -> None:
    path = tmp_path / "state.journal"
    EndpointState.create(path, [KEY])
    state = EndpointState.open(path)
    state.pending.sent(request())
    state._orphan()  # dies
    state = EndpointState.open(path)
    assert list(state.pending.left_over) == [b"\x01"]
    state.close()
    with EndpointState.open(path) as state:
        assert list(state.pending.left_over) == [b"\x01"]
        state.pending.ended(b"\x01")
    before = path.with_name("state.journal.pending").read_bytes()
    with EndpointState.open(path) as state:
        state.pending.sent(request())
    path.with_name("state.journal.pending").write_bytes(before)  # of an earlier run
    with EndpointState.open(path) as state:
        assert state.pending.left_over == {}
