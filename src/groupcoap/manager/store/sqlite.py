"""SQLite: everything about the database that only SQLite knows.

The database file is never opened by anything but SQLite while it is in use: to close such a descriptor would drop
the locks that SQLite has on it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from ...errors import StoreFault
from ...files.atomic import PRIVATE_MODE, describe, sync_directory

_T = TypeVar("_T")

_PRAGMAS: Final = (
    "journal_mode = WAL",  # one fsync for a commit, and copies are made beside it
    "synchronous = FULL",  # a commit is on the disk when it returns
    "secure_delete = ON",  # what is deleted is overwritten
    "temp_store = MEMORY",  # nothing of the database in temporary files
)

_BESIDE: Final = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database in use. It is taken for a part of any database that is put there."""

_TIMEOUT: Final = 5.0
"""Seconds to wait for an administrator's tool that has the database."""


class SqliteKind:
    """Databases in files: see `database.DatabaseKind`."""

    def __init__(self, url: str) -> None:
        """`StoreFault` if the URL does not name a file in the plain way."""
        self._path = _path_of(url)

    def create(self, prepare: Callable[[SqliteDatabase], None]) -> SqliteDatabase:
        lock = _Lock(self._path)
        with lock.kept():
            _check_free(self._path)
            _refusing(self._path, lambda: self._create(prepare))
            return SqliteDatabase(self._path, lock)

    def restore(self, backup: Path, check: Callable[[SqliteDatabase], None]) -> SqliteDatabase:
        lock = _Lock(self._path)
        with lock.kept():
            _check_free(self._path)
            _check_private(backup, "give the file of a backup")
            if any(os.path.exists(f"{backup}{suffix}") for suffix in _BESIDE):
                raise StoreFault(f"{backup}: is a database in use, not a backup; make a backup and restore that")
            _refusing(self._path, lambda: self._restore(backup, check))
            return SqliteDatabase(self._path, lock)

    def open(self) -> SqliteDatabase:
        _check_private(self._path, "check the path, or create the database")
        lock = _Lock(self._path)
        with lock.kept():
            _remove_left_behind(self._path)
            return SqliteDatabase(self._path, lock)

    def _create(self, prepare: Callable[[SqliteDatabase], None]) -> None:
        with _new_file(self._path, replace=False) as temporary:
            _use(temporary, self._path, prepare)

    def _restore(self, backup: Path, check: Callable[[SqliteDatabase], None]) -> None:
        with _new_file(self._path, replace=False) as temporary:
            shutil.copyfile(backup, temporary)
            _sync(temporary)
            _use(temporary, backup, lambda database: _check_sound(database, backup, check))


class SqliteDatabase:
    """An open database: see `database.Database`."""

    def __init__(self, path: Path, lock: _Lock | None, shown: Path | None = None) -> None:
        """`shown`: what people know it as, if it is not this path."""
        self._path = shown or path
        self._lock = lock
        self._engine = _engine(path)
        self._connection = _refusing(self._path, self._engine.connect)

    @property
    def connection(self) -> Connection:
        return self._connection

    def run(self, action: Callable[[Connection], _T]) -> _T:
        return _refusing(self._path, lambda: self._run(action))

    def copy_before_migration(self, version: int) -> None:
        # One that is there is from an attempt that came to nothing, or this database would not be of this version.
        copy = self._path.with_name(f"{self._path.name}.version-{version}")
        _refusing(copy, lambda: self._copy(copy, replace=True))

    def erase(self) -> None:
        if _refusing(self._path, self._rewrite):
            raise StoreFault(
                f"{self._path}: old secrets stay while another program reads the database; end that program"
            )

    def backup(self, path: Path) -> None:
        _refusing(path, lambda: self._copy(path, replace=False))

    def close(self) -> None:
        with suppress(SQLAlchemyError, sqlite3.Error):  # everything that counts is durable already
            self._connection.close()
            self._engine.dispose()
        if self._lock is not None:
            self._lock.release()

    def _run(self, action: Callable[[Connection], _T]) -> _T:
        with self._connection.begin():
            return action(self._connection)

    def _rewrite(self) -> bool:
        """Returns whether something is left in the write-ahead log, since another program reads there."""
        # secure_delete overwrites what is deleted, but when SQLite moves rows to another page, their old bytes may
        # stay in the gap of the old one. VACUUM makes all pages anew, from what is there.
        raw = _raw(self._connection)
        raw.execute("VACUUM")
        return bool(raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])

    def _copy(self, path: Path, *, replace: bool) -> None:
        _remove_left_behind(path)
        with _new_file(path, replace=replace) as temporary:
            # A connection of its own reads one state, while the other one goes on writing.
            with self._engine.connect() as connection:
                _raw(connection).execute("VACUUM INTO ?", (str(temporary),))
            _sync(temporary)


