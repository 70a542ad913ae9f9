"""Observing a resource at every listener of a group."""

from __future__ import annotations

import asyncio

import aiocoap
import pytest
from aiocoap import resource
from devices import TIMEOUT, Light, answers, eventually, get, lamps, light_site, put, switch
from world import CHALLENGE, World

from groupcoap.core.policy import GroupPolicy
from groupcoap.core.synchronization import Freshness
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Answer, Observation
from groupcoap.errors import Reason
from groupcoap.membership import MemberLeft

pytestmark = pytest.mark.usefixtures("each_profile")


async def take(observation: Observation, count: int) -> list[Answer]:
    found: list[Answer] = []
    iterator = aiter(observation)
    async with asyncio.timeout(TIMEOUT):
        while len(found) < count:
            found.append(await anext(iterator))
    return found


def observers(opened: list[tuple[Endpoint, Light]]) -> list[int]:
    return [len(endpoint.tokens.incoming_requests) for endpoint, _ in opened]


async def test_one_stream_per_listener_begun_followed_and_ended() -> None:
    world = World(listeners=3)
    async with lamps(world) as opened, switch(world) as multicaster:
        async with multicaster.observe(get()) as observation:
            first = await take(observation, 3)
            assert sorted(a.endpoint_id for a in first) == world.lamp_ids
            assert observers(opened) == [1, 1, 1]
            await answers(multicaster.request(put(b"on")))
            second = await take(observation, 3)
            assert {a.message.payload for a in second} == {b"on"}
            assert {a.provenance.freshness for a in second} == {Freshness.ORDERED}
            for stream in observation.streams.values():
                assert [(await anext(stream)).message.payload for _ in range(2)] == [b"off", b"on"]
        await eventually(lambda: observers(opened) == [0, 0, 0])
        assert all(stream.ended for stream in observation.streams.values())
        assert [a async for a in observation] == []
        await eventually(lambda: not multicaster.endpoint.interface.awaits_answers)
        assert multicaster.endpoint.counters.rejected == {}


async def test_observing_where_listeners_challenge_first() -> None:
    world = World(listeners=2, policy=GroupPolicy(synchronization=CHALLENGE))
    async with lamps(world) as opened, switch(world) as multicaster:
        async with multicaster.observe(get()) as observation:
            await take(observation, 2)
            opened[0][1].state = b"changed"
            opened[0][1].updated_state()
            assert [a.message.payload for a in await take(observation, 1)] == [b"changed"]
        await eventually(lambda: observers(opened) == [0, 0])


async def test_an_observation_that_is_not_refreshed_expires_at_the_listener() -> None:
    world = World(listeners=1)
    async with lamps(world, observation_lifetime=0.2) as opened, switch(world) as multicaster:
        observation = multicaster.observe(get(), refresh=60)
        await take(observation, 1)
        assert observers(opened) == [1]
        await eventually(lambda: observers(opened) == [0])
        await observation.end()


async def test_a_refreshed_observation_goes_on_with_the_same_token() -> None:
    world = World(listeners=1)
    async with (
        lamps(world, observation_lifetime=0.4) as opened,
        switch(world) as multicaster,
        multicaster.observe(get(), refresh=0.1) as observation,
    ):
        await take(observation, 6)  # each registration is answered with the present state
        assert observers(opened) == [1]
        opened[0][1].state = b"after refreshes"
        opened[0][1].updated_state()
        async with asyncio.timeout(TIMEOUT):
            async for answer in observation:
                if answer.message.payload == b"after refreshes":
                    break
        assert len(observation.streams) == 1


async def test_a_resource_that_cannot_be_observed_ends_its_stream() -> None:
    class Plain(resource.Resource):  # type: ignore[misc]
        async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
            return aiocoap.Message(payload=b"just once")

    world = World(listeners=1)
    async with world.endpoint(world.lamp_ids[0]) as endpoint:
        site = light_site(Light())
        site.add_resource(["plain"], Plain())
        Listener(endpoint, site)
        async with switch(world) as multicaster, multicaster.observe(get("plain")) as observation:
            await take(observation, 1)
            (stream,) = observation.streams.values()
            assert [a.message.payload async for a in stream] == [b"just once"]


async def test_a_forged_reset_ends_no_observation() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        async with multicaster.observe(get()) as observation:
            await take(observation, 1)
            for message_id in range(0, 65536, 97):
                reset = b"\x70\x00" + message_id.to_bytes(2, "big")
                multicaster.endpoint.network.send(reset, endpoint.network.local_address(4))
            light.state = b"still observed"
            light.updated_state()
            assert (await take(observation, 1))[0].message.payload == b"still observed"


async def test_observations_of_a_member_who_left_are_cancelled() -> None:
    world = World(listeners=1)
    source = world.source(world.lamp_ids[0])
    async with lamps(world, source=source) as opened, switch(world) as multicaster:
        endpoint, _ = opened[0]
        observation = multicaster.observe(get())
        await take(observation, 1)
        source.tell(MemberLeft("room", world.gid, frozenset(world.switch_ids)))
        await eventually(lambda: observers(opened) == [0])
        assert await answers(multicaster.request(get(), timeout=0.1)) == []
        assert endpoint.counters.rejected == {Reason.UNKNOWN_SENDER: 1}
        await observation.end()
