"""What changes in the database, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""{column: value}: str, bytes, float, int or None. Sealed columns hold plain bytes or None here."""


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row, with its whole primary key. Columns that may be null may be left out."""

    table: str
    row: Row = field(repr=False)  # may hold secrets


@dataclass(frozen=True, slots=True)
class Update:
    """New values for some columns of a row that is there. `key`: its whole primary key, which stays as it is."""

    table: str
    key: Row
    values: Row = field(repr=False)  # may hold secrets


@dataclass(frozen=True, slots=True)
class Delete:
    """The end of all rows that are equal to `key` in its columns: at least one, none of them sealed. There need not
    be such a row."""

    table: str
    key: Row


Write = Insert | Update | Delete
