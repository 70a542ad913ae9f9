"""Rows for any table, made from the schema; databases in a directory; children that are forked."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Double, LargeBinary, Text

from groupcoap.manager.store.schema import SHAPES
from groupcoap.manager.store.sealing import SealingKey
from groupcoap.manager.store.store import Store
from groupcoap.manager.store.writes import Row

KEY = SealingKey(bytes(range(32)))
OTHER_KEY = SealingKey(bytes(range(1, 33)))
NAME = "manager.db"

_MAKERS: dict[type, Callable[[str, int], Any]] = {
    Text: lambda name, n: f"{name} {n}",
    LargeBinary: lambda name, n: f"{name} {n}".encode() + b"\x00\xff",
    BigInteger: lambda _, n: n,
    Double: lambda _, n: n + 0.25,
}


def sample(table: str, n: int, **given: Any) -> Row:
    """A row that differs in every column from that of another n."""
    columns = SHAPES[table].table.columns
    row = {column.name: _MAKERS[type(column.type)](column.name, n) for column in columns}
    assert given.keys() <= row.keys()
    return row | given


def bare(table: str, n: int) -> Row:
    """A row with nothing in what may be null."""
    columns = SHAPES[table].table.columns
    return {name: None if columns[name].nullable else value for name, value in sample(table, n).items()}


def key_of(table: str, row: Row) -> Row:
    return {name: row[name] for name in SHAPES[table].pk}


def audit_of(store: Store) -> list[Row]:
    """The whole audit log, oldest first: `load` has only the latest entry."""
    return store.audit(limit=1_000_000)[::-1]


def url(directory: Path, name: str = NAME) -> str:
    return f"sqlite:///{directory / name}"


def create(directory: Path, key: SealingKey | None = KEY, name: str = NAME) -> Store:
    return Store.create(url(directory, name), key)


def reopen(directory: Path, key: SealingKey | None = KEY, name: str = NAME) -> Store:
    return Store.open(url(directory, name), key)


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def forked(main: Callable[[], None]) -> int:
    """The process id of a child that does this; exit status 0 if it raises nothing."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        main()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait_for(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
