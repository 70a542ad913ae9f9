"""From version 1 to later ones that there are only here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from groupcoap.errors import StoreFault
from groupcoap.manager.store import migrations
from groupcoap.manager.store.restore import restore_database
from groupcoap.manager.store.schema import SHAPES
from groupcoap.manager.store.sealing import Sealer
from groupcoap.manager.store.writes import Insert

from .rows import KEY, NAME, OTHER_KEY, create, files_of, forked, reopen, sample, url, wait_for

ROWS = [sample("devices", n) for n in range(5)]
COPY = NAME + ".version-1"


def to_2(connection: Connection, sealer: Sealer) -> None:
    """Changes tables, rows, and what is sealed."""
    connection.execute(text("CREATE TABLE extra (name TEXT NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO extra VALUES ('two')"))
    shape = SHAPES["devices"]
    for device, stored in connection.execute(text("SELECT device, secret FROM devices")).all():
        secret = sealer.unseal(shape, "secret", {"device": device}, stored)
        assert secret is not None
        changed = sealer.seal(shape, "secret", {"device": device}, secret + b" of version 2")
        connection.execute(
            text("UPDATE devices SET secret = :secret, note = 'migrated' WHERE device = :device"),
            {"secret": changed, "device": device},
        )


def to_3(connection: Connection, _: Sealer) -> None:
    connection.execute(text("INSERT INTO extra VALUES ('three')"))


def killed(connection: Connection, _: Sealer) -> None:
    connection.execute(text("CREATE TABLE half (name TEXT)"))
    connection.execute(text("UPDATE devices SET note = 'half', secret = NULL"))
    os.kill(os.getpid(), signal.SIGKILL)


def failing(connection: Connection, sealer: Sealer) -> None:
    to_2(connection, sealer)
    connection.execute(text("INSERT INTO no_such_table VALUES (1)"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    store = create(tmp_path)
    store.commit([Insert("devices", row) for row in ROWS])
    store.close()
    return tmp_path


def newer(monkeypatch: pytest.MonkeyPatch, *steps: migrations.Step) -> None:
    monkeypatch.setattr(migrations, "VERSION", 1 + len(steps))
    monkeypatch.setattr(migrations, "STEPS", dict(enumerate(steps, 1)))


def migrated(directory: Path, name: str = NAME) -> list[str]:
    """What the tables that the steps made hold, after a look at the others."""
    store = reopen(directory, name=name)
    changed = [row | {"secret": row["secret"] + b" of version 2", "note": "migrated"} for row in ROWS]
    assert store.load().rows("devices") == changed
    found = store._database.run(
        lambda connection: connection.execute(text("SELECT name FROM extra")).scalars().all()
    )
    store.close()
    return sorted(found)


def unchanged(directory: Path, name: str = NAME) -> None:
    store = reopen(directory, name=name)
    assert store.load().rows("devices") == ROWS
    store.close()


def test_the_steps_lead_from_the_first_version_to_this_one() -> None:
    assert sorted(migrations.STEPS) == list(range(1, migrations.VERSION))


def test_all_steps_in_their_order_with_a_copy_of_before(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer(monkeypatch, to_2, to_3)
    assert migrated(old) == ["three", "two"]
    assert set(files_of(old)) == {NAME, NAME + ".lock", COPY}
    assert (old / COPY).stat().st_mode & 0o777 == 0o600
    assert migrated(old) == ["three", "two"]  # and not again
    monkeypatch.undo()
    with pytest.raises(StoreFault, match="version 3, newer than this program knows; upgrade"):
        reopen(old)
    unchanged(old, COPY)


def test_killed_in_the_middle_and_started_again(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer(monkeypatch, killed)
    assert wait_for(forked(lambda: reopen(old).close())) == -signal.SIGKILL
    monkeypatch.undo()
    unchanged(old)
    newer(monkeypatch, to_2, killed)
    assert wait_for(forked(lambda: reopen(old).close())) == -signal.SIGKILL
    newer(monkeypatch, to_2, to_3)
    (old / f".{NAME}.0123456789ab-journal").touch()
    (old / f".{COPY}.0123456789ab").touch()
    assert migrated(old) == ["three", "two"]
    monkeypatch.undo()
    unchanged(old, COPY)
    assert not [name for name in files_of(old) if name.startswith(".")]


def test_a_step_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer(monkeypatch, failing)
    for _ in range(2):
        with pytest.raises(StoreFault, match="no_such_table"):
            reopen(old)
    monkeypatch.undo()
    unchanged(old)


def test_the_wrong_key_does_not_start_a_migration(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer(monkeypatch, to_2)
    with pytest.raises(StoreFault, match="another key"):
        reopen(old, OTHER_KEY)
    assert COPY not in files_of(old)


def test_a_version_that_nobody_knows_the_way_from_is_refused(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "VERSION", 2)
    with pytest.raises(StoreFault, match="no longer read"):
        reopen(old)


def test_an_old_backup_is_migrated_when_it_is_restored(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = reopen(old)
    store.backup(old / "backup")
    store.close()
    content = (old / "backup").read_bytes()
    newer(monkeypatch, to_2)
    restore_database(old / "backup", url(old, "restored.db"), KEY).close()
    assert migrated(old, "restored.db") == ["two"]
    assert (old / "backup").read_bytes() == content
