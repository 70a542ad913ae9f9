"""What the fuzzer has found in an endpoint, each as a story of its own."""

from __future__ import annotations

import aiocoap
import suites
from devices import get
from wire import Peer
from world import World

from groupcoap.endpoint.conversation import Leg
from groupcoap.endpoint.limits import Limits
from groupcoap.endpoint.remote import GroupRemote
from groupcoap.errors import MisuseError
from groupcoap.membership import MemberLeft


class Impatient(aiocoap.TransportTuning):  # type: ignore[misc]
    """Retransmits soon."""

    ACK_TIMEOUT = 0.03


async def test_a_request_whose_bytes_had_to_make_room_is_not_sent_again_as_another_one() -> None:
    world = World(listeners=2)
    async with (
        Peer() as first,
        Peer() as second,
        world.endpoint(world.switch_ids[0], limits=Limits(remembered=1)) as endpoint,
    ):
        for kid, peer in zip(world.lamp_ids, (first, second), strict=True):
            request = get(transport_tuning=Impatient)
            request.remote = GroupRemote(peer.address, world.name, kid)
            Leg(endpoint, request, lambda event: None).send()
        _, client = await first.receive_from()
        remembered = [await second.receive() for _ in range(3)]
        assert remembered == remembered[:1] * 3
        await first.assert_silence(client)


async def test_what_has_waited_until_its_receiver_left_fails_for_who_asked_and_the_next_is_sent() -> None:
    world = World(listeners=2, suite=suites.GROUP_OSCORE)
    switch, (leaving, staying) = world.switch_ids[0], world.lamp_ids
    source = world.source(switch)
    async with Peer() as peer, world.endpoint(switch, source=source) as endpoint:
        failures: list[BaseException | None] = []

        def ask() -> Leg:
            request = get()
            request.remote = GroupRemote(peer.address, world.name, leaving)
            leg = Leg(endpoint, request, lambda event: failures.append(event.exception))
            leg.send()
            return leg

        first, _, _ = ask(), ask(), ask()
        client = (await peer.receive_from())[1]
        source.tell(MemberLeft(world.name, world.gid, frozenset({leaving})))
        first.close()
        assert [type(failure) for failure in failures] == [MisuseError, MisuseError]
        await peer.assert_silence(client)

        request = get()
        request.remote = GroupRemote(peer.address, world.name, staying)
        Leg(endpoint, request, lambda event: None).send()
        assert await peer.receive()
