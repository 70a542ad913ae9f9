"""A protected request that a proxy has cut into outer blocks: put together, bounded, and never by multicast."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiocoap
import pytest
from aiocoap import resource
from devices import eventually
from wire import Member, Peer
from world import World

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.exchange import OutgoingExchange
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.errors import Reason

pytestmark = pytest.mark.usefixtures("each_profile")

QUERY = bytes(range(256)) * 10


class Query(resource.Resource):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    async def render_fetch(self, request: aiocoap.Message) -> aiocoap.Message:
        self.bodies.append(request.payload)
        return aiocoap.Message(code=aiocoap.CONTENT, payload=b"%d bytes" % len(request.payload))


@asynccontextmanager
async def device(world: World) -> AsyncIterator[tuple[Endpoint, Query]]:
    async with world.endpoint(world.lamp_ids[0]) as endpoint:
        query = Query()
        site = resource.Site()
        site.add_resource(["light"], query)
        Listener(endpoint, site)
        yield endpoint, query


def pieces(member: Member, body: bytes = QUERY, exponent: int = 5) -> tuple[list[Message], OutgoingExchange]:
    """A protected FETCH as a proxy sends it on, block by block, and what is needed to verify the answer."""
    protected, exchange = member.protect(body, code=coap.FETCH, kind=coap.CON)
    size = 16 << exponent
    count = -(-len(protected.payload) // size)
    made = []
    for number in range(count):
        more = number < count - 1
        block = (coap.BLOCK1, coap.uint_bytes(number << 4 | more << 3 | exponent))
        made.append(
            protected._replace(
                message_id=100 + number,
                options=tuple(sorted((*protected.options, block))),
                payload=protected.payload[number * size : (number + 1) * size],
            )
        )
    return made, exchange


@pytest.mark.parametrize("exponent", [0, 3, 6])
async def test_put_together_and_delivered_once(exponent: int) -> None:
    world = World(listeners=1)
    async with device(world) as (endpoint, query), Peer() as peer:
        member = Member(world, world.switch_ids[0])
        to = endpoint.network.local_address(4)
        parts, exchange = pieces(member, exponent=exponent)
        for part in parts[:-1]:
            for _ in range(2):  # the first acknowledgement was lost
                peer.send(part, to)
                answer = await peer.receive()
                assert (answer.type, answer.code, answer.message_id, answer.token) == (
                    coap.ACK,
                    coap.CONTINUE,
                    part.message_id,
                    part.token,
                )
                assert answer.option(coap.BLOCK1) == part.option(coap.BLOCK1)
        assert query.bodies == []
        peer.send(parts[-1], to)
        final = await peer.receive()
        assert (final.type, final.message_id) == (coap.ACK, parts[-1].message_id)
        delivered = member.answer(exchange, final)
        assert delivered.message.payload == b"2560 bytes"
        peer.send(parts[-1], to)  # this one was lost too
        assert await peer.receive() == final
        assert query.bodies == [QUERY]
        assert endpoint.counters.rejected == {}
        assert endpoint.counters.delivered_requests == 1


async def test_refused_by_multicast() -> None:
    world = World(listeners=1)
    async with device(world) as (endpoint, query), Peer() as peer:
        member = Member(world, world.switch_ids[0])
        parts, _ = pieces(member)
        for part in parts:
            peer.send(part._replace(type=coap.NON), member.group)
        await eventually(lambda: endpoint.counters.rejected == {Reason.NOT_FOR_MULTICAST: len(parts)})
        await peer.assert_silence(endpoint.network.local_address(4))
        assert query.bodies == []


async def test_refused_unless_confirmable() -> None:
    world = World(listeners=1)
    async with device(world) as (endpoint, query), Peer() as peer:
        parts, _ = pieces(Member(world, world.switch_ids[0]))
        peer.send(parts[0]._replace(type=coap.NON), endpoint.network.local_address(4))
        await eventually(lambda: endpoint.counters.rejected == {Reason.MALFORMED: 1})
        await peer.assert_silence(endpoint.network.local_address(4))
        assert query.bodies == []


async def test_larger_than_the_group_allows() -> None:
    """MAX_UNFRAGMENTED_SIZE: given up with silence, and nothing is kept."""
    world = World(listeners=1)
    async with device(world) as (endpoint, query), Peer() as peer:
        member = Member(world, world.switch_ids[0])
        to = endpoint.network.local_address(4)
        parts, _ = pieces(member, bytes(5000), exponent=6)
        for part in parts[:4]:
            peer.send(part, to)
            assert (await peer.receive()).code == coap.CONTINUE
        peer.send(parts[4], to)
        await eventually(lambda: endpoint.counters.rejected == {Reason.TOO_LARGE: 1})
        await peer.assert_silence(to)
        assert query.bodies == []
        # A smaller one goes through afterwards.
        parts, exchange = pieces(member, bytes(1000), exponent=6)
        for part in parts:
            peer.send(part._replace(message_id=part.message_id + 50), to)
            answer = await peer.receive()
        assert member.answer(exchange, answer).message.payload == b"1000 bytes"


async def test_one_changed_byte_in_one_block() -> None:
    """Nothing is authentic before all is there: then the whole is refused, as any request is."""
    world = World(listeners=1)
    async with device(world) as (endpoint, query), Peer() as peer:
        member = Member(world, world.switch_ids[0])
        to = endpoint.network.local_address(4)
        parts, _ = pieces(member)
        parts[2] = parts[2]._replace(payload=bytes(len(parts[2].payload)))
        for part in parts:
            peer.send(part, to)
            answer = await peer.receive()
        assert answer.code == coap.BAD_REQUEST
        assert endpoint.counters.rejected == {Reason.DECRYPTION_FAILED: 1}
        assert query.bodies == []
