"""One group request, many verified answers, over real multicast on loopback."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiocoap
import pytest
from aiocoap import resource
from devices import Big, answers, eventually, get, lamps, put, switch
from world import BEST_EFFORT, World

from groupcoap.core.policy import GroupPolicy
from groupcoap.core.requests import SignatureState
from groupcoap.core.synchronization import Freshness
from groupcoap.endpoint.blockwise import Blockwise
from groupcoap.endpoint.limits import uncounted
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import KNOWN, Multicaster
from groupcoap.errors import MisuseError

pytestmark = pytest.mark.usefixtures("each_profile")


async def test_every_listener_acts_and_answers_and_is_known() -> None:
    world = World(listeners=3)
    async with lamps(world) as opened, switch(world) as multicaster:
        collection = multicaster.request(put(b"on"))
        got = await answers(collection)
        assert sorted(a.endpoint_id for a in got) == world.lamp_ids
        assert {a.message.code for a in got} == {aiocoap.CHANGED}
        assert not collection.missing
        for answer in got:
            assert answer.name == f"listener-{answer.endpoint_id.hex()}"
            assert answer.address[0] == world.host(answer.endpoint_id)
            assert answer.provenance.signature is SignatureState.VERIFIED
            assert answer.provenance.freshness is Freshness.BOUND
            assert answer.provenance.sequence_number is None  # the request's nonce was good enough
        for _, light in opened:
            payload, origin = light.requests[0]
            assert (payload, light.state) == (b"on", b"on")
            assert (origin.group, origin.endpoint_id, origin.sequence_number) == ("room", world.switch_ids[0], 0)
            assert origin.signature is SignatureState.VERIFIED
            assert origin.freshness is Freshness.UNSYNCHRONIZED


async def test_a_hundred_listeners_one_call() -> None:
    world = World(listeners=100)
    async with lamps(world), switch(world) as multicaster:
        collection = multicaster.request(put(b"on"), timeout=30)
        assert len(await answers(collection)) == 100
        assert collection.answered == frozenset(world.lamp_ids)


async def test_fifty_multicasters_at_once() -> None:
    world = World(listeners=2, multicasters=50)
    async with lamps(world) as opened, AsyncExitStack() as stack:
        multicasters = [await stack.enter_async_context(switch(world, n)) for n in range(50)]
        collections = [m.request(put(b"%d" % n), timeout=30) for n, m in enumerate(multicasters)]
        results = await asyncio.gather(*(answers(collection) for collection in collections))
        assert [len(result) for result in results] == [2] * 50
        for _, light in opened:
            senders = {origin.endpoint_id: payload for payload, origin in light.requests}
            assert senders == {kid: b"%d" % n for n, kid in enumerate(world.switch_ids)}


async def test_who_is_missing_is_named_and_the_deadline_holds() -> None:
    world = World(listeners=3)
    async with lamps(world, world.lamp_ids[:2]), switch(world) as multicaster:
        collection = multicaster.request(get(), timeout=0.3)
        assert len(await answers(collection)) == 2
        assert collection.missing == {world.lamp_ids[2]}


async def test_without_a_roster_whoever_answers_until_the_deadline() -> None:
    world = World(listeners=2)
    async with lamps(world), switch(world) as multicaster:
        collection = multicaster.request(get(), timeout=0.2, roster=None)
        assert len(await answers(collection)) == 2
        assert not collection.missing


async def test_a_roster_of_one_ends_with_that_one() -> None:
    world = World(listeners=2)
    async with lamps(world), switch(world) as multicaster:
        collection = multicaster.request(get(), roster=[world.lamp_ids[1]])
        await answers(collection)
        assert world.lamp_ids[1] in collection.answered
        assert multicaster.expected(KNOWN) == frozenset(world.lamp_ids)


async def test_stopping_halfway_leaves_nothing_behind() -> None:
    world = World(listeners=2)
    async with lamps(world), switch(world) as multicaster:
        async with multicaster.request(get()) as collection:
            await anext(collection)
        await eventually(lambda: not multicaster.endpoint.tokens.outgoing_requests)
        assert not multicaster.endpoint.interface.awaits_answers


async def test_a_collection_that_nobody_reads_ends_by_itself() -> None:
    world = World(listeners=1)
    async with switch(world) as multicaster:
        multicaster.request(get(), timeout=0.05)
        await eventually(lambda: not multicaster.endpoint.interface.awaits_answers)


async def test_a_blockwise_answer_is_fetched_from_each_listener() -> None:
    world = World(listeners=3)
    async with lamps(world), switch(world) as multicaster:
        collection = multicaster.request(get("big"))
        got = await answers(collection)
        assert [a.message.payload for a in got] == [Big.body] * 3
        assert not collection.problems


async def test_errors_to_multicast_stay_silent_unless_asked_for() -> None:
    world = World(listeners=1)
    async with lamps(world), switch(world) as multicaster:
        quiet = multicaster.request(get("nothing-here"), timeout=0.2)
        assert await answers(quiet) == []
        wanted = multicaster.request(get("nothing-here", no_response=0), timeout=5)
        assert [a.message.code for a in await answers(wanted)] == [aiocoap.NOT_FOUND]


async def test_a_resource_may_want_its_error_to_be_sent() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened, switch(world) as multicaster:
        light = opened[0][1]

        async def refuse(request: aiocoap.Message) -> aiocoap.Message:
            return aiocoap.Message(code=aiocoap.FORBIDDEN, no_response=0)

        light.render_post = refuse  # type: ignore[method-assign]
        message = aiocoap.Message(code=aiocoap.POST, uri_path=["light"])
        assert [a.message.code for a in await answers(multicaster.request(message))] == [aiocoap.FORBIDDEN]


async def test_no_response_is_honoured() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened, switch(world) as multicaster:
        message = put(b"quiet")
        message.opt.no_response = 2
        collection = multicaster.request(message, timeout=0.2)
        assert await answers(collection) == []
        assert opened[0][1].state == b"quiet"


async def test_answers_wait_within_leisure() -> None:
    world = World(listeners=8)
    async with lamps(world, leisure=0.4), switch(world) as multicaster:
        delays = sorted(a.delay for a in await answers(multicaster.request(get())))
        # eight draws from 0 to 0.4 s: all within 50 ms of one another has a chance of 10^-6
        assert delays[-1] - delays[0] > 0.05


async def test_a_pure_listener_acts_and_says_nothing() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=BEST_EFFORT))
    async with lamps(world, [None, world.lamp_ids[0]]) as opened, switch(world) as multicaster:
        got = await answers(multicaster.request(put(b"on")))
        assert [a.endpoint_id for a in got] == world.lamp_ids
        pure_endpoint, pure_light = opened[0]
        await pure_light.wait_for(1)
        assert pure_light.state == b"on"
        with pytest.raises(MisuseError, match="pure listener"):
            Multicaster(pure_endpoint, "room")


async def test_one_process_is_multicaster_and_listener() -> None:
    world = World(listeners=2)
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        both = Multicaster(endpoint, "room")
        got = await answers(both.request(put(b"from a lamp")))
        # the other lamp answers; its own message, which loops back, is refused as a reflection
        assert [a.endpoint_id for a in got] == [world.lamp_ids[1]]
        assert light.state == b"off"
        assert opened[1][1].state == b"from a lamp"


async def test_a_group_that_one_is_not_in_is_refused() -> None:
    world = World()
    async with world.endpoint(world.switch_ids[0]) as endpoint:
        with pytest.raises(MisuseError, match="not a member of group 'cellar'"):
            Multicaster(endpoint, "cellar")


async def test_a_group_cannot_be_served_twice() -> None:
    world = World()
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with pytest.raises(MisuseError, match="served already"):
            Listener(endpoint, light)


async def test_blocks_of_two_states_of_a_resource_are_not_put_together() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, _ = opened[0]
        site = endpoint.sites._sites["room"]

        class Changing(resource.Resource):  # type: ignore[misc]
            """Sets no ETag, answers later blocks from another state than the first."""

            async def needs_blockwise_assembly(self, request: aiocoap.Message) -> bool:
                return False

            async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
                number = request.opt.block2.block_number if request.opt.block2 else 0
                if number == 1:
                    # as if the first block were of long ago
                    endpoint.messages._blockwise = Blockwise(endpoint.limits, uncounted, uncounted)
                return aiocoap.Message(payload=bytes(64), block2=(number, True, 2))

        site.add_resource(["changing"], Changing())
        collection = multicaster.request(get("changing"), timeout=0.5)
        assert await answers(collection) == []
        assert "ETag" in collection.problems[world.lamp_ids[0]]
