"""Every table that peers can fill, filled by the strongest peer that can reach it: it stays bounded, it is counted,
and the others are served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import aiocoap
import pytest
from aiocoap import resource
from devices import TIMEOUT, Light, answers, eventually, get, lamps, put, switch
from wire import LIGHT, Member, Peer
from world import BEST_EFFORT, CHALLENGE, Source, World

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.exchange import OutgoingExchange
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.responses import DeliveredResponse
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.limits import Limits
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Stream
from groupcoap.errors import Limit, MisuseError, Reason

pytestmark = pytest.mark.usefixtures("each_profile")

MANY = 10_000
SLOW = ((coap.URI_PATH, b"slow"),)
BIG = ((coap.URI_PATH, b"big"),)
ECHO = ((coap.URI_PATH, b"echo"),)
OBSERVE = (coap.OBSERVE, b"")


class Slow(resource.Resource):  # type: ignore[misc]
    """Answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.waiting = 0

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        self.waiting += 1
        try:
            await self.go.wait()
        finally:
            self.waiting -= 1
        return aiocoap.Message(payload=b"done")


class Counting(resource.Resource):  # type: ignore[misc]
    """Says how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        self.count += 1
        return aiocoap.Message(payload=b"%d" % self.count)


class Large(resource.Resource):  # type: ignore[misc]
    """A large answer to every query."""

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=bytes(3000))


class Echo(resource.Resource):  # type: ignore[misc]
    """Says how large the body was."""

    async def render_fetch(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(code=aiocoap.CONTENT, payload=b"%d" % len(request.payload))

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(code=aiocoap.CHANGED, payload=b"%d" % len(request.payload))


class Device:
    """A lamp with a slow resource and large ones."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.light, self.slow = Light(), Slow()
        self.site = self.make_site()

    def make_site(self) -> resource.Site:
        site = resource.Site()
        site.add_resource(["light"], self.light)
        site.add_resource(["slow"], self.slow)
        site.add_resource(["big"], Large())
        site.add_resource(["echo"], Echo())
        site.add_resource(["count"], Counting())
        return site

    @property
    def address(self) -> tuple[object, ...]:
        return self.endpoint.network.local_address(4)

    @property
    def limited(self) -> dict[Limit, int]:
        return self.endpoint.counters.limited

    @property
    def busy(self) -> int:
        return self.endpoint.counters.rejected.get(Reason.BUSY, 0)


@asynccontextmanager
async def device(world: World, limits: Limits, **options: object) -> AsyncIterator[Device]:
    async with world.endpoint(world.lamp_ids[0], limits=limits, **options) as endpoint:  # type: ignore[arg-type]
        made = Device(endpoint)
        Listener(endpoint, made.site)
        yield made


@asynccontextmanager
async def plain_device(world: World, limits: Limits) -> AsyncIterator[Device]:
    """The same resources for plain CoAP."""
    site = resource.Site()
    async with world.endpoint(world.lamp_ids[0], limits=limits, plain_site=site) as endpoint:
        made = Device(endpoint)
        for path, served in made.site._resources.items():
            site.add_resource(path, served)
        yield made


def two_members() -> tuple[World, Member, Member]:
    world = World(listeners=1, multicasters=2)
    greedy, other = (Member(world, kid) for kid in world.switch_ids)
    return world, greedy, other


async def ask(
    peer: Peer, member: Member, to: tuple[object, ...], options: coap.Options = LIGHT, **how: int
) -> DeliveredResponse:
    """A GET by unicast and its answer."""
    message, exchange = member.protect(b"", code=coap.GET, kind=coap.CON, options=options)
    peer.send(message, to)
    return await answer_to(peer, member, message, exchange)


async def answer_to(peer: Peer, member: Member, message: Message, exchange: OutgoingExchange) -> DeliveredResponse:
    while True:
        answer = await peer.receive()
        if answer.token == message.token and answer.code != coap.EMPTY:
            return member.answer(exchange, answer)


# ---- what members can fill


