"""Requests of a process that died: who takes over its state goes on collecting, and no answer counts twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from devices import answers, eventually, get, lamps, put
from wire import Peer
from world import World, free_port

from groupcoap.core.policy import GroupPolicy
from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.endpoint.multicaster import Multicaster
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.files.state import EndpointState, StateKey

pytestmark = pytest.mark.usefixtures("each_profile")


@pytest.fixture
def world() -> World:
    return World(listeners=3)


@pytest.fixture
def state(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "state.journal"
    EndpointState.create(path, [StateKey(world.name, world.gid, world.switch_ids[0])])
    return path


class Switch:
    """The world's multicaster, at one port in all its lives."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.path = path
        self.network = NetworkOptions("lo", ip_address("127.0.0.77"), free_port(), 0)

    @asynccontextmanager
    async def life(self, *, ends: str = "killed") -> AsyncIterator[Multicaster]:
        """`killed`: nothing is closed before the state has been taken away, as the death of a process does it."""
        state = EndpointState.open(self.path)
        kid = self.world.switch_ids[0]
        async with self.world.endpoint(kid, state=state, network=self.network) as endpoint:
            yield Multicaster(endpoint, self.world.name)
            if ends == "killed":
                state._orphan()
        state.close()


async def test_answers_after_the_restart_are_taken_and_those_before_are_known(world: World, state: Path) -> None:
    switch = Switch(world, state)
    fast, slow = world.lamp_ids[:1], world.lamp_ids[1:]
    async with lamps(world, fast), lamps(world, slow, leisure=0.5) as sluggish:
        async with switch.life() as multicaster:
            collection = multicaster.request(get())
            first = await anext(collection)
            assert first.endpoint_id in world.lamp_ids
            for _, light in sluggish:
                await light.wait_for(1)
        async with switch.life() as multicaster:
            (left_over,) = multicaster.left_over()
            assert first.endpoint_id in left_over.answered
            assert left_over.roster == frozenset(world.lamp_ids)
            late = await answers(left_over)
            assert len(left_over.answered) == 3
            assert first.endpoint_id not in {answer.endpoint_id for answer in late}
            assert multicaster.left_over() == []
        async with switch.life() as multicaster:
            assert multicaster.left_over() == []  # it was complete


async def test_an_answer_that_was_taken_before_is_a_replay(world: World, state: Path) -> None:
    switch = Switch(world, state)
    async with Peer() as recorder:
        async with lamps(world, world.lamp_ids[:1]) as opened:
            sent: list[bytes] = []
            endpoint = opened[0][0]
            send = endpoint.network.send
            endpoint.network.send = lambda datagram, to: (sent.append(datagram), send(datagram, to))  # type: ignore[method-assign,assignment,func-returns-value]
            async with switch.life() as multicaster:
                await anext(multicaster.request(get()))
        async with switch.life() as multicaster:
            (left_over,) = multicaster.left_over()
            assert left_over.answered == {world.lamp_ids[0]}
            recorder.send(sent[0], ("127.0.0.77", switch.network.port))
            await eventually(lambda: multicaster.endpoint.counters.rejected)
            assert multicaster.endpoint.counters.delivered_responses == 0
            left_over.close()


async def test_a_request_that_was_given_up_is_not_left_over(world: World, state: Path) -> None:
    switch = Switch(world, state)
    async with lamps(world, world.lamp_ids[:1]):
        async with switch.life() as multicaster:
            await answers(multicaster.request(get(), timeout=0.05))
            multicaster.request(get()).close()
        async with switch.life(ends="closed") as multicaster:
            assert multicaster.left_over() == []
            multicaster.request(get())
        async with switch.life() as multicaster:
            assert multicaster.left_over() == []


async def test_time_goes_on_while_nobody_collects(world: World, state: Path) -> None:
    switch = Switch(world, state)
    async with switch.life() as multicaster:
        multicaster.request(get(), timeout=0.2)
    async with switch.life() as multicaster:
        (left_over,) = multicaster.left_over()
        assert await answers(left_over) == []
        assert left_over.missing == frozenset(world.lamp_ids)


