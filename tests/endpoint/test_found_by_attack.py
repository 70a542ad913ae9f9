"""Holes that an attacker's review has found, each kept closed by a test."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address

import pytest
from devices import TIMEOUT, Light, answers, eventually, get, lamps, light_site, put, switch
from world import BEST_EFFORT, CHALLENGE, Source, World

from groupcoap.core import coap
from groupcoap.core.policy import GroupPolicy, Verification
from groupcoap.core.requests import protect_request
from groupcoap.core.synchronization import Challenge, Synchronization, SynchronizationPolicy
from groupcoap.core.window import ReplayWindow
from groupcoap.endpoint.deferred import SourceReport
from groupcoap.endpoint.groups import ListenerPolicy
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.network import SocketAddress
from groupcoap.errors import MisuseError, NetworkFault, Reason, Rejected
from groupcoap.files.state import MemoryState
from groupcoap.membership import GroupAddress, MemberLeft


async def test_an_observe_that_somebody_adds_to_a_put_begins_nothing() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        network = multicaster.endpoint.network
        send = network.send

        def with_observe(datagram: bytes, destination: SocketAddress) -> None:
            message = coap.decode(datagram)
            send(coap.encode(message._replace(options=((coap.OBSERVE, b""), *message.options))), destination)

        network.send = with_observe  # type: ignore[method-assign]
        assert len(await answers(multicaster.request(put(b"on")))) == 1
        assert light.payloads == [b"on"]
        assert not endpoint.tokens.incoming_requests
        with pytest.raises(MisuseError, match="GET and FETCH"):
            multicaster.observe(put(b"on"))


async def test_two_endpoints_do_not_share_one_state() -> None:
    world = World(listeners=1)
    state = MemoryState()
    async with lamps(world, state=state):
        with pytest.raises(MisuseError, match="another endpoint"):
            await world.endpoint(world.lamp_ids[0], state=state).__aenter__()
    async with lamps(world, state=state):  # once the first is closed it may be used again
        pass


async def test_the_same_keys_under_two_names_are_refused() -> None:
    world = World(listeners=1)
    elsewhere = (GroupAddress(ip_address("224.0.1.188"), world.port),)
    twin = World("twin", listeners=1, secret=world.secret, gid=world.gid, keys=world.keys, addresses=elsewhere)
    kid = world.lamp_ids[0]
    source = Source([world.configuration(kid), twin.configuration(kid)])
    with pytest.raises(MisuseError, match="same keys"):
        await world.endpoint(kid, source=source).__aenter__()


async def test_a_notification_held_back_over_a_refresh_is_not_taken_for_new() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        network = endpoint.network
        send = network.send
        held: list[tuple[bytes, SocketAddress]] = []

        async with multicaster.observe(get(), refresh=60) as observation:
            iterator = aiter(observation)
            async with asyncio.timeout(TIMEOUT):
                await anext(iterator)
                network.send = lambda datagram, destination: held.append((datagram, destination))  # type: ignore[method-assign]
                light.state = b"old"
                light.updated_state()
                await eventually(lambda: len(held) == 1)
                network.send = send  # type: ignore[method-assign]
                observation._register_again()
                await anext(iterator)
                light.state = b"new"
                light.updated_state()
                assert (await anext(iterator)).message.payload == b"new"
            send(*held[0])
            await eventually(lambda: Reason.NOTIFICATION_ORDER in multicaster.endpoint.counters.rejected)
            (stream,) = observation.streams.values()
            assert stream.latest is not None
            assert stream.latest.message.payload == b"new"


async def test_an_observe_that_somebody_takes_from_a_notification_ends_nothing() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        send = endpoint.network.send

        def without_observe(datagram: bytes, destination: SocketAddress) -> None:
            message = coap.decode(datagram)
            kept = tuple(option for option in message.options if option[0] != coap.OBSERVE)
            send(coap.encode(message._replace(options=kept)), destination)

        endpoint.network.send = without_observe  # type: ignore[method-assign]
        async with multicaster.observe(get()) as observation:
            iterator = aiter(observation)
            async with asyncio.timeout(TIMEOUT):
                await anext(iterator)
                light.state = b"on"
                light.updated_state()
                assert (await anext(iterator)).message.payload == b"on"
            (stream,) = observation.streams.values()
            assert not stream.ended


async def test_a_deferred_check_reports_even_what_could_not_be_delivered() -> None:
    world = World(listeners=1, multicasters=2)
    reports: list[SourceReport] = []
    policy = ListenerPolicy(verification=Verification.DEFER)
    async with lamps(world, policy=policy, report=reports.append) as opened, switch(world, 1) as forger:
        endpoint, light = opened[0]
        current = forger.endpoint.groups.current("room")
        victim = world.switch_ids[0]
        # A member holds the group's keys, so it can encrypt as the switch; the signature is its own.
        forged = world.endpoint(victim, source=Source([world.configuration(victim)]), state=MemoryState())
        async with forged:
            context = forged.groups.current("room")
            assert context.sender is not None
            assert current.sender is not None
            context.sender.private_key = current.sender.private_key
            bad_path = coap.Message(coap.NON, coap.PUT, 1, b"t", ((coap.URI_PATH, b"\xff"),), b"x")
            datagram = coap.encode(protect_request(context, context.sender, bad_path).message)
        address = forger.endpoint.network.socket_address(forger.address.host, forger.address.port)
        forger.endpoint.network.send(datagram, address)
        await eventually(lambda: bool(reports))
        assert [(r.endpoint_id, r.verified) for r in reports] == [(victim, False)]
        assert light.payloads == []
        assert endpoint.counters.rejected == {Reason.MALFORMED: 1}


async def test_nothing_is_sent_by_what_outlives_its_endpoint(caplog: pytest.LogCaptureFixture) -> None:
    world = World(listeners=1)
    async with lamps(world), switch(world) as multicaster:
        observation = multicaster.observe(get(), refresh=0.05)
        collection = multicaster.request(get(), roster=None, timeout=60)
        async with asyncio.timeout(TIMEOUT):
            await anext(aiter(observation))
    assert [a async for a in collection if a.endpoint_id == b"nobody"] == []
    assert observation._refresher.cancelled()
    assert not multicaster.endpoint.closings
    assert multicaster.endpoint.network.joined == ()
    with pytest.raises(MisuseError, match="closed"):
        multicaster.request(get())


async def test_a_refresh_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World(listeners=1)
    async with (
        lamps(world),
        switch(world) as multicaster,
        multicaster.observe(get(), refresh=60) as observation,
    ):
        multicaster.endpoint.network.close()
        multicaster.endpoint.network.open_unicast = _refuse  # type: ignore[method-assign]
        with caplog.at_level(logging.WARNING):
            observation._register_again()
        assert "not refreshed" in caplog.text
        assert not observation._refresher.cancelled()


def _refuse(version: int) -> None:
    raise NetworkFault("the network is gone")


async def test_the_streams_of_members_who_left_end() -> None:
    world = World(listeners=2)
    source = world.source(world.switch_ids[0])
    async with (
        lamps(world),
        switch(world, source=source) as multicaster,
        multicaster.observe(get()) as observation,
    ):
        iterator = aiter(observation)
        async with asyncio.timeout(TIMEOUT):
            await anext(iterator)
            await anext(iterator)
        source.tell(MemberLeft("room", world.gid, frozenset(world.lamp_ids[:1])))
        assert observation.streams[world.lamp_ids[0]].ended
        assert not observation.streams[world.lamp_ids[1]].ended


@pytest.mark.parametrize("option", [coap.BLOCK1, coap.URI_PATH_ABBREV])
async def test_blocks_and_abbreviated_paths_are_verified_whatever_the_policy(option: int) -> None:
    world = World(listeners=1)
    policy = ListenerPolicy(verification=Verification.SKIP)
    async with lamps(world, policy=policy) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        context = multicaster.endpoint.groups.current("room")
        assert context.sender is not None
        context.sender.private_key = world.keys[world.lamp_ids[0]]
        options = tuple(sorted(((coap.URI_PATH, b"light"), (option, b""))))
        message = coap.Message(coap.NON, coap.PUT, 1, b"t", options, b"x")
        datagram = coap.encode(protect_request(context, context.sender, message).message)
        address = multicaster.endpoint.network.socket_address(multicaster.address.host, multicaster.address.port)
        multicaster.endpoint.network.send(datagram, address)
        await eventually(lambda: endpoint.counters.rejected == {Reason.SIGNATURE_FAILED: 1})
        assert light.payloads == []


async def test_a_body_in_blocks_does_not_come_by_multicast() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened, switch(world) as multicaster:
        endpoint, light = opened[0]
        message = put(bytes(64))
        message.opt.block1 = (0, True, 2)
        assert await answers(multicaster.request(message, timeout=0.2)) == []
        assert endpoint.counters.rejected == {Reason.NOT_FOR_MULTICAST: 1}
        assert light.payloads == []


async def test_renewals_one_after_the_other_keep_listeners_synchronized() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=CHALLENGE))
    ids: list[bytes | None] = [world.lamp_ids[0], world.switch_ids[0]]
    sources = {kid: world.source(kid) for kid in ids}
    async with (
        lamps(world, source=sources[ids[0]]) as opened,
        switch(world, source=sources[ids[1]]) as multicaster,
    ):
        endpoint, light = opened[0]
        await answers(multicaster.request(put(b"1")))
        world.renew(sources)
        await answers(multicaster.request(put(b"2")))
        assert endpoint.counters.challenges_sent == 1
        world.gid = world.gid[:8] + (7).to_bytes(4, "big")  # one that was missed, or several
        world.renew(sources)
        await answers(multicaster.request(put(b"3")))
        assert endpoint.counters.challenges_sent == 2
        assert light.payloads == [b"1", b"2", b"3"]


async def test_a_window_never_moves_back() -> None:
    gap = SynchronizationPolicy(max_gap=10)
    sync, window = Synchronization(), ReplayWindow()
    sync.restore(-1)
    window.accept(100)
    message = coap.Message(coap.NON, coap.GET, 0, b"", (), b"")
    challenged = sync.decide(gap, window, 500, None, message, 0.0, lambda n: bytes(n))
    assert isinstance(challenged, Challenge)
    with pytest.raises(Rejected) as caught:
        sync.decide(gap, window, 99, challenged.repeat, message, 0.0, lambda n: bytes(n))
    assert caught.value.reason is Reason.REPLAY
    assert window.highest == 100


async def test_closing_a_listener_ends_its_observations() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=BEST_EFFORT))
    async with world.endpoint(world.lamp_ids[0]) as endpoint:
        listener = Listener(endpoint, light_site(Light()))
        async with switch(world) as multicaster, multicaster.observe(get()) as observation:
            async with asyncio.timeout(TIMEOUT):
                await anext(aiter(observation))
            listener.close()
            assert not endpoint.tokens.incoming_requests
