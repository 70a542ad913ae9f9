"""Checks of a device's run-time state, each failing and passing. Looking changes nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from homes import make_home, obey
from namespaces import why_not

from groupcoap.core.sequence import MAXIMUM
from groupcoap.diagnosis import Finding, Level
from groupcoap.diagnosis.state import check_state, check_storage, running_process
from groupcoap.diagnosis.system import file_system
from groupcoap.files.provisioned import load_member
from groupcoap.files.state import EndpointState, StateKey

HOLD = "import sys; from pathlib import Path; from groupcoap.files.state import EndpointState; "
HOLD += "state = EndpointState.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"


@pytest.fixture
def lamp(tmp_path: Path) -> Path:
    return make_home(tmp_path)


@contextmanager
def running(lamp: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the device's state."""
    command = [sys.executable, "-c", HOLD, str(lamp / "state.journal")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            process.kill()


def findings(lamp: Path) -> list[Finding]:
    report = EndpointState.examine(lamp / "state.journal")
    return list(check_state(report, load_member(lamp).groups))


def only(lamp: Path, level: Level) -> str:
    (finding,) = findings(lamp)
    assert (finding.check, finding.level) == ("state", level)
    assert bool(finding.advice) == (level is not Level.OK)
    return finding.found


def test_new_then_used(lamp: Path) -> None:
    assert only(lamp, Level.OK) == "whole, and never used yet"
    EndpointState.open(lamp / "state.journal").close()
    assert only(lamp, Level.OK) == "whole, not in use"


@pytest.mark.processes
def test_in_use_by_the_device_itself_is_fine_and_a_crash_leaves_its_trace(lamp: Path) -> None:
    with running(lamp) as process:
        said = only(lamp, Level.OK)
        assert said.startswith(f"in use by process {process.pid} (")
        assert said.endswith("): the device is running")
        report = EndpointState.examine(lamp / "state.journal")
        assert running_process(report) == process.pid
    assert "it did not stop by itself" in only(lamp, Level.OK)


def test_who_has_it_need_not_be_known(lamp: Path) -> None:
    report = replace(EndpointState.examine(lamp / "state.journal"), holder="another process")
    assert running_process(report) is None
    (finding,) = check_state(report, load_member(lamp).groups)
    assert finding.found == "in use by another process: the device is running"


def test_missing_and_damaged(lamp: Path) -> None:
    journal = lamp / "state.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], lines[1], b"00000000 []\n", *lines[2:]]))
    assert "line 3: is damaged" in only(lamp, Level.PROBLEM)
    journal.unlink()
    assert "the run-time state is missing" in only(lamp, Level.PROBLEM)


def test_open_to_others(lamp: Path) -> None:
    (lamp / "state.journal").chmod(0o644)
    (finding,) = findings(lamp)
    assert "is open to others" in finding.found
    obey(finding)
    assert only(lamp, Level.OK) == "whole, and never used yet"


def test_a_copy(lamp: Path, tmp_path: Path) -> None:
    EndpointState.open(lamp / "state.journal").close()
    shutil.copytree(lamp, tmp_path / "copy")
    assert "sequence numbers would repeat" in only(tmp_path / "copy", Level.PROBLEM)
    assert only(lamp, Level.OK) == "whole, not in use"


def test_a_group_that_the_state_has_never_heard_of(lamp: Path) -> None:
    journal = lamp / "state.journal"
    journal.unlink()
    EndpointState.create(journal, [StateKey("attic", bytes(12), b"\x01")])
    assert only(lamp, Level.PROBLEM) == "nothing is there for hall: sequence numbers would repeat"


def test_a_gid_that_was_given_up(lamp: Path) -> None:
    group = load_member(lamp).groups[0]
    with EndpointState.open(lamp / "state.journal") as state:
        state.add_key("hall", b"\xff" * 12, b"\x01")
        state.forget("hall", group.current.gid)
    assert only(lamp, Level.PROBLEM).endswith("of hall has had its time: sequence numbers would repeat")


def test_a_group_file_from_before_a_renewal(lamp: Path) -> None:
    group = load_member(lamp).groups[0]
    later = group.current.gid[:-1] + b"\x07"
    (lamp / "state.journal").unlink()
    EndpointState.create(lamp / "state.journal", [StateKey("hall", later, b"\x01")])
    assert only(lamp, Level.PROBLEM).endswith("of hall has had its time: sequence numbers would repeat")


def test_a_renewed_group_is_fine(lamp: Path) -> None:
    group = load_member(lamp).groups[0]
    renewed = replace(group, epochs=(replace(group.current, gid=b"\xff" * 12),))
    report = EndpointState.examine(lamp / "state.journal")
    assert [finding.level for finding in check_state(report, [renewed])] == [Level.OK]


@pytest.mark.parametrize(
    ("used", "level", "found"),
    [
        (MAXIMUM * 9 // 10, None, ""),
        (MAXIMUM * 9 // 10 + 2, Level.WARNING, "90.0 % of the sequence numbers in hall are used"),
        (MAXIMUM, Level.WARNING, "100.0 % of the sequence numbers in hall are used"),
        (MAXIMUM + 1, Level.PROBLEM, "no sequence numbers are left in hall"),
    ],
)
def test_sequence_numbers_come_to_an_end(lamp: Path, used: int, level: Level | None, found: str) -> None:
    report = EndpointState.examine(lamp / "state.journal")
    nearly = replace(report, used=dict.fromkeys(report.used, used))
    said = list(check_state(nearly, load_member(lamp).groups))
    assert said[-1].level is Level.OK
    assert [finding.level for finding in said[:-1]] == ([] if level is None else [level])
    assert all(found in finding.found for finding in said[:-1])


# ---- where it is kept

MOUNTS = """\
20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
21 20 0:40 / /home rw - nfs4 server:/home rw
22 21 8:2 / /home/lamp\\040one rw - xfs /dev/sdb1 rw
23 20 0:41 / /run rw - tmpfs tmpfs rw
24 23 0:42 / /run rw - 9p share rw
not a line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv/x", "ext4"),
        ("/home/lamp", "nfs4"),
        ("/home/lamp one/two", "xfs"),
        ("/homes", "ext4"),
        ("/run/lamp", "9p"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS) == kind


def test_the_file_system_may_not_be_known(lamp: Path) -> None:
    assert file_system(lamp, "") is None


def test_storage_is_a_local_disk_or_memory() -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir():
        pytest.skip("there is no /dev/shm here")
    finding = check_storage(shared_memory)
    assert finding.level is Level.WARNING
    assert finding.found.startswith("/dev/shm is on tmpfs: the state is gone")


def test_storage_elsewhere(lamp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No file server for the test: only what the kernel says of its mounts is not real.
    monkeypatch.setattr("groupcoap.diagnosis.state.read", lambda path: "9 1 0:9 / / rw - nfs4 server:/ rw\n")
    finding = check_storage(lamp)
    assert finding.level is Level.WARNING
    assert "is on nfs4: locks and fsync may not hold there" in finding.found
    monkeypatch.setattr("groupcoap.diagnosis.state.read", lambda path: "9 1 8:9 / / rw - ext4 /dev/sda rw\n")
    assert check_storage(lamp).level is Level.OK


@pytest.mark.namespaces
def test_storage_that_cannot_be_written_to(lamp: Path) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    look = "import sys; from pathlib import Path; from groupcoap.diagnosis.state import check_storage; "
    look += "finding = check_storage(Path(sys.argv[1])); print(finding.level.value, finding.found)"
    inside = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$1"'
    words = ["unshare", "--mount", "sh", "-c", inside, "sh", str(lamp), sys.executable, look]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert said.startswith(f"problem {lamp} cannot be written to")


# ---- looking changes nothing


@pytest.mark.processes
def test_looking_leaves_everything_as_it_was(lamp: Path) -> None:
    def snapshot() -> dict[str, tuple[bytes, int, int, int]]:
        stats = {path: path.stat() for path in lamp.iterdir()}
        return {p.name: (p.read_bytes(), s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for p, s in stats.items()}

    for _ in range(2):  # before the first use, and after it
        before = snapshot()
        findings(lamp)
        assert snapshot() == before
        with running(lamp):
            findings(lamp)
