"""What the fuzzer has found in an endpoint, each as a story of its own."""

from __future__ import annotations

import aiocoap
from devices import get
from wire import Peer
from world import World

from groupcoap.endpoint.conversation import Leg
from groupcoap.endpoint.limits import Limits
from groupcoap.endpoint.remote import GroupRemote


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
