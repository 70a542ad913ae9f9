"""Requirements of Group OSCORE on endpoints that no other test states by itself: docs/requirements."""

from __future__ import annotations

from dataclasses import replace

import pytest
import suites
from devices import answers, get, lamps, put, switch
from suites import Suite
from wire import Member, Peer
from world import BEST_EFFORT, CHALLENGE, World

from groupcoap.core import coap
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.profile import Mode
from groupcoap.core.requests import SignatureState
from groupcoap.errors import Reason


def world(suite: Suite = suites.GROUP_OSCORE, listeners: int = 1, challenge: bool = False) -> World:
    policy = GroupPolicy(synchronization=CHALLENGE if challenge else BEST_EFFORT)
    return World(suite=suite, listeners=listeners, policy=policy)


@pytest.mark.parametrize("mode", [None, Mode.GROUP, Mode.PAIRWISE])
async def test_an_echo_is_in_pairwise_mode_and_its_answer_too(mode: Mode | None) -> None:
    """Whatever mode answers have otherwise."""
    room = world(listeners=2, challenge=True)
    room.policy = replace(room.policy, response_mode=mode)
    async with lamps(room) as opened, switch(room) as multicaster:
        got = await answers(multicaster.request(put(b"on")))
        assert len(got) == 2
        for _, light in opened:
            assert [origin.signature for _, origin in light.requests] == [SignatureState.PAIRWISE]
        expected = SignatureState.VERIFIED if mode is Mode.GROUP else SignatureState.PAIRWISE
        assert {answer.provenance.signature for answer in got} == {expected}


@pytest.mark.parametrize(
    ("suite", "expected"),
    [(suites.GROUP_MODE_ONLY, SignatureState.VERIFIED), (suites.COUNTER_MODE, SignatureState.PAIRWISE)],
    ids=["no pairwise mode", "counter mode"],
)
async def test_an_echo_is_in_group_mode_only_where_there_is_no_other(
    suite: Suite, expected: SignatureState
) -> None:
    room = world(suite, challenge=True)
    async with lamps(room) as [(_, light)], switch(room) as multicaster:
        (got,) = await answers(multicaster.request(put(b"on")))
        assert [origin.signature for _, origin in light.requests] == [expected]
        assert got.provenance.signature is expected


@pytest.mark.parametrize("kind", [coap.CON, coap.NON])
async def test_pairwise_mode_where_there_is_none_is_a_bad_option(kind: int) -> None:
    room = world(suites.GROUP_MODE_ONLY)
    elsewhere = World(suite=suites.GROUP_OSCORE, keys=room.keys, secret=room.secret, gid=room.gid, salt=room.salt)
    async with lamps(room) as [(lamp, light)], Peer() as peer:
        message, _ = Member(elsewhere, room.switch_ids[0]).protect(kind=kind, to=room.lamp_ids[0])
        peer.send(message, lamp.network.local_address(4))
        got = await peer.until_ping(lamp.network.local_address(4))
        assert [(error.code, error.payload) for error in got] == (
            [(coap.BAD_OPTION, b"The pairwise mode is not used here")] if kind == coap.CON else []
        )
        assert lamp.counters.rejected == {Reason.NO_PAIRWISE_MODE: 1}
        assert light.requests == []


@pytest.mark.parametrize("alone", [False, True], ids=["group", "pairwise"])
async def test_what_is_of_no_group_that_is_known_is_refused_with_the_reason(alone: bool) -> None:
    """Where nothing else serves what may be of RFC 8613."""
    room, elsewhere = world(), world()
    async with lamps(room) as [(lamp, light)], Peer() as peer:
        to = elsewhere.lamp_ids[0] if alone else None
        message, _ = Member(elsewhere, elsewhere.switch_ids[0]).protect(code=coap.GET, kind=coap.CON, to=to)
        peer.send(message, lamp.network.local_address(4))
        error = await peer.receive()
        assert (error.code, error.payload) == (coap.UNAUTHORIZED, b"Security context not found")
        assert lamp.counters.rejected == {Reason.UNKNOWN_GROUP: 1}
        assert light.requests == []


async def test_a_malformed_message_is_met_with_silence_whatever_its_mode() -> None:
    room = world()
    async with lamps(room) as [(lamp, light)], Peer() as peer:
        member = Member(room, room.switch_ids[0])
        for to in (None, room.lamp_ids[0]):
            message, _ = member.protect(code=coap.GET, kind=coap.CON, to=to)
            peer.send(message._replace(payload=b"x"), lamp.network.local_address(4))
            await peer.assert_silence(lamp.network.local_address(4))
        assert lamp.counters.rejected == {Reason.MALFORMED: 2}
        assert light.requests == []


@pytest.mark.parametrize("kind", [coap.CON, coap.NON])
async def test_a_pairwise_message_for_another_is_a_failed_decryption(kind: int) -> None:
    room = world(listeners=2)
    async with lamps(room) as opened, Peer() as peer:
        message, _ = Member(room, room.switch_ids[0]).protect(kind=kind, to=room.lamp_ids[1])
        (first, light), (second, meant) = opened
        peer.send(message, first.network.local_address(4))
        got = await peer.until_ping(first.network.local_address(4))
        assert [error.code for error in got] == ([coap.BAD_REQUEST] if kind == coap.CON else [])
        assert first.counters.rejected == {Reason.DECRYPTION_FAILED: 1}
        peer.send(message, second.network.local_address(4))
        await meant.wait_for(1)
        assert light.requests == []


async def test_a_listener_may_ask_its_answers_to_be_for_the_requester_alone() -> None:
    room = world(listeners=2)
    room.policy = replace(room.policy, response_mode=Mode.PAIRWISE)
    async with lamps(room), switch(room) as multicaster:
        got = await answers(multicaster.request(get()))
        assert [answer.provenance.signature for answer in got] == [SignatureState.PAIRWISE] * 2
