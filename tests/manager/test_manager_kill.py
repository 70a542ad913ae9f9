"""`kill -9` of the Group Manager at every step of a renewal: it never happened, or it goes on after the restart;
nothing is used twice; and who left in one that was cut short reads nothing afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kill_points import Manager, Point, Trap
from live_house import (
    GROUP,
    TIMEOUT,
    Device,
    command,
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
from wiretap import Attacker, Wiretap, check_nothing_repeats, one_to_one

from groupcoap.association import context, registry
from groupcoap.errors import GroupcoapError
from groupcoap.files.documents import Json
from groupcoap.keying.admin import Scheme
from groupcoap.manager.control import ask
from groupcoap.manager.home import ManagerHome
from groupcoap.manager.settings import GroupSettings, changed

__all__ = ["hasty", "tap"]

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("hasty", "scarce")]

RACES = 6

CASES = [(Scheme.POINT_TO_POINT, DRAFT), (Scheme.GKMP, GROUP_OSCORE), (Scheme.LKH, DRAFT)]
of_every_scheme = pytest.mark.parametrize(
    ("scheme", "suite"), CASES, ids=[f"{scheme.name.lower()}-{suite.name}" for scheme, suite in CASES]
)


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few sequence numbers are reserved at once."""
    for module in (context, registry):
        monkeypatch.setattr(module, "RESERVATION", 4)


@dataclass
class Siege:
    """A manager that dies again and again, and its devices."""

    home: ManagerHome
    manager: Manager
    trap: Trap
    tap: Wiretap
    scheme: Scheme
    devices: dict[str, Device]
    present: set[str] = field(default_factory=set)
    left: dict[str, int] = field(default_factory=dict)
    """{device: num of the renewal that it was evicted by}"""
    seen: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    """(num, Gid, Master Secret), as members had them together."""

    async def die_at(self, point: Point, work: Coroutine[Any, Any, object]) -> None:
        """Let the manager die at this point of some work, which may fail then."""
        self.trap.set(point)
        task = asyncio.create_task(work)
        await self.manager.died()
        assert self.trap.reached is point
        with suppress(GroupcoapError):
            await task

    async def go_on(self) -> None:
        """Start the manager again, and wait until everybody has what it has."""
        await self.manager.start()
        await self.settled()

    async def settled(self) -> None:
        group: Json = {}
        members = {name: self.devices[name] for name in sorted(self.present)}

        async def is_settled() -> bool:
            nonlocal group
            group = await command(self.home, "group", group=GROUP)
            assert group["alarm"] is None
            gids = {device.gid for device in members.values()}
            done = group["members"] == len(members) and not group["behind"]
            return done and gids == {bytes.fromhex(group["gid"])} and group["renewal"]["finished"] is not None

        deadline = asyncio.get_running_loop().time() + TIMEOUT
        while not await is_settled():
            assert asyncio.get_running_loop().time() < deadline, f"{group} {states(members)}"
            await asyncio.sleep(0.02)
        secrets = set()
        for device in members.values():
            configuration = device.configuration
            assert configuration is not None
            secrets.add(configuration.current.master_secret.reveal())
        assert len(secrets) == 1
        self.seen.append((group["num"], bytes.fromhex(group["gid"]), secrets.pop()))

    @property
    def num(self) -> int:
        """Of the renewal that everybody had last."""
        return self.seen[-1][0]

    def do(self, name: str, **arguments: Any) -> Coroutine[Any, Any, Json]:
        return command(self.home, name, group=GROUP, **arguments)

    def has_left(self, name: str, num: int) -> None:
        self.present.discard(name)
        self.left[name] = num

    async def open(self, name: str) -> None:
        await self.devices[name].open()

    async def change(self, lifetime: float) -> None:
        """Another lifetime: a parameter that every member has to ask for."""
        text = (await self.do("group"))["settings"]
        settings = GroupSettings.from_json(text, self.home.directory)
        await self.do("change_group", settings=changed(settings, {"lifetime": lifetime}).to_json())


@asynccontextmanager
async def besieged(
    directory: Path, tap: Wiretap, scheme: Scheme, suite: Suite, names: str, present: str
) -> AsyncIterator[Siege]:
    home = make_home(directory / "gm", sealing="none")
    make_group(home, suite, scheme)
    devices = enroll(home, directory / "devices", names)
    trap = Trap()
    siege = Siege(home, Manager(home, tap, trap), trap, tap, scheme, devices)
    try:
        await siege.manager.start()
        await asyncio.gather(*(siege.open(name) for name in present))
        siege.present = set(present)
        await until(lambda: all(devices[name].gid for name in present))
        await siege.do("rekey")
        await siege.settled()
        yield siege
    finally:
        for device in devices.values():
            await device.close()
        siege.manager.kill()


@of_every_scheme
async def test_the_manager_is_killed_at_every_step(
    tmp_path: Path, tap: Wiretap, scheme: Scheme, suite: Suite
) -> None:
    async with besieged(tmp_path, tap, scheme, suite, "abcuvwxyz", "abcuvwx") as siege:
        await an_eviction_that_was_not_committed(siege)
        await an_eviction_that_was_committed(siege)
        await distribution_cut_short(siege)
        await joins_cut_short(siege)
        await two_leavers_in_unfinished_renewals(siege)
    everything = check_nothing_repeats(tap, enrolled(*siege.devices.values()))
    one_to_one([(num, gid) for num, gid, _ in siege.seen], lambda item: item[0], lambda item: item[1], "numbers")
    check_leavers(siege, everything)