class _Lock:
    """The exclusive use of a database: a file beside it, which is never removed. `StoreFault` if another process,
    or another `Store` in this one, has it. Ends by itself with the process."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        beside = path.with_name(path.name + ".lock")
        try:
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_MODE)
        except (OSError, ValueError) as error:
            raise StoreFault(
                f"{beside}: cannot be opened ({describe(error)}); check the path and its mode"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreFault(f"{path}: in use by process {holder or 'unknown'}; stop it first") from None
        except OSError as error:
            os.close(descriptor)
            raise StoreFault(f"{beside}: cannot be locked ({describe(error)}); use a local file system") from None
        self._descriptor = descriptor

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Give it back if this does not succeed."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _path_of(url: str) -> Path:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    file = parsed.database if parsed is not None else None
    if parsed is None or parsed.query or not file or file == ":memory:" or file.startswith("file:"):
        raise StoreFault("the database URL must name a file, like sqlite:////var/lib/groupcoap/manager.db")
    return Path(os.path.realpath(file))  # the lock is the same whatever name it is opened by


def _engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        hide_parameters=True,  # they hold secrets, and exceptions would show them
        connect_args={"timeout": _TIMEOUT, "check_same_thread": False},
    )
    event.listen(engine, "connect", _connected)
    event.listen(engine, "begin", _begin)
    return engine


def _connected(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # or the sqlite3 module decides when a transaction begins
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _raw(connection: Connection) -> sqlite3.Connection:
    """For what must not be in a transaction."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)


def _use(path: Path, shown: Path, action: Callable[[SqliteDatabase], None]) -> None:
    """Do this to a database that nobody else knows of. When it is closed, SQLite leaves nothing beside it."""
    database = SqliteDatabase(path, None, shown)
    try:
        action(database)
    finally:
        database.close()
    if os.path.exists(f"{path}-wal"):
        raise StoreFault(f"{shown}: the new database cannot be completed; check the space on the disk")


def _check_sound(database: SqliteDatabase, backup: Path, check: Callable[[SqliteDatabase], None]) -> None:
    problems: Any = None
    with suppress(sqlite3.Error):
        problems = _raw(database.connection).execute("PRAGMA integrity_check(1)").fetchone()
    if problems != ("ok",):
        raise StoreFault(f"{backup}: is damaged or no database; use another backup")
    check(database)


def _check_free(path: Path) -> None:
    for suffix in ("", *_BESIDE):
        if os.path.lexists(f"{path}{suffix}"):
            raise StoreFault(
                f"{path}{suffix}: exists already and is not overwritten; move it away, or choose another name"
            )


def _check_private(path: Path, otherwise: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise StoreFault(f"{path}: does not exist; {otherwise}") from None
    except (OSError, ValueError) as error:
        raise StoreFault(f"{path}: cannot be read ({describe(error)}); check the path and its mode") from None
    if not stat.S_ISREG(mode):
        raise StoreFault(f"{path}: is not a regular file; {otherwise}")
    if stat.S_IMODE(mode) & 0o077:
        raise StoreFault(f"{path}: holds secrets but is open to others; run: chmod 600 {path}")


@contextmanager
def _new_file(path: Path, *, replace: bool) -> Iterator[Path]:
    """An empty file of mode 0600 beside `path`, which gets this name when it is finished."""
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE))
        yield temporary
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # unlike rename this fails where there is something already
    finally:
        for suffix in ("", *_BESIDE):
            with suppress(FileNotFoundError):
                os.unlink(f"{temporary}{suffix}")
    sync_directory(path.parent)


def _remove_left_behind(path: Path) -> None:
    """Remove what `_new_file` left when it was killed: it may hold old secrets. Only for who knows that nobody else
    is writing there."""
    for temporary in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 12}*"):
        with suppress(OSError):
            os.unlink(temporary)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusing(path: Path, action: Callable[[], _T]) -> _T:
    """Do this, and turn what may go wrong into a `StoreFault`. That is raised outside of `except`, so that it has
    no link to its cause: SQLAlchemy's errors have the values that were to be written."""
    try:
        return action()
    except (OSError, OverflowError, SQLAlchemyError, sqlite3.Error) as error:
        problem = _problem(error.orig if isinstance(error, DBAPIError) else error)
    raise StoreFault(f"{path}: {problem}")


_PROBLEMS: Final = {
    sqlite3.SQLITE_FULL: "no space is left on the disk; free some",
    sqlite3.SQLITE_BUSY: "another program has the database; end it",
    sqlite3.SQLITE_LOCKED: "another program has the database; end it",
    sqlite3.SQLITE_READONLY: "the database may only be read; check its owner and mode, and those of its directory",
    sqlite3.SQLITE_PERM: "the database may not be accessed; check its owner and mode, and those of its directory",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened; check its directory's owner and mode",
    sqlite3.SQLITE_IOERR: "the database cannot be read or written; check the disk and the space on it",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore a sound backup",
    sqlite3.SQLITE_NOTADB: "is no database; give the right file",
}


def _problem(error: BaseException | None) -> str:
    if isinstance(error, FileExistsError):
        return "exists already and is not overwritten; choose another name"
    if isinstance(error, OSError):
        return f"cannot be written ({describe(error)}); check the path, its mode and the space on the disk"
    if isinstance(error, OverflowError):
        return "a number has more than 64 bits; restart the manager, and report it"
    known = _PROBLEMS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if known is not None:
        return known
    # SQLite names tables and columns, never values.
    detail = str(error) if isinstance(error, sqlite3.Error) else type(error).__name__
    return f"the database does not take this ({detail}); restart the manager, and report it"
