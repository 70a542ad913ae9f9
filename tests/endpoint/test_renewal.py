"""A group renewed under way: what holds for endpoints whatever the membership source is."""

from __future__ import annotations

import asyncio

import pytest
from devices import TIMEOUT, answers, eventually, get, lamps, put, switch
from world import BEST_EFFORT, World

from groupcoap.core.policy import GroupPolicy
from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.errors import Reason

pytestmark = pytest.mark.usefixtures("each_profile")


def world_of(listeners: int, synchronization: SynchronizationPolicy = BEST_EFFORT) -> World:
    return World(listeners=listeners, policy=GroupPolicy(synchronization=synchronization))


async def test_answers_to_a_request_sent_before_a_renewal_are_still_taken() -> None:
    world = world_of(1)
    ids: list[bytes | None] = [world.lamp_ids[0], world.switch_ids[0]]
    sources = {kid: world.source(kid) for kid in ids}
    async with (
        lamps(world, source=sources[ids[0]], leisure=0.3) as opened,
        switch(world, source=sources[ids[1]]) as multicaster,
    ):
        _, light = opened[0]
        collection = multicaster.request(get())
        await light.wait_for(1)
        world.renew(sources)  # the answer leaves under the new Gid
        (answer,) = await answers(collection)
        assert answer.provenance.gid == world.gid
        assert answer.provenance.sequence_number == 0
        # The old context is not needed any more once nothing waits under it.
        await eventually(lambda: len(multicaster.endpoint.groups.registry.contexts("room")) == 1)
        assert len(await answers(multicaster.request(put(b"on")))) == 1


async def test_requests_under_the_old_gid_are_refused_after_a_renewal() -> None:
    world = world_of(1)
    source = world.source(world.lamp_ids[0])
    async with lamps(world, source=source) as opened, switch(world) as behind:
        endpoint, light = opened[0]
        world.renew({world.lamp_ids[0]: source})
        assert await answers(behind.request(put(b"old"), timeout=0.2)) == []
        assert light.payloads == []
        assert endpoint.counters.rejected == {Reason.UNKNOWN_GROUP: 1}  # erased: nothing waited under it


async def test_a_grace_time_admits_late_senders_with_verified_signatures() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=BEST_EFFORT, grace=60))
    source = world.source(world.lamp_ids[0])
    async with lamps(world, source=source) as opened, switch(world) as behind:
        world.renew({world.lamp_ids[0]: source})
        await answers(behind.request(put(b"late"), timeout=0.2))
        assert opened[0][1].payloads == [b"late"]


async def test_who_left_is_refused_at_once_under_the_new_gid_and_in_the_grace_of_the_old() -> None:
    world = World(listeners=1, multicasters=2, policy=GroupPolicy(synchronization=BEST_EFFORT, grace=60))
    source = world.source(world.lamp_ids[0])
    async with lamps(world, source=source) as opened, switch(world, 1) as evicted:
        endpoint, light = opened[0]
        world.renew({world.lamp_ids[0]: source}, departed=frozenset(world.switch_ids[1:]))
        await answers(evicted.request(put(b"still here?"), timeout=0.2))
        assert light.payloads == []
        assert endpoint.counters.rejected == {Reason.UNKNOWN_SENDER: 1}


async def test_an_observation_goes_on_under_the_renewed_context() -> None:
    world = world_of(2)
    ids: list[bytes | None] = [*world.lamp_ids, *world.switch_ids]
    sources = {kid: world.source(kid) for kid in ids}
    async with (
        lamps(world, world.lamp_ids[:1], source=sources[ids[0]]) as one,
        lamps(world, world.lamp_ids[1:], source=sources[ids[1]]) as other,
        switch(world, source=sources[ids[2]]) as multicaster,
        multicaster.observe(get()) as observation,
    ):
        iterator = aiter(observation)
        async with asyncio.timeout(TIMEOUT):
            await anext(iterator)
            await anext(iterator)
            world.renew(sources)
            for _, light in (*one, *other):
                light.state = b"renewed"
                light.updated_state()
            got = [await anext(iterator), await anext(iterator)]
        assert {a.provenance.gid for a in got} == {world.gid}
        assert {a.message.payload for a in got} == {b"renewed"}
