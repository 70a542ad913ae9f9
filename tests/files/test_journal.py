"""The journal's mechanics: torn and damaged lines, versions, the lock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groupcoap.errors import FileFault, StateCopied, StateLocked, StateLost
from groupcoap.files import binding, journal
from groupcoap.files.binding import Binding
from groupcoap.files.documents import MAX_SIZE
from groupcoap.files.journal import (
    Journal,
    Lock,
    Origin,
    Record,
    Records,
    Witness,
    create_journal,
    encode_journal,
    encode_record,
    look_at_lock,
    read_journal,
)

RECORDS: list[Record] = [["a", 1], ["b", "ü"], ["c", None, [1, 2]]]
ORIGIN = Origin("ab" * 16, 3, Binding("machine", 1, 2, 3))
HEAD = len(encode_journal(ORIGIN, []))


@pytest.fixture(autouse=True)
def _private_files() -> Iterator[None]:
    """What these tests write is open to nobody else, as state files must be."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def records_in(path: Path) -> list[Record]:
    return [record for _, record in read_journal(path).records]


@contextmanager
def journal_at(path: Path) -> Iterator[Journal]:
    lock = Lock(path)
    written = Journal(path, lock)
    try:
        yield written
    finally:
        written.close()
        lock.release()


def test_round_trip(tmp_path: Path) -> None:
    contents = read_journal(put(tmp_path / "j", encode_journal(ORIGIN, RECORDS)))
    assert contents.records == list(enumerate(RECORDS, start=3))
    assert contents.origin == ORIGIN
    assert contents.size == (tmp_path / "j").stat().st_size


def test_appending(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with journal_at(path) as written:
        written.replace(RECORDS[:1])
        for record in RECORDS[1:]:
            written.append(record)
    origin = read_journal(path).origin
    assert origin is not None
    assert path.read_bytes() == encode_journal(origin, RECORDS)
    assert written.size == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    assert look_at_lock(path)[:2] == (None, Witness(origin.lineage, 1, written.size))


def test_a_last_record_torn_at_any_byte_is_dropped(tmp_path: Path) -> None:
    whole = encode_journal(ORIGIN, RECORDS)
    last = len(encode_record(RECORDS[-1]))
    for cut in range(len(whole) - last, len(whole) - 1):
        assert records_in(put(tmp_path / "j", whole[:cut])) == RECORDS[:-1]
    # cut in front of the newline: nobody acted on it, but it says more than its absence would
    assert records_in(put(tmp_path / "j", whole[:-1])) == RECORDS


def test_a_last_record_of_zeros_is_dropped(tmp_path: Path) -> None:
    data = encode_journal(ORIGIN, RECORDS[:1]) + bytes(64)
    assert records_in(put(tmp_path / "j", data)) == RECORDS[:1]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(encode_journal(ORIGIN, RECORDS))
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
        (b'{"format": "groupcoap-state", "version": 3}\nanything', "upgrade groupcoap"),
        (b'{"format": "groupcoap-state", "version": 2}\n', "line 2: does not say which file this is"),
        (encode_journal(ORIGIN, []) + b"\n", "line 3: is damaged"),
        (encode_journal(ORIGIN, []) + b"00000000 \n", "line 3: is damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    with pytest.raises(FileFault) as caught:
        read_journal(put(tmp_path / "j", data))
    assert problem in caught.value.problem


def test_missing_is_lost_and_other_trouble_is_not(tmp_path: Path) -> None:
    with pytest.raises(StateLost, match="sequence numbers would repeat; renew the group"):
        read_journal(tmp_path / "j")
    with pytest.raises(FileFault, match="cannot be read"):
        read_journal(tmp_path)
    with pytest.raises(FileFault, match="larger than"):
        read_journal(put(tmp_path / "large", bytes(MAX_SIZE + 1)))


def test_an_older_version_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(records: Records) -> Records:
        return [(line, ["new", *record[1:]]) for line, record in records]

    path = put(tmp_path / "j", b'{"format": "groupcoap-state", "version": 1}\n' + encode_record(["old", 1]))
    assert records_in(path) == [["old", 1]]
    monkeypatch.setattr(journal, "MIGRATIONS", {1: rename})
    assert records_in(path) == [["new", 1]]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=60))
def test_any_bytes_give_a_file_fault_or_records(tmp_path: Path, tail: bytes) -> None:
    for data in (tail, encode_journal(ORIGIN, RECORDS) + tail):
        with suppress(FileFault):
            assert records_in(put(tmp_path / "j", data)) == RECORDS


