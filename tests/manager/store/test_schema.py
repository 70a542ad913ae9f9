"""The tables and statements are of no particular database product."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import UniqueConstraint, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from groupcoap.manager.store.planning import plan
from groupcoap.manager.store.schema import SHAPES, metadata
from groupcoap.manager.store.writes import Delete, Insert, Update, Write

from .rows import create, key_of, sample

POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
TYPES = {"TEXT", "BYTEA", "BIGINT", "DOUBLE PRECISION"}


@pytest.mark.parametrize("table", metadata.tables)
def test_every_table_can_be_made_in_postgresql(table: str) -> None:
    columns = metadata.tables[table].columns
    assert {column.type.compile(POSTGRESQL) for column in columns} <= TYPES
    assert "SERIAL" not in str(CreateTable(metadata.tables[table]).compile(dialect=POSTGRESQL))
    assert not metadata.tables[table].foreign_keys


@pytest.mark.parametrize("table", SHAPES)
def test_every_statement_can_be_said_to_postgresql(table: str) -> None:
    row, key = sample(table, 1), key_of(table, sample(table, 1))
    others = {name: value for name, value in row.items() if name not in key}
    writes: list[Write] = [Insert(table, row), Delete(table, key)]
    if others:
        writes.append(Update(table, key, others))
    texts = [str(form.statement.compile(dialect=POSTGRESQL)) for form, _ in plan(writes)]
    assert {text.split()[0] for text in texts} == {type(write).__name__.upper() for write in writes}


def test_a_new_database_has_these_tables_and_no_others(tmp_path: Path) -> None:
    store = create(tmp_path)
    found = store._database.run(lambda connection: inspect(connection).get_table_names())
    assert set(found) == set(metadata.tables)
    store.close()


def test_uniqueness_is_known_to_the_planning() -> None:
    """It knows of single columns only."""
    for shape in SHAPES.values():
        constraints = [c for c in shape.table.constraints if isinstance(c, UniqueConstraint)]
        assert {tuple(c.columns.keys()) for c in constraints} == {(name,) for name in shape.unique}
        assert not shape.table.indexes
