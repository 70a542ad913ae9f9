"""A secret opens with the right key, at its own place, and nowhere else."""

from __future__ import annotations

import os
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from groupcoap.errors import FileFault, StoreFault
from groupcoap.manager.store.schema import SHAPES
from groupcoap.manager.store.sealing import Sealer, SealingKey
from groupcoap.manager.store.writes import Insert

from .rows import KEY, NAME, OTHER_KEY, create, files_of, key_of, reopen, sample

SEALED = [table for table, shape in SHAPES.items() if shape.sealed]


def tamper(path: Path, sql: str, *values: Any) -> list[Any]:
    with sqlite3.connect(path) as connection:
        found = connection.execute(sql, values).fetchall()
    connection.close()
    return found


def filled(directory: Path, name: str = NAME) -> None:
    store = create(directory, name=name)
    store.commit([Insert(table, sample(table, n)) for table in SHAPES for n in (1, 2)])
    store.close()


def does_not_open(directory: Path) -> None:
    store = reopen(directory)
    with pytest.raises(StoreFault, match="does not belong where it stands, or is damaged; restore"):
        store.load()
    store.close()


def test_there_are_secrets_and_none_is_in_the_file(tmp_path: Path) -> None:
    assert {"devices", "associations", "groups", "keys"} <= set(SEALED)
    filled(tmp_path)
    content = files_of(tmp_path)[NAME]
    for table in SEALED:
        for name in SHAPES[table].sealed:
            assert sample(table, 1)[name] not in content
    assert sample("devices", 1)["handle"] in content


@pytest.mark.parametrize("table", SEALED)
def test_a_value_moved_to_another_row_does_not_open(tmp_path: Path, table: str) -> None:
    filled(tmp_path)
    name, key = SHAPES[table].sealed[0], key_of(table, sample(table, 1))
    where = " AND ".join(f"{column} = ?" for column in key)
    other = f"SELECT {name} FROM {table} WHERE NOT ({where})"
    tamper(tmp_path / NAME, f"UPDATE {table} SET {name} = ({other}) WHERE {where}", *key.values(), *key.values())
    does_not_open(tmp_path)


def test_a_value_moved_to_another_table_does_not_open(tmp_path: Path) -> None:
    filled(tmp_path)
    same = sample("devices", 1)["device"]
    assert sample("associations", 1)["device"] == same  # nothing but table and column differ
    tamper(
        tmp_path / NAME,
        "UPDATE associations SET salt = (SELECT secret FROM devices WHERE device = ?) WHERE device = ?",
        same,
        same,
    )
    does_not_open(tmp_path)


def test_a_value_from_another_database_does_not_open(tmp_path: Path) -> None:
    filled(tmp_path)
    filled(tmp_path, "other.db")
    [(value,)] = tamper(tmp_path / "other.db", "SELECT secret FROM devices WHERE device = ?", "device 1")
    tamper(tmp_path / NAME, "UPDATE devices SET secret = ? WHERE device = ?", value, "device 1")
    does_not_open(tmp_path)


@pytest.mark.parametrize("value", [b"", b"\x00plain", b"\x01", b"\x01" + bytes(28), b"\x02" + bytes(40), "text"])
def test_a_value_that_was_never_sealed_does_not_open(tmp_path: Path, value: bytes) -> None:
    filled(tmp_path)
    tamper(tmp_path / NAME, "UPDATE devices SET secret = ? WHERE device = 'device 1'", value)
    does_not_open(tmp_path)


def test_every_bit_counts(tmp_path: Path) -> None:
    filled(tmp_path)
    [(value,)] = tamper(tmp_path / NAME, "SELECT secret FROM devices WHERE device = 'device 1'")
    sealer_identity = tamper(tmp_path / NAME, "SELECT identity FROM store")[0][0]
    sealer, row = Sealer(KEY, sealer_identity), sample("devices", 1)
    assert sealer.unseal(SHAPES["devices"], "secret", row, value) == row["secret"]
    for position in range(len(value)):
        damaged = bytes(byte ^ (i == position) for i, byte in enumerate(value))
        with pytest.raises(StoreFault):
            sealer.unseal(SHAPES["devices"], "secret", row, damaged)


def test_places_are_told_apart_whatever_the_names() -> None:
    sealer, shape = Sealer(KEY, bytes(16)), SHAPES["keys"]
    places = [("a", 11), ("a1", 1), ("a", 1), ("", 11), ("a\x00", 1), ("ä", 1)]
    texts = {sealer._place(shape, "key", {"grp": grp, "node": node}) for grp, node in places}
    assert len(texts) == len(places)


def test_the_same_value_is_never_sealed_the_same_way() -> None:
    sealer, row = Sealer(KEY, bytes(16)), sample("devices", 1)
    assert len({sealer.seal(SHAPES["devices"], "secret", row, b"value") for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("made_with", "opened_with", "answer"),
    [
        (KEY, OTHER_KEY, "sealed with another key; give the key"),
        (KEY, None, "is sealed; give its key"),
        (None, KEY, "is not sealed; open it without a key"),
    ],
)
def test_the_wrong_key_is_told_at_once(
    tmp_path: Path, made_with: SealingKey | None, opened_with: SealingKey | None, answer: str
) -> None:
    create(tmp_path, made_with).close()
    with pytest.raises(StoreFault, match=answer):
        reopen(tmp_path, opened_with)
    reopen(tmp_path, made_with).close()  # nobody has the lock


def test_a_sealed_database_that_says_it_is_not_does_not_give_its_values(tmp_path: Path) -> None:
    filled(tmp_path)
    tamper(tmp_path / NAME, "UPDATE store SET sealing = 'none', proof = NULL")
    store = reopen(tmp_path, None)
    with pytest.raises(StoreFault):
        store.load()
    store.close()
    tamper(tmp_path / NAME, "UPDATE store SET sealing = 'rot13'")
    with pytest.raises(StoreFault, match="upgrade"):
        reopen(tmp_path, KEY)


def test_a_key_comes_from_a_file_or_a_text(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = SealingKey.generate()
    key.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text("ascii")
    assert len(text) == 65
    value = SealingKey.from_file(path).seal(b"value", b"here")
    assert key.unseal(value, b"here") == b"value"
    assert SealingKey.from_text(text.upper()).unseal(value, b"here") == b"value"
    assert key.unseal(value, b"there") is None
    assert OTHER_KEY.unseal(value, b"here") is None
    with pytest.raises(FileFault, match="exists already"):
        key.write(path)


@pytest.mark.parametrize("wrong", ["", "00" * 31, "00" * 33, "zz" * 32, "0 " * 32, "０" * 64])
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "key"
    path.write_text(wrong, "utf-8")
    path.chmod(0o600)
    with pytest.raises(StoreFault, match="must be 32 bytes in hex") as of_text:
        SealingKey.from_text(wrong)
    with pytest.raises(StoreFault, match="must be 32 bytes in hex") as of_file:
        SealingKey.from_file(path)
    assert not wrong or not any(wrong in str(caught.value) for caught in (of_text, of_file))
    with pytest.raises(StoreFault):
        SealingKey(b"short")


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(FileFault, match="does not exist"):
        SealingKey.from_file(path)
    SealingKey.generate().write(path)
    path.chmod(0o640)
    with pytest.raises(FileFault, match="chmod 600"):
        SealingKey.from_file(path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(FileFault, match="not a regular file"):
        SealingKey.from_file(path)


def test_a_key_does_not_show_itself() -> None:
    assert repr(KEY) == str(KEY) == "<sealing key>"
    with pytest.raises(TypeError):
        pickle.dumps(KEY)
