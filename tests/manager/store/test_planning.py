"""Few statements mean what many writes in their order mean: a dictionary is the judge."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from groupcoap.errors import StoreFault
from groupcoap.manager.store.planning import plan
from groupcoap.manager.store.schema import SHAPES
from groupcoap.manager.store.store import Store
from groupcoap.manager.store.writes import Delete, Insert, Row, Update, Write

from .conftest import MEMORY
from .rows import create, key_of, sample

Model = dict[str, dict[tuple[Any, ...], Row]]


class Impossible(Exception):
    """The writes cannot be carried out."""


def carry_out(model: Model, write: Write) -> None:
    shape, rows = SHAPES[write.table], model.setdefault(write.table, {})
    if isinstance(write, Insert):
        pk = tuple(write.row[name] for name in shape.pk)
        if pk in rows:
            raise Impossible
        rows[pk] = dict(write.row)
    elif isinstance(write, Update):
        pk = tuple(write.key[name] for name in shape.pk)
        if pk not in rows:
            raise Impossible
        rows[pk] |= write.values
    else:
        gone = [pk for pk, row in rows.items() if all(row[name] == value for name, value in write.key.items())]
        for pk in gone:
            del rows[pk]


GROUPS, NODES, PARENTS = st.sampled_from("ab"), st.integers(0, 2), st.sampled_from([None, 1])
MEMBERS = st.sampled_from([None, "m"])
SECRETS = st.sampled_from([None, b"", b"one", b"two"])


@st.composite
def key_writes(draw: st.DrawFn) -> Write:
    """For the table `keys`: two columns of primary key, a sealed one, and some that may be null."""
    key: Row = {"grp": draw(GROUPS), "node": draw(NODES)}
    values = {"parent": draw(PARENTS), "generation": draw(NODES), "key": draw(SECRETS), "member": draw(MEMBERS)}
    match draw(st.sampled_from("IIIUUUDS")):
        case "I":
            return Insert("keys", key | values)
        case "U":
            names = draw(st.sets(st.sampled_from(sorted(values)), min_size=1))
            return Update("keys", key, {name: values[name] for name in names})
        case "D":
            return Delete("keys", key)
        case _:
            known = {name: value for name, value in (key | values).items() if name != "key"}
            names = draw(st.sets(st.sampled_from(sorted(known)), min_size=1, max_size=3))
            return Delete("keys", {name: known[name] for name in names})


@st.composite
def stale_writes(draw: st.DrawFn) -> Write:
    """For the table `stale`, which is nothing but primary key."""
    row: Row = {"grp": draw(GROUPS), "num": draw(NODES), "endpoint_id": draw(st.sampled_from([b"", b"1"]))}
    if draw(st.booleans()):
        return Insert("stale", row)
    names = draw(st.sets(st.sampled_from(sorted(row)), min_size=1))
    return Delete("stale", {name: row[name] for name in names})


WRITES = st.lists(st.one_of(key_writes(), stale_writes()), max_size=14)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as directory:
        yield create(Path(directory))


def emptied(store: Store) -> Store:
    def empty(connection: Any) -> None:
        for shape in SHAPES.values():
            connection.execute(delete(shape.table))

    store._database.run(empty)
    return store


def stored(store: Store, *tables: str) -> Model:
    snapshot = store.load()
    return {
        table: {tuple(row[name] for name in SHAPES[table].pk): row for row in snapshot.rows(table)}
        for table in tables
        if snapshot.rows(table)
    }


def possible(before: list[Write], writes: list[Write]) -> tuple[Model, list[Write]]:
    """What becomes of the model, without those writes that are impossible where they stand."""
    model: Model = {}
    kept = []
    for write in [*before, *writes]:
        try:
            carry_out(model, write)
        except Impossible:
            continue
        kept.append(write)
    return {table: rows for table, rows in model.items() if rows}, kept


@settings(max_examples=100)
@given(WRITES, WRITES)
def test_a_batch_means_what_its_writes_mean_in_their_order(
    store: Store, before: list[Write], writes: list[Write]
) -> None:
    """Those that are impossible where they stand are left out; the others are possible only in this order."""
    emptied(store)
    first, kept = possible([], before)
    store.commit(kept)
    assert stored(store, "keys", "stale") == first
    after, all_kept = possible(kept, writes)
    store.commit(all_kept[len(kept) :])
    assert stored(store, "keys", "stale") == after


@settings(max_examples=70)
@given(WRITES)
def test_a_batch_with_an_impossible_write_is_refused_as_a_whole(store: Store, writes: list[Write]) -> None:
    model: Model = {}
    try:
        for write in writes:
            carry_out(model, write)
    except Impossible:
        model = {}
        with pytest.raises(StoreFault):
            emptied(store).commit(writes)
    else:
        emptied(store).commit(writes)
    assert stored(store, "keys", "stale") == {table: rows for table, rows in model.items() if rows}


OWN_IDS = st.binary(min_size=1, max_size=1).map(lambda value: bytes([value[0] & 3]))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("IUDSV"), st.sampled_from("xyz"), OWN_IDS), max_size=14))
def test_a_value_that_was_set_free_may_be_taken_again(store: Store, choices: list[tuple[str, str, bytes]]) -> None:
    """`own_id` is unique. Only writes that are possible in their order are given."""
    model: dict[str, bytes] = {}
    writes: list[Write] = []
    for kind, device, own_id in choices:
        taken = own_id in [value for name, value in model.items() if name != device]
        if kind == "I" and device not in model and not taken:
            writes.append(Insert("associations", sample("associations", 1, device=device, own_id=own_id)))
            model[device] = own_id
        elif kind == "U" and device in model and not taken:
            writes.append(Update("associations", {"device": device}, {"own_id": own_id, "reserved": 7}))
            model[device] = own_id
        elif kind == "V" and device in model:
            writes.append(Update("associations", {"device": device}, {"reserved": 8}))
        elif kind == "D":
            writes.append(Delete("associations", {"device": device}))
            model.pop(device, None)
        elif kind == "S":
            writes.append(Delete("associations", {"own_id": own_id}))
            model = {name: value for name, value in model.items() if value != own_id}
    emptied(store).commit(writes)
    assert {row["device"]: row["own_id"] for row in store.load().rows("associations")} == model


def a_command(n: int) -> list[Write]:
    group = {"grp": f"g{n % 7}"}
    return [
        Update("groups", group, {"num": n, "master_secret": b"secret", "gid": b"gid"}),
        Insert("members", sample("members", n, **group)),
        Delete("stale", {**group, "num": n - 3}),
        Insert("stale", sample("stale", n, **group)),
        Delete("keys", {**group, "node": n}),
        Insert("keys", sample("keys", n, **group)),
        Delete("associations", {"device": f"d{n}"}),
        Insert("associations", sample("associations", n, device=f"d{n}")),
        Insert("audit", sample("audit", n)),
    ]


def test_many_commands_take_as_many_statements_as_one() -> None:
    one = list(plan(a_command(1)))
    many = list(plan([write for n in range(64) for write in a_command(n)]))
    assert len(many) == len(one) == 9
    assert sum(len(writes) for _, writes in many) == 64 * 9


def test_groups_do_not_wait_for_one_another_where_one_is_swept_and_filled_again() -> None:
    numbers = count()
    writes: list[Write] = []
    for n in range(50):
        writes += [Delete("keys", {"grp": f"g{n}"})]
        writes += [Insert("keys", sample("keys", next(numbers), grp=f"g{n}")) for _ in range(3)]
    assert [len(group) for _, group in plan(writes)] == [50, 150]


def test_the_key_of_an_update_is_never_changed() -> None:
    row = sample("keys", 1)
    writes: list[Write] = [Insert("keys", row), Update("keys", key_of("keys", row), {"generation": 5})]
    list(plan(writes))
    assert row == sample("keys", 1)
