"""A manager that comes back with an older database: as another incarnation if it was restored, and stopped by the
first member that knows better if somebody put back the file."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from live_house import (
    GROUP,
    Device,
    enroll,
    enrolled,
    hasty,
    make_group,
    make_home,
    states,
    tap,
    until,
)
from suites import DRAFT, GROUP_OSCORE, Suite
from wiretap import Attacker, Wiretap, check_nothing_repeats

from groupcoap.errors import MisuseError, StoreFault
from groupcoap.keying.admin import Scheme
from groupcoap.manager.control import ask
from groupcoap.manager.decisions import new_incarnation
from groupcoap.manager.home import ManagerHome
from groupcoap.manager.server import ManagerServer
from groupcoap.manager.store.restore import restore_database
from groupcoap.manager.store.sealing import SealingKey
from groupcoap.manager.store.store import Snapshot

__all__ = ["hasty", "tap"]

pytestmark = pytest.mark.usefixtures("hasty")

CASES = [(Scheme.POINT_TO_POINT, GROUP_OSCORE), (Scheme.GKMP, DRAFT), (Scheme.LKH, GROUP_OSCORE)]
of_every_scheme = pytest.mark.parametrize(
    ("scheme", "suite"), CASES, ids=[f"{scheme.name.lower()}-{suite.name}" for scheme, suite in CASES]
)


class Past:
    """A manager with members, a backup, and three renewals after it, one of them an eviction."""

    def __init__(self, home: ManagerHome, devices: dict[str, Device]) -> None:
        self.home = home
        self.devices = devices
        self.backup = home.directory.parent / "backup.sqlite"
        self._stack = AsyncExitStack()

    async def start(self) -> ManagerServer:
        store = self.home.open_store()
        self._stack.callback(store.close)
        server = ManagerServer(store, self.home.configuration, place=self.home.directory)
        self.server = await self._stack.enter_async_context(server)
        return self.server

    async def stop(self) -> None:
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    def snapshot(self) -> Snapshot:
        """Of the database, while nobody serves."""
        store = self.home.open_store()
        try:
            return store.load()
        finally:
            store.close()

    def remove_database(self) -> None:
        for path in self.home.directory.glob("manager.sqlite*"):
            path.unlink()

    async def settled(self, names: Iterable[str]) -> None:
        group = self.server.manager.group(GROUP)
        members = {name: self.devices[name] for name in names}

        def is_settled() -> bool:
            same = {device.gid for device in members.values()} == {group.gid}
            return same and len(group.members) == len(members) and not self.server.manager.behind(group)

        await until(is_settled, lambda: f"{group.gid.hex()} {states(members)}")

    async def rekey(self) -> None:
        await self.server.perform("rekey", {"group": GROUP})


@asynccontextmanager
async def past(directory: Path, scheme: Scheme, suite: Suite) -> AsyncIterator[Past]:
    home = make_home(directory / "gm")
    make_group(home, suite, scheme, check_interval=0.5)
    devices = enroll(home, directory / "devices", "abcd")
    past = Past(home, devices)
    try:
        await past.start()
        for device in devices.values():
            await device.open()
        await past.settled("abcd")
        await past.rekey()
        await past.settled("abcd")
        await past.server.perform("backup", {"path": str(past.backup)})
        await past.rekey()
        await past.settled("abcd")
        await past.server.perform("evict", {"group": GROUP, "device": "d"})
        await past.settled("abc")
        await past.rekey()
        await past.settled("abc")
        yield past
    finally:
        for device in devices.values():
            await device.close()
        await past.stop()


def group_row(snapshot: Snapshot) -> dict[str, Any]:
    (row,) = snapshot.rows("groups")
    return row


@of_every_scheme
async def test_a_restored_manager_is_another_one(
    tmp_path: Path, tap: Wiretap, scheme: Scheme, suite: Suite
) -> None:
    async with past(tmp_path, scheme, suite) as world:
        await world.stop()
        lost = world.snapshot()
        world.remove_database()
        store = restore_database(world.backup, world.home.url, world.home.sealing_key())
        former = store.load()
        store.commit(new_incarnation(former, os.urandom, time.time()))
        store.close()
        anew = world.snapshot()
        check_all_is_new(former, anew)
        check_all_is_new(lost, anew)
        restored_at = time.monotonic()
        await world.start()
        assert len(world.server.associations) == 0
        await world.settled("abc")  # by themselves
        assert world.server.manager.incarnation == anew.rows("manager")[0]["incarnation"]
        assert world.devices["d"].gid is None
        await world.rekey()
        await world.settled("abc")
    everything = check_nothing_repeats(tap, enrolled(*world.devices.values()))
    check_who_joined(everything, restored_at)
    outsider = Attacker(tap.datagrams(), enrolled(world.devices["d"]))
    assert not {learnt for learnt in outsider.learnt if learnt.at > restored_at}


def check_all_is_new(before: Snapshot, after: Snapshot) -> None:
    """Nothing that protected anything does so again, and nobody is there yet."""
    assert after.rows("manager")[0]["incarnation"] != before.rows("manager")[0]["incarnation"]
    one, other = group_row(before), group_row(after)
    assert all(one[name] != other[name] for name in ("tag", "prefix", "gid", "master_secret", "base_iv"))
    assert other["prefix"] not in {row["prefix"] for row in before.rows("prefixes")}
    assert {row["prefix"] for row in before.rows("prefixes")} < {row["prefix"] for row in after.rows("prefixes")}
    assert {row["key"] for row in before.rows("keys")}.isdisjoint(row["key"] for row in after.rows("keys"))
    for table in ("associations", "members", "stale", "renewals"):
        assert after.rows(table) == []
    assert before.rows("devices") == after.rows("devices")
    assert before.rows("manager_keys") == after.rows("manager_keys")


def check_who_joined(everything: Attacker, restored_at: float) -> None:
    """Everybody by a Join Request with a proof, and before anything else was told."""
    first: dict[str, int] = {}
    for inside in everything.inside:
        if inside.at > restored_at and inside.code == 0x41:
            first.setdefault(inside.device, inside.code)
    assert set(first) == {"a", "b", "c"}
    told = [learnt for learnt in everything.learnt if learnt.at > restored_at and learnt.endpoint_id is not None]
    assert {learnt.device for learnt in told} == {"a", "b", "c"}


async def test_a_backup_is_sealed(tmp_path: Path, tap: Wiretap) -> None:
    async with past(tmp_path, Scheme.LKH, DRAFT) as world:
        await world.stop()
        secrets = [
            group_row(world.snapshot())["master_secret"],
            *(d.secret.reveal() for d in world.devices.values()),
        ]
        world.remove_database()
        data = world.backup.read_bytes()
        assert not any(secret in data for secret in secrets)
        for key in (None, SealingKey.generate()):
            with pytest.raises(StoreFault, match="sealed"):
                restore_database(world.backup, world.home.url, key)
            assert not list(world.home.directory.glob("manager.sqlite"))
        right = restore_database(world.backup, world.home.url, world.home.sealing_key())
        former = group_row(right.load())["master_secret"]
        right.close()
        assert former not in data


@pytest.mark.parametrize(("scheme", "suite"), CASES[1:])
async def test_a_file_that_was_put_back_stops_the_group(
    tmp_path: Path, tap: Wiretap, scheme: Scheme, suite: Suite
) -> None:
    """Members know of renewals that this manager has never made: it makes no more until somebody has judged."""
    async with past(tmp_path, scheme, suite) as world:
        await world.stop()
        world.remove_database()
        shutil.copyfile(world.backup, world.home.directory / "manager.sqlite")
        (world.home.directory / "manager.sqlite").chmod(0o600)
        put_back_at = time.monotonic()
        manager = (await world.start()).manager
        group = manager.group(GROUP)
        num, gid = group.num, group.gid
        await until(lambda: group.alarm is not None)
        await asyncio.sleep(0.2)
        held = [world.devices[name].gid for name in "abc"]
        check_it_stands_still(world, num)
        await world.server.perform("evict", {"group": GROUP, "device": "d"})
        assert (group.num, group.gid, "d" in group.by_device) == (num, gid, False)
        assert [world.devices[name].gid for name in "abc"] == held
        late = [d for d in tap.datagrams() if d.at > put_back_at]
        told = Attacker(late, enrolled(*world.devices.values())).learnt
        assert not {learnt.num for learnt in told} - {num}
        await world.stop()
        stopped = group_row(world.snapshot())
        assert (stopped["state"], stopped["num"]) == ("stopped", num)
        assert "older" in ask(world.home, "status")["groups"][0]["alarm"]
        assert "alarm" in {entry["event"] for entry in ask(world.home, "audit", limit=20)["entries"]}
        await world.start()
        with pytest.raises(MisuseError, match="stopped"):
            await world.rekey()
        # The operator's judgement: the group begins anew, as after a restore.
        await world.server.perform("set_active", {"group": GROUP, "active": True})
        again = world.server.manager.group(GROUP)
        assert again.alarm is None
        assert again.prefix != gid[:-4]
        await world.settled("abc")
        assert again.gid[:-4] == again.prefix
    check_nothing_repeats(tap, enrolled(*world.devices.values()))


def check_it_stands_still(world: Past, num: int) -> None:
    """Whoever asks for a renewal is refused."""
    manager = world.server.manager
    group = manager.group(GROUP)
    with pytest.raises(MisuseError, match="stopped"):
        manager.rekey(GROUP, "operator")
    with pytest.raises(MisuseError, match="stopped"):
        manager.change_group(GROUP, {"lifetime": 12345.0}, "operator")
    assert not manager.due(manager.now() + 1e9)
    assert group.num == num
    assert manager.take_writes() == []
