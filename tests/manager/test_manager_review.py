"""What somebody found who tried to break the manager: as an enrolled device, and by setting its clock."""

# mypy: allow-untyped-calls
from __future__ import annotations

from typing import Any

import aiocoap
import pytest
from manager_devices import LISTENER, POST, House, house, place, until
from manager_world import SEED_PROFILE, World

from groupcoap.errors import MisuseError, Refused
from groupcoap.keying.admin import Scheme
from groupcoap.keying.labels import GROUPCOMM_CBOR
from groupcoap.keying.roster import Filter
from groupcoap.manager import catchups, decisions, renewals
from groupcoap.manager.catchups import CatchUps, Paces
from groupcoap.manager.renewals import MAX_STALE

__all__ = ["house", "place"]

MANY = 22_000
"""Stale Endpoint IDs that no envelope has room for."""


def shared(scheme: Scheme = Scheme.GKMP, **settings: Any) -> World:
    world = World()
    world.create(world.settings("room", SEED_PROFILE, scheme=scheme, **settings))
    for name in "abc":
        world.enroll(name, "room")
        world.join(name, "room", LISTENER)
    return world


@pytest.mark.parametrize("scheme", list(Scheme), ids=lambda scheme: scheme.name.lower())
async def test_a_member_that_asks_for_ids_without_end_cannot_stop_renewals(house: House, scheme: Scheme) -> None:
    await house.create(scheme=scheme)
    a, _, greedy = await house.members("a", "b", "greedy")
    await house.settled()
    manager, node = house.server.manager, greedy.places["room"].node
    for _ in range(MANY):
        manager.renew_id("greedy", "room", node)
    await house.perform("rekey", group="room")
    group = house.group()
    assert group.renewal is not None
    assert group.renewal.reload  # members are to ask
    assert not group.renewal.multicasts
    await until(lambda: a.rekeys and a.rekeys[-1].num == group.num)
    assert a.rekeys[-1].reload
    assert not a.rekeys[-1].stale
    assert len(manager.stale_ids("a", "room", group.num - 1) or ()) == MANY
    await house.perform("evict", group="room", device="greedy")
    assert [message.num for message in a.rekeys if message.reload] == [group.num - 1]
    house.compare = False  # members have not said what they hold


async def test_a_few_stale_ids_are_said_as_ever(house: House) -> None:
    await house.create(scheme=Scheme.GKMP)
    a, busy = await house.members("a", "busy")
    await house.settled()
    for _ in range(MAX_STALE):
        house.server.manager.renew_id("busy", "room", busy.places["room"].node)
    await house.perform("rekey", group="room")
    await until(lambda: a.rekeys and len(a.rekeys[-1].stale) == MAX_STALE)


async def test_a_renewal_that_fails_does_not_end_the_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.create(scheme=Scheme.GKMP, period=1.0, check_interval=0.5)
    await house.create("other", scheme=Scheme.GKMP, period=1.0, check_interval=0.5)
    genuine = renewals.renew

    def failing(group, *args, **kwargs):  # type: ignore[no-untyped-def]
        if group.name == "room":
            raise MisuseError("this group cannot be renewed")
        return genuine(group, *args, **kwargs)

    monkeypatch.setattr(decisions, "renew", failing)
    await until(lambda: house.group("other").num >= 2)
    assert house.group().num == 0
    assert not house.server._housekeeping[0].done()


async def test_one_device_cannot_have_the_group_renewed_again_and_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.create(scheme=Scheme.GKMP)
    a, greedy = await house.members("a", "greedy")
    before = house.group().num
    codes = []
    for _ in range(catchups.BURST_OF_CHANGES + 10):
        request = await greedy.request("room", LISTENER)
        answer = await greedy.ask(POST, "ace-group/room", request.encode(), GROUPCOMM_CBOR)
        codes.append(answer.code)
    assert codes[-1] == aiocoap.SERVICE_UNAVAILABLE
    assert answer.opt.max_age >= 1
    assert house.group().num - before < len(codes)
    assert (await a.own_keys()).num == house.group().num  # others are served


def test_paces_are_each_devices_own() -> None:
    now = [0.0]
    paces = Paces(1.0, 2, lambda: now[0], lambda low, high: low)
    for _ in range(2):
        paces.take("a")
    with pytest.raises(Refused) as refused:
        paces.take("a")
    assert refused.value.retry_after == 1
    paces.take("b")
    now[0] += 1
    paces.take("a")


def test_one_device_cannot_use_up_the_catch_ups_of_all() -> None:
    catch_ups = CatchUps(clock=lambda: 0.0)
    for _ in range(catchups.BURST_OF_EACH):
        catch_ups.take("greedy")
    with pytest.raises(Refused):
        catch_ups.take("greedy")
    for _ in range(catchups.BURST_OF_EACH):
        catch_ups.take("other")


def test_thousands_of_roles_are_compared_with_members_once() -> None:
    """Not once for each of them: that would keep everybody waiting for a fifth of a second."""
    world = shared()
    asked: list[int] = []

    class Counting(Filter):
        def fits(self, roles: int) -> bool:
            asked.append(roles)
            return super().fits(roles)

    found = world.manager.credentials("a", "room", Counting(True, tuple(range(1 << 20, (1 << 20) + 4096))))
    assert found == []
    assert len(asked) == 1
    assert len(world.manager.credentials("a", "room", Counting(False, (4, 1 << 20)))) == 3


def test_a_clock_that_was_set_back_does_not_put_renewals_off() -> None:
    world = shared(period=100.0)
    group, now = world.manager.groups["room"], world.manager.now()
    assert world.manager.due(now) == []
    assert world.manager.due(now - 1) == []  # as clocks are adjusted
    assert world.manager.due(now - 86400) == ["room"]
    assert world.manager.due(group.renewed + 100) == ["room"]


def test_a_clock_that_was_set_back_does_not_keep_refusals_out_of_the_audit_log() -> None:
    world = shared()
    manager = world.manager
    now = [1000.0]
    manager._clock = lambda: now[0]
    manager.take_writes()
    for at in (1000.0, 400.0):
        now[0] = at
        with pytest.raises(Refused):
            manager.check_join("a", "elsewhere", b"", b"")
    assert len(manager.take_writes()) == 2
