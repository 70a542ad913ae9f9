"""Through a forward proxy that does not aggregate: a group request and its answers, end to end (draft §1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

import pytest
from devices import Big, answers, eventually, get, lamps, put
from wire import Member, Peer
from world import World

from forward_proxy import ForwardProxy
from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.endpoint.conversation import Leg
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.multicaster import Multicaster
from groupcoap.endpoint.proxy import HostAndPort, Proxy
from groupcoap.endpoint.remote import GroupRemote
from groupcoap.errors import Reason

pytestmark = pytest.mark.usefixtures("each_profile")


def behind(proxy: ForwardProxy, listeners: Mapping[bytes, HostAndPort] | None = None) -> Proxy:
    host, port = proxy.address
    return Proxy(ip_address(host), port, listeners or {})


def whereabouts(opened: list[tuple[Endpoint, object]], ids: list[bytes]) -> dict[bytes, HostAndPort]:
    found = {}
    for kid, (endpoint, _) in zip(ids, opened, strict=True):
        host, port, *_ = endpoint.network.local_address(4)
        found[kid] = (ip_address(host), port)
    return found


async def test_a_group_request_and_every_answer() -> None:
    world = World(listeners=5)
    async with (
        lamps(world) as opened,
        ForwardProxy() as proxy,
        world.endpoint(world.switch_ids[0]) as endpoint,
    ):
        multicaster = Multicaster(endpoint, world.name, proxy=behind(proxy))
        collection = multicaster.request(put(b"dim"))
        got = await answers(collection)
        assert {answer.endpoint_id for answer in got} == frozenset(world.lamp_ids)
        assert {answer.address for answer in got} == {proxy.address}
        assert collection.missing == frozenset()
        assert all(light.payloads == [b"dim"] for _, light in opened)
        (seen,) = proxy.seen  # outside there is what a proxy needs, and nothing of the request
        assert seen.type == coap.NON
        assert {number for number, _ in seen.options} == {
            coap.PROXY_SCHEME,
            coap.URI_HOST,
            coap.URI_PORT,
            coap.OBJECT_SECURITY,
        }
        assert b"dim" not in seen.payload
        assert b"light" not in coap.encode(seen)


async def test_what_a_proxy_adds_or_changes_outside_does_no_harm() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened, Peer() as proxy:
        member = Member(world, world.switch_ids[0])
        protected, exchange = member.protect(b"dim")
        changed = protected._replace(
            options=tuple(
                sorted(
                    (*protected.options, (coap.URI_HOST, b"lamps.example"), (coap.MAX_AGE, b"\x07"), (2048, b"x"))
                )
            )
        )
        proxy.send(changed, member.group)
        answer = member.answer(exchange, await proxy.receive())
        assert answer.message.code == coap.CHANGED
        assert opened[0][1].payloads == [b"dim"]


async def test_a_listener_that_is_gone_is_missing() -> None:
    world = World(listeners=2)
    async with (
        lamps(world, world.lamp_ids[:1]),
        ForwardProxy() as proxy,
        world.endpoint(world.switch_ids[0]) as endpoint,
    ):
        collection = Multicaster(endpoint, world.name, proxy=behind(proxy)).request(get(), timeout=0.4)
        assert len(await answers(collection)) == 1
        assert collection.missing == {world.lamp_ids[1]}


async def test_challenges_are_answered_through_the_proxy_where_it_is_told_the_way() -> None:
    world = World(listeners=2, policy=GroupPolicy(synchronization=SynchronizationPolicy()))
    async with (
        lamps(world) as opened,
        ForwardProxy() as proxy,
        world.endpoint(world.switch_ids[0]) as endpoint,
    ):
        known = whereabouts(opened, world.lamp_ids)  # type: ignore[arg-type]
        multicaster = Multicaster(endpoint, world.name, proxy=behind(proxy, known))
        assert len(await answers(multicaster.request(put(b"first")))) == 2
        assert [light.payloads for _, light in opened] == [[b"first"], [b"first"]]
        assert [endpoint.counters.challenges_sent for endpoint, _ in opened] == [1, 1]


async def test_without_the_way_a_challenge_is_a_problem_that_is_named() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=SynchronizationPolicy()))
    async with (
        lamps(world) as opened,
        ForwardProxy() as proxy,
        world.endpoint(world.switch_ids[0]) as endpoint,
    ):
        collection = Multicaster(endpoint, world.name, proxy=behind(proxy)).request(put(b"on"), timeout=0.4)
        assert await answers(collection) == []
        assert collection.missing == {world.lamp_ids[0]}
        assert "a proxy hides where it is" in collection.problems[world.lamp_ids[0]]
        assert opened[0][1].payloads == []


async def test_the_other_methods_need_no_unicast() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=SynchronizationPolicy(Method.BASELINE)))
    async with (
        lamps(world) as opened,
        ForwardProxy() as proxy,
        world.endpoint(world.switch_ids[0]) as endpoint,
    ):
        multicaster = Multicaster(endpoint, world.name, proxy=behind(proxy))
        assert await answers(multicaster.request(put(b"lost"), timeout=0.3)) == []
        assert len(await answers(multicaster.request(put(b"taken")))) == 1
        assert opened[0][1].payloads == [b"taken"]


async def test_observations_through_the_proxy() -> None:
    world = World(listeners=2)
    async with (
        lamps(world) as opened,
        ForwardProxy() as proxy,
        world.endpoint(world.switch_ids[0]) as endpoint,
    ):
        multicaster = Multicaster(endpoint, world.name, proxy=behind(proxy))
        async with multicaster.observe(get()) as observation:
            await eventually(lambda: len(observation.streams) == 2)
            opened[0][1].state = b"changed"
            opened[0][1].updated_state()
            latest = observation.streams[world.lamp_ids[0]]
            await eventually(lambda: latest.latest and latest.latest.message.payload == b"changed")


@pytest.mark.parametrize("cut", [0, 3, 6])
async def test_an_answer_in_inner_blocks_is_fetched_and_the_proxy_may_cut_those_again(cut: int) -> None:
    world = World(listeners=2)
    async with (
        lamps(world) as opened,
        ForwardProxy(cut=cut) as proxy,
        world.endpoint(world.switch_ids[0]) as endpoint,
    ):
        known = whereabouts(opened, world.lamp_ids)  # type: ignore[arg-type]
        multicaster = Multicaster(endpoint, world.name, proxy=behind(proxy, known))
        got = await answers(multicaster.request(get("big")))
        assert [answer.message.payload for answer in got] == [Big.body, Big.body]


async def test_a_long_echo_is_cut_by_the_proxy_and_its_answer_says_so() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=SynchronizationPolicy()))
    async with (
        lamps(world) as opened,
        ForwardProxy(cut=2) as proxy,
        world.endpoint(world.switch_ids[0]) as endpoint,
    ):
        known = whereabouts(opened, world.lamp_ids)  # type: ignore[arg-type]
        multicaster = Multicaster(endpoint, world.name, proxy=behind(proxy, known))
        body = bytes(range(200))
        assert len(await answers(multicaster.request(put(body)))) == 1
        assert opened[0][1].payloads == [body]


async def test_a_piece_of_an_answer_to_the_group_is_refused() -> None:
    world = World(listeners=1)
    async with Peer() as proxy, world.endpoint(world.switch_ids[0]) as endpoint:
        host, port = proxy.address
        multicaster = Multicaster(endpoint, world.name, proxy=Proxy(ip_address(host), port))
        collection = multicaster.request(get())
        asked, client = await proxy.receive_from()
        piece = Message(
            coap.NON,
            coap.CHANGED,
            7,
            coap.decode(asked).token,
            ((coap.OBJECT_SECURITY, b"\x28" + bytes(64)), (coap.BLOCK2, b"\x08")),
            bytes(16),
        )
        proxy.send(piece, client)
        await eventually(lambda: endpoint.counters.rejected)
        assert endpoint.counters.rejected == {Reason.MALFORMED: 1}
        collection.close()


async def test_a_piece_of_an_answer_that_comes_from_elsewhere_has_nothing_sent_anywhere() -> None:
    world = World(listeners=1)
    (lamp,) = world.lamp_ids
    async with (
        Peer() as listener,
        Peer() as stranger,
        world.endpoint(world.switch_ids[0]) as endpoint,
    ):
        request = get()
        request.remote = GroupRemote(listener.address, world.name, lamp)
        leg = Leg(endpoint, request, lambda event: None)
        leg.send()
        asked, client = await listener.receive_from()
        token = coap.decode(asked).token
        options = ((coap.OBJECT_SECURITY, b"\x28" + bytes(64)), (coap.BLOCK2, b"\x08"))
        piece = Message(coap.NON, coap.CHANGED, 7, token, options, bytes(16))
        stranger.send(piece, client)
        await stranger.assert_silence(client)
        assert endpoint.counters.rejected == {Reason.UNKNOWN_EXCHANGE: 1}
        listener.send(piece, client)
        again = await listener.receive()
        assert (again.token, again.option(coap.BLOCK2)) == (token, b"\x10")
        leg.close()
