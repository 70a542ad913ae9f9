"""A copy made while the manager runs, and a database made of it."""

from __future__ import annotations

import stat
from pathlib import Path
from threading import Event, Thread

import pytest

from groupcoap.errors import StoreFault
from groupcoap.manager.store.restore import restore_database
from groupcoap.manager.store.schema import SHAPES
from groupcoap.manager.store.sealing import SealingKey
from groupcoap.manager.store.store import Store
from groupcoap.manager.store.writes import Insert, Update, Write

from .rows import KEY, NAME, OTHER_KEY, create, files_of, reopen, sample, url

DEVICES = [f"device {n}" for n in range(50)]


def counters(number: int) -> list[Write]:
    return [Update("rights", {"device": device, "grp": "g"}, {"roles": number}) for device in DEVICES]


def busy(directory: Path, key: SealingKey | None = KEY) -> Store:
    store = create(directory, key)
    store.commit([Insert(table, sample(table, n)) for table in SHAPES if table != "rights" for n in range(40)])
    store.commit([Insert("rights", {"device": device, "grp": "g", "roles": 0}) for device in DEVICES])
    return store


def test_a_backup_is_one_moment_while_commits_go_on(tmp_path: Path) -> None:
    store = busy(tmp_path)
    stop, done = Event(), [0]

    def commit() -> None:
        while not stop.is_set():
            store.commit(counters(done[0] + 1))
            done[0] += 1

    thread = Thread(target=commit)
    thread.start()
    moments = []
    for n in range(8):
        before = done[0]
        store.backup(tmp_path / f"backup {n}")
        moments.append((before, done[0] + 1))
    stop.set()
    thread.join()
    assert done[0] > 0
    for n, (earliest, latest) in enumerate(moments):
        path = tmp_path / f"backup {n}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        restored = restore_database(path, url(tmp_path, f"restored {n}"), KEY)
        roles = {row["roles"] for row in restored.load().rows("rights")}
        restored.close()
        assert len(roles) == 1
        assert earliest <= roles.pop() <= latest
    assert not [name for name in files_of(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("key", [KEY, None], ids=["sealed", "not sealed"])
def test_a_restored_database_is_what_the_backup_was_and_goes_on(tmp_path: Path, key: SealingKey | None) -> None:
    store = busy(tmp_path, key)
    path = tmp_path / "backup"
    store.backup(path)
    expected = {table: store.load().rows(table) for table in SHAPES}
    store.commit(counters(9))
    content = path.read_bytes()
    assert (sample("devices", 1)["secret"] in content) == (key is None)
    restored = restore_database(path, url(tmp_path, "restored.db"), key)
    assert {table: restored.load().rows(table) for table in SHAPES} == expected
    restored.commit(counters(5))
    restored.close()
    again = reopen(tmp_path, key, "restored.db")
    assert {row["roles"] for row in again.load().rows("rights")} == {5}
    again.close()
    assert path.read_bytes() == content
    assert {name for name in files_of(tmp_path) if not name.startswith(NAME)} == {
        "backup",
        "restored.db",
        "restored.db.lock",
    }


def test_a_backup_holds_nothing_that_was_deleted(tmp_path: Path) -> None:
    store = create(tmp_path, None)
    store.commit([Insert("devices", sample("devices", 1, secret=b"the old secret"))])
    store.commit([Update("devices", {"device": "device 1"}, {"secret": b"the new secret"})])
    store.backup(tmp_path / "backup")
    content = (tmp_path / "backup").read_bytes()
    assert b"the new secret" in content
    assert b"the old secret" not in content


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    store = busy(tmp_path)
    (tmp_path / "precious").write_bytes(b"precious")
    with pytest.raises(StoreFault, match="exists already"):
        store.backup(tmp_path / "precious")
    with pytest.raises(StoreFault, match="cannot be written"):
        store.backup(tmp_path / "no such directory" / "backup")
    store.backup(tmp_path / "backup")
    for name in ("precious", "backup"):
        with pytest.raises(StoreFault, match="exists already"):
            restore_database(tmp_path / "backup", url(tmp_path, name), KEY)
    with pytest.raises(StoreFault, match="in use"):
        restore_database(tmp_path / "backup", url(tmp_path), KEY)
    store.close()
    with pytest.raises(StoreFault, match="exists already"):
        restore_database(tmp_path / "backup", url(tmp_path), KEY)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_log_that_an_earlier_database_left_is_not_taken_for_one_of_the_new_one(tmp_path: Path) -> None:
    store = busy(tmp_path)
    store.backup(tmp_path / "backup")
    (tmp_path / "restored.db-wal").write_bytes((tmp_path / (NAME + "-wal")).read_bytes())
    with pytest.raises(StoreFault, match=r"restored\.db-wal: exists already"):
        restore_database(tmp_path / "backup", url(tmp_path, "restored.db"), KEY)


@pytest.mark.parametrize(("key", "answer"), [(OTHER_KEY, "another key"), (None, "give its key")])
def test_a_backup_needs_its_key(tmp_path: Path, key: SealingKey | None, answer: str) -> None:
    busy(tmp_path).backup(tmp_path / "backup")
    with pytest.raises(StoreFault, match=answer):
        restore_database(tmp_path / "backup", url(tmp_path, "restored.db"), key)
    assert "restored.db" not in files_of(tmp_path)
    assert not [name for name in files_of(tmp_path) if name.startswith(".")]


def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    store = busy(tmp_path)
    path = tmp_path / "backup"
    store.backup(path)
    content = path.read_bytes()
    middle = content.index(sample("members", 5)["node"].encode())
    wrong = {
        "no database": b"x" * 5000,
        "empty": b"",
        "cut off": content[: len(content) // 2],
        "a page lost": content[:8192] + bytes(4096) + content[12288:],
        "a byte in a row's head": content[: middle - 40] + bytes(60) + content[middle + 20 :],
    }
    for name, damaged in wrong.items():
        (tmp_path / name).write_bytes(damaged)
        (tmp_path / name).chmod(0o600)
        with pytest.raises(
            StoreFault, match=r"use another backup|not the database|is no database; give|restore a sound"
        ):
            restore_database(tmp_path / name, url(tmp_path, "restored.db"), KEY)
    assert "restored.db" not in files_of(tmp_path)


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    store = busy(tmp_path)
    with pytest.raises(StoreFault, match="does not exist"):
        restore_database(tmp_path / "none", url(tmp_path, "restored.db"), KEY)
    with pytest.raises(StoreFault, match="is a database in use, not a backup"):
        restore_database(tmp_path / NAME, url(tmp_path, "restored.db"), KEY)
    store.backup(tmp_path / "backup")
    (tmp_path / "backup").chmod(0o644)
    with pytest.raises(StoreFault, match="chmod 600"):
        restore_database(tmp_path / "backup", url(tmp_path, "restored.db"), KEY)
