"""What is committed is loaded again; what cannot be is refused, in one line that says what to do."""

from __future__ import annotations

import os
import sqlite3
import stat
import traceback
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from groupcoap.errors import MisuseError, StoreFault
from groupcoap.manager.store.schema import SHAPES
from groupcoap.manager.store.sealing import SealingKey
from groupcoap.manager.store.store import Store
from groupcoap.manager.store.writes import Delete, Insert, Update, Write

from .rows import KEY, NAME, audit_of, bare, create, files_of, forked, key_of, reopen, sample, wait_for

KEYS = pytest.mark.parametrize("key", [KEY, None], ids=["sealed", "not sealed"])


def rows_of(store: Store) -> dict[str, list[dict[str, Any]]]:
    snapshot = store.load()
    return {table: snapshot.rows(table) for table in SHAPES} | {"audit": audit_of(store)}


@KEYS
@pytest.mark.parametrize("table", SHAPES)
def test_every_table_gives_back_what_was_written(tmp_path: Path, table: str, key: SealingKey | None) -> None:
    store = create(tmp_path, key)
    rows = [sample(table, 1), bare(table, 2), sample(table, 3)]
    store.commit([Insert(table, row) for row in rows])
    assert rows_of(store)[table] == rows
    changed = {name: value for name, value in sample(table, 4).items() if name not in SHAPES[table].pk}
    if changed:
        store.commit([Update(table, key_of(table, rows[1]), changed)])
        rows[1] |= changed
    store.commit([Delete(table, key_of(table, rows[0]))])
    store.close()
    store = reopen(tmp_path, key)
    loaded = rows_of(store)
    store.close()
    assert loaded.pop(table) == rows[1:]
    assert not any(loaded.values())


def test_columns_that_may_be_null_may_be_left_out(tmp_path: Path) -> None:
    store = create(tmp_path)
    row = bare("members", 1)
    store.commit([Insert("members", {name: value for name, value in row.items() if value is not None})])
    assert store.load().rows("members") == [row]


def test_rows_are_deleted_by_any_of_their_columns_also_if_they_are_null(tmp_path: Path) -> None:
    store = create(tmp_path)
    rows = [sample("keys", n, grp=f"g{n % 2}", member=None if n % 3 else "m") for n in range(12)]
    store.commit([Insert("keys", row) for row in rows])
    store.commit([Delete("keys", {"grp": "g0", "member": None}), Delete("keys", {"grp": "no such group"})])
    left = [row for row in rows if row["grp"] != "g0" or row["member"] is not None]
    assert store.load().rows("keys") == sorted(left, key=lambda row: (row["grp"], row["node"]))


def test_one_more_than_fits_and_nothing_of_the_batch_is_there(tmp_path: Path) -> None:
    store = create(tmp_path)
    there = sample("rights", 1)
    store.commit([Insert("rights", there)])
    for wrong in (
        Insert("rights", sample("rights", 1)),
        Update("rights", key_of("rights", sample("rights", 7)), {"roles": 3}),
        Insert("rights", sample("rights", 8, roles=None)),
        Insert("rights", sample("rights", 8, roles=1 << 63)),
        Insert("rights", sample("rights", 8, roles=object())),
    ):
        with pytest.raises(StoreFault) as caught:
            store.commit([Insert("audit", sample("audit", 1)), Insert("rights", sample("rights", 2)), wrong])
        assert "\n" not in str(caught.value)
        assert rows_of(store) == {table: [there] if table == "rights" else [] for table in SHAPES}
    store.commit([Insert("rights", sample("rights", 2))])  # and it goes on


@pytest.mark.parametrize(
    "wrong",
    [
        Insert("no such table", {"id": 1}),
        Insert("store", {"id": 2}),
        Insert("rights", {"device": "d", "roles": 1}),
        Insert("rights", sample("rights", 1) | {"colour": "blue"}),
        Update("rights", {"device": "d"}, {"roles": 1}),
        Update("rights", {"device": "d", "colour": "blue"}, {"roles": 1}),
        Update("rights", {"device": "d", "grp": "g"}, {"grp": "h"}),
        Update("rights", {"device": "d", "grp": "g"}, {"colour": "blue"}),
        Update("rights", {"device": "d", "grp": "g"}, {}),
        Delete("rights", {}),
        Delete("rights", {"colour": "blue"}),
        Delete("devices", {"secret": b"s"}),
    ],
    ids=str,
)
def test_what_does_not_fit_the_tables_is_the_callers_mistake(tmp_path: Path, wrong: Write) -> None:
    store = create(tmp_path)
    with pytest.raises(MisuseError):
        store.commit([Insert("audit", sample("audit", 1)), wrong])
    assert not any(rows_of(store).values())


def test_no_secret_is_shown_by_anything(tmp_path: Path) -> None:
    secret = b"very secret indeed"
    row = sample("devices", 1, secret=secret)
    store = create(tmp_path, None)
    writes: list[Write] = [Insert("devices", row), Insert("devices", row)]
    with pytest.raises(StoreFault) as caught:
        store.commit(writes)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    store.commit(writes[:1])
    shown = [*traceback.format_exception(caught.value), repr(caught.value), repr(store), repr(store.load())]
    shown += [repr(writes), repr(Update("devices", key_of("devices", row), row))]
    assert not any("secret indeed" in text for text in shown)