async def an_eviction_that_was_not_committed(siege: Siege) -> None:
    """It never happened: u is a member, and its number is free."""
    for point in (Point.BEFORE_COMMIT, Point.IN_TRANSACTION):
        before = siege.num
        await siege.die_at(point, siege.do("evict", device="u"))
        await siege.go_on()
        assert siege.num == before


async def an_eviction_that_was_committed(siege: Siege) -> None:
    """It has happened, whether or not anybody was told."""
    for point, name in (
        (Point.AFTER_COMMIT, "u"),
        (Point.DISMISSING, "v"),
    ):
        before = siege.num
        await siege.die_at(point, siege.do("evict", device=name))
        siege.has_left(name, before + 1)
        await siege.go_on()
        assert siege.num == before + 1


async def distribution_cut_short(siege: Siege) -> None:
    """A renewal goes on with the bytes that it began with."""
    before = siege.num
    await siege.die_at(Point.BEFORE_FIRST_BYTE, siege.do("rekey"))
    await siege.go_on()
    await siege.die_at(Point.CONFIRMED, siege.do("rekey"))
    await siege.go_on()
    await siege.die_at(Point.ERASING, siege.do("rekey"))
    await siege.go_on()
    await siege.die_at(Point.BETWEEN_UNICASTS, siege.change(80000.0))
    await siege.go_on()
    await siege.die_at(Point.AFTER_COMMIT, siege.change(70000.0))
    await siege.go_on()
    assert siege.num == before + 5
    if siege.scheme is not Scheme.POINT_TO_POINT:
        await siege.die_at(Point.AFTER_FIRST_MULTICAST, siege.do("rekey"))
        await siege.go_on()
        assert siege.num == before + 6


async def joins_cut_short(siege: Siege) -> None:
    """Who was not answered asks again, and is one member."""
    for point, name in ((Point.IN_WINDOW, "y"), (Point.ADMITTED, "z")):
        await siege.die_at(point, siege.open(name))
        siege.present.add(name)
        await siege.go_on()


async def two_leavers_in_unfinished_renewals(siege: Siege) -> None:
    """Each renewal is cut short by the next: none of what the first leaver had protects the second one."""
    before = siege.num
    await siege.die_at(Point.AFTER_COMMIT, siege.do("evict", device="w"))
    siege.has_left("w", before + 1)
    await asyncio.to_thread(ask, siege.home, "evict", group=GROUP, device="x")  # nobody serves now
    siege.has_left("x", before + 2)
    await siege.go_on()
    assert siege.num == before + 2


def check_leavers(siege: Siege, everything: Attacker) -> None:
    """Each by itself and all together: nothing of a time when they were no members."""
    datagrams = siege.tap.datagrams()
    for name, num in siege.left.items():
        alone = Attacker(datagrams, enrolled(siege.devices[name]))
        never_sent = name == "x"  # the renewal before was superseded by the one that it left in
        assert max(alone.nums) == num - 1 - never_sent
    gone = max(siege.left.values())
    together = Attacker(datagrams, enrolled(*(siege.devices[name] for name in siege.left)))
    assert max(together.nums) < gone
    last = {secret for num, _, secret in siege.seen if num >= gone}
    assert last <= everything.secrets
    assert last.isdisjoint(together.secrets)


@of_every_scheme
async def test_nothing_leaves_before_it_is_durable(
    tmp_path: Path, tap: Wiretap, scheme: Scheme, suite: Suite
) -> None:
    """The disk is slow, and members ask meanwhile: what is not written yet is not said, so it can be lost."""
    async with besieged(tmp_path, tap, scheme, suite, "abc", "ab") as siege:
        before = siege.num

        async def ask_meanwhile() -> None:
            evicting = asyncio.create_task(siege.do("rekey"))
            await asyncio.sleep(0.1)
            for _ in range(3):
                for name in siege.present:
                    siege.devices[name].wonder()
                await asyncio.sleep(0.1)
            await evicting

        await siege.die_at(Point.SLOW_COMMIT, ask_meanwhile())
        assert {siege.devices[name].gid for name in siege.present} == {siege.seen[-1][1]}
        await siege.go_on()
        assert siege.num == before
        await siege.do("rekey")
        await siege.settled()
    check_nothing_repeats(tap, enrolled(*siege.devices.values()))


async def test_the_manager_is_killed_at_any_moment(tmp_path: Path, tap: Wiretap) -> None:
    """While SQLite writes, say: a renewal has happened, or it has not."""
    async with besieged(tmp_path, tap, Scheme.LKH, GROUP_OSCORE, "abc", "abc") as siege:
        happened = []
        for number in range(RACES):
            before = siege.num
            task = asyncio.create_task(siege.do("rekey"))
            await asyncio.sleep(0.001 + 0.005 * number)
            siege.manager.kill()
            with suppress(GroupcoapError):
                await task
            await siege.go_on()
            assert siege.num - before in (0, 1)
            happened.append(siege.num - before)
        assert sum(happened) > 0
    check_nothing_repeats(tap, enrolled(*siege.devices.values()))
