"""Block-wise transfers at a listener: what a member sees. What they may cost is in test_flood_limits.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiocoap
import pytest
from aiocoap import resource
from devices import TIMEOUT, answers, eventually, get, switch
from wire import Member, Peer
from world import World

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener

pytestmark = pytest.mark.usefixtures("each_profile")

BODY = bytes(range(256)) * 10


class Store(resource.ObservableResource):  # type: ignore[misc]
    """Keeps what it was last asked with, and has a large answer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[aiocoap.Message] = []
        self.body = BODY
        self.etag: bytes | None = None

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        self.seen.append(request)
        return aiocoap.Message(payload=self.body, etag=self.etag)

    async def render_fetch(self, request: aiocoap.Message) -> aiocoap.Message:
        self.seen.append(request)
        if request.payload == b"wrong":
            return aiocoap.Message(code=aiocoap.BAD_REQUEST)
        return aiocoap.Message(code=aiocoap.CONTENT, payload=request.payload[::-1])


class Dialogue:
    """A member asks a listener by unicast."""

    def __init__(self, endpoint: Endpoint, store: Store, peer: Peer, member: Member) -> None:
        self.endpoint, self.store, self.peer, self.member = endpoint, store, peer, member

    async def ask(
        self, *options: tuple[int, bytes], code: int = coap.GET, payload: bytes = b"", kind: int = coap.CON
    ) -> Message:
        protected, exchange = self.member.protect(
            payload, code=code, kind=kind, options=((coap.URI_PATH, b"store"), *options)
        )
        self.peer.send(protected, self.endpoint.network.local_address(4))
        return self.member.answer(exchange, await self.peer.receive()).message


@asynccontextmanager
async def dialogue() -> AsyncIterator[Dialogue]:
    world = World(listeners=1)
    async with world.endpoint(world.lamp_ids[0]) as endpoint, Peer() as peer:
        store = Store()
        site = resource.Site()
        site.add_resource(["store"], store)
        Listener(endpoint, site)
        yield Dialogue(endpoint, store, peer, Member(world, world.switch_ids[0]))


def block2(number: int, exponent: int = 6, more: bool = False) -> tuple[int, bytes]:
    return coap.BLOCK2, coap.uint_bytes(number << 4 | more << 3 | exponent)


def block1(number: int, more: bool, exponent: int = 2) -> tuple[int, bytes]:
    return coap.BLOCK1, coap.uint_bytes(number << 4 | more << 3 | exponent)


@pytest.mark.parametrize("kind", [coap.CON, coap.NON])
@pytest.mark.parametrize("exponent", [None, 0, 3, 6])
async def test_a_large_answer_block_by_block(exponent: int | None, kind: int) -> None:
    async with dialogue() as talk:
        first = await talk.ask(*(() if exponent is None else (block2(0, exponent),)), kind=kind)
        size = 16 << (6 if exponent is None else exponent)
        body, etag = first.payload, first.option(coap.ETAG)
        assert len(body) == size
        assert etag is not None
        number = 0
        while coap.uint_value(answer_block := (first.option(coap.BLOCK2) or b"")) & 8:
            number += 1
            first = await talk.ask(block2(number, answer_block[-1] & 7), kind=kind)
            assert first.option(coap.ETAG) == etag
            body += first.payload
        assert body == BODY
        assert len(talk.store.seen) == 1  # the others were cut from what was kept
        assert talk.store.seen[0].opt.block2 is None


async def test_an_answer_that_fits_is_not_cut() -> None:
    async with dialogue() as talk:
        talk.store.body = BODY[:1024]
        whole = await talk.ask()
        assert (whole.payload, whole.option(coap.BLOCK2), whole.option(coap.ETAG)) == (BODY[:1024], None, None)
        talk.store.body = BODY[:1025]
        assert (await talk.ask()).option(coap.BLOCK2) == block2(0, more=True)[1]


async def test_an_etag_of_the_resource_stays() -> None:
    async with dialogue() as talk:
        talk.store.etag = b"v1"
        for options in ((), (block2(1),)):
            assert (await talk.ask(*options)).option(coap.ETAG) == b"v1"


