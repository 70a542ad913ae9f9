"""Requirements on endpoints that no other test states by itself: docs/requirements."""

from __future__ import annotations

import ast
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiocoap
import pytest
from aiocoap import resource
from devices import TIMEOUT, Big, answers, eventually, get, lamps, put, switch
from wire import Member, Peer
from world import BASELINE, BEST_EFFORT, CHALLENGE, World

import groupcoap
from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.exchange import OutgoingExchange
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.cose.keys import DEFAULT_SIGNATURE
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.network import SocketAddress
from groupcoap.errors import Reason
from groupcoap.files.state import MemoryState


class Query(resource.Resource):  # type: ignore[misc]
    """Answers with what it was asked, after a while if it is told to."""

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        (number,) = request.opt.uri_query
        await asyncio.sleep((5 - int(number)) * 0.02)
        return aiocoap.Message(payload=b"answer to %s" % number.encode())

    async def render_fetch(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(
            code=aiocoap.CONTENT, payload=b"%d of %r" % (len(request.payload), request.payload[:1])
        )


@asynccontextmanager
async def serving_queries(world: World) -> AsyncIterator[list[Endpoint]]:
    """The world's listeners, each with such a resource."""
    site = resource.Site()
    site.add_resource(["query"], Query())
    async with AsyncExitStack() as stack:
        endpoints = [await stack.enter_async_context(world.endpoint(kid)) for kid in world.lamp_ids]
        for endpoint in endpoints:
            Listener(endpoint, site)
        yield endpoints


async def test_answers_find_their_request_by_its_token() -> None:
    """Five requests wait at once, and the first is answered last."""
    world = World(listeners=2)
    async with serving_queries(world), switch(world) as multicaster:
        collections = [multicaster.request(get("query", uri_query=[str(number)])) for number in range(5)]
        for number, collection in enumerate(collections):
            got = await answers(collection)
            assert [a.message.payload for a in got] == [b"answer to %d" % number] * 2


async def test_the_outside_of_a_request_shows_nothing_but_object_security() -> None:
    """No Uri-Host, no path: nothing but what the application itself put into an option of class U."""
    world = World(listeners=1)
    sent: list[Message] = []
    async with lamps(world), switch(world) as multicaster:
        network = multicaster.endpoint.network
        send = network.send

        def record(datagram: bytes, destination: SocketAddress) -> None:
            sent.append(coap.decode(datagram))
            send(datagram, destination)

        network.send = record  # type: ignore[method-assign]
        await answers(multicaster.request(get("light", uri_query=["secret"])))
        await answers(multicaster.request(get("light", uri_host="room.example")))
    assert [[number for number, _ in message.options] for message in sent] == [
        [coap.OBJECT_SECURITY],
        [coap.URI_HOST, coap.OBJECT_SECURITY],
    ]


@pytest.mark.parametrize(
    "synchronization", [BEST_EFFORT, BASELINE, CHALLENGE], ids=lambda policy: policy.method.value
)
async def test_nothing_leaves_a_pure_listener(synchronization: SynchronizationPolicy) -> None:
    """No answer, no challenge, no error, not even one that is wanted or not protected."""
    world = World(listeners=0, policy=GroupPolicy(synchronization=synchronization))
    sent: list[bytes] = []
    async with lamps(world, [None]) as [(panel, light)], switch(world) as multicaster:
        panel.network.send = lambda datagram, destination: sent.append(datagram)  # type: ignore[method-assign]
        for message in (put(b"on"), get(), get("nothing-here", no_response=0), put(b"off")):
            await answers(multicaster.request(message, timeout=0.05, roster=None))
        await eventually(lambda: light.state == b"off")
    assert sent == []


@pytest.mark.parametrize(
    ("case", "code", "text"),
    [
        ("unknown group", coap.UNAUTHORIZED, b"Security context not found"),
        ("decryption", coap.BAD_REQUEST, b"Decryption failed"),
        ("signature", coap.BAD_REQUEST, b"Decryption failed"),
        ("replay", coap.SERVICE_UNAVAILABLE, b"Replay protection failed"),
    ],
)
async def test_errors_have_the_diagnostic_payload_of_oscore(case: str, code: int, text: bytes) -> None:
    world = World(listeners=1)
    async with lamps(world) as [(lamp, light)], Peer() as peer:
        key = DEFAULT_SIGNATURE.generate() if case == "signature" else None
        elsewhere = World(keys=world.keys, secret=world.secret) if case == "unknown group" else world
        message, _ = Member(elsewhere, world.switch_ids[0], key).protect(b"", code=coap.GET, kind=coap.CON)
        if case == "decryption":
            message = message._replace(payload=bytes(len(message.payload)))
        if case == "replay":
            peer.send(message._replace(type=coap.NON), lamp.network.local_address(4))
            await light.wait_for(1)
            await peer.receive()
        peer.send(message, lamp.network.local_address(4))
        error = await peer.receive()
        assert (error.code, error.payload) == (code, text)


MALFORMED = {
    "empty": b"",
    "one zero byte": b"\x00",
    "reserved length": b"\x2e" + bytes(6 + 64),
    "leading zero": b"\x2a\x00\x01" + bytes(64) + b"\x01",
    "reserved bit": b"\x68" + bytes(64) + b"\x01",
    "no countersignature": b"\x08\x01",
    "countersignature cut short": b"\x28" + bytes(63),
    "Gid cut short": b"\x38\xff" + bytes(64),
    "left over": b"\x20" + bytes(64) + b"\x01",
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_answer_is_met_with_silence_and_ends_nothing(value: bytes) -> None:
    world = World(listeners=1)
    async with switch(world) as multicaster, Peer() as peer:
        endpoint = multicaster.endpoint
        collection = multicaster.request(get(), timeout=TIMEOUT)
        [token] = endpoint.interface._outgoing
        to = endpoint.network.local_address(4)
        for kind in (coap.CON, coap.NON, coap.ACK):
            answer = Message(kind, coap.CHANGED, 9, token, ((coap.OBJECT_SECURITY, value),), bytes(30))
            peer.send(answer, to)
            peer.send(answer._replace(payload=b"", options=((coap.OBJECT_SECURITY, b"\x28" + bytes(65)),)), to)
        await eventually(lambda: endpoint.counters.rejected == {Reason.MALFORMED: 6})
        await peer.assert_silence(to)
        assert list(endpoint.interface._outgoing) == [token]
        collection.close()


def body(member: Member, tag: bytes, payload: bytes) -> list[tuple[Message, OutgoingExchange]]:
    """A FETCH of one body in three blocks of 64 bytes, each protected by itself."""
    return [
        member.protect(
            payload[64 * number : 64 * number + 64],
            code=coap.FETCH,
            kind=coap.CON,
            options=(
                (coap.URI_PATH, b"query"),
                (coap.BLOCK1, coap.uint_bytes(number << 4 | (number < 2) << 3 | 2)),
                (coap.REQUEST_TAG, tag),
            ),
        )
        for number in range(3)
    ]


@pytest.mark.parametrize("two_members", [False, True], ids=["one member, two tags", "two members, one tag"])
async def test_blocks_of_two_bodies_are_not_put_together(two_members: bool) -> None:
    world = World(listeners=1, multicasters=2)
    one = Member(world, world.switch_ids[0])
    other, tag = (Member(world, world.switch_ids[1]), b"1") if two_members else (one, b"2")
    async with serving_queries(world) as [lamp], Peer() as peer:
        for blocks in zip(body(one, b"1", b"x" * 192), body(other, tag, b"y" * 150), strict=True):
            results = []
            for member, (message, exchange) in zip((one, other), blocks, strict=True):
                peer.send(message, lamp.network.local_address(4))
                answer = member.answer(exchange, await peer.receive()).message
                results.append((answer.code, answer.payload))
        assert results == [(coap.CONTENT, b"192 of b'x'"), (coap.CONTENT, b"150 of b'y'")]
        assert lamp.counters.rejected == {}


async def test_a_large_answer_leaves_in_datagrams_that_no_proxy_need_cut() -> None:
    """Each block is protected by itself, and far below MAX_UNFRAGMENTED_SIZE."""
    world = World(listeners=1)
    sent: list[bytes] = []
    async with lamps(world) as [(lamp, _)], switch(world) as multicaster:
        send = lamp.network.send

        def record(datagram: bytes, destination: SocketAddress) -> None:
            sent.append(datagram)
            send(datagram, destination)

        lamp.network.send = record  # type: ignore[method-assign]
        [answer] = await answers(multicaster.request(get("big")))
        assert answer.message.payload == Big.body
    assert len(sent) == 5
    assert max(map(len, sent)) < 1280 < len(Big.body)
    assert {coap.decode(datagram).option(coap.BLOCK2) for datagram in sent} == {None}


async def test_an_echo_has_the_sequence_number_that_is_next() -> None:
    """Not that of the request which it repeats: that has been used, and the window starts at the echo's."""
    world = World(listeners=2, policy=GroupPolicy(synchronization=CHALLENGE))
    async with lamps(world) as opened, switch(world) as multicaster:
        for _ in range(2):
            await answers(multicaster.request(get()))
        numbers = [[origin.sequence_number for _, origin in light.requests] for _, light in opened]
        # 0 is challenged by both, 1 and 2 echo, one of them each; 3 goes to both
        assert sorted(numbers) == [[1, 3], [2, 3]]


async def test_notifications_for_an_observation_of_before_a_restart_are_refused() -> None:
    """Notification Numbers are not stored: the observation is gone with them, and is made anew."""
    world = World(listeners=1)
    state = MemoryState()
    recorded: list[bytes] = []
    async with lamps(world) as [(lamp, light)], Peer() as peer, asyncio.timeout(TIMEOUT):
        send = lamp.network.send

        def record(datagram: bytes, destination: SocketAddress) -> None:
            recorded.append(datagram)
            send(datagram, destination)

        lamp.network.send = record  # type: ignore[method-assign]
        async with switch(world, state=state) as multicaster, multicaster.observe(get()) as observation:
            await anext(aiter(observation))
            light.state = b"later"
            light.updated_state()
            await anext(aiter(observation))
        lamp.network.send = send  # type: ignore[method-assign]
        async with switch(world, state=state) as multicaster, multicaster.observe(get()) as observation:
            for datagram in recorded:
                peer.send(datagram, multicaster.endpoint.network.local_address(4))
            counters = multicaster.endpoint.counters
            await eventually(lambda: counters.rejected == {Reason.UNKNOWN_EXCHANGE: len(recorded)})
            assert len(recorded) == 2
            await anext(aiter(observation))
            assert counters.delivered_responses == 1


def test_timers_are_monotonic() -> None:
    """No clock that can be set is read where something expires: the event loop's own time is monotonic."""
    source = Path(groupcoap.__file__).parent
    imported: set[str] = set()
    for path in (*(source / "core").glob("*.py"), *(source / "endpoint").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert "asyncio" in imported
    clocks = {name for name in imported if name.partition(".")[0] in ("time", "datetime")}
    assert clocks <= {"time.monotonic"}
    loop = asyncio.new_event_loop()
    before, now, after = time.monotonic(), loop.time(), time.monotonic()
    loop.close()
    assert before <= now <= after
