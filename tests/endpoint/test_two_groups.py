"""One process in two groups, at one address and at two, of one profile and of two."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from devices import Light, answers, light_site, put, switch
from suites import COUNTER_MODE, DRAFT, GROUP_OSCORE, Suite
from wire import Member, Peer
from world import Source, World

from groupcoap.core import coap
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.files.state import MemoryState
from groupcoap.membership import GroupAddress

PAIRS = pytest.mark.parametrize(
    ("first", "second"),
    [(DRAFT, DRAFT), (GROUP_OSCORE, GROUP_OSCORE), (DRAFT, GROUP_OSCORE), (GROUP_OSCORE, COUNTER_MODE)],
    ids=lambda suite: suite.name if suite is not COUNTER_MODE else "counter-mode",
)


def both(one: World, other: World, kid: bytes) -> Endpoint:
    source = Source([one.configuration(kid), other.configuration(kid)])
    network = NetworkOptions(interface="lo", bind=IPv4Address(one.host(kid)), hop_limit=0)
    return Endpoint(source, MemoryState(), network, leisure=0)


@PAIRS
@pytest.mark.parametrize("second_address", ["224.0.1.187", "224.0.1.188"])
async def test_requests_reach_only_their_group_s_site(second_address: str, first: Suite, second: Suite) -> None:
    room = World("room", listeners=1, suite=first)
    address = GroupAddress(IPv4Address(second_address), room.port)
    hall = World("hall", listeners=1, addresses=(address,), suite=second)
    async with both(room, hall, room.lamp_ids[0]) as endpoint:
        in_room, in_hall = Light(), Light()
        Listener(endpoint, light_site(in_room), ["room"])
        Listener(endpoint, light_site(in_hall), ["hall"])
        async with switch(room) as to_room:
            assert len(await answers(to_room.request(put(b"room")))) == 1
        async with switch(hall) as to_hall:
            assert len(await answers(to_hall.request(put(b"hall")))) == 1
        assert (in_room.payloads, in_hall.payloads) == ([b"room"], [b"hall"])


@PAIRS
async def test_a_group_without_a_site_is_not_served_by_the_other_s(first: Suite, second: Suite) -> None:
    room = World("room", listeners=1, suite=first)
    hall = World("hall", listeners=1, addresses=room.addresses, suite=second)
    async with both(room, hall, room.lamp_ids[0]) as endpoint:
        light = Light()
        listener = Listener(endpoint, light_site(light), ["room"])
        async with switch(hall) as to_hall:
            assert await answers(to_hall.request(put(b"hall"), timeout=0.2)) == []
        assert light.payloads == []
        assert listener.groups == ("room",)


@PAIRS
async def test_closing_one_listener_keeps_the_address_of_the_other(first: Suite, second: Suite) -> None:
    room = World("room", listeners=1, suite=first)
    hall = World("hall", listeners=1, addresses=room.addresses, suite=second)
    async with both(room, hall, room.lamp_ids[0]) as endpoint:
        light = Light()
        in_room = Listener(endpoint, light_site(Light()), ["room"])
        in_hall = Listener(endpoint, light_site(light), ["hall"])
        in_room.close()
        async with switch(hall) as to_hall:
            assert len(await answers(to_hall.request(put(b"still here")))) == 1
        in_hall.close()
        assert endpoint.network.joined == ()


@PAIRS
async def test_one_gid_in_two_groups_by_unicast(first: Suite, second: Suite) -> None:
    """Two managers have chosen the same: what comes by unicast is of the group whose keys fit (draft §5.2)."""
    room = World("room", listeners=1, suite=first)
    address = GroupAddress(IPv4Address("224.0.1.188"), room.port)
    hall = World("hall", listeners=1, addresses=(address,), gid=room.gid, suite=second)
    lamp = room.lamp_ids[0]
    async with both(room, hall, lamp) as endpoint, Peer() as peer:
        lights = {"room": Light(), "hall": Light()}
        for name, light in lights.items():
            light.state = name.encode()
            Listener(endpoint, light_site(light), [name])
        for world in (room, hall):
            for alone in (None, lamp) if world.suite.pairwise else (None,):
                member = Member(world, world.switch_ids[0], first=10 if alone else 0)
                message, exchange = member.protect(b"", code=coap.GET, kind=coap.CON, to=alone)
                peer.send(message, endpoint.network.local_address(4))
                assert member.answer(exchange, await peer.receive()).message.payload == world.name.encode()
        assert endpoint.counters.rejected == {}
