"""Acknowledgements and notifications that are lost or overtaken: nothing is retransmitted in vain, nothing that was
given up is done later, and nobody is told twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import aiocoap
import pytest
from devices import TIMEOUT, Light, answers, eventually, get, lamps, light_site, put, switch
from world import CHALLENGE, World

from groupcoap.core import coap
from groupcoap.core.policy import GroupPolicy
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Observation
from groupcoap.endpoint.network import SocketAddress
from groupcoap.errors import Reason

pytestmark = pytest.mark.usefixtures("each_profile")

PATIENT = aiocoap.TransportTuning()
PATIENT.ACK_TIMEOUT = 0.05
PATIENT.ACK_RANDOM_FACTOR = 1.0
PATIENT.MAX_RETRANSMIT = 20  # what is not acknowledged is sent again for as long as a test lasts

Lost = Callable[[coap.Message, SocketAddress], bool]


def lose(endpoint: Endpoint, lost: Lost) -> None:
    """Of what this endpoint sends, lose what `lost` says."""
    send = endpoint.network.send

    def send_or_lose(datagram: bytes, destination: SocketAddress) -> None:
        if not lost(coap.decode(datagram), destination):
            send(datagram, destination)

    endpoint.network.send = send_or_lose  # type: ignore[method-assign]


def first(wanted: Lost) -> Lost:
    """Only the first that is `wanted`."""
    found: list[coap.Message] = []

    def is_first(message: coap.Message, destination: SocketAddress) -> bool:
        if found or not wanted(message, destination):
            return False
        found.append(message)
        return True

    return is_first


def challenging(listeners: int = 1) -> World:
    return World(listeners=listeners, policy=GroupPolicy(synchronization=replace(CHALLENGE, rechallenge_after=0)))


def patient(message: aiocoap.Message) -> aiocoap.Message:
    message.transport_tuning = PATIENT
    return message


async def shows(observation: Observation, state: bytes) -> None:
    async with asyncio.timeout(TIMEOUT):
        async for answer in observation:
            if answer.message.payload == state:
                return


def nothing_under_way(endpoint: Endpoint) -> bool:
    return not endpoint.messages._active_exchanges and not endpoint.messages._backlogs


async def test_an_acknowledgement_that_a_notification_has_overtaken_ends_retransmission() -> None:
    """The answer to an echo is lost, a notification arrives, and then the repeated answer, which is older."""
    world = challenging()
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        lose(endpoint, first(lambda message, _: message.type == coap.ACK))
        async with multicaster.observe(patient(get())) as observation:
            await light.wait_for(1)
            light.state = b"newer"
            light.updated_state()
            await shows(observation, b"newer")
            await eventually(lambda: Reason.NOTIFICATION_ORDER in multicaster.endpoint.counters.rejected)
            await eventually(lambda: nothing_under_way(multicaster.endpoint))


async def test_an_unprotected_error_acknowledges_an_echo_and_ends_nothing() -> None:
    """As from a listener that has lost the group's keys meanwhile."""
    world = challenging()
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        echoes: list[coap.Message] = []

        def answered_by_hand(message: coap.Message, destination: SocketAddress) -> bool:
            if message.type == coap.CON:
                echoes.append(message)
            return message.type == coap.CON

        lose(multicaster.endpoint, answered_by_hand)
        async with multicaster.request(patient(put(b"on")), timeout=10 * TIMEOUT) as collection:
            await eventually(lambda: len(echoes) == 2)
            refusal = coap.Message(coap.ACK, coap.UNAUTHORIZED, echoes[0].message_id, echoes[0].token, (), b"")
            endpoint.network.send(coap.encode(refusal), multicaster.endpoint.network.local_address(4))
            await eventually(lambda: nothing_under_way(multicaster.endpoint))
        assert collection.missing == set(world.lamp_ids)
        assert multicaster.endpoint.counters.rejected == {Reason.NOT_PROTECTED: 1}
        assert light.payloads == []


class Reporting(Light):
    """Its notifications are retransmitted soon."""

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return patient(await super().render_get(request))


async def test_a_notification_that_was_overtaken_is_acknowledged() -> None:
    """Or it would be retransmitted for minutes, and those after it would wait behind it."""
    world = challenging()
    light = Reporting()
    async with world.endpoint(world.lamp_ids[0]) as endpoint, switch(world) as multicaster:
        Listener(endpoint, light_site(light))
        group = str(world.addresses[0].host)
        heard = first(lambda message, destination: destination[0] == group)
        lose(multicaster.endpoint, lambda m, d: d[0] == group and not heard(m, d))  # refreshed by unicast alone
        lose(endpoint, first(lambda message, _: message.type == coap.CON))
        async with multicaster.observe(patient(get()), refresh=0.02) as observation:
            await light.wait_for(1)
            light.state = b"lost"
            light.updated_state()
            await eventually(lambda: Reason.NOTIFICATION_ORDER in multicaster.endpoint.counters.rejected)
            await eventually(lambda: nothing_under_way(endpoint))
            light.state = b"next"
            light.updated_state()
            await shows(observation, b"next")