async def test_a_renewed_group_leaves_nothing_over(world: World, state: Path) -> None:
    switch = Switch(world, state)
    async with switch.life() as multicaster:
        multicaster.request(get())
    world.gid = world.gid[:8] + b"\0\0\0\1"
    async with switch.life() as multicaster:
        assert multicaster.left_over() == []


async def test_a_challenge_to_a_left_over_request_synchronizes_without_repeating_it(
    world: World, state: Path
) -> None:
    world.policy = GroupPolicy(synchronization=SynchronizationPolicy())
    switch = Switch(world, state)
    async with lamps(world, world.lamp_ids[:1], leisure=0.3) as opened:
        endpoint, light = opened[0]
        async with switch.life() as multicaster:
            multicaster.request(put(b"before"), timeout=1.0)
            multicaster.endpoint.interface.receive = lambda *_: None  # type: ignore[method-assign]
            await eventually(lambda: endpoint.counters.challenges_sent)
        async with switch.life() as multicaster:
            (left_over,) = multicaster.left_over()
            assert await answers(left_over) == []
            assert light.payloads == []
            after = multicaster.request(put(b"after"), roster=world.lamp_ids[:1])
            assert len(await answers(after)) == 1
            assert light.payloads == [b"after"]
            assert endpoint.counters.challenges_sent == 1


@pytest.mark.parametrize("begun", ["challenge", "first block"])
async def test_what_only_begins_an_answer_is_not_one(world: World, state: Path, begun: str) -> None:
    if begun == "challenge":
        world.policy = GroupPolicy(synchronization=SynchronizationPolicy())
    switch = Switch(world, state)
    async with lamps(world, world.lamp_ids[:1]):
        async with switch.life() as multicaster:
            multicaster.request(get() if begun == "challenge" else get("big"))
            multicaster.endpoint.network.send = lambda datagram, to: None  # type: ignore[method-assign,assignment]
            await eventually(lambda: multicaster.endpoint.counters.delivered_responses)
        async with switch.life() as multicaster:
            (left_over,) = multicaster.left_over()
            assert left_over.answered == frozenset()
            left_over.close()


async def test_an_answer_to_an_echo_counts_for_its_request(world: World, state: Path) -> None:
    world.policy = GroupPolicy(synchronization=SynchronizationPolicy())
    switch = Switch(world, state)
    async with lamps(world, world.lamp_ids[:1]):
        async with switch.life() as multicaster:
            await anext(multicaster.request(get()))
        async with switch.life() as multicaster:
            (left_over,) = multicaster.left_over()
            assert left_over.answered == {world.lamp_ids[0]}
            left_over.close()


async def test_a_request_with_hardly_any_time_stops_nobody_from_starting(world: World, state: Path) -> None:
    switch = Switch(world, state)
    async with switch.life() as multicaster:
        multicaster.request(get(), timeout=1e-6)
    async with switch.life() as multicaster:
        (left_over,) = multicaster.left_over()
        assert await answers(left_over) == []


async def test_observations_are_not_left_over(world: World, state: Path) -> None:
    switch = Switch(world, state)
    async with lamps(world, world.lamp_ids[:1]):
        async with switch.life() as multicaster:
            observation = multicaster.observe(get())
            await eventually(lambda: observation.streams)
        async with switch.life() as multicaster:
            assert multicaster.left_over() == []


async def test_new_requests_get_tokens_of_their_own(world: World, state: Path) -> None:
    switch = Switch(world, state)
    async with switch.life() as multicaster:
        multicaster.request(get())
    async with switch.life() as multicaster:
        (left_over,) = multicaster.left_over()
        tokens = multicaster.endpoint.tokens
        (token, _), *_ = tokens.outgoing_requests
        tokens._token = int.from_bytes(token, "big") - 1
        assert tokens.next_token() != token
        left_over.close()
