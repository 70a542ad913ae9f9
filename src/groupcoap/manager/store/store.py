"""The Group Manager's database, as the manager uses it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final

from sqlalchemy import Connection, insert, inspect, select, update

from ...errors import MisuseError, StoreFault
from . import migrations
from .database import Database, database_at
from .planning import plan
from .schema import SHAPES, Shape, metadata, shape_of
from .schema import store as store_table
from .sealing import Sealer, Sealing, SealingKey
from .statements import Prepared
from .writes import Delete, Row, Update, Write

AUDIT: Final = "audit"
_IDENTITY_LENGTH: Final = 16
_RESTORE: Final = "restore the database from a backup"


class Snapshot:
    """All rows of all tables, at one moment, with the sealed columns opened."""

    __slots__ = ("_tables",)

    def __init__(self, tables: dict[str, list[Row]]) -> None:
        self._tables = tables

    def rows(self, table: str) -> list[Row]:
        """In the order of the primary key. `MisuseError` if there is no such table."""
        return self._tables[shape_of(table).name]

    def __repr__(self) -> str:
        return f"<snapshot of {sum(map(len, self._tables.values()))} rows>"


class Store:
    """An open database, for this process alone.

    Its methods block, and may be called by any thread: they take turns. `backup` lets `commit` and `load` go on."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        """Not for callers: see `create`, `open` and `restore.restore_database`."""
        self._database = database
        self._sealer = sealer
        self._turn = Lock()
        self._copying = Lock()  # taken before _turn
        self._closed = False
        # Whoever had the database before may have been killed between a commit and erasing.
        self._superseded = True

    @classmethod
    def create(cls, url: str, key: SealingKey | None) -> Store:
        """A new database at this SQLAlchemy URL (`sqlite:////absolute/path`), of mode 0600, whose secrets are
        sealed with `key`; None: they are not, which the database records. It is there completely or not at all.

        `StoreFault` if there is something already, or it cannot be made."""
        sealer = Sealer(key, os.urandom(_IDENTITY_LENGTH))
        return cls(database_at(url).create(lambda database: database.run(lambda c: _prepare(c, sealer))), sealer)

    @classmethod
    def open(cls, url: str, key: SealingKey | None) -> Store:
        """The database at this URL, brought to the newest version of the tables if it is older; a copy of how it
        was before is then left beside it (`NAME.version-N`), secrets included: remove it when all is well.

        `StoreFault` if there is none, another process has it, it is of a newer version, or `key` is not its key
        (None: it is not sealed)."""
        return adopt(database_at(url).open(), key)

    def load(self) -> Snapshot:
        """Everything but the audit log, of which only the latest entry is there, as of one moment. `StoreFault` if
        it cannot be read, or a sealed value does not belong where it stands."""
        with self._turn:
            self._check_open()
            return self._database.run(lambda connection: load(connection, self._sealer))

    def audit(self, *, limit: int = 100, group: str | None = None, device: str | None = None) -> list[Row]:
        """The newest entries of the audit log, newest first, of this group and this device if they are named.
        `StoreFault` if it cannot be read, `MisuseError` if `limit` is not positive."""
        if limit < 1:
            raise MisuseError("at least one entry is asked for")
        named = {"grp": group, "device": device}
        equal = {column: value for column, value in named.items() if value is not None}
        with self._turn:
            self._check_open()
            return self._database.run(lambda connection: _entries(connection, limit, equal))

    def commit(self, writes: Sequence[Write]) -> None:
        """Carry out these writes, as if one after the other, in one transaction; when this returns it is on the
        disk.

        `StoreFault`, and nothing of it has happened: on any error of the database, if a row that is inserted is
        there already, or if one that is updated is not. `MisuseError` for what does not fit the tables."""
        dialect = self._database.connection.dialect
        statements = [form.prepared(dialect, group, self._sealer) for form, group in plan(writes)]
        with self._turn:
            self._check_open()
            # Also if it fails: what is written to files before a rollback may stay there.
            self._superseded = self._superseded or any(map(_supersedes, writes))
            self._database.run(lambda connection: _execute(connection, statements))

    def erase(self) -> None:
        """Make sure that secrets which were overwritten or deleted are in no file of the database any more;
        backups, and copies made before a migration, are not touched. To be called once after opening, and after a
        commit that supersedes secrets; one call may stand for several. Without such a commit before it does
        nothing. Rewrites the database, and waits for a backup that is being made.

        `StoreFault` if it fails, also because another program reads the database: then it is to be called again."""
        with self._copying, self._turn:
            self._check_open()
            if self._superseded:
                self._database.erase()
                self._superseded = False

    def backup(self, path: Path) -> None:
        """A consistent copy in a new file of mode 0600, sealed as this database is, there completely or not at all.
        `StoreFault` if there is something already, or it cannot be written."""
        with self._copying:
            self._check_open()
            self._database.backup(path)

    def close(self) -> None:
        """Give the database back. May be called twice; anything else afterwards is a `StoreFault`."""
        with self._copying, self._turn:
            self._closed = True
            self._database.close()

    def __repr__(self) -> str:
        return f"<store, sealing: {self._sealer.sealing.value}>"

    def _check_open(self) -> None:
        if self._closed:
            raise StoreFault("the database is closed; start the manager again")


def adopt(database: Database, key: SealingKey | None) -> Store:
    """The store in this database, which is closed if it is not as it must be: see `Store.open`."""
    try:
        version, sealer = database.run(lambda connection: verify(connection, key))
        _migrate(database, version, sealer)
        return Store(database, sealer)
    except BaseException:
        database.close()
        raise


def verify(connection: Connection, key: SealingKey | None) -> tuple[int, Sealer]:
    """The version of the tables, and what opens their sealed values. `StoreFault` if this is no manager's database,
    is of a newer version, or this is not its key."""
    row = _about(connection)
    if row["version"] > migrations.VERSION:
        raise StoreFault(
            f"the database is of version {row['version']}, newer than this program knows; upgrade groupcoap"
        )
    sealer = Sealer(key, row["identity"])
    if row["sealing"] != sealer.sealing.value:
        raise StoreFault(_other_sealing(row["sealing"]))
    if not sealer.is_proof(row["proof"]):
        raise StoreFault("the database is sealed with another key; give the key that it was created with")
    return row["version"], sealer


def load(connection: Connection, sealer: Sealer) -> Snapshot:
    """All tables; of the audit log only the latest entry, since it grows for as long as the manager is used.
    `StoreFault` if a sealed value does not belong where it stands."""
    tables = {name: _load_table(connection, shape, sealer) for name, shape in SHAPES.items() if name != AUDIT}
    return Snapshot({**tables, AUDIT: _entries(connection, 1, {})})


def _entries(connection: Connection, limit: int, equal: Mapping[str, str]) -> list[Row]:
    """Entries of the audit log, newest first."""
    table = shape_of(AUDIT).table
    query = select(table).order_by(table.c.seq.desc()).limit(limit)
    for column, value in equal.items():
        query = query.where(table.c[column] == value)
    return [dict(row) for row in connection.execute(query).mappings()]


def _load_table(connection: Connection, shape: Shape, sealer: Sealer) -> list[Row]:
    columns = shape.table.primary_key.columns
    found = connection.execute(select(shape.table).order_by(*columns))
    names = tuple(found.keys())
    rows = [dict(zip(names, row, strict=True)) for row in found]
    for name in shape.sealed:
        for row in rows:
            row[name] = sealer.unseal(shape, name, row, row[name])
    return rows


def _prepare(connection: Connection, sealer: Sealer) -> None:
    metadata.create_all(connection)
    row = {
        "id": 1,
        "format": migrations.FORMAT,
        "version": migrations.VERSION,
        "identity": sealer.identity,
        "sealing": sealer.sealing.value,
        "proof": sealer.prove(),
    }
    connection.execute(insert(store_table), [row])


def _about(connection: Connection) -> dict[str, Any]:
    found = None
    if inspect(connection).has_table(store_table.name):
        found = connection.execute(select(store_table)).mappings().first()
    if found is None or found["format"] != migrations.FORMAT:
        raise StoreFault("this is not the database of a groupcoap manager; give the right one")
    return dict(found)


def _other_sealing(recorded: str) -> str:
    if recorded == Sealing.NONE.value:
        return "the database is not sealed; open it without a key, or give the right database"
    if recorded == Sealing.AES_256_GCM.value:
        return "the database is sealed; give its key"
    return "the database is sealed in a way that this program does not know; upgrade groupcoap"


def _migrate(database: Database, version: int, sealer: Sealer) -> None:
    if version < migrations.VERSION:
        database.copy_before_migration(version)
    for number in range(version, migrations.VERSION):
        step = migrations.STEPS.get(number)
        if step is None:
            raise StoreFault(f"the database is of version {number}, which is no longer read; {_RESTORE}")
        database.run(partial(_step, sealer=sealer, step=step, number=number))


def _step(connection: Connection, sealer: Sealer, step: migrations.Step, number: int) -> None:
    step(connection, sealer)
    connection.execute(update(store_table).values(version=number + 1))


def _execute(connection: Connection, statements: list[Prepared]) -> None:
    for statement in statements:
        statement.run(connection)


def _supersedes(write: Write) -> bool:
    """Whether this may leave an old secret behind."""
    sealed = shape_of(write.table).sealed
    if isinstance(write, Update):
        return any(name in write.values for name in sealed)
    return isinstance(write, Delete) and bool(sealed)
