"""The three synchronization methods over real sockets, with listeners restarted in between (Appendix D)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import aiocoap
import pytest
from devices import answers, eventually, get, lamps, put, switch
from world import BASELINE, BEST_EFFORT, CHALLENGE, World

from groupcoap.core.policy import GroupPolicy
from groupcoap.core.requests import SignatureState
from groupcoap.core.synchronization import Freshness, SynchronizationPolicy
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.groups import ListenerPolicy
from groupcoap.endpoint.network import SocketAddress
from groupcoap.errors import Reason
from groupcoap.files.state import EndpointState, MemoryState, StateKey

pytestmark = pytest.mark.usefixtures("each_profile")


def world_with(synchronization: SynchronizationPolicy, listeners: int = 1) -> World:
    return World(listeners=listeners, policy=GroupPolicy(synchronization=synchronization))


def synchronized(endpoint: Endpoint, world: World) -> bool:
    """By a request that only does that: it is discarded, or asks for what does no harm where any echo is delivered
    (Group OSCORE §9)."""
    if world.suite.parameters.profile.rules.echo_is_original:
        return Reason.NOT_THE_ORIGINAL in endpoint.counters.rejected
    return endpoint.counters.delivered_requests == 1


async def test_best_effort_delivers_from_the_first_request_on() -> None:
    world = world_with(BEST_EFFORT)
    async with lamps(world) as opened, switch(world) as multicaster:
        for payload in (b"1", b"2"):
            await answers(multicaster.request(put(payload)))
        light = opened[0][1]
        assert light.payloads == [b"1", b"2"]
        assert [o.freshness for _, o in light.requests] == [Freshness.UNSYNCHRONIZED, Freshness.ORDERED]


async def test_baseline_drops_the_first_request_of_each_multicaster() -> None:
    world = World(listeners=1, multicasters=2, policy=GroupPolicy(synchronization=BASELINE))
    async with lamps(world) as opened, switch(world) as one, switch(world, 1) as other:
        for multicaster in (one, other):
            assert await answers(multicaster.request(put(b"first"), timeout=0.2)) == []
            assert len(await answers(multicaster.request(put(b"second")))) == 1
        endpoint, light = opened[0]
        assert light.payloads == [b"second", b"second"]
        assert endpoint.counters.rejected == {Reason.NOT_SYNCHRONIZED: 2}


async def test_challenge_response_delivers_the_first_request_after_its_echo() -> None:
    world = world_with(CHALLENGE, listeners=3)
    async with lamps(world) as opened, switch(world) as multicaster:
        collection = multicaster.request(put(b"first"))
        assert len(await answers(collection)) == 3
        await answers(multicaster.request(put(b"second")))
        for endpoint, light in opened:
            assert light.payloads == [b"first", b"second"]
            assert [o.freshness for _, o in light.requests] == [Freshness.FRESH, Freshness.ORDERED]
            assert endpoint.counters.challenges_sent == 1


async def test_a_challenged_listener_s_time_begins_anew() -> None:
    world = world_with(CHALLENGE)
    # The challenge leaves within the deadline, the answer to the echo follows at once: 0.25 s of Leisure at most,
    # and a deadline that would be over were it not extended by the challenge.
    async with lamps(world, leisure=0.25), switch(world) as multicaster:
        assert len(await answers(multicaster.request(put(b"on"), timeout=0.3))) == 1


async def test_a_late_challenge_synchronizes_but_does_not_repeat_the_command() -> None:
    world = world_with(CHALLENGE)
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        endpoint.interface.leisure = 0.3
        collection = multicaster.request(put(b"too late"), timeout=0.001)
        assert await answers(collection) == []
        assert collection.missing == set(world.lamp_ids)
        await eventually(lambda: synchronized(endpoint, world))
        assert light.payloads == []
        endpoint.interface.leisure = 0.0
        assert len(await answers(multicaster.request(put(b"now")))) == 1
        assert endpoint.counters.challenges_sent == 1
        assert light.payloads == [b"now"]


async def test_a_listener_restarted_with_its_state_is_still_synchronized(tmp_path: Path) -> None:
    world = world_with(CHALLENGE)
    kid = world.lamp_ids[0]
    path = tmp_path / "state.journal"
    EndpointState.create(path, [StateKey(world.name, world.gid, kid)])
    async with switch(world) as multicaster:
        with EndpointState.open(path) as state:
            async with lamps(world, state=state):
                await answers(multicaster.request(put(b"before")))
        with EndpointState.open(path) as state:
            async with lamps(world, state=state) as opened:
                assert len(await answers(multicaster.request(put(b"after")))) == 1
                endpoint, light = opened[0]
                assert light.payloads == [b"after"]
                assert endpoint.counters.challenges_sent == 0


async def test_a_restarted_listener_refuses_what_it_accepted_before(tmp_path: Path) -> None:
    world = world_with(BEST_EFFORT)
    kid = world.lamp_ids[0]
    path = tmp_path / "state.journal"
    EndpointState.create(path, [StateKey(world.name, world.gid, kid)])
    recorded: list[tuple[bytes, object]] = []
    async with switch(world) as multicaster:
        send = multicaster.endpoint.network.send

        def record(datagram: bytes, destination: object) -> None:
            recorded.append((datagram, destination))
            send(datagram, destination)  # type: ignore[arg-type]

        multicaster.endpoint.network.send = record  # type: ignore[method-assign]
        with EndpointState.open(path) as state:
            async with lamps(world, state=state):
                await answers(multicaster.request(put(b"once")))
        with EndpointState.open(path) as state:
            async with lamps(world, state=state) as opened:
                endpoint, light = opened[0]
                send(*recorded[0])  # type: ignore[arg-type]
                await eventually(lambda: Reason.REPLAY in endpoint.counters.rejected)
                assert light.payloads == []


async def test_a_listener_that_lost_its_windows_challenges_again() -> None:
    world = world_with(CHALLENGE)
    async with switch(world) as multicaster:
        for _ in range(2):
            async with lamps(world, state=MemoryState()) as opened:
                assert len(await answers(multicaster.request(put(b"on")))) == 1
                assert opened[0][0].counters.challenges_sent == 1


async def test_a_multicaster_restarted_continues_its_numbers(tmp_path: Path) -> None:
    world = world_with(BEST_EFFORT)
    path = tmp_path / "state.journal"
    EndpointState.create(path, [StateKey(world.name, world.gid, world.switch_ids[0])])
    async with lamps(world) as opened:
        for payload in (b"1", b"2", b"3"):
            with EndpointState.open(path) as state:
                async with switch(world, state=state) as multicaster:
                    assert len(await answers(multicaster.request(put(payload)))) == 1
        light = opened[0][1]
        assert light.payloads == [b"1", b"2", b"3"]
        numbers = [origin.sequence_number for _, origin in light.requests]
        assert numbers == sorted(set(numbers), key=lambda n: n or 0)


async def test_a_listener_may_differ_from_its_group() -> None:
    world = world_with(CHALLENGE)
    policy = ListenerPolicy(synchronization=BEST_EFFORT)
    async with lamps(world, policy=policy) as opened, switch(world) as multicaster:
        await answers(multicaster.request(put(b"on")))
        assert opened[0][1].requests[0][1].freshness is Freshness.UNSYNCHRONIZED


async def test_a_pure_listener_takes_baseline_where_the_group_challenges() -> None:
    world = world_with(CHALLENGE)
    async with lamps(world, [None]) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        for payload in (b"1", b"2"):
            await answers(multicaster.request(put(payload), timeout=0.05, roster=None))
        await light.wait_for(1)
        assert light.payloads == [b"2"]
        assert endpoint.counters.challenges_sent == 0


async def test_a_gap_in_the_numbers_ends_synchronization_where_the_policy_says_so() -> None:
    world = world_with(replace(CHALLENGE, max_gap=5))
    async with lamps(world) as opened, switch(world) as multicaster:
        await answers(multicaster.request(get()))
        sender = multicaster.endpoint.groups.current("room").sender
        assert sender is not None
        for _ in range(10):
            sender.numbers.take()
        assert len(await answers(multicaster.request(get()))) == 1
        endpoint, light = opened[0]
        assert endpoint.counters.challenges_sent == 2
        state = SignatureState.PAIRWISE if world.suite.pairwise else SignatureState.VERIFIED
        assert [o.signature for _, o in light.requests] == [state] * 2


async def test_a_lost_echo_is_retransmitted_byte_by_byte_and_acts_once() -> None:
    world = world_with(CHALLENGE)
    quick = aiocoap.TransportTuning()
    quick.ACK_TIMEOUT = 0.1
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        network = multicaster.endpoint.network
        send = network.send
        echoes: list[bytes] = []

        def lose_the_first(datagram: bytes, destination: SocketAddress) -> None:
            if destination[0] == world.host(world.lamp_ids[0]):
                echoes.append(datagram)
                if len(echoes) == 1:
                    return
            send(datagram, destination)

        network.send = lose_the_first  # type: ignore[method-assign]
        message = put(b"on")
        message.transport_tuning = quick
        assert len(await answers(multicaster.request(message))) == 1
        assert len(echoes) == 2
        assert echoes[0] == echoes[1]
        assert light.payloads == [b"on"]
        assert endpoint.counters.rejected == {}
