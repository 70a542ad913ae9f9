"""One process in two groups, at one address and at two."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from devices import Light, answers, light_site, put, switch
from world import Source, World

from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.files.state import MemoryState
from groupcoap.membership import GroupAddress


def both(one: World, other: World, kid: bytes) -> Endpoint:
    source = Source([one.configuration(kid), other.configuration(kid)])
    network = NetworkOptions(interface="lo", bind=IPv4Address(one.host(kid)), hop_limit=0)
    return Endpoint(source, MemoryState(), network, leisure=0)


@pytest.mark.parametrize("second_address", ["224.0.1.187", "224.0.1.188"])
async def test_requests_reach_only_their_group_s_site(second_address: str) -> None:
    room = World("room", listeners=1)
    address = GroupAddress(IPv4Address(second_address), room.port)
    hall = World("hall", listeners=1, addresses=(address,))
    async with both(room, hall, room.lamp_ids[0]) as endpoint:
        in_room, in_hall = Light(), Light()
        Listener(endpoint, light_site(in_room), ["room"])
        Listener(endpoint, light_site(in_hall), ["hall"])
        async with switch(room) as to_room:
            assert len(await answers(to_room.request(put(b"room")))) == 1
        async with switch(hall) as to_hall:
            assert len(await answers(to_hall.request(put(b"hall")))) == 1
        assert (in_room.payloads, in_hall.payloads) == ([b"room"], [b"hall"])


async def test_a_group_without_a_site_is_not_served_by_the_other_s() -> None:
    room = World("room", listeners=1)
    hall = World("hall", listeners=1, addresses=room.addresses)
    async with both(room, hall, room.lamp_ids[0]) as endpoint:
        light = Light()
        listener = Listener(endpoint, light_site(light), ["room"])
        async with switch(hall) as to_hall:
            assert await answers(to_hall.request(put(b"hall"), timeout=0.2)) == []
        assert light.payloads == []
        assert listener.groups == ("room",)


async def test_closing_one_listener_keeps_the_address_of_the_other() -> None:
    room = World("room", listeners=1)
    hall = World("hall", listeners=1, addresses=room.addresses)
    async with both(room, hall, room.lamp_ids[0]) as endpoint:
        light = Light()
        first = Listener(endpoint, light_site(Light()), ["room"])
        second = Listener(endpoint, light_site(light), ["hall"])
        first.close()
        async with switch(hall) as to_hall:
            assert len(await answers(to_hall.request(put(b"still here")))) == 1
        second.close()
        assert endpoint.network.joined == ()
