"""Many writes as few statements, without changing what they mean.

Each statement gets a level; levels run one after the other, and within a statement the order of the writes is kept.
Two writes that would not mean the same in the other order are either in one statement or in levels in their order:

* Writes to different tables never matter to each other: there are no foreign keys.
* Writes to one row (same primary key) do, and a `Delete` that may take this row along.
* A write that gives a row a value that must be unique comes after all those before it that may have set one free.
  The other way round it does not matter: then one that might have failed succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from .schema import Shape, shape_of
from .statements import Form, delete_form, insert_form, update_form
from .writes import Delete, Insert, Row, Update, Write

_Mark = tuple[int, Form | None]
"""A level, and the statement there that matters; None if there are several."""


def plan(writes: Sequence[Write]) -> Iterator[tuple[Form, list[Write]]]:
    """The statements in the order in which they are to be run, each with what it is to be run for.

    `MisuseError` for a write that does not fit its table."""
    tables: dict[str, _TablePlan] = {}
    for write in writes:
        table = tables.get(write.table)
        if table is None:
            table = tables[write.table] = _TablePlan(shape_of(write.table))
        table.add(write)
    for table in tables.values():
        yield from table.statements()


class _TablePlan:
    """The writes to one table."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._statements: dict[tuple[int, Form], list[Write]] = {}
        self._rows: dict[Any, _Mark] = {}
        """{primary key: the last that was written to it}"""
        self._sweeps: dict[tuple[str, ...], _Sweeps] = {}
        self._freeing: _Mark | None = None

    def statements(self) -> Iterator[tuple[Form, list[Write]]]:
        for (_, form), writes in sorted(self._statements.items(), key=lambda item: item[0][0]):
            yield form, writes

    def add(self, write: Write) -> None:
        shape = self._shape
        if isinstance(write, Insert):
            self._add_to_row(write, write.row, insert_form(shape, write.row), takes=bool(shape.unique), frees=False)
        elif isinstance(write, Update):
            moves = not shape.unique.isdisjoint(write.values)
            form = update_form(shape, write.key, write.values)
            self._add_to_row(write, write.key, form, takes=moves, frees=moves)
        else:
            form = delete_form(shape, write.key)
            if all(name in write.key for name in shape.pk):
                self._add_to_row(write, write.key, form, takes=False, frees=bool(shape.unique))
            else:
                self._add_sweep(write, form)

    def _add_to_row(self, write: Write, row: Row, form: Form, *, takes: bool, frees: bool) -> None:
        pk = self._shape.pk_of(row)
        level = _after(self._rows.get(pk), form)
        for sweeps in self._sweeps.values():
            level = max(level, _after(sweeps.last.get(sweeps.part_of(row)), form))
        if takes:
            level = max(level, _after(self._freeing, form))
        self._put(level, form, write)
        self._rows[pk] = (level, form)
        for sweeps in self._sweeps.values():
            part = sweeps.part_of(row)
            sweeps.rows[part] = _later(sweeps.rows.get(part), level, form)
        if frees:
            self._freeing = _later(self._freeing, level, form)

    def _add_sweep(self, write: Delete, form: Form) -> None:
        """Columns outside the primary key are left out of account: any row that agrees in the others may be
        meant."""
        columns = tuple(name for name in self._shape.pk if name in write.key)
        sweeps = self._sweeps.get(columns)
        if sweeps is None:
            sweeps = self._sweeps[columns] = self._sweeps_by(columns)
        part = sweeps.part_of(write.key)
        level = _after(sweeps.rows.get(part), form)
        self._put(level, form, write)
        sweeps.last[part] = _later(sweeps.last.get(part), level, form)
        if self._shape.unique:
            self._freeing = _later(self._freeing, level, form)

    def _sweeps_by(self, columns: tuple[str, ...]) -> _Sweeps:
        sweeps = _Sweeps(_getter(columns))
        names = self._shape.pk
        for pk, (level, form) in self._rows.items():
            part = sweeps.part_of(dict(zip(names, pk if len(names) > 1 else (pk,), strict=True)))
            assert form is not None
            sweeps.rows[part] = _later(sweeps.rows.get(part), level, form)
        return sweeps

    def _put(self, level: int, form: Form, write: Write) -> None:
        writes = self._statements.get((level, form))
        if writes is None:
            writes = self._statements[level, form] = []
        writes.append(write)


class _Sweeps:
    """The deletions by one part of the primary key. `last`: {part: the last deletion}, `rows`: {part: the last that
    was written to a row with it}."""

    __slots__ = ("last", "part_of", "rows")

    def __init__(self, part_of: Callable[[Row], Any]) -> None:
        self.part_of = part_of
        self.last: dict[Any, _Mark] = {}
        self.rows: dict[Any, _Mark] = {}


def _after(mark: _Mark | None, form: Form) -> int:
    """The first level at which this statement comes after the mark; the same one if it is the same statement."""
    if mark is None:
        return 0
    level, other = mark
    return level if other is form else level + 1


def _later(mark: _Mark | None, level: int, form: Form) -> _Mark:
    if mark is None or level > mark[0]:
        return level, form
    if level == mark[0] and mark[1] is not form:
        return level, None
    return mark


def _getter(columns: tuple[str, ...]) -> Callable[[Row], Any]:
    return itemgetter(*columns) if columns else lambda row: ()
