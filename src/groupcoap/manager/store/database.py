"""What differs from one database product to another: the seam where PostgreSQL will come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from ...errors import StoreFault
from .sqlite import SqliteKind

_T = TypeVar("_T")


class Database(Protocol):
    """A database that this process has for itself until `close`.

    Nothing here is to be called by two threads at a time, but `backup` may run beside everything except `erase` and
    `close`. Every method raises `StoreFault` where the database is not as it must be."""

    @property
    def connection(self) -> Connection:
        """The one connection. Outside of `run` no transaction is open."""

    def run(self, action: Callable[[Connection], _T]) -> _T:
        """Do this in one transaction, which is durable on return. `StoreFault` for every error of the database;
        then nothing of it has happened."""

    def copy_before_migration(self, version: int) -> None:
        """Keep the database as it is now, of this version, where an administrator finds it."""

    def erase(self) -> None:
        """Make sure that nothing which was deleted or overwritten is left in any file of the database."""

    def backup(self, path: Path) -> None:
        """A consistent copy in a new file of mode 0600."""

    def close(self) -> None:
        """Give up the connection and the exclusive use. May be called twice."""


class DatabaseKind(Protocol):
    """Where databases of one product come from. Every method gives the database to this process alone, and raises
    `StoreFault`, "in use by process N", if another one has it."""

    def create(self, prepare: Callable[[Database], None]) -> Database:
        """A new database, which is there with what `prepare` does to it or not at all."""

    def restore(self, backup: Path, check: Callable[[Database], None]) -> Database:
        """A new database from a copy that `Database.backup` made, if it is sound and `check` raises nothing."""

    def open(self) -> Database:
        """The database that is there."""


def database_at(url: str) -> DatabaseKind:
    """The database with this SQLAlchemy URL. `StoreFault` if it is of no kind that there is."""
    if url.partition(":")[0].partition("+")[0] == "sqlite":
        return SqliteKind(url)
    # PostgreSQL: a kind whose exclusive use is an advisory lock held by its connection, whose backup is pg_dump's,
    # and whose erasing is VACUUM FULL and a change of the write-ahead log's segments.
    raise StoreFault("this database URL is not known; give one like sqlite:////var/lib/groupcoap/manager.db")
