"""A superseded secret is in no file of the database any more."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random

import pytest

from groupcoap.errors import StoreFault
from groupcoap.manager.store.sealing import SealingKey
from groupcoap.manager.store.store import Store
from groupcoap.manager.store.writes import Delete, Insert, Update, Write

from .rows import KEY, NAME, create, files_of, reopen, sample

KEYS = pytest.mark.parametrize("key", [KEY, None], ids=["sealed", "not sealed"])
GENERATION = b"generation %d of a secret, "
COUNT = 400


def secret_of(generation: int, n: int, more: int = 0) -> bytes:
    return GENERATION % generation + b"number %d;" % n + b"." * more


def stored_secrets(store: Store) -> list[bytes]:
    """The values of the column as they are in the database, sealed or not."""
    raw = store._database.connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return [value for (value,) in raw.execute("SELECT key FROM keys WHERE key IS NOT NULL")]


def found(directory: Path, secrets: list[bytes]) -> int:
    content = b"".join(files_of(directory).values())
    return sum(secret in content for secret in secrets)


def filled(directory: Path, key: SealingKey | None) -> Store:
    """Rows in random order, which grow when they are updated: pages are split and rows moved."""
    store = create(directory, key)
    order = list(range(COUNT))
    Random(1).shuffle(order)
    for n in order:
        store.commit([Insert("keys", sample("keys", n, grp=f"g{n % 5}", key=secret_of(0, n)))])
    store.erase()
    return store


def renewed(generation: int) -> list[Write]:
    more = Random(generation)
    return [
        Update("keys", {"grp": f"g{n % 5}", "node": n}, {"key": secret_of(generation, n, more.randrange(60))})
        for n in range(COUNT)
    ]


@KEYS
def test_after_an_update(tmp_path: Path, key: SealingKey | None) -> None:
    store = filled(tmp_path, key)
    first = stored_secrets(store)
    for n, write in enumerate(renewed(1)):  # also what is half superseded is moved about
        store.commit([write])
        if n == COUNT // 2:
            half = stored_secrets(store)
    second = stored_secrets(store)
    assert found(tmp_path, first) > 0  # in the write-ahead log, at least
    assert found(tmp_path, second) == COUNT
    store.erase()
    assert found(tmp_path, first) == 0
    assert found(tmp_path, [secret for secret in half if secret not in second]) == 0
    store.commit(renewed(2))
    store.erase()
    assert found(tmp_path, first + second) == 0
    assert found(tmp_path, stored_secrets(store)) == COUNT
    if key is None:
        assert not found(tmp_path, [GENERATION % 0, GENERATION % 1])
        assert found(tmp_path, [GENERATION % 2])
    store.close()
    assert found(tmp_path, first + second) == 0


@KEYS
def test_after_a_deletion(tmp_path: Path, key: SealingKey | None) -> None:
    store = filled(tmp_path, key)
    first = stored_secrets(store)
    assert found(tmp_path, first) == COUNT
    store.commit([Delete("keys", {"grp": f"g{n}"}) for n in range(5)])
    store.erase()
    assert found(tmp_path, first) == 0


def test_to_overwrite_is_not_enough(tmp_path: Path) -> None:
    """If this fails, SQLite has got better, and there may be a cheaper way than to write the database anew."""
    store = filled(tmp_path, None)
    random, order = Random(1), list(range(COUNT))
    random.shuffle(order)
    sizes = [random.randrange(700) for _ in order]
    for generation in (1, 2):  # they grow, and then they stay where they are
        for n in order:
            secret = secret_of(generation, n, sizes[n])
            store.commit([Update("keys", {"grp": f"g{n % 5}", "node": n}, {"key": secret})])
    raw = store._database.connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = files_of(tmp_path)[NAME]
    assert content.count(GENERATION % 1) > 0
    store.erase()
    content = files_of(tmp_path)[NAME]
    assert content.count(GENERATION % 2) == COUNT
    assert content.count(GENERATION % 1) == 0


def test_what_a_crash_left_is_erased_after_opening(tmp_path: Path) -> None:
    store = filled(tmp_path, None)
    store.commit(renewed(1))
    # As the files are after a crash, since closing would tidy up.
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for suffix in ("", "-wal"):
        path = crashed / (NAME + suffix)
        path.write_bytes((tmp_path / (NAME + suffix)).read_bytes())
        path.chmod(0o600)
    assert found(crashed, [GENERATION % 0])
    after = reopen(crashed, None)
    after.erase()
    assert not found(crashed, [GENERATION % 0])
    assert found(crashed, [GENERATION % 1])


def test_nothing_is_done_without_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, KEY)
    erased: list[int] = []
    erase = store._database.erase

    def counted() -> None:
        erased.append(1)
        erase()

    monkeypatch.setattr(store._database, "erase", counted)
    store.commit(
        [Insert("keys", sample("keys", 1, grp="new")), Update("keys", {"grp": "g0", "node": 0}, {"member": "x"})]
    )
    store.commit([Insert("audit", sample("audit", 1)), Delete("audit", {"seq": 1})])
    store.erase()
    assert not erased
    store.commit([Update("keys", {"grp": "g0", "node": 0}, {"key": None})])
    store.erase()
    store.erase()
    assert len(erased) == 1


def test_another_reader_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groupcoap.manager.store.sqlite._TIMEOUT", 0.05)
    store = filled(tmp_path, None)
    other = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM keys").fetchone()
    store.commit(renewed(1))
    with pytest.raises(StoreFault, match="end that program"):
        store.erase()
    other.execute("COMMIT")
    other.close()
    store.erase()
    assert not found(tmp_path, [GENERATION % 0])
