"""Requests that a renewal overtakes are answered or cleanly repeated."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import aiocoap
import pytest
from devices import answers, get, lamps, put, switch
from world import BEST_EFFORT, Source, World

from groupcoap.core.policy import GroupPolicy
from groupcoap.endpoint import multicaster as multicaster_module
from groupcoap.membership import EpochInstalled
from groupcoap.secret import Secret

pytestmark = pytest.mark.usefixtures("each_profile")

TIMEOUT = 1.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multicaster_module, "REPEAT_AFTER", 0.1)


def house(listeners: int = 2) -> tuple[World, dict[bytes | None, Source]]:
    world = World(listeners=listeners, policy=GroupPolicy(synchronization=BEST_EFFORT))
    members = [*world.switch_ids, *world.lamp_ids]
    return world, {kid: world.source(kid) for kid in members}


async def test_listeners_that_were_renewed_first_get_the_request_again() -> None:
    world, sources = house()
    kid = world.switch_ids[0]
    late: dict[bytes | None, Source] = {kid: sources[kid]}
    others = {other: source for other, source in sources.items() if other != kid}
    async with (
        lamps(world, world.lamp_ids[:1], source=sources[world.lamp_ids[0]]) as [(_, first)],
        lamps(world, world.lamp_ids[1:], source=sources[world.lamp_ids[1]]) as [(_, second)],
        switch(world, source=sources[kid]) as multicaster,
    ):
        gid, secret, salt = world.gid, world.secret, world.salt
        world.renew(others)
        after = world.gid, world.secret, world.salt
        collection = multicaster.request(put(b"on"), timeout=TIMEOUT)  # under keys that nobody takes any more
        await asyncio.sleep(0.05)
        world.gid, world.secret, world.salt = gid, secret, salt
        _renew_to(world, late, after)
        found = await answers(collection)
        assert {answer.endpoint_id for answer in found} == set(world.lamp_ids)
        assert {answer.provenance.gid for answer in found} == {after[0]}
        assert first.payloads == second.payloads == [b"on"]


def _renew_to(world: World, sources: dict[bytes | None, Source], keys: tuple[bytes, Secret, bytes]) -> None:
    """The renewal that others have already."""
    world.gid, world.secret, world.salt = keys
    for kid, source in sources.items():
        old = source.configurations[0]
        source.configurations[0] = replace(old, epochs=(*old.epochs, world.epoch(kid)))
        source.tell(EpochInstalled(source.configurations[0]))


async def test_listeners_that_are_renewed_later_get_the_request_again() -> None:
    world, sources = house()
    kid = world.switch_ids[0]
    others = {other: source for other, source in sources.items() if other != kid}
    async with (
        lamps(world, world.lamp_ids[:1], source=sources[world.lamp_ids[0]]) as [(_, first)],
        lamps(world, world.lamp_ids[1:], source=sources[world.lamp_ids[1]]) as [(_, second)],
        switch(world, source=sources[kid]) as multicaster,
    ):
        world.renew({kid: sources[kid]})
        collection = multicaster.request(put(b"on"), timeout=TIMEOUT)  # under keys that nobody has yet
        await asyncio.sleep(0.05)
        _renew_to(world, others, (world.gid, world.secret, world.salt))
        found = await answers(collection)
        assert {answer.endpoint_id for answer in found} == set(world.lamp_ids)
        assert first.payloads == second.payloads == [b"on"]


async def test_what_may_not_be_done_twice_is_not_repeated_and_who_did_not_answer_is_named() -> None:
    world, sources = house(1)
    kid = world.switch_ids[0]
    async with (
        lamps(world, source=sources[world.lamp_ids[0]]) as [(_, light)],
        switch(world, source=sources[kid]) as multicaster,
    ):
        world.renew({kid: sources[kid]})
        message = aiocoap.Message(code=aiocoap.POST, uri_path=("light",), payload=b"once")
        collection = multicaster.request(message, timeout=0.3)
        await asyncio.sleep(0.05)
        _renew_to(world, {world.lamp_ids[0]: sources[world.lamp_ids[0]]}, (world.gid, world.secret, world.salt))
        assert await answers(collection) == []
        assert collection.missing == {world.lamp_ids[0]}
        assert light.payloads == []


async def test_who_leaves_meanwhile_is_expected_no_more() -> None:
    world, sources = house()
    kid, gone = world.switch_ids[0], world.lamp_ids[1]
    async with (
        lamps(world, world.lamp_ids[:1], source=sources[world.lamp_ids[0]]),
        switch(world, source=sources[kid]) as multicaster,
    ):
        collection = multicaster.request(get(), timeout=20)
        staying = {other: source for other, source in sources.items() if other != gone}
        world.renew(staying, departed=frozenset({gone}))
        async with asyncio.timeout(10):
            found = await answers(collection)
        assert {answer.endpoint_id for answer in found} == {world.lamp_ids[0]}
        assert collection.roster == {world.lamp_ids[0]}
        assert collection.missing == frozenset()


async def test_nothing_is_repeated_where_there_was_no_renewal() -> None:
    world, _ = house(1)
    async with switch(world) as multicaster:
        sent = multicaster.endpoint.network.send
        count = 0

        def counting(datagram: bytes, destination: object) -> None:
            nonlocal count
            count += 1
            sent(datagram, destination)  # type: ignore[arg-type]

        multicaster.endpoint.network.send = counting  # type: ignore[method-assign]
        assert await answers(multicaster.request(get(), timeout=0.4)) == []
        assert count == 1


async def test_what_a_later_command_has_overtaken_is_not_repeated() -> None:
    world, sources = house(1)
    kid = world.switch_ids[0]
    async with (
        lamps(world, source=sources[world.lamp_ids[0]]) as [(_, light)],
        switch(world, source=sources[kid]) as multicaster,
    ):
        world.renew({kid: sources[kid]})
        first = multicaster.request(put(b"40"), timeout=TIMEOUT)
        second = multicaster.request(put(b"20"), timeout=TIMEOUT)
        asked = multicaster.request(get(), timeout=TIMEOUT)
        await asyncio.sleep(0.05)
        _renew_to(world, {world.lamp_ids[0]: sources[world.lamp_ids[0]]}, (world.gid, world.secret, world.salt))
        assert [len(await answers(collection)) for collection in (first, second, asked)] == [0, 1, 1]
        assert light.payloads.count(b"40") == 0
        assert light.payloads.count(b"20") == 1
