"""What goes on for longer than one answer, with aiocoap: Observe, blocks, and Echo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiocoap
import pytest
from devices import answers, eventually
from world import CHALLENGE

from groupcoap.core.profile import Mode
from groupcoap.core.synchronization import Freshness
from groupcoap.endpoint.multicaster import Answer, Observation
from groupcoap.errors import Reason

from .peer import (
    BIG,
    BIG_PATH,
    DONE,
    GROUP_MODE,
    MODES,
    PAIRWISE,
    PATIENCE,
    Asked,
    Group,
    Lamp,
    Manual,
    ask_all,
    asking,
    mode_of,
    mode_of_signature,
    request,
    serving,
    to,
)

STATES = [b"on at half power", b"on at full power", b"off, for the night"]


AFTER_THE_END = {Reason.UNKNOWN_EXCHANGE, Reason.NOT_PROTECTED}
"""aiocoap answers the end of an observation, whatever its No-Response says. Nothing of an answer in pairwise mode
that nobody waits for shows that it is of a group."""


async def next_of(notifications: AsyncIterator[Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await anext(notifications)


# ---- Observe


@pytest.mark.parametrize("answering", MODES)
@pytest.mark.parametrize("mode", MODES)
async def test_aiocoap_observes_our_lamp(group: Group, mode: Mode, answering: Mode) -> None:
    security = group.peer("switch-1").asking(mode, group.lamps["lamp-1"])
    async with group.lamp(response_mode=answering) as (endpoint, lamp), asking(security) as client:
        observe = client.context.request(to(endpoint, observe=0))
        async with asyncio.timeout(PATIENCE):
            first = await observe.response
        assert (first.payload, mode_of(first)) == (b"lamp-1 is off", answering)
        notifications = aiter(observe.observation)
        for state in STATES:
            lamp.switch(state)
            notification = await next_of(notifications)
            assert (notification.payload, mode_of(notification)) == (state, answering)
        assert lamp.observers == 1
        assert {asked.mode for asked in lamp.asked} == {mode}
        observe.observation.cancel()
        assert endpoint.counters.rejected == {}


@pytest.mark.parametrize("answering", MODES)
async def test_we_observe_an_aiocoap_lamp(group: Group, answering: Mode) -> None:
    async with (
        serving(group.peer("lamp-1", answering), group=group.address) as server,
        group.switch() as multicaster,
    ):
        async with multicaster.observe(request()) as observation:
            await _follow(observation, server.lamp, answering, GROUP_MODE)
        await eventually(lambda: server.lamp.observers == 0)
        assert multicaster.endpoint.counters.rejected.keys() <= AFTER_THE_END


async def test_we_observe_an_aiocoap_lamp_in_pairwise_mode(group: Group) -> None:
    """As our endpoint does it where the observed one has asked for an Echo."""
    lamp = Lamp("lamp-1")
    lamp.echo = b"is it fresh?"
    async with (
        serving(group.peer("lamp-1"), lamp, group=group.address),
        group.switch() as multicaster,
    ):
        async with multicaster.observe(request()) as observation:
            await _follow(observation, lamp, PAIRWISE, PAIRWISE)
            assert set(lamp.echoed) == {PAIRWISE}
        await eventually(lambda: lamp.observers == 0)
        assert multicaster.endpoint.counters.rejected.keys() <= AFTER_THE_END


async def _follow(observation: Observation, lamp: Lamp, answering: Mode, asked: Mode) -> None:
    """The first answer and three notifications."""
    before: Answer = await next_of(aiter(observation))
    assert before.message.payload == lamp.state
    for state in STATES:
        lamp.switch(state)
        answer = await next_of(aiter(observation))
        assert answer.message.payload == state
        assert mode_of_signature(answer.provenance.signature) is answering
        assert answer.provenance.freshness is Freshness.ORDERED
    assert lamp.observers == 1
    assert {each.mode for each in lamp.asked} == {asked}


# ---- blocks


@pytest.mark.parametrize("mode", MODES)
async def test_aiocoap_fetches_a_large_body_from_us(group: Group, mode: Mode) -> None:
    security = group.peer("switch-1").asking(mode, group.lamps["lamp-1"])
    async with group.lamp() as (endpoint, _), asking(security) as client:
        got = await client.ask(to(endpoint, path=BIG_PATH))
        assert (got.code, got.payload, mode_of(got)) == (aiocoap.CONTENT, BIG, mode)
        assert endpoint.counters.delivered_requests == -(-len(BIG) // 1024)
        assert endpoint.counters.rejected == {}


async def test_aiocoap_sends_us_a_large_body(group: Group) -> None:
    manual = Manual()
    security = group.peer("switch-1").pairwise_for(group.lamps["lamp-1"])
    async with group.lamp(manual=manual) as (endpoint, _), asking(security) as client:
        done = await client.ask(to(endpoint, aiocoap.PUT, BIG_PATH, payload=BIG))
        assert (done.code, done.payload) == (aiocoap.CHANGED, DONE)
        assert manual.uploaded == [BIG]
        assert endpoint.counters.rejected == {}


@pytest.mark.parametrize("answering", MODES)
async def test_we_fetch_a_large_body_from_aiocoap(group: Group, answering: Mode) -> None:
    async with (
        serving(group.peer("lamp-1", answering), group=group.address) as server,
        group.switch() as multicaster,
    ):
        for collection in (
            multicaster.request(request(path=BIG_PATH), roster=[server.kid]),
            multicaster.ask(server.kid, request(path=BIG_PATH), server.address),
        ):
            (answer,) = await answers(collection)
            assert answer.message.payload == BIG
            assert collection.problems == {}
        assert multicaster.endpoint.counters.rejected == {}


# ---- Echo


@pytest.mark.parametrize("answering", [None, *MODES], ids=["as-requested", "group", "pairwise"])
@pytest.mark.parametrize("mode", MODES)
async def test_aiocoap_proves_to_us_that_it_is_fresh(group: Group, mode: Mode, answering: Mode | None) -> None:
    security = group.peer("switch-1").asking(mode, group.lamps["lamp-1"])
    async with group.lamp(response_mode=answering, synchronization=CHALLENGE) as (endpoint, lamp):
        async with asking(security) as client:
            for _ in range(2):
                got = await client.ask(to(endpoint))
                assert (got.code, got.payload) == (aiocoap.CONTENT, b"lamp-1 is off")
                assert mode_of(got) is (answering or mode)
        assert endpoint.counters.challenges_sent == 1
        # aiocoap goes on in pairwise mode once one of the two has begun with it.
        repeated = PAIRWISE if PAIRWISE in (mode, answering) else GROUP_MODE
        assert [asked.mode for asked in lamp.asked] == [repeated, mode]
        assert lamp.freshness == [Freshness.FRESH, Freshness.ORDERED]
        assert endpoint.counters.rejected == {}


async def test_aiocoap_proves_it_to_each_listener_that_a_group_request_has_reached(group: Group) -> None:
    security = group.peer("switch-1")
    put = request(aiocoap.PUT, payload=STATES[0])
    async with AsyncExitStack() as stack:
        lamps = {
            group.lamps[name]: await stack.enter_async_context(group.lamp(name, synchronization=CHALLENGE))
            for name in group.lamps
        }
        challenges = await ask_all(security, put, group.address, len(lamps))
        assert {(mode, challenge.code) for mode, challenge in challenges.values()} == {
            (GROUP_MODE, aiocoap.UNAUTHORIZED)
        }
        assert len({challenge.opt.echo for _, challenge in challenges.values()}) == len(lamps)
        assert [lamp.asked for _, lamp in lamps.values()] == [[]] * len(lamps)
        for kid, (endpoint, lamp) in lamps.items():
            async with asking(security.pairwise_for(kid)) as client:
                echo = challenges[kid][1].opt.echo
                done = await client.ask(to(endpoint, aiocoap.PUT, payload=STATES[0], echo=echo))
            assert (done.code, done.payload) == (aiocoap.CHANGED, DONE)
            assert lamp.asked == [Asked(aiocoap.PUT, STATES[0], PAIRWISE)]
            assert lamp.freshness == [Freshness.FRESH]


@pytest.mark.parametrize("answering", MODES)
@pytest.mark.parametrize("code", [aiocoap.GET, aiocoap.PUT], ids=str)
async def test_we_prove_to_aiocoap_that_we_are_fresh(group: Group, code: Any, answering: Mode) -> None:
    lamp = Lamp("lamp-1")
    lamp.echo = b"is it fresh?"
    payload = b"" if code is aiocoap.GET else b"on at half power"
    async with (
        serving(group.peer("lamp-1", answering), lamp, group=group.address) as server,
        group.switch() as multicaster,
    ):
        (answer,) = await answers(multicaster.request(request(code, payload=payload), roster=[server.kid]))
        assert answer.message.code.is_successful()
        assert lamp.echoed == [PAIRWISE]
        assert lamp.asked == [Asked(code, payload, PAIRWISE)]
        assert server.site.done == 2
        assert multicaster.endpoint.counters.rejected == {}