def test_all_files_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = create(tmp_path)
        store.commit([Insert("rights", sample("rights", 1))])
    finally:
        os.umask(before)
    assert {path.name for path in tmp_path.iterdir()} >= {NAME, NAME + "-wal", NAME + ".lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    store.close()
    assert set(files_of(tmp_path)) == {NAME, NAME + ".lock"}


def test_a_commit_is_on_the_disk_and_what_is_deleted_is_overwritten(tmp_path: Path) -> None:
    store = create(tmp_path)
    connection = store._database.connection.connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    pragmas = ("journal_mode", "synchronous", "secure_delete", "temp_store")
    values = [connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas]
    assert values == ["wal", 2, 1, 2]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_nothing_that_is_there_is_overwritten(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / (NAME + suffix)
    path.write_bytes(b"precious")
    with pytest.raises(StoreFault, match="exists already"):
        create(tmp_path)
    assert path.read_bytes() == b"precious"
    path.unlink()
    create(tmp_path).close()  # nothing is left behind, not the lock either
    assert set(files_of(tmp_path)) == {NAME, NAME + ".lock"}


@pytest.mark.parametrize(
    "wrong",
    ["", "nonsense", "sqlite://", "sqlite:///:memory:", "sqlite:///x?mode=ro", "sqlite:///file:x", "mysql://x/y"],
)
def test_a_url_that_names_no_file_is_refused(wrong: str) -> None:
    for use in (Store.create, Store.open):
        with pytest.raises(StoreFault, match=r"give|must name a file"):
            use(wrong, KEY)


def test_a_file_that_is_no_database_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreFault, match="does not exist"):
        reopen(tmp_path)
    assert files_of(tmp_path) == {}
    path = tmp_path / NAME
    path.write_bytes(b"no database" * 100)
    path.chmod(0o644)
    with pytest.raises(StoreFault, match="chmod 600"):
        reopen(tmp_path)
    path.chmod(0o600)
    with pytest.raises(StoreFault, match="is no database; give the right file"):
        reopen(tmp_path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE store (id)")
    connection.close()
    path.chmod(0o600)
    with pytest.raises(StoreFault):
        reopen(tmp_path)
    path.unlink()
    sqlite3.connect(path).close()
    os.close(os.open(path, os.O_CREAT, 0o600))
    path.chmod(0o600)
    with pytest.raises(StoreFault, match="not the database of a groupcoap manager"):
        reopen(tmp_path)


def test_two_managers_never_have_one_database(tmp_path: Path) -> None:
    store = create(tmp_path)
    (tmp_path / "other name").symlink_to(tmp_path / NAME)

    def open_it_too() -> None:
        for name in (NAME, "other name"):
            with pytest.raises(StoreFault, match=f"in use by process {os.getppid()}; stop it first"):
                reopen(tmp_path, name=name)

    assert wait_for(forked(open_it_too)) == 0
    with pytest.raises(StoreFault, match=f"in use by process {os.getpid()}"):
        reopen(tmp_path)
    store.close()
    assert wait_for(forked(lambda: reopen(tmp_path).close())) == 0
    reopen(tmp_path).close()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    assert wait_for(forked(lambda: create(tmp_path).commit([Insert("rights", sample("rights", 1))]))) == 0
    store = reopen(tmp_path)
    assert store.load().rows("rights") == [sample("rights", 1)]


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = create(tmp_path)
    store.close()
    store.close()
    for use in (store.load, lambda: store.commit([]), store.erase, lambda: store.backup(tmp_path / "b")):
        with pytest.raises(StoreFault, match="closed"):
            use()


def test_a_database_that_another_program_holds_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groupcoap.manager.store.sqlite._TIMEOUT", 0.05)
    store = create(tmp_path)
    other = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFault, match="another program has the database"):
        store.commit([Insert("rights", sample("rights", 1))])
    other.execute("ROLLBACK")
    store.commit([Insert("rights", sample("rights", 1))])
    other.close()


def test_threads_take_turns(tmp_path: Path) -> None:
    store = create(tmp_path)

    def work(first: int) -> None:
        for n in range(first, first + 20):
            store.commit([Insert("audit", sample("audit", n))])
            store.load()

    threads = [Thread(target=work, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(audit_of(store)) == 60


def test_the_audit_log_is_read_newest_first_and_only_its_latest_entry_is_loaded(tmp_path: Path) -> None:
    store = create(tmp_path)
    places = [("a", "x"), ("a", "y"), ("b", "x"), (None, None)]
    rows = [sample("audit", n, grp=grp, device=device) for n, (grp, device) in enumerate(places)]
    store.commit([Insert("audit", row) for row in rows])
    assert store.audit(limit=2) == [rows[3], rows[2]]
    assert store.audit(group="a") == [rows[1], rows[0]]
    assert store.audit(device="x", limit=9) == [rows[2], rows[0]]
    assert store.audit(device="x", group="b") == [rows[2]]
    assert store.load().rows("audit") == [rows[3]]
    with pytest.raises(MisuseError):
        store.audit(limit=0)
    store.close()