def test_nothing_is_appended_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal_at(tmp_path / "j") as written:
        written.replace(RECORDS[:1])

        def fail(_descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(FileFault, match="Input/output error"):
                written.append(["x"])
        with pytest.raises(FileFault, match="earlier failure"):
            written.append(["y"])


def test_half_a_write_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal_at(tmp_path / "j") as written:
        written.replace(RECORDS[:1])
        write = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
            with pytest.raises(FileFault, match="no space left"):
                written.append(["x"])
        assert records_in(tmp_path / "j") == RECORDS[:1]


def test_a_replacement_that_fails_is_the_last_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal_at(tmp_path / "j") as written:
        written.replace(RECORDS[:1])

        def fail(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(FileFault, match="No space left"):
                written.replace([])
        with pytest.raises(FileFault, match="earlier failure"):
            written.append(["y"])
        assert records_in(tmp_path / "j") == RECORDS[:1]
        assert sorted(os.listdir(tmp_path)) == ["j", "j.lock"]


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


# ---- copies, and what was brought back


def use(path: Path) -> None:
    """As an endpoint does it: load, replace, append."""
    with journal_at(path) as used:
        records = [record for _, record in used.load()]
        used.replace(records)
        used.append(["used"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "device" / "j"
    path.parent.mkdir()
    create_journal(path, RECORDS)
    return path


def set_machine(monkeypatch: pytest.MonkeyPatch, directory: Path, name: str | None) -> None:
    file = directory / "machine-id"
    file.write_text(f"{name or ''}\n")
    monkeypatch.setattr(binding, "MACHINE_ID_FILES", (directory / "missing", file))


def test_the_original_can_be_used_again_and_again(path: Path) -> None:
    for _ in range(3):
        use(path)
    assert read_journal(path).origin.incarnation == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("with_lock", [False, True])
def test_a_copy_is_refused_and_the_original_is_not(path: Path, used: bool, with_lock: bool) -> None:
    if used:
        use(path)
    copy = path.parent.with_name("copy") / "j"
    copy.parent.mkdir()
    shutil.copy2(path, copy)
    if with_lock and used:
        shutil.copy2(f"{path}.lock", f"{copy}.lock")
    with pytest.raises(StateCopied, match=r"is a copy, or was brought back from one.*provision --renew"):
        use(copy)
    use(path)


def test_a_directory_may_be_renamed(path: Path) -> None:
    use(path)
    os.rename(path.parent, path.parent.with_name("elsewhere"))
    use(path.parent.with_name("elsewhere") / "j")


def test_a_copy_on_another_file_system_is_refused(path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    with TemporaryDirectory(dir=other) as directory:
        copy = Path(directory) / "j"
        shutil.copy2(path, copy)
        with pytest.raises(StateCopied, match="from another file system"):
            use(copy)


def test_another_machine_takes_only_what_was_never_used(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_machine(monkeypatch, tmp_path, "one")
    path.unlink()
    create_journal(path, RECORDS)
    set_machine(monkeypatch, tmp_path, "two")
    use(path)  # carried there
    use(path)
    set_machine(monkeypatch, tmp_path, "three")
    with pytest.raises(StateCopied, match="is another machine's"):
        use(path)
    set_machine(monkeypatch, tmp_path, None)
    with pytest.raises(StateCopied, match="is another machine's"):
        use(path)


def test_without_a_machine_id_nothing_can_have_been_carried(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_machine(monkeypatch, tmp_path, None)
    path.unlink()
    create_journal(path, RECORDS)
    set_machine(monkeypatch, tmp_path, "two")
    with pytest.raises(StateCopied):
        use(path)


def test_the_machine_s_id_is_not_in_the_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch, tmp_path, "0123456789abcdef0123456789abcdef")
    path.unlink()
    create_journal(path, [])
    assert b"0123456789abcdef" not in path.read_bytes()


@pytest.mark.parametrize("how", ["in place", "by renaming"])
def test_an_older_one_that_is_brought_back_is_refused(path: Path, how: str) -> None:
    for kept in range(4):
        backup = path.with_name("backup")
        if kept:
            use(path)
        shutil.copy2(path, backup)
        with journal_at(path) as running:
            running.replace([record for _, record in running.load()])
            running.append(["something new"])
        now = path.with_name("now")
        os.link(path, now)  # keeps its inode
        if how == "in place":
            after = path.read_bytes()
            path.write_bytes(backup.read_bytes())
        else:
            os.replace(backup, path)
        now_is_other = how != "in place"
        if not now_is_other:
            now.unlink()
        with pytest.raises(StateCopied):
            use(path)
        if now_is_other:
            os.replace(now, path)
        else:
            path.write_bytes(after)
        use(path)


def test_a_hot_backup_of_the_same_run_is_noticed_by_its_size(path: Path) -> None:
    with journal_at(path) as running:
        running.replace([record for _, record in running.load()])
        backup = path.read_bytes()
        running.append(["something new"])
        after = path.read_bytes()
    path.write_bytes(backup)
    with pytest.raises(StateCopied, match="is older than what was here"):
        use(path)
    path.write_bytes(after)
    use(path)


def test_what_was_never_used_cannot_come_a_second_time(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_machine(monkeypatch, tmp_path, "one")
    path.unlink()
    create_journal(path, RECORDS)
    carried = path.read_bytes()
    set_machine(monkeypatch, tmp_path, "two")
    use(path)
    path.unlink()
    path.write_bytes(carried)
    with pytest.raises(StateCopied, match="is older than what was here"):
        use(path)


def test_version_1_is_trusted_once(path: Path) -> None:
    old = b'{"format": "groupcoap-state", "version": 1}\n' + encode_record(["old", 1])
    path.write_bytes(old)
    use(path)
    assert records_in(path) == [["old", 1], ["used"]]
    path.write_bytes(old)
    with pytest.raises(StateCopied, match="is older than what was here"):
        use(path)


def test_a_second_name_is_refused(path: Path) -> None:
    os.link(path, path.with_name("second"))
    with pytest.raises(FileFault, match="has a second name"):
        use(path.with_name("second"))
    path.with_name("second").unlink()
    use(path)


def test_a_kill_between_replacing_and_remembering_does_no_harm(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(path)
    with monkeypatch.context() as patch:
        patch.setattr(Lock, "remember", lambda *_: None)
        use(path)
    use(path)


@pytest.mark.parametrize("witness", [b"", b"x", b"1234      \n" + b"a" * 32 + b" 0000", bytes(80), b"\xff" * 80])
def test_a_torn_witness_says_nothing(path: Path, witness: bytes) -> None:
    use(path)
    Path(f"{path}.lock").write_bytes(witness)
    use(path)


@pytest.mark.parametrize(
    "record",
    [
        ["file"],
        ["life", "ab", 1, None, 1, 2, 3],
        ["file", 1, 1, None, 1, 2, 3],
        ["file", "ab", True, None, 1, 2, 3],
        ["file", "ab", 1, 7, 1, 2, 3],
        ["file", "ab", 1, None, "1", 2, 3],
        ["file", "ab", 1, None, 1, None, 3],
        ["file", "ab", 1, None, 1, 2, "3"],
    ],
)
def test_a_file_that_does_not_say_which_it_is_is_refused(tmp_path: Path, record: Record) -> None:
    data = b'{"format": "groupcoap-state", "version": 2}\n' + encode_record(record)
    with pytest.raises(FileFault, match="line 2: does not say which file this is"):
        read_journal(put(tmp_path / "j", data))


def test_sectors_out_of_order_in_the_last_append_are_dropped(tmp_path: Path) -> None:
    data = bytearray(encode_journal(ORIGIN, [*RECORDS, ["d", "x" * 600]]))
    data[-500:-100] = bytes(400)
    assert records_in(put(tmp_path / "j", bytes(data))) == RECORDS


def test_who_has_the_lock_is_seen_without_taking_it(path: Path) -> None:
    assert look_at_lock(path) == (None, None, {})
    with journal_at(path):
        assert look_at_lock(path) == (f"process {os.getpid()}", None, {})
    assert look_at_lock(path)[0] is None


@pytest.mark.parametrize("with_lock", [False, True])
def test_a_hot_backup_that_is_copied_back_into_the_same_files_is_refused(path: Path, with_lock: bool) -> None:
    """As `cp -r` over the directory does it: same inode and time of birth, and perhaps the lock file as it was."""
    try:
        os.setxattr(path, "user.groupcoap.test", b"x")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    use(path)
    with journal_at(path) as running:
        running.replace([record for _, record in running.load()])
        backup, lock = path.read_bytes(), Path(f"{path}.lock").read_bytes()
        running.append(["something new"])
    path.write_bytes(backup)
    if with_lock:
        Path(f"{path}.lock").write_bytes(lock)
    with pytest.raises(StateCopied, match="is older than what was here"):
        use(path)


def test_without_extended_attributes_the_lock_s_file_must_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", none)
    monkeypatch.setattr(os, "getxattr", none)
    for _ in range(3):
        use(path)
    before = path.read_bytes()
    use(path)
    path.write_bytes(before)
    with pytest.raises(StateCopied):
        use(path)


@pytest.mark.parametrize("gids", [b"", b"[", b"7", b'{"room": 7}', b'{"room": "0"}', b'{"room": "xy"}', b"\xff"])
def test_gids_that_cannot_be_read_say_nothing(path: Path, gids: bytes) -> None:
    with journal_at(path) as running:
        running.replace([])
        running.remember_gids({"room": "00"})
    lock = Path(f"{path}.lock")
    whole = lock.read_bytes()
    lock.write_bytes(whole[: whole.index(b"{")] + gids)
    with journal_at(path) as running:
        assert running._lock.gids == {}
        assert running._lock.witness is not None


def test_a_lock_given_back_twice_closes_nobody_else_s_file(tmp_path: Path) -> None:
    """As when a state is closed, and then a process is forked."""
    lock = Lock(tmp_path / "j")
    lock.release()
    other = os.open(tmp_path, os.O_RDONLY)  # gets the number that has become free
    lock.release()
    os.close(other)


def test_a_new_file_is_durable_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    create_journal(tmp_path / "j", [])
    assert len(synced) == 2  # the content before its name
    assert synced[0].startswith(f"{tmp_path}/.j.")
    assert synced[1] == str(tmp_path)