async def test_requests_being_served() -> None:
    world, greedy, other = two_members()
    async with device(world, Limits(requests=5, requests_per_peer=3)) as lamp, Peer() as one, Peer() as two:
        for _ in range(10):
            refused, exchange = greedy.protect(b"", code=coap.GET, options=SLOW)
            one.send(refused, greedy.group)
        await eventually(lambda: lamp.busy == 7)
        assert lamp.slow.waiting == 3
        assert lamp.limited == {Limit.REQUESTS_PER_PEER: 7}
        assert (await ask(two, other, lamp.address)).message.payload == b"off"
        for _ in range(2):
            two.send(other.protect(b"", code=coap.GET, options=SLOW)[0], other.group)
        await eventually(lambda: lamp.slow.waiting == 5)
        two.send(other.protect(b"", code=coap.GET, options=SLOW)[0], other.group)
        await eventually(lambda: lamp.limited.get(Limit.REQUESTS) == 1)
        lamp.slow.go.set()
        await eventually(lambda: lamp.slow.waiting == 0)
        assert len(lamp.endpoint.tokens.requests) == 0
        # What was refused has not moved the window: the same datagram is served now.
        one.send(refused, greedy.group)
        assert (await answer_to(one, greedy, refused, exchange)).message.payload == b"done"


async def test_responses_that_wait_within_leisure() -> None:
    world, greedy, other = two_members()
    limits = Limits(responses=5, responses_per_peer=3)
    async with device(world, limits, leisure=3600.0) as lamp, Peer() as peer:
        for number in range(20):
            peer.send(greedy.request(b"%d" % number), greedy.group)
            await asyncio.sleep(0)
        await eventually(lambda: len(lamp.light.requests) + lamp.busy == 20)
        assert len(lamp.endpoint.interface._timers) == 3
        assert lamp.limited == {Limit.RESPONSES_PER_PEER: 17}  # 3 wait, the others were refused, or their answers
        peer.send(other.request(b"other"), other.group)
        await eventually(lambda: lamp.light.payloads[-1] == b"other")
        assert (await ask(peer, greedy, lamp.address)).message.payload == b"other"  # by unicast nothing waits


async def test_notifications_that_wait_within_leisure() -> None:
    world, greedy, _ = two_members()
    limits = Limits(responses_per_peer=4)
    async with device(world, limits, leisure=3600.0) as lamp, Peer() as peer:
        peer.send(greedy.protect(b"", code=coap.GET, options=(OBSERVE, *LIGHT))[0], greedy.group)
        await lamp.light.wait_for(1)
        for _ in range(100):
            lamp.light.updated_state(aiocoap.Message(code=aiocoap.CONTENT, payload=b"new"))
            await asyncio.sleep(0)
        await eventually(lambda: lamp.limited.get(Limit.RESPONSES_PER_PEER, 0) > 50)
        assert len(lamp.endpoint.interface._timers) == 4


async def test_observations() -> None:
    world, greedy, other = two_members()
    async with device(world, Limits(observations=3, observations_per_peer=2)) as lamp, Peer() as peer:
        how = (OBSERVE, *LIGHT)
        seen = [(await ask(peer, greedy, lamp.address, how)).notification for _ in range(5)]
        assert seen == [True, True, False, False, False]
        assert lamp.limited == {Limit.OBSERVATIONS_PER_PEER: 3}
        assert (await ask(peer, other, lamp.address, how)).notification
        assert not (await ask(peer, other, lamp.address, how)).notification
        assert lamp.limited[Limit.OBSERVATIONS] == 1
        assert len(lamp.light._observations) == 3
        assert lamp.busy == 0  # all of them were answered


async def test_an_observation_that_is_refreshed_takes_one_place_and_one_timer() -> None:
    world, greedy, _ = two_members()
    async with device(world, Limits(observations=2, observations_per_peer=1)) as lamp, Peer() as peer:
        loop = asyncio.get_running_loop()
        for _ in range(50):
            message, exchange = greedy.protect(b"", code=coap.GET, kind=coap.NON, options=(OBSERVE, *LIGHT))
            message = message._replace(token=b"same")
            peer.send(message, lamp.address)
            assert (await answer_to(peer, greedy, message, exchange)).notification
        assert lamp.limited == {}
        assert len(lamp.light._observations) == 1
        later = loop.time() + 200
        timers = [t for t in loop._scheduled if not t.cancelled() and t.when() > later]  # type: ignore[attr-defined]
        assert len(timers) == 1


