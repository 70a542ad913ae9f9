"""The tables, as they are in the newest version (`migrations.VERSION`).

Nothing here belongs to one database product. There are no foreign keys: the manager's memory is what counts, its
decisions keep rows together, and writes to different tables may be reordered within a transaction.

A change of the tables needs a step in `migrations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Double, LargeBinary, MetaData, Table, Text

from ...errors import MisuseError
from .writes import Row

metadata: Final = MetaData()

_SEALED: Final = "sealed"


def _column(name: str, kind: Any, *, pk: bool = False, null: bool = False, unique: bool = False) -> Column[Any]:
    return Column(name, kind, primary_key=pk, nullable=null, unique=unique or None, autoincrement=False)


def _text(name: str, *, pk: bool = False, null: bool = False) -> Column[Any]:
    return _column(name, Text, pk=pk, null=null)


def _bytes(name: str, *, pk: bool = False, null: bool = False, unique: bool = False) -> Column[Any]:
    return _column(name, LargeBinary, pk=pk, null=null, unique=unique)


def _float(name: str, *, null: bool = False) -> Column[Any]:
    return _column(name, Double, null=null)


def _int(name: str, *, pk: bool = False, null: bool = False) -> Column[Any]:
    return _column(name, BigInteger, pk=pk, null=null)


def _sealed(name: str) -> Column[Any]:
    """Null where there is no secret, or not any more."""
    return Column(name, LargeBinary, nullable=True, info={_SEALED: True})


def _table(name: str, *columns: Column[Any]) -> Table:
    return Table(name, metadata, *columns, implicit_returning=False)


store: Final = _table(
    "store",
    _int("id", pk=True),
    _text("format"),
    _int("version"),
    _bytes("identity"),
    _text("sealing"),
    _bytes("proof", null=True),
)
"""One row about the database itself: `format` and `version` of the tables, `identity` (16 random bytes that sealed
values are bound to), how values are sealed (a name of `sealing.Sealing`), and a sealed value that only the right
key opens."""

_table(
    "manager",
    _int("id", pk=True),
    _bytes("incarnation"),
    _text("name"),
    _float("created"),
    _text("settings"),
)
_table(
    "manager_keys",
    _int("signature", pk=True),
    _sealed("signing_key"),
    _text("credential_kind"),
    _bytes("credential"),
)
_table(
    "devices",
    _text("device", pk=True),
    _bytes("handle", unique=True),
    _sealed("secret"),
    _float("enrolled"),
    _float("withdrawn", null=True),
    _text("note"),
)
_table(
    "associations",
    _text("device", pk=True),
    _bytes("own_id", unique=True),
    _bytes("peer_id"),
    _sealed("salt"),
    _bytes("challenge"),
    _int("reserved"),
    _text("address", null=True),
    _float("established"),
)
_table("rights", _text("device", pk=True), _text("grp", pk=True), _int("roles"))
_table(
    "credentials",
    _text("device", pk=True),
    _int("signature", pk=True),
    _text("kind", pk=True),
    _bytes("data"),
    _float("proved"),
)
_table(
    "groups",
    _text("grp", pk=True),
    _text("settings"),
    _text("state"),
    _text("alarm", null=True),
    _bytes("tag", unique=True),
    _bytes("prefix"),
    _int("epoch"),
    _int("num"),
    _bytes("gid"),
    _sealed("master_secret"),
    _bytes("base_iv"),
    _float("renewed"),
    _int("sequence"),
)
_table("prefixes", _bytes("prefix", pk=True), _text("grp"))
_table(
    "members",
    _text("grp", pk=True),
    _text("node", pk=True),
    _text("device"),
    _bytes("endpoint_id", null=True),
    _int("roles"),
    _text("credential_kind", null=True),
    _bytes("credential", null=True),
    _bytes("scope"),
    _bytes("nonce"),
    _float("joined"),
    _int("joined_num"),
    _int("confirmed_num"),
    _float("confirmed_at", null=True),
    _text("control", null=True),
    _int("placed"),
)
_table("ghosts", _text("grp", pk=True), _text("node", pk=True))
_table("stale", _text("grp", pk=True), _int("num", pk=True), _bytes("endpoint_id", pk=True))
_table(
    "keys",
    _text("grp", pk=True),
    _int("node", pk=True),
    _int("parent", null=True),
    _int("generation"),
    _sealed("key"),
    _text("member", null=True),
)
_table(
    "renewals",
    _text("grp", pk=True),
    _int("num", pk=True),
    _bytes("gid"),
    _text("reason"),
    _float("started"),
    _float("finished", null=True),
    _bytes("multicasts"),
    _int("unicasts"),
    _int("reload"),
)
_table(
    "answers",
    _text("device", pk=True),
    _bytes("digest", pk=True),
    _text("grp"),
    _text("node"),
    _int("created"),
    _float("expires"),
)
_table(
    "audit",
    _int("seq", pk=True),
    _float("time"),
    _text("actor"),
    _text("event"),
    _text("grp", null=True),
    _text("device", null=True),
    _text("detail"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What writing and loading need to know of a table. `pk_of` gives the primary key of a row: its value, or the
    tuple of its values if it has several columns. `pk_codes` turn each value of it into bytes. `unique`: columns
    outside the primary key in which no two rows are equal."""

    table: Table
    columns: frozenset[str]
    pk: tuple[str, ...]
    pk_of: Callable[[Row], Any]
    pk_codes: tuple[tuple[str, Callable[[Any], bytes]], ...]
    sealed: tuple[str, ...]
    unique: frozenset[str]

    @property
    def name(self) -> str:
        return self.table.name

    def check(self, columns: Sequence[str] | Row) -> None:
        """`MisuseError` for a column that this table does not have."""
        for name in columns:
            if name not in self.columns:
                raise MisuseError(f"table {self.name} has no column {name!r}")


_CODES: Final[dict[type, Callable[[Any], bytes]]] = {
    Text: str.encode,
    LargeBinary: bytes,
    BigInteger: lambda number: b"%d" % number,
}


def _shape(table: Table) -> Shape:
    pk = tuple(column.name for column in table.primary_key)
    return Shape(
        table,
        frozenset(table.columns.keys()),
        pk,
        itemgetter(*pk),
        tuple((name, _CODES[type(table.columns[name].type)]) for name in pk),
        tuple(column.name for column in table.columns if _SEALED in column.info),
        frozenset(column.name for column in table.columns if column.unique),
    )


SHAPES: Final = {table.name: _shape(table) for table in metadata.sorted_tables if table is not store}
"""The manager's tables, by name."""


def shape_of(table: str) -> Shape:
    """`MisuseError` if there is no such table."""
    try:
        return SHAPES[table]
    except KeyError:
        raise MisuseError(f"there is no table {table!r}") from None
