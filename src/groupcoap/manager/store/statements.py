"""The statements that writes become: each is built once, and run for many writes at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Dialect, UpdateBase, bindparam, delete, insert, update

from ...errors import MisuseError, StoreFault
from .schema import Shape
from .sealing import Sealer
from .writes import Delete, Insert, Row, Update, Write

_KEY: Final = "key_"
_SET: Final = "set_"
"""In front of the names of parameters: a column's own name is taken by SQLAlchemy, and one column may be both."""

_MAX_FORMS: Final = 1024
"""Statements kept, against code that makes ever new ones."""


class Form:
    """A statement, and how a write becomes its parameters; the same object for the same statement.

    `must_match`: how many rows are changed says whether the database is as the writer believes."""

    __slots__ = ("_build", "_prepared", "must_match", "shape", "statement")

    def __init__(
        self, shape: Shape, statement: UpdateBase, build: Callable[[Any, Sealer], Row], must_match: bool = False
    ) -> None:
        self.shape: Final = shape
        self.statement: Final = statement
        self.must_match: Final = must_match
        self._build: Final[Callable[[Any, Sealer], Row]] = build
        self._prepared: dict[str, tuple[str, Callable[[Row], Any]]] = {}

    def prepared(self, dialect: Dialect, writes: list[Write], sealer: Sealer) -> Prepared:
        """What is to be run for these writes."""
        found = self._prepared.get(dialect.name)
        if found is None:
            found = self._prepared[dialect.name] = _compiled(self.statement, dialect)
        sql, arranged = found
        build = self._build
        return Prepared(self, sql, [arranged(build(write, sealer)) for write in writes])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement with the parameters of every write that it is run for, sealed."""

    form: Form
    sql: str
    parameters: list[Any] = field(repr=False)

    def run(self, connection: Connection) -> None:
        """`StoreFault` if a row that is to be updated is not there."""
        # All columns are of types that every driver takes as they are; to have SQLAlchemy look at each value again
        # would cost half of the time of a commit.
        result = connection.exec_driver_sql(self.sql, self.parameters)
        if self.form.must_match and result.rowcount != len(self.parameters):
            name = self.form.shape.name
            raise StoreFault(f"a row of table {name} that is to be updated is not there; restart the manager")


def _compiled(statement: UpdateBase, dialect: Dialect) -> tuple[str, Callable[[Row], Any]]:
    """The text, and what puts parameters into the form that this driver takes."""
    compiled = statement.compile(dialect=dialect)
    names = compiled.positiontup if compiled.positional else None
    if names is None:
        return str(compiled), lambda row: row
    if len(names) > 1:
        return str(compiled), itemgetter(*names)
    return str(compiled), lambda row: tuple(row[name] for name in names)


_inserts: dict[str, Form] = {}
_updates: dict[tuple[str, frozenset[str]], Form] = {}
_deletes: dict[tuple[str, frozenset[str], frozenset[str]], Form] = {}


def insert_form(shape: Shape, row: Row) -> Form:
    """`MisuseError` for a row without its primary key, or with columns that the table does not have."""
    if not row.keys() <= shape.columns:
        shape.check(row)
    for name in shape.pk:
        if row.get(name) is None:
            raise MisuseError(f"a new row of table {shape.name} needs {name}")
    form = _inserts.get(shape.name)
    if form is None:
        form = _inserts[shape.name] = _make_insert(shape)
    return form


def update_form(shape: Shape, key: Row, values: Row) -> Form:
    """`MisuseError` unless `key` is the whole primary key and `values` are other columns of the table, at least
    one."""
    if len(key) != len(shape.pk) or any(key.get(name) is None for name in shape.pk):
        raise MisuseError(f"an update of table {shape.name} needs the whole primary key: {', '.join(shape.pk)}")
    columns = frozenset(values)
    form = _updates.get((shape.name, columns))
    if form is None:
        shape.check(values)
        if not columns or not columns.isdisjoint(shape.pk):
            raise MisuseError(f"an update of table {shape.name} needs columns outside the primary key")
        form = _kept(_updates)[shape.name, columns] = _make_update(shape, columns)
    return form


def delete_form(shape: Shape, key: Row) -> Form:
    """`MisuseError` unless `key` has columns of the table, at least one, and none that is sealed."""
    columns = frozenset(key)
    nulls = frozenset(name for name in key if key[name] is None)
    form = _deletes.get((shape.name, columns, nulls))
    if form is None:
        shape.check(key)
        if not columns or not columns.isdisjoint(shape.sealed):
            raise MisuseError(
                f"rows of table {shape.name} are deleted by columns that are not sealed, at least one"
            )
        form = _kept(_deletes)[shape.name, columns, nulls] = _make_delete(shape, columns, nulls)
    return form


def _kept(forms: dict[Any, Form]) -> dict[Any, Form]:
    if len(forms) >= _MAX_FORMS:
        forms.clear()
    return forms


def _make_insert(shape: Shape) -> Form:
    sealed = shape.sealed
    nothing: Row = dict.fromkeys(shape.table.columns.keys())

    def parameters(write: Insert, sealer: Sealer) -> Row:
        row = nothing | write.row
        for name in sealed:
            row[name] = sealer.seal(shape, name, row, row[name])
        return row

    return Form(shape, insert(shape.table).values({name: bindparam(name) for name in nothing}), parameters)


def _make_update(shape: Shape, columns: frozenset[str]) -> Form:
    sealed = columns.intersection(shape.sealed)
    names = sorted(columns)

    def parameters(write: Update, sealer: Sealer) -> Row:
        row = {_SET + name: value for name, value in write.values.items()}
        for name in sealed:
            row[_SET + name] = sealer.seal(shape, name, write.key, write.values[name])
        for name, value in write.key.items():
            row[_KEY + name] = value
        return row

    statement = (
        update(shape.table)
        .where(*(_equal(shape, name) for name in shape.pk))
        .values({name: bindparam(_SET + name) for name in names})
    )
    return Form(shape, statement, parameters, must_match=True)


def _make_delete(shape: Shape, columns: frozenset[str], nulls: frozenset[str]) -> Form:
    def parameters(write: Delete, sealer: Sealer) -> Row:
        return {_KEY + name: value for name, value in write.key.items() if value is not None}

    conditions = [
        shape.table.columns[name].is_(None) if name in nulls else _equal(shape, name) for name in sorted(columns)
    ]
    return Form(shape, delete(shape.table).where(*conditions), parameters)


def _equal(shape: Shape, name: str) -> ColumnElement[bool]:
    column = shape.table.columns[name]
    return column == bindparam(_KEY + name, type_=column.type)