async def test_confirmable_messages_that_a_peer_does_not_acknowledge() -> None:
    world, greedy, other = two_members()
    async with device(world, Limits(confirmable=4, confirmable_per_peer=3)) as lamp, Peer() as peer:
        silent = [Peer() for _ in range(6)]  # one address after the other
        for at in silent:
            assert (await ask(at, greedy, lamp.address, (OBSERVE, *LIGHT))).notification
        lamp.light.updated_state()
        kinds = [(await at.receive()).type for at in silent]
        assert kinds.count(coap.CON) == 3
        assert kinds.count(coap.NON) == 3
        assert lamp.limited == {Limit.CONFIRMABLE_PER_PEER: 3}
        assert (await ask(peer, other, lamp.address)).message.payload == b"off"
        for at in silent:
            at.socket.close()


async def test_bodies_of_requests() -> None:
    world, greedy, other = two_members()
    async with device(world, Limits(bodies=3, bodies_per_peer=2, body=256)) as lamp, Peer() as peer:

        async def block(
            member: Member, tag: bytes, number: int, more: bool, size: int = 64
        ) -> tuple[int, DeliveredResponse]:
            option = (coap.BLOCK1, coap.uint_bytes(number << 4 | more << 3 | 2))
            options = (*ECHO, option, (coap.REQUEST_TAG, tag))
            message, exchange = member.protect(bytes(size), code=coap.FETCH, kind=coap.CON, options=options)
            peer.send(message, lamp.address)
            delivered = await answer_to(peer, member, message, exchange)
            return delivered.message.code, delivered

        for tag in range(MANY // 100):
            code, _ = await block(greedy, bytes((tag,)), 0, True)
            assert code == (coap.CONTINUE if tag < 2 else coap.SERVICE_UNAVAILABLE)
        assert lamp.limited == {Limit.BODIES_PER_PEER: 98}
        assert len(lamp.endpoint.tokens.blockwise._bodies) == 2
        code, _ = await block(other, b"o", 0, True)
        assert code == coap.CONTINUE
        code, _ = await block(other, b"p", 0, True)
        assert code == coap.SERVICE_UNAVAILABLE
        assert lamp.limited[Limit.BODIES] == 1
        code, delivered = await block(other, b"o", 1, False, 10)
        assert (code, delivered.message.payload) == (coap.CONTENT, b"74")
        assert delivered.message.option(coap.BLOCK1) == coap.uint_bytes(1 << 4 | 2)
        code, _ = await block(other, b"o", 1, False)  # it is finished, and nothing of it is kept
        assert code == 0x88
        for number in range(5):
            code, _ = await block(greedy, b"\0", number, True)
        assert code == 0x8D
        assert len(lamp.endpoint.tokens.blockwise._bodies) == 1


async def test_answers_that_are_fetched_block_by_block() -> None:
    world, greedy, other = two_members()
    async with device(world, Limits(transfers=5, transfers_per_peer=3)) as lamp, Peer() as peer:

        async def get_block(member: Member, query: bytes, number: int = 0) -> Message:
            options: coap.Options = (*BIG, (coap.URI_QUERY, query))
            if number:
                options = (*options, (coap.BLOCK2, coap.uint_bytes(number << 4 | 6)))
            return (await ask(peer, member, lamp.address, options)).message

        assert len((await get_block(other, b"other")).payload) == 1024
        for number in range(MANY // 100):
            first = await get_block(greedy, b"%d" % number)
            assert first.option(coap.BLOCK2) == coap.uint_bytes(8 | 6)
        assert lamp.limited == {Limit.TRANSFERS_PER_PEER: 97}
        assert len(lamp.endpoint.tokens.blockwise._answers) == 4
        assert (await get_block(greedy, b"96", 1)).code == 0x88  # begin again
        rest = await get_block(greedy, b"99", 1)
        assert (rest.code, rest.option(coap.ETAG)) == (coap.CONTENT, first.option(coap.ETAG))
        assert len((await get_block(other, b"other", 2)).payload) == 3000 - 2048


async def test_confirmable_messages_that_are_remembered() -> None:
    world, greedy, other = two_members()
    limits = Limits(remembered=8, remembered_per_peer=4)
    async with device(world, limits) as lamp, Peer() as one, Peer() as two:
        message, _ = other.protect(b"", code=coap.GET, kind=coap.CON)
        one.send(message, lamp.address)
        first = await one.receive()
        for _ in range(50):
            await ask(two, greedy, lamp.address)
        assert lamp.limited == {Limit.REMEMBERED_PER_PEER: 46}
        assert len(lamp.endpoint.interface._confirmed) == 5
        one.send(message, lamp.address)  # its acknowledgement was lost: it is still known
        assert await one.receive() == first
        assert lamp.endpoint.counters.rejected == {}


async def test_recipient_contexts() -> None:
    world, greedy, other = two_members()
    async with device(world, Limits(recipients=1)) as lamp, Peer() as peer:
        peer.send(other.request(b"first"), other.group)
        await lamp.light.wait_for(1)
        peer.send(greedy.request(), greedy.group)
        await eventually(lambda: lamp.busy == 1)
        assert lamp.limited == {Limit.RECIPIENTS: 1}
        peer.send(other.request(b"second"), other.group)
        await lamp.light.wait_for(2)
        assert lamp.light.payloads == [b"first", b"second"]


async def test_challenges_for_each_sender_and_none_is_left_pending() -> None:
    world = World(
        listeners=1, multicasters=2, policy=GroupPolicy(synchronization=replace(CHALLENGE, rechallenge_after=0))
    )
    greedy, other = (Member(world, kid) for kid in world.switch_ids)
    limits = Limits(challenge_rate_per_peer=1.0, challenge_rate=100.0)
    async with device(world, limits) as lamp, Peer() as peer:
        for _ in range(30):
            peer.send(greedy.request(), greedy.group)
        await eventually(lambda: lamp.endpoint.counters.challenges_sent + lamp.busy == 30)
        assert lamp.limited == {Limit.CHALLENGE_RATE_PER_PEER: lamp.busy}
        assert lamp.endpoint.counters.challenges_sent == 2
        before = lamp.endpoint.counters.challenges_sent
        peer.send(other.request(), other.group)
        await eventually(lambda: lamp.endpoint.counters.challenges_sent == before + 1)


async def test_a_challenge_that_may_not_be_sent_now_leaves_its_sender_as_it_was() -> None:
    world = World(listeners=1, multicasters=2, policy=GroupPolicy(synchronization=CHALLENGE))
    greedy, other = (Member(world, kid) for kid in world.switch_ids)
    async with device(world, Limits(challenge_rate=0.5)) as lamp, Peer() as peer:
        peer.send(greedy.request(), greedy.group)
        await eventually(lambda: lamp.endpoint.counters.challenges_sent == 1)
        message = other.request()
        peer.send(message, other.group)
        await eventually(lambda: lamp.limited == {Limit.CHALLENGE_RATE: 1})
        lamp.endpoint.groups._challenges._all._tokens = 1.0  # time goes by
        peer.send(message, other.group)  # the very same: nothing of it was kept
        await eventually(lambda: lamp.endpoint.counters.challenges_sent == 2)
        assert lamp.endpoint.counters.rejected == {Reason.BUSY: 1}


async def test_look_ups_of_invented_senders() -> None:
    world = World(listeners=1)
    source = world.source(world.lamp_ids[0])
    newcomer = Member(world, b"\x77")
    source.credentials[b"\x77"] = world.suite.credential(newcomer.key.public_key)
    opened = device(world, Limits(lookup_rate_per_peer=4.0), source=source)
    async with opened as lamp, Peer("127.0.0.77") as attacker, Peer("127.0.0.78") as peer:
        for number in range(100):
            stranger = Member(world, b"\xf0" + bytes((number,)))
            attacker.send(stranger.request(), stranger.group)
        await eventually(lambda: sum(lamp.endpoint.counters.rejected.values()) == 100)
        assert len(source.looked_up) < 20
        assert lamp.limited[Limit.LOOKUP_RATE_PER_PEER] == 100 - len(source.looked_up)
        peer.send(newcomer.request(b"hello"), newcomer.group)
        await lamp.light.wait_for(1)
        assert list(lamp.endpoint.groups.current("room").kept) == [b"\x77"]


# ---- what our own requests fill


async def test_requests_of_our_own() -> None:
    world = World(listeners=1)
    async with switch(world, limits=Limits(outgoing=2)) as multicaster:
        pending = [multicaster.request(put(b"on"), timeout=TIMEOUT) for _ in range(2)]
        with pytest.raises(MisuseError, match="too many"):
            multicaster.request(put(b"on"))
        assert multicaster.endpoint.counters.limited == {Limit.OUTGOING: 1}
        pending[0].close()
        multicaster.request(put(b"on")).close()
        pending[1].close()


async def test_answers_in_blocks_wait_for_each_other() -> None:
    world = World(listeners=3)
    async with lamps(world), switch(world, limits=Limits(fetches=1)) as multicaster:
        got = await answers(multicaster.request(get("big"), timeout=TIMEOUT))
        assert {len(answer.message.payload) for answer in got} == {5120}
        assert len(got) == 3
        assert multicaster.endpoint.counters.limited == {Limit.FETCHES: 2}


async def test_an_answer_larger_than_a_body_may_be() -> None:
    world = World(listeners=1)
    async with lamps(world), switch(world, limits=Limits(body=2048)) as multicaster:
        collection = multicaster.request(get("big"), timeout=0.5)
        assert await answers(collection) == []
        assert "larger than 2048 bytes" in collection.problems[world.lamp_ids[0]]


def is_latest(stream: Stream, payload: bytes) -> bool:
    return stream.latest is not None and stream.latest.message.payload == payload


async def test_notifications_that_nobody_reads() -> None:
    world = World(listeners=1)
    async with AsyncExitStack() as stack:
        [(_, light)] = await stack.enter_async_context(lamps(world))
        multicaster = await stack.enter_async_context(switch(world, limits=Limits(unread=3)))
        observation = await stack.enter_async_context(multicaster.observe(get()))
        await eventually(lambda: observation.streams)
        stream = observation.streams[world.lamp_ids[0]]
        for number in range(10):
            light.updated_state(aiocoap.Message(code=aiocoap.CONTENT, payload=b"%d" % number))
            await eventually(partial(is_latest, stream, b"%d" % number))
        assert multicaster.endpoint.counters.limited == {Limit.UNREAD: 16}  # this stream, and that of all
        assert [(await anext(stream)).message.payload for _ in range(3)] == [b"7", b"8", b"9"]


async def test_a_collection_that_nobody_reads_keeps_one_answer_of_each() -> None:
    world = World(listeners=2, policy=GroupPolicy(synchronization=CHALLENGE))
    async with lamps(world), switch(world) as multicaster:
        collection = multicaster.request(get("big"), timeout=TIMEOUT)
        await eventually(lambda: not collection.missing)
        assert collection._queue.qsize() <= 3
        assert len(await answers(collection)) == 2


# ---- what outsiders can fill


async def test_assemblies_of_outer_blocks() -> None:
    world, member, _ = two_members()
    limits = Limits(assemblies=4, assemblies_per_peer=2)
    async with device(world, limits) as lamp, Peer("127.0.0.78") as proxy:
        alone = world.lamp_ids[0] if world.suite.pairwise else None
        protected, exchange = member.protect(bytes(100), code=coap.FETCH, kind=coap.CON, options=ECHO, to=alone)
        size = len(protected.payload)
        pieces = [
            protected._replace(
                message_id=number,
                payload=protected.payload[number * 64 : (number + 1) * 64],
                options=(*protected.options, (coap.BLOCK1, coap.uint_bytes(number << 4 | more << 3 | 2))),
            )
            for number, more in ((0, True), (1, False))
        ]
        assert 64 < size <= 128
        proxy.send(pieces[0], lamp.address)
        assert (await proxy.receive()).code == coap.CONTINUE
        forged = coap.encode(outer_pieces(member)[0])
        for number in range(MANY):
            lamp.endpoint.interface.receive(forged, ("127.0.0.77", number), None)
        assert lamp.limited == {Limit.ASSEMBLIES_PER_PEER: MANY - 2}
        assert len(lamp.endpoint.interface._reassembler) == 3
        proxy.send(pieces[1], lamp.address)
        assert member.answer(exchange, await proxy.receive()).message.payload == b"100"
        for number in range(MANY):  # from many hosts: then the oldest goes
            lamp.endpoint.interface.receive(forged, (f"10.0.{number >> 8}.{number & 255}", 1), None)
        assert len(lamp.endpoint.interface._reassembler) == 4
        assert lamp.limited[Limit.ASSEMBLIES] == MANY - 2


async def test_outer_blocks_of_a_group_that_is_not_known_are_refused_at_once() -> None:
    world, _, _ = two_members()
    stranger = Member(World(listeners=1, addresses=world.addresses), b"\x80")
    async with device(world, Limits()) as lamp, Peer() as peer:
        peer.send(outer_pieces(stranger)[0], lamp.address)
        assert (await peer.receive()).code == coap.UNAUTHORIZED
        assert len(lamp.endpoint.interface._reassembler) == 0


async def test_how_large_an_assembly_may_be_is_the_policy_of_the_group_that_it_names() -> None:
    small = World("small", listeners=1, policy=GroupPolicy(synchronization=BEST_EFFORT, max_unfragmented_size=100))
    large = World("large", listeners=1, addresses=small.addresses)
    kid = small.lamp_ids[0]
    source = Source([small.configuration(kid), large.configuration(kid)])
    async with device(small, Limits(), source=source) as lamp, Peer() as peer:
        for world, code in ((large, coap.CONTINUE), (small, coap.CONTINUE)):
            pieces = outer_pieces(Member(world, b"\x80"))
            peer.send(pieces[0], lamp.address)
            assert (await peer.receive()).code == code
            peer.send(pieces[1], lamp.address)
            if world is large:
                assert (await peer.receive()).code == coap.CONTINUE
        await eventually(lambda: lamp.endpoint.counters.rejected == {Reason.TOO_LARGE: 1})
        assert len(lamp.endpoint.interface._reassembler) == 1


def outer_pieces(member: Member) -> list[Message]:
    """The first two pieces of 64 bytes."""
    message, _ = member.protect(bytes(200), code=coap.FETCH, kind=coap.CON)
    return [
        message._replace(
            message_id=message.message_id + number,
            payload=message.payload[number * 64 : (number + 1) * 64],
            options=(*message.options, (coap.BLOCK1, coap.uint_bytes(number << 4 | 8 | 2))),
        )
        for number in range(2)
    ]


async def test_error_replies_for_each_host() -> None:
    world, member, _ = two_members()
    opened = device(world, Limits(error_rate=1000.0, error_rate_per_peer=2.0))
    async with opened as lamp, Peer("127.0.0.77") as attacker, Peer("127.0.0.78") as other:
        message, _ = member.protect(kind=coap.CON, code=coap.GET)
        replay = message._replace(payload=bytes(len(message.payload)))
        attacker.send(replay, lamp.address)
        assert (await attacker.receive()).code == coap.BAD_REQUEST
        for _ in range(MANY):
            lamp.endpoint.interface.receive(coap.encode(replay), attacker.address, None)
        assert 0 < lamp.endpoint.counters.errors_sent < 50
        assert lamp.limited[Limit.ERROR_RATE_PER_PEER] > MANY - 50
        other.send(replay, lamp.address)
        assert (await other.receive()).code == coap.BAD_REQUEST


async def test_error_replies_to_all_hosts_together() -> None:
    world, member, _ = two_members()
    async with device(world, Limits(error_rate=3.0)) as lamp:
        message, _ = member.protect(kind=coap.CON, code=coap.GET)
        forged = coap.encode(message._replace(payload=bytes(len(message.payload))))
        for number in range(MANY):  # forged source addresses
            lamp.endpoint.interface.receive(forged, (f"127.9.{number >> 8}.{number & 255}", 9), None)
        assert 0 < lamp.endpoint.counters.errors_sent < 50
        assert lamp.limited[Limit.ERROR_RATE] > MANY - 50
        assert len(lamp.endpoint.interface._errors._of_peer) <= 1024


async def test_invented_senders_leave_nothing_behind() -> None:
    world, member, _ = two_members()
    source = world.source(world.lamp_ids[0])
    async with device(world, Limits(), source=source) as lamp, Peer() as peer:
        message, _ = member.protect()
        option = message.options[0][1]
        context = lamp.endpoint.groups.current("room")
        for number in range(MANY):
            kid = number.to_bytes(3, "big")
            forged = message._replace(options=((coap.OBJECT_SECURITY, option[:-1] + kid),))
            lamp.endpoint.interface.receive(coap.encode(forged), ("127.0.0.77", 9), world.addresses[0].packed)
        rejected = lamp.endpoint.counters.rejected
        if world.suite.bound:  # it takes their credentials to decrypt
            await eventually(lambda: sum(lamp.endpoint.counters.rejected.values()) == MANY)
            rejected = lamp.endpoint.counters.rejected
            assert rejected.keys() == {Reason.NO_PUBLIC_KEY, Reason.BUSY}
            assert len(source.looked_up) == rejected[Reason.NO_PUBLIC_KEY] < 50
        else:
            assert rejected == {Reason.DECRYPTION_FAILED: MANY}
            assert source.looked_up == []
        assert not context.kept
        assert not context._answering
        peer.send(member.request(b"real"), member.group)
        await lamp.light.wait_for(1)


# ---- the plain side


def plain_get(number: int, path: bytes = b"light", *options: tuple[int, bytes], kind: int = coap.CON) -> bytes:
    ordered = tuple(sorted(((coap.URI_PATH, path), *options)))
    return coap.encode(Message(kind, coap.GET, number & 0xFFFF, number.to_bytes(4, "big"), ordered, b""))


async def test_plain_requests_that_are_remembered() -> None:
    world = World(listeners=1)
    async with plain_device(world, Limits(remembered=64, remembered_per_peer=16)) as lamp, Peer() as peer:
        peer.send(plain_get(1, b"count"), lamp.address)
        first = await peer.receive()
        assert first.payload == b"1"
        interface = lamp.endpoint.interface
        for number in range(2000):
            source = ("127.0.0.77", 9000 + number % 50)
            interface.receive(plain_get(number, b"count", kind=coap.NON), source, None)
            await served_all(lamp)
        assert len(interface.plain._manager._seen) == 17  # type: ignore[union-attr]
        assert lamp.limited == {Limit.REMEMBERED_PER_PEER: 2000 - 16}
        peer.send(plain_get(1, b"count"), lamp.address)  # of this one a copy is still known
        assert await peer.receive() == first


async def served_all(lamp: Device) -> None:
    """Until no plain request is being served."""
    places = lamp.endpoint.interface.plain._manager.requests  # type: ignore[union-attr]
    while len(places):  # noqa: ASYNC110 — it is a matter of a few turns of the loop
        await asyncio.sleep(0)


async def test_plain_requests_being_served_and_observations() -> None:
    """Of one host the oldest goes first, and of all."""
    world, member, _ = two_members()
    async with plain_device(world, Limits(requests=8, requests_per_peer=4)) as lamp, Peer() as peer:
        Listener(lamp.endpoint, lamp.make_site())
        peer.send(plain_get(1, b"slow"), lamp.address)
        await eventually(lambda: lamp.slow.waiting == 1)
        interface = lamp.endpoint.interface
        for number in range(100):
            interface.receive(plain_get(number, b"slow"), ("127.0.0.77", 9000), None)
            await asyncio.sleep(0)
        await eventually(lambda: lamp.slow.waiting == 5)
        assert lamp.limited == {Limit.REQUESTS_PER_PEER: 96}
        assert (await ask(peer, member, lamp.address)).message.payload == b"off"  # the group has places of its own
        for number in range(100):
            interface.receive(plain_get(number, b"slow"), (f"127.0.9.{number}", 9000), None)
            await asyncio.sleep(0)
        await eventually(lambda: lamp.slow.waiting == 8)
        assert lamp.limited[Limit.REQUESTS] == 97
        assert lamp.endpoint.plain_context is not None


async def test_plain_bodies_and_answers_in_blocks() -> None:
    world = World(listeners=1)
    limits = Limits(bodies=4, bodies_per_peer=2, transfers=6, transfers_per_peer=3)
    async with plain_device(world, limits) as lamp, Peer("127.0.0.78") as peer:
        interface = lamp.endpoint.interface
        blockwise = interface.plain._manager._blockwise  # type: ignore[union-attr]

        def put_block(number: int, more: bool, mid: int, payload: bytes) -> bytes:
            block = (coap.BLOCK1, coap.uint_bytes(number << 4 | more << 3 | 2))
            return coap.encode(Message(coap.CON, coap.PUT, mid, b"put", ((coap.URI_PATH, b"echo"), block), payload))

        peer.send(put_block(0, True, 1, bytes(64)), lamp.address)
        assert (await peer.receive()).code == coap.CONTINUE
        for number in range(1000):
            source = ("127.0.0.77", 9000 + number)
            interface.receive(put_block(0, True, number, bytes(64)), source, None)
            query = (coap.URI_QUERY, b"%d" % number)
            interface.receive(plain_get(20_000 + number, b"big", query, kind=coap.NON), source, None)
            await served_all(lamp)
        assert lamp.limited[Limit.TRANSFERS_PER_PEER] == 997
        assert lamp.limited[Limit.BODIES_PER_PEER] == 998
        assert (len(blockwise._bodies), len(blockwise._answers)) == (3, 3)
        peer.send(put_block(1, False, 2, bytes(10)), lamp.address)
        answer = await peer.receive()
        assert (answer.code, answer.payload, answer.option(coap.BLOCK1)) == (
            coap.CHANGED,
            b"74",
            coap.uint_bytes(1 << 4 | 2),
        )


async def test_plain_resets_and_errors() -> None:
    world = World(listeners=1)
    opened = plain_device(world, Limits(error_rate_per_peer=2.0))
    async with opened as lamp, Peer("127.0.0.77") as attacker, Peer("127.0.0.78") as other:
        ping = Message(coap.CON, coap.EMPTY, 1, b"", (), b"")
        for number in range(500):
            attacker.send(ping._replace(message_id=number), lamp.address)
            attacker.send(plain_get(1000 + number, b"nothing"), lamp.address)
            await asyncio.sleep(0)
        await eventually(lambda: lamp.limited.get(Limit.ERROR_RATE_PER_PEER, 0) > 900)
        other.send(ping, lamp.address)
        assert (await other.receive()).type == coap.RST
        got = 0
        with suppress(BlockingIOError):
            while attacker.socket.recv(100):
                got += 1
        assert 0 < got < 100


async def test_malformed_options_of_plain_messages_are_counted() -> None:
    world = World(listeners=1)
    async with plain_device(world, Limits()) as lamp, Peer() as peer:
        peer.send(plain_get(1, b"\xff"), lamp.address)
        await eventually(lambda: lamp.endpoint.counters.rejected == {Reason.MALFORMED: 1})


# ---- and in all of this


async def test_a_members_request_is_served_in_the_middle_of_a_flood() -> None:
    """Garbage, replays, forgeries and pings, from one host, between any two requests of a member."""
    world = World(listeners=1, policy=GroupPolicy(synchronization=BEST_EFFORT))
    attacked, other = Member(world, b"\x80"), Peer("127.0.0.77")
    async with lamps(world) as [(lamp, light)], other, Peer() as peer:
        recorded = attacked.request(b"recorded")
        peer.send(recorded, attacked.group)
        await light.wait_for(1)
        for number in range(20):
            for _ in range(10):
                other.send(recorded, attacked.group)
                other.send(b"\x40" + bytes((number,)) * 30, attacked.group)
                other.send(recorded[:-1] + b"?", attacked.group)
            peer.send(attacked.request(b"%d" % number), attacked.group)
            await light.wait_for(number + 2)
        assert light.payloads == [b"recorded", *(b"%d" % n for n in range(20))]
        assert lamp.counters.rejected[Reason.REPLAY] == 400


async def test_what_is_limited_is_said_in_the_drop(caplog: pytest.LogCaptureFixture) -> None:
    world, greedy, _ = two_members()
    caplog.set_level("DEBUG", "groupcoap.drops")
    async with device(world, Limits(requests_per_peer=1)) as lamp, Peer() as peer:
        for _ in range(2):
            peer.send(greedy.protect(b"", code=coap.GET, options=SLOW)[0], greedy.group)
        await eventually(lambda: lamp.busy == 1)
    assert "too many pending: requests_per_peer" in caplog.text
