"""`kill -9` and a full disk: everything of a batch, or nothing."""

from __future__ import annotations

import os
import resource
import signal
import struct
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

import pytest

from groupcoap.errors import StoreFault
from groupcoap.manager.store.store import Store
from groupcoap.manager.store.writes import Delete, Insert, Update, Write

from .rows import NAME, audit_of, create, files_of, forked, reopen, sample, wait_for

pytestmark = pytest.mark.processes

DEVICES = [f"device {n}" for n in range(20)]
KILLS = 20


def batch(number: int) -> list[Write]:
    """Touches several tables, and tells its number in each."""
    writes: list[Write] = [
        Update("devices", {"device": device}, {"secret": b"%d" % number, "note": str(number)}) for device in DEVICES
    ]
    writes += [Delete("stale", {"grp": "g"})]
    writes += [Insert("stale", {"grp": "g", "num": number, "endpoint_id": bytes([n])}) for n in range(20)]
    return [*writes, Insert("audit", sample("audit", number))]


def first(directory: Path) -> None:
    store = create(directory)
    store.commit([Insert("devices", sample("devices", n, device=device)) for n, device in enumerate(DEVICES)])
    store.commit(batch(0))
    store.close()


def number_in(directory: Path) -> int:
    """What every row tells."""
    store = reopen(directory)
    snapshot = store.load()
    audit: list[int] = [row["seq"] for row in audit_of(store)]
    store.close()
    numbers = {audit[-1]} | {row["num"] for row in snapshot.rows("stale")}
    numbers |= {int(row["secret"]) for row in snapshot.rows("devices")}
    numbers |= {int(row["note"]) for row in snapshot.rows("devices")}
    assert audit == list(range(len(audit)))
    assert len(snapshot.rows("stale")) == len(snapshot.rows("devices")) == len(DEVICES)
    assert len(numbers) == 1
    return numbers.pop()


def go_on(directory: Path, number: int, told: int) -> None:
    store = reopen(directory)
    while True:
        number += 1
        store.commit(batch(number))
        os.write(told, struct.pack("<I", number))
        if number % 7 == 0:
            store.erase()
        if number % 5 == 0:
            (directory / "backup").unlink(missing_ok=True)
            store.backup(directory / "backup")


def test_kill_at_any_moment(tmp_path: Path) -> None:
    random = Random(5)
    first(tmp_path)
    number = 0
    for _ in range(KILLS):
        reading, writing = os.pipe()
        child = forked(lambda number=number, writing=writing: go_on(tmp_path, number, writing))  # type: ignore[misc]
        os.close(writing)
        heard = os.read(reading, 4)  # it is running
        time.sleep(random.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        assert wait_for(child) == -signal.SIGKILL
        with os.fdopen(reading, "rb") as rest:
            heard += rest.read()
        [acknowledged] = struct.unpack("<I", heard[-4:])
        now = number_in(tmp_path)
        assert acknowledged <= now <= acknowledged + 1
        number = now
    assert number > 2 * KILLS
    store = reopen(tmp_path)
    (tmp_path / "backup").unlink(missing_ok=True)
    store.backup(tmp_path / "backup")
    store.close()
    assert set(files_of(tmp_path)) == {NAME, NAME + ".lock", "backup"}  # nothing of what was begun


def commit_for_ever(store: Store, numbers: Iterator[int]) -> None:
    for number in numbers:
        store.commit(batch(number))


def fill_up(directory: Path) -> None:
    """Until no file may grow any more, as when the disk is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = reopen(directory)
    largest = max(map(len, files_of(directory).values()))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 300_000, largest + 300_000))
    numbers = count(1)
    with pytest.raises(StoreFault, match=r"space|disk") as caught:
        commit_for_ever(store, numbers)
    number = next(numbers) - 2
    assert number > 10
    assert "\n" not in str(caught.value)
    assert store.load().rows("audit")[-1]["seq"] == number
    with pytest.raises(StoreFault):
        store.commit(batch(number + 1))
    (directory / "number").write_text(str(number))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    first(tmp_path)
    assert wait_for(forked(lambda: fill_up(tmp_path))) == 0
    number = int((tmp_path / "number").read_text())
    assert number_in(tmp_path) == number
    store = reopen(tmp_path)
    store.commit(batch(number + 1))
    store.close()
    assert number_in(tmp_path) == number + 1


def without_room(directory: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    with pytest.raises(StoreFault, match=r"space|disk"):
        create(directory, name="new.db")
    store = reopen(directory)
    for use in (store.erase, lambda: store.backup(directory / "backup")):
        with pytest.raises(StoreFault, match=r"space|disk"):
            use()
    assert len(store.load().rows("devices")) == len(DEVICES)


def test_what_has_no_room_is_not_begun(tmp_path: Path) -> None:
    first(tmp_path)
    assert wait_for(forked(lambda: without_room(tmp_path))) == 0
    assert number_in(tmp_path) == 0
    assert not [
        name for name in files_of(tmp_path) if name.startswith((".", "new.db-")) or name in ("new.db", "backup")
    ]