async def test_what_was_given_up_is_not_sent_after_what_it_waited_for() -> None:
    """One confirmable message to a peer waits for the other; a command whose time is over must not follow later."""
    world = challenging()
    async with lamps(world) as opened, switch(world) as multicaster:
        _, light = opened[0]
        away = True
        lose(multicaster.endpoint, lambda message, _: away and message.type == coap.CON)
        one = multicaster.request(patient(put(b"first")), timeout=TIMEOUT)
        await eventually(lambda: multicaster.endpoint.messages._active_exchanges)
        other = multicaster.request(patient(put(b"given up")), timeout=0.1)
        lose(multicaster.endpoint, lambda message, _: away and message.type != coap.CON)  # nor its probe
        assert await answers(other) == []
        away = False
        assert len(await answers(one)) == 1
        assert len(await answers(multicaster.request(put(b"third")))) == 1
        assert light.payloads == [b"first", b"third"]


async def test_whose_echo_may_be_lost_at_the_end_is_synchronized_for_the_next_request() -> None:
    world = challenging()
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        lose(multicaster.endpoint, lambda message, _: message.type == coap.CON)
        assert await answers(multicaster.request(put(b"given up"), timeout=0.1)) == []
        probed = endpoint.counters
        if world.suite.parameters.profile.rules.echo_is_original:
            await eventually(lambda: Reason.NOT_THE_ORIGINAL in probed.rejected)
        else:  # it is delivered, but asks for nothing that was given up
            await eventually(lambda: probed.delivered_requests)
        assert light.payloads == []
        assert len(await answers(multicaster.request(put(b"next")))) == 1
        assert light.payloads == [b"next"]
        assert endpoint.counters.challenges_sent == 1


async def test_who_follows_the_group_request_is_not_observed_by_its_echo_as_well() -> None:
    world = challenging(2)
    async with lamps(world) as opened, switch(world) as multicaster:
        async with multicaster.observe(patient(get()), refresh=0.1):
            await eventually(lambda: all(endpoint.counters.challenges_sent for endpoint, _ in opened))
            for _, light in opened:
                await light.wait_for(4)  # the echo, its end, and two refreshes
            await eventually(lambda: [len(e.tokens.incoming_requests) for e, _ in opened] == [1, 1])
        await eventually(lambda: not any(endpoint.tokens.incoming_requests for endpoint, _ in opened))
        await eventually(lambda: not multicaster.endpoint.interface.awaits_answers)


async def test_a_listener_that_does_not_answer_is_not_sent_one_refresh_after_the_other() -> None:
    world = challenging()
    async with (
        lamps(world),
        switch(world) as multicaster,
        multicaster.observe(patient(get()), refresh=0.02) as observation,
    ):
        await shows(observation, b"off")
        sent: list[coap.Message] = []

        def gone(message: coap.Message, destination: SocketAddress) -> bool:
            sent.append(message)
            return True

        lose(multicaster.endpoint, gone)
        await eventually(lambda: sum(message.type == coap.NON for message in sent) > 5)
        assert len({message.message_id for message in sent if message.type == coap.CON}) <= 1
        assert not any(multicaster.endpoint.messages._backlogs.values())


async def test_the_end_of_an_observation_that_has_to_wait_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind a block that is being fetched: when it is sent at last, nobody waits for its answer any more."""
    monkeypatch.setattr("groupcoap.endpoint.multicaster.LINGER", 0.0)
    world = challenging()
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, _ = opened[0]
        observation = multicaster.observe(patient(get()))
        await shows(observation, b"off")
        away = True
        group = str(world.addresses[0].host)
        heard = first(lambda message, destination: destination[0] == group)
        lose(multicaster.endpoint, lambda m, d: away and not heard(m, d))
        collection = multicaster.request(patient(get("big")), timeout=10 * TIMEOUT)
        await eventually(lambda: multicaster.endpoint.messages._active_exchanges)
        await observation.end()
        assert endpoint.tokens.incoming_requests
        away = False
        assert len(await answers(collection)) == 1
        await eventually(lambda: not endpoint.tokens.incoming_requests)
        assert not multicaster.endpoint.interface.awaits_answers


async def test_the_end_of_an_observation_is_retransmitted() -> None:
    world = challenging()
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, _ = opened[0]
        group = str(world.addresses[0].host)
        observation = multicaster.observe(patient(get()))
        await shows(observation, b"off")
        ending = first(lambda message, _: message.type == coap.CON)
        lose(multicaster.endpoint, lambda m, d: d[0] == group or ending(m, d))
        await observation.end()
        await eventually(lambda: not endpoint.tokens.incoming_requests)
        await eventually(lambda: nothing_under_way(multicaster.endpoint))
