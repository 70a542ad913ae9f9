"""The journal's mechanics: torn and damaged lines, versions, the lock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groupcoap.errors import FileFault, StateLocked, StateLost
from groupcoap.files import journal
from groupcoap.files.documents import MAX_SIZE
from groupcoap.files.journal import Journal, Lock, Record, Records, encode_journal, encode_record, read_journal

RECORDS: list[Record] = [["a", 1], ["b", "ü"], ["c", None, [1, 2]]]


@pytest.fixture(autouse=True)
def _private_files() -> Iterator[None]:
    """What these tests write is open to nobody else, as state files must be."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_round_trip(tmp_path: Path) -> None:
    assert read_journal(put(tmp_path / "j", encode_journal(RECORDS))) == list(enumerate(RECORDS, start=2))


def test_appending(tmp_path: Path) -> None:
    path = tmp_path / "j"
    written = Journal(path)
    written.replace(RECORDS[:1])
    for record in RECORDS[1:]:
        written.append(record)
    written.close()
    assert path.read_bytes() == encode_journal(RECORDS)
    assert written.size == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_last_record_torn_at_any_byte_is_dropped(tmp_path: Path) -> None:
    whole = encode_journal(RECORDS)
    last = len(encode_record(RECORDS[-1]))
    for cut in range(len(whole) - last, len(whole) - 1):
        assert [record for _, record in read_journal(put(tmp_path / "j", whole[:cut]))] == RECORDS[:-1]
    # cut in front of the newline: nobody acted on it, but it says more than its absence would
    assert [record for _, record in read_journal(put(tmp_path / "j", whole[:-1]))] == RECORDS


def test_a_last_record_of_zeros_is_dropped(tmp_path: Path) -> None:
    data = encode_journal(RECORDS[:1]) + bytes(64)
    assert [record for _, record in read_journal(put(tmp_path / "j", data))] == RECORDS[:1]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(encode_journal(RECORDS))
    head = whole.index(b"\n") + 1
    for at in range(len(whole)):
        for bit in range(8):
            whole[at] ^= 1 << bit
            path = put(tmp_path / "j", bytes(whole))
            whole[at] ^= 1 << bit
            if at == len(whole) - 1:
                continue  # the last newline: as if torn
            with pytest.raises(FileFault) as caught:
                read_journal(path)
            if at >= head:
                line = bytes(whole[: at + 1]).count(b"\n", 0, at) + 1
                assert caught.value.problem.startswith(f"line {line}: is damaged")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "line 1: is damaged"),
        (b'{"format": "groupcoap-state", "version": 1}', "line 1: is damaged"),
        (b"\n", "line 1: is not the head"),
        (b"[]\n", "line 1: is not the head"),
        (b'{"format": "groupcoap-group", "version": 1}\n', "line 1: is not the head"),
        (b'{"format": "groupcoap-state", "version": 0}\n', "line 1: is not the head"),
        (b'{"format": "groupcoap-state", "version": 2}\nanything', "upgrade groupcoap"),
        (encode_journal([]) + b"\n", "line 2: is damaged"),
        (encode_journal([]) + b"00000000 \n", "line 2: is damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    with pytest.raises(FileFault) as caught:
        read_journal(put(tmp_path / "j", data))
    assert problem in caught.value.problem


def test_missing_is_lost_and_other_trouble_is_not(tmp_path: Path) -> None:
    with pytest.raises(StateLost, match="sequence numbers would repeat; provision this device again"):
        read_journal(tmp_path / "j")
    with pytest.raises(FileFault, match="cannot be read"):
        read_journal(tmp_path)
    with pytest.raises(FileFault, match="larger than"):
        read_journal(put(tmp_path / "large", bytes(MAX_SIZE + 1)))


def test_an_older_version_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(records: Records) -> Records:
        return [(line, ["new", *record[1:]]) for line, record in records]

    path = put(tmp_path / "j", encode_journal([["old", 1]]))
    monkeypatch.setattr(journal, "VERSION", 2)
    monkeypatch.setattr(journal, "MIGRATIONS", {1: rename})
    assert read_journal(path) == [(2, ["new", 1])]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=60))
def test_any_bytes_give_a_file_fault_or_records(tmp_path: Path, tail: bytes) -> None:
    for data in (tail, encode_journal(RECORDS) + tail):
        with suppress(FileFault):
            assert [record for _, record in read_journal(put(tmp_path / "j", data))] == RECORDS


def test_nothing_is_appended_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Journal(tmp_path / "j")
    written.replace(RECORDS[:1])

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(FileFault, match="Input/output error"):
            written.append(["x"])
    with pytest.raises(FileFault, match="earlier failure"):
        written.append(["y"])
    written.close()


def test_half_a_write_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Journal(tmp_path / "j")
    written.replace(RECORDS[:1])
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
        with pytest.raises(FileFault, match="no space left"):
            written.append(["x"])
    written.close()
    assert [record for _, record in read_journal(tmp_path / "j")] == RECORDS[:1]


def test_a_replacement_that_fails_is_the_last_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Journal(tmp_path / "j")
    written.replace(RECORDS[:1])

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(FileFault, match="No space left"):
            written.replace([])
    with pytest.raises(FileFault, match="earlier failure"):
        written.append(["y"])
    assert [record for _, record in read_journal(tmp_path / "j")] == RECORDS[:1]
    assert os.listdir(tmp_path) == ["j"]


def test_the_lock_is_held_once_in_a_process(tmp_path: Path) -> None:
    first = Lock(tmp_path / "j")
    with pytest.raises(StateLocked, match=f"{tmp_path}/j: is in use by process {os.getpid()}"):
        Lock(tmp_path / "j")
    first.release()
    Lock(tmp_path / "j").release()


def test_the_lock_follows_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "j")
    first = Lock(tmp_path / "j")
    with pytest.raises(StateLocked):
        Lock(tmp_path / "link")
    first.release()


def test_the_lock_needs_a_directory(tmp_path: Path) -> None:
    with pytest.raises(FileFault, match="cannot be opened"):
        Lock(tmp_path / "none" / "j")


HOLD = """
import sys
from pathlib import Path
from groupcoap.files.journal import Lock
held = Lock(Path(sys.argv[1]))
print(flush=True)
input()
"""


@pytest.mark.processes
def test_the_lock_is_held_against_other_processes_until_they_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "j")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StateLocked, match=f"process {other.pid}"):
            Lock(tmp_path / "j")
        other.kill()
        other.wait()
    Lock(tmp_path / "j").release()