@pytest.mark.parametrize("option", [block2(0, 7), block2(1, 7), block1(0, False, 7)])
async def test_the_reserved_size_is_a_bad_request(option: tuple[int, bytes]) -> None:
    async with dialogue() as talk:
        assert (await talk.ask(option, code=coap.FETCH)).code == coap.BAD_REQUEST
        assert talk.store.seen == []


async def test_a_block_that_is_not_there() -> None:
    async with dialogue() as talk:
        assert (await talk.ask(block2(1))).code == 0x88  # nothing was asked before
        await talk.ask()
        assert (await talk.ask(block2(3))).code == coap.BAD_REQUEST


async def test_another_address_gets_none_of_it() -> None:
    async with dialogue() as talk:
        await talk.ask()
        assert (await talk.ask(block2(1))).code == coap.CONTENT
        async with Peer() as elsewhere:
            talk.peer = elsewhere  # the same member, at another address
            assert (await talk.ask(block2(1))).code == 0x88


async def test_a_large_body_and_a_large_answer() -> None:
    async with dialogue() as talk:
        for number in range(20):
            part = BODY[number * 64 : (number + 1) * 64]
            answer = await talk.ask(block1(number, number < 19), code=coap.FETCH, payload=part)
            if number < 19:
                assert (answer.code, answer.option(coap.BLOCK1)) == (coap.CONTINUE, block1(number, True)[1])
        assert answer.option(coap.BLOCK1) == block1(19, False)[1]
        assert answer.option(coap.BLOCK2) == block2(0, more=True)[1]
        rest = await talk.ask(block2(1), code=coap.FETCH)
        assert answer.payload + rest.payload == BODY[: 20 * 64][::-1]
        assert rest.option(coap.BLOCK1) is None
        assert [request.opt.block1 for request in talk.store.seen] == [None]


async def test_an_error_for_a_body_in_blocks() -> None:
    async with dialogue() as talk:
        answer = await talk.ask(block1(0, False), code=coap.FETCH, payload=b"wrong")
        assert (answer.code, answer.option(coap.BLOCK1)) == (coap.BAD_REQUEST, None)


async def test_a_body_that_does_not_follow() -> None:
    async with dialogue() as talk:
        assert (await talk.ask(block1(1, True), code=coap.FETCH, payload=bytes(64))).code == 0x88
        assert (await talk.ask(block1(0, True), code=coap.FETCH, payload=bytes(64))).code == coap.CONTINUE
        assert (await talk.ask(block1(2, True), code=coap.FETCH, payload=bytes(64))).code == 0x88
        assert talk.store.seen == []


async def test_large_notifications_come_whole_to_the_multicaster() -> None:
    world = World(listeners=2)
    stores = []
    async with AsyncExitStack() as stack:
        multicaster = await stack.enter_async_context(switch(world))
        for kid in world.lamp_ids:
            endpoint = await stack.enter_async_context(world.endpoint(kid))
            stores.append(Store())
            site = resource.Site()
            site.add_resource(["store"], stores[-1])
            Listener(endpoint, site)
        observation = await stack.enter_async_context(multicaster.observe(get("store")))
        await eventually(lambda: len(observation.streams) == 2)
        for store in stores:
            store.body = BODY[::-1]
            store.updated_state()
        streams = observation.streams.values()
        await eventually(lambda: [s.latest.message.payload for s in streams if s.latest] == [BODY[::-1]] * 2)


async def test_a_body_that_grows_between_two_requests_is_told_by_its_etag() -> None:
    async with dialogue() as talk:
        one = await talk.ask()
        talk.store.body = BODY * 2
        two = await talk.ask()
        assert one.option(coap.ETAG) != two.option(coap.ETAG)
        assert (await talk.ask(block2(1))).option(coap.ETAG) == two.option(coap.ETAG)


async def test_through_the_multicaster() -> None:
    world = World(listeners=1)
    async with world.endpoint(world.lamp_ids[0]) as endpoint, switch(world) as multicaster:
        site = resource.Site()
        site.add_resource(["store"], Store())
        Listener(endpoint, site)
        (answer,) = await answers(multicaster.request(get("store"), timeout=TIMEOUT))
        assert answer.message.payload == BODY
