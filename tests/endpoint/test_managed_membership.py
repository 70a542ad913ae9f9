"""What only a Group Manager brings about: another own Endpoint ID, a lifetime, leaving and joining at run time."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import aiocoap
import pytest
from devices import TIMEOUT, Light, answers, eventually, get, lamps, light_site, put, switch
from suites import DRAFT, GROUP_OSCORE
from test_lookups import SlowSource
from wire import Member, Peer
from world import BASELINE, BEST_EFFORT, CHALLENGE, Source, World

from groupcoap.core import coap
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.profile import Mode
from groupcoap.core.sequence import MAXIMUM, SequenceNumbers
from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Multicaster
from groupcoap.errors import ContextExpired, MisuseError, NetworkFault, Reason, StateLost
from groupcoap.files.pending import PendingRequest
from groupcoap.files.state import EndpointState, MemoryState, StateKey
from groupcoap.membership import (
    CredentialLearned,
    EndpointIdRenewed,
    EpochInstalled,
    GroupAddress,
    GroupConfiguration,
    GroupJoined,
    GroupLeft,
    GroupResumed,
    GroupSuspended,
    MemberLeft,
    Role,
)
from groupcoap.secret import Secret

pytestmark = pytest.mark.usefixtures("each_profile")

NEW_ID = b"\x5e"
SHORT = 0.2
"""Seconds to wait for an answer that is not to come."""


def world_of(listeners: int, synchronization: SynchronizationPolicy = BEST_EFFORT, grace: float = 0) -> World:
    return World(listeners=listeners, policy=GroupPolicy(synchronization=synchronization, grace=grace))


def give_another_id(world: World, source: Source, former: bytes, others: list[Source], kid: bytes = NEW_ID) -> None:
    """The member with this source gets another Endpoint ID, and the others are told."""
    configuration = source.configurations[0]
    world.keys[kid] = world.keys[former]
    epoch = replace(configuration.current, own_id=kid)
    source.configurations[0] = replace(configuration, epochs=(*configuration.epochs[:-1], epoch))
    source.tell(EndpointIdRenewed(source.configurations[0]))
    known = next(member for member in world.members if member.endpoint_id == former)
    for other in others:
        other.tell(MemberLeft(world.name, world.gid, frozenset((former,))))
        other.tell(CredentialLearned(world.name, world.gid, replace(known, endpoint_id=kid)))


def renewed(world: World, source: Source, gid: bytes, **changes: object) -> GroupConfiguration:
    """What this member has after a renewal to this Gid; told to nobody yet."""
    world.gid, world.secret, world.salt = gid, Secret(os.urandom(16)), os.urandom(8)
    return again(world, source, **changes)


def again(world: World, source: Source, **changes: object) -> GroupConfiguration:
    """What this member has after the last renewal."""
    before = source.configurations[0]
    values = {"gid": world.gid, "master_secret": world.secret, "master_salt": world.master_salt, **changes}
    source.configurations[0] = replace(before, epochs=(replace(before.current, **values),))  # type: ignore[arg-type]
    return source.configurations[0]


# ---- another own Endpoint ID


async def test_a_multicaster_goes_on_under_another_endpoint_id() -> None:
    world = world_of(1)
    kid, switch_id = world.lamp_ids[0], world.switch_ids[0]
    lamp_source, switch_source = world.source(kid), world.source(switch_id)
    async with (
        lamps(world, source=lamp_source, leisure=0.3) as [(lamp, light)],
        switch(world, source=switch_source) as multicaster,
        Peer() as peer,
    ):
        asked = multicaster.request(get())
        await light.wait_for(1)
        context = multicaster.endpoint.groups.current("room")
        give_another_id(world, switch_source, switch_id, [lamp_source])
        assert multicaster.endpoint.groups.current("room") is context
        assert len(await answers(multicaster.request(put(b"wake")))) == 1
        asked.close()
        origin = light.requests[-1][1]
        assert (origin.endpoint_id, origin.sequence_number) == (NEW_ID, 0)
        forger = Member(world, switch_id, first=5)
        peer.send(forger.request(b"as before"), forger.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.UNKNOWN_SENDER: 1})


async def test_answers_to_what_was_asked_under_the_former_endpoint_id_are_taken() -> None:
    world = world_of(1)
    switch_source = world.source(world.switch_ids[0])
    async with lamps(world, leisure=0.3) as [(_, light)], switch(world, source=switch_source) as multicaster:
        collection = multicaster.request(get())
        await light.wait_for(1)
        give_another_id(world, switch_source, world.switch_ids[0], [])
        assert [answer.endpoint_id for answer in await answers(collection)] == world.lamp_ids


async def test_a_listener_answers_under_its_new_endpoint_id_what_came_before() -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    lamp_source, switch_source = world.source(kid), world.source(world.switch_ids[0])
    async with (
        lamps(world, source=lamp_source, leisure=0.3) as [(_, light)],
        switch(world, source=switch_source) as multicaster,
    ):
        collection = multicaster.request(get(), roster=[NEW_ID])
        await light.wait_for(1)
        give_another_id(world, lamp_source, kid, [switch_source])
        assert [answer.endpoint_id for answer in await answers(collection)] == [NEW_ID]
        assert multicaster.endpoint.groups.current("room").common.gid == world.gid


async def test_windows_are_durable_under_the_new_endpoint_id(tmp_path: Path) -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    path = tmp_path / "state.journal"
    EndpointState.create(path, [StateKey("room", world.gid, kid)])
    source = world.source(kid)
    sender = Member(world, world.switch_ids[0])
    request = sender.request(b"once")
    async with Peer() as peer:
        with EndpointState.open(path) as state:
            async with lamps(world, source=source, state=state) as [(_, light)]:
                peer.send(request, sender.group)
                await light.wait_for(1)
                give_another_id(world, source, kid, [])
                assert state.windows("room", world.gid, NEW_ID) == state.windows("room", world.gid, kid)
        with EndpointState.open(path) as state:
            async with lamps(world, source=source, state=state) as [(lamp, light)]:
                peer.send(request, sender.group)
                await eventually(lambda: lamp.counters.rejected == {Reason.REPLAY: 1})
                peer.send(sender.request(b"twice"), sender.group)
                await light.wait_for(1)
                assert light.payloads == [b"twice"]


async def test_another_endpoint_id_may_come_as_an_epoch_of_the_same_gid() -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    source = world.source(kid)
    async with lamps(world, source=source) as [(lamp, _)]:
        context = lamp.groups.current("room")
        source.tell(EpochInstalled(again(world, source, own_id=NEW_ID)))
        assert lamp.groups.current("room") is context
        assert context.sender is not None
        assert context.sender.sender_id == NEW_ID


async def test_what_cannot_be_another_endpoint_id_is_refused() -> None:
    world = world_of(1)
    source, pure_source = world.source(world.lamp_ids[0]), world.source(None)
    async with lamps(world, source=source), lamps(world, [None], source=pure_source):
        elsewhere = replace(source.configurations[0], name="hall")
        with pytest.raises(MisuseError, match="not a member of group 'hall'"):
            source.tell(EndpointIdRenewed(elsewhere))
        with pytest.raises(MisuseError, match="no other own Endpoint ID"):
            source.tell(EndpointIdRenewed(renewed(world, source, world.gid[:-1] + b"\x09", own_id=NEW_ID)))
        with pytest.raises(MisuseError, match="no other own Endpoint ID"):
            pure_source.tell(EndpointIdRenewed(pure_source.configurations[0]))


# ---- past its lifetime


async def test_past_its_lifetime_a_context_is_neither_used_nor_accepted_and_then_goes_on() -> None:
    world = world_of(1)
    kid, switch_id = world.lamp_ids[0], world.switch_ids[0]
    lamp_source, switch_source = world.source(kid), world.source(switch_id)
    async with (
        lamps(world, source=lamp_source) as [(lamp, light)],
        switch(world, source=switch_source) as multicaster,
        Peer() as peer,
    ):
        sender = Member(world, switch_id, first=100)
        before = sender.request(b"before")
        peer.send(before, sender.group)
        await peer.receive()
        lamp_source.tell(GroupSuspended("room"))
        assert await answers(multicaster.request(put(b"too late"), timeout=SHORT)) == []
        message, _ = sender.protect(kind=coap.CON, code=coap.GET)
        peer.send(message, lamp.network.local_address(4))
        assert (await peer.receive()).code == coap.UNAUTHORIZED
        assert lamp.counters.rejected == {Reason.CONTEXT_EXPIRED: 2}
        switch_source.tell(GroupSuspended("room"))
        with pytest.raises(ContextExpired, match="Group Manager"):
            multicaster.request(put(b"never"))
        for source in (lamp_source, switch_source):
            source.tell(GroupResumed("room"))
        peer.send(before, sender.group)
        await eventually(lambda: lamp.counters.rejected.get(Reason.REPLAY) == 1)
        peer.send(sender.request(b"after"), sender.group)
        await light.wait_for(2)
        assert light.payloads == [b"before", b"after"]


async def test_answers_that_come_past_the_lifetime_are_refused_under_older_contexts_too() -> None:
    world = world_of(1)
    ids: list[bytes | None] = [*world.lamp_ids, *world.switch_ids]
    sources = {kid: world.source(kid) for kid in ids}
    async with (
        lamps(world, source=sources[ids[0]], leisure=0.3) as [(_, light)],
        switch(world, source=sources[ids[1]]) as multicaster,
    ):
        collection = multicaster.request(get(), timeout=1)
        await light.wait_for(1)
        world.renew({ids[1]: sources[ids[1]]})
        sources[ids[1]].tell(GroupSuspended("room"))
        contexts = multicaster.endpoint.groups.registry.contexts("room")
        assert [context.refusal for context in contexts] == [Reason.CONTEXT_EXPIRED] * 2
        counters = multicaster.endpoint.counters
        await eventually(lambda: counters.rejected == {Reason.CONTEXT_EXPIRED: 1})
        assert await answers(collection) == []


async def test_what_waits_to_be_sent_is_not_sent_past_the_lifetime() -> None:
    world = world_of(1)
    source = world.source(world.lamp_ids[0])
    async with lamps(world, source=source, leisure=0.2) as [(lamp, light)], switch(world) as multicaster:
        collection = multicaster.request(get(), timeout=0.6)
        await light.wait_for(1)
        source.tell(GroupSuspended("room"))
        assert await answers(collection) == []
        source.tell(GroupResumed("room"))
        assert len(await answers(multicaster.request(get()))) == 1
        assert lamp.groups.may_send("room")


async def test_a_retransmission_is_not_acknowledged_with_what_was_said_before() -> None:
    world = world_of(1)
    source = world.source(world.lamp_ids[0])
    sender = Member(world, world.switch_ids[0])
    async with lamps(world, source=source) as [(lamp, light)], Peer() as peer:
        message, _ = sender.protect(kind=coap.CON, code=coap.GET)
        there = lamp.network.local_address(4)
        peer.send(message, there)
        answer = await peer.receive()
        source.tell(GroupSuspended("room"))
        peer.send(message, there)
        await peer.assert_silence(there)
        source.tell(GroupResumed("room"))
        peer.send(message, there)
        assert await peer.receive() == answer
        assert len(light.requests) == 1


async def test_nothing_is_retransmitted_past_the_lifetime() -> None:
    world = world_of(1)
    source = world.source(world.switch_ids[0])
    async with switch(world, source=source) as multicaster, Peer() as peer:
        collection = multicaster.ask(world.lamp_ids[0], get(), peer.address, timeout=2)
        first, _ = await peer.receive_from()
        assert coap.decode(first).type == coap.CON
        interface, again = multicaster.endpoint.interface, collection._conversation._root.message
        sent: list[bytes] = []
        network = multicaster.endpoint.network
        network.send = lambda datagram, destination: sent.append(datagram)  # type: ignore[method-assign]
        source.tell(GroupSuspended("room"))
        interface.send(again)  # as aiocoap's message layer does
        assert sent == []
        source.tell(GroupResumed("room"))
        interface.send(again)
        assert sent == [first]
        collection.close()


async def test_a_renewal_is_a_confirmation() -> None:
    world = world_of(1)
    ids: list[bytes | None] = [*world.lamp_ids, *world.switch_ids]
    sources = {kid: world.source(kid) for kid in ids}
    async with lamps(world, source=sources[ids[0]]), switch(world, source=sources[ids[1]]) as multicaster:
        for source in sources.values():
            source.tell(GroupSuspended("room"))
        world.renew(sources)
        assert len(await answers(multicaster.request(get()))) == 1


# ---- leaving and joining


async def test_who_leaves_a_group_ends_all_that_belongs_to_it() -> None:
    world = world_of(1)
    kid, switch_id = world.lamp_ids[0], world.switch_ids[0]
    source = world.source(switch_id)
    state = MemoryState()
    async with lamps(world), switch(world, source=source, state=state) as multicaster:
        listener = Listener(multicaster.endpoint, light_site(Light()))
        observation = multicaster.observe(get())
        await asyncio.wait_for(anext(aiter(observation)), TIMEOUT)
        collection = multicaster.request(get(), roster=[kid, b"\x66"], timeout=30)
        await asyncio.wait_for(anext(collection), TIMEOUT)
        waiting = asyncio.ensure_future(answers(collection))
        asked = asyncio.ensure_future(answers(multicaster.ask(b"\x01", get(), ("127.0.0.1", 9), timeout=30)))
        await asyncio.sleep(0.01)
        endpoint = multicaster.endpoint
        source.tell(GroupLeft("room", "evicted by the Group Manager"))
        async with asyncio.timeout(TIMEOUT):
            assert await waiting == []
            assert await asked == []
            assert [answer async for answer in observation] == []
        assert not endpoint.interface.awaits_answers
        assert endpoint.network.joined == ()
        assert listener.groups == endpoint.groups.names == endpoint.groups.registry.groups == ()
        with pytest.raises(MisuseError, match="no member of group 'room' any more: evicted by the Group Manager"):
            multicaster.request(put(b"still there?"))
        with pytest.raises(MisuseError, match="evicted"):
            Multicaster(endpoint, "room")
        with pytest.raises(StateLost):
            state.windows("room", world.gid, switch_id)
        assert multicaster.name_of(kid) is None
        source.tell(GroupLeft("room", "said twice"))
        listener.close()


async def test_what_a_process_before_has_asked_in_a_group_ends_with_it() -> None:
    room = world_of(1)
    hall = World("hall", listeners=1, addresses=room.addresses, policy=room.policy)
    switch_id = room.switch_ids[0]
    source, state = Source([room.configuration(switch_id), hall.configuration(switch_id)]), MemoryState()
    now = asyncio.get_running_loop().time()
    for token, world in ((b"1", room), (b"2", hall)):
        request = PendingRequest(token, world.name, world.gid, switch_id, b"\0", now, now + 60, frozenset())
        state.pending.sent(request)
        state.pending.left_over[token] = request
    async with room.endpoint(switch_id, source=source, state=state) as endpoint:
        source.tell(GroupLeft("room", "it has left"))
        assert list(state.pending.left_over) == [b"2"]
        assert [c.roster for c in Multicaster(endpoint, "hall").left_over()] == [frozenset()]


async def test_another_own_endpoint_id_stands_in_the_key_log(tmp_path: Path) -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    source = world.source(kid)
    async with lamps(world, source=source, key_log=tmp_path / "keys"):
        before = len((tmp_path / "keys").read_text().splitlines())
        give_another_id(world, source, kid, [])
        lines = (tmp_path / "keys").read_text().splitlines()
        assert len(lines) == before + 1
        assert '"5e"' in lines[-1]


async def test_who_has_left_answers_nothing_more() -> None:
    world = world_of(1)
    source = world.source(world.lamp_ids[0])
    async with (
        lamps(world, source=source, leisure=0.2) as [(lamp, light)],
        switch(world) as multicaster,
        multicaster.observe(get()),
    ):
        await light.wait_for(1)
        collection = multicaster.request(get(), timeout=0.5)
        await light.wait_for(2)
        source.tell(GroupLeft("room", "it has left"))
        light.updated_state()
        assert await answers(collection) == []
        assert lamp.tokens.incoming_requests == {}
        assert await answers(multicaster.request(get(), timeout=SHORT)) == []
        assert len(light.requests) == 2


async def test_the_other_group_goes_on_with_the_address_they_shared() -> None:
    room = world_of(1)
    hall = World("hall", listeners=1, addresses=room.addresses, policy=room.policy)
    kid = room.lamp_ids[0]
    source = Source([room.configuration(kid), hall.configuration(kid)])
    async with room.endpoint(kid, source=source) as endpoint, switch(room) as to_room, switch(hall) as to_hall:
        light = Light()
        Listener(endpoint, light_site(light))
        source.tell(GroupLeft("hall", "it has left"))
        assert endpoint.network.joined == room.addresses
        assert len(await answers(to_room.request(put(b"room")))) == 1
        assert await answers(to_hall.request(put(b"hall"), timeout=SHORT)) == []
        assert light.payloads == [b"room"]
        source.tell(GroupLeft("room", "and this one"))
        assert endpoint.network.joined == ()


@pytest.mark.parametrize("names", [None, ["room"]], ids=["all", "named"])
async def test_a_group_is_left_and_joined_again_at_run_time(names: list[str] | None) -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    source = world.source(kid)
    async with world.endpoint(kid, source=source) as endpoint:
        light = Light()
        listener = Listener(endpoint, light_site(light), names)
        other = Listener(endpoint, light_site(Light()), [])
        events: tuple[type[GroupJoined | EpochInstalled], ...] = (GroupJoined, EpochInstalled)
        for number, event in enumerate(events):
            source.tell(GroupLeft("room", "it has left"))
            assert (listener.groups, endpoint.network.joined) == ((), ())
            source.tell(event(renewed(world, source, world.gid[:-1] + bytes((number + 1,)))))
            assert (listener.groups, other.groups) == (("room",), ())
            async with switch(world) as multicaster:
                assert len(await answers(multicaster.request(put(b"on")))) == 1
        assert len(light.requests) == 2


async def test_an_endpoint_in_no_group_joins_one_at_run_time() -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    source = Source([])
    async with world.endpoint(kid, source=source) as endpoint:
        light = Light()
        with pytest.raises(MisuseError, match="there is none"):
            Listener(endpoint, light_site(light), ["room"])
        first, second = Listener(endpoint, light_site(light)), Listener(endpoint, light_site(Light()))
        source.tell(GroupJoined(world.configuration(kid)))
        assert (first.groups, second.groups) == (("room",), ())
        async with switch(world) as multicaster:
            assert len(await answers(multicaster.request(put(b"on")))) == 1
        assert light.payloads == [b"on"]


async def test_a_group_is_joined_once_and_never_under_a_gid_that_was_left() -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    source = world.source(kid)
    async with lamps(world, source=source) as [(lamp, _)]:
        with pytest.raises(MisuseError, match="already a member"):
            source.tell(GroupJoined(source.configurations[0]))
        source.tell(GroupLeft("room", "it has left"))
        with pytest.raises(StateLost, match="has forgotten"):
            source.tell(GroupJoined(source.configurations[0]))
        assert lamp.groups.names == ()


async def test_a_group_that_cannot_be_set_up_leaves_no_claim() -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    source, state = world.source(kid), MemoryState()
    async with world.endpoint(kid, source=source, state=state):
        with pytest.raises(MisuseError, match="same keys"):
            source.tell(GroupJoined(replace(source.configurations[0], name="hall", addresses=OTHER)))
        state.claim("hall", world.gid, kid)


OTHER = (GroupAddress(IPv4Address("224.0.1.199"), 5699),)


async def test_an_address_that_cannot_be_joined_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    source = Source([])
    monkeypatch.setattr("groupcoap.endpoint.endpoint.REJOIN_INTERVAL", 0.05)
    async with world.endpoint(kid, source=source) as endpoint:
        light = Light()
        Listener(endpoint, light_site(light))
        with monkeypatch.context() as patch:

            def fails(address: GroupAddress) -> None:
                raise NetworkFault("no such interface")

            patch.setattr(endpoint.network, "join", fails)
            source.tell(GroupJoined(world.configuration(kid)))
            assert endpoint.network.joined == ()
        await eventually(lambda: endpoint.network.joined == world.addresses)


async def test_a_renewal_may_bring_other_addresses() -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    source = world.source(kid)
    async with lamps(world, source=source) as [(lamp, light)]:
        configuration = renewed(world, source, world.gid[:-1] + b"\x01")
        world.addresses = (GroupAddress(IPv4Address("224.0.1.188"), world.port),)
        source.tell(EpochInstalled(replace(configuration, addresses=world.addresses)))
        assert lamp.network.joined == world.addresses
        async with switch(world) as multicaster:
            assert len(await answers(multicaster.request(put(b"on")))) == 1
        assert light.payloads == [b"on"]


# ---- what a renewal follows


@pytest.mark.parametrize(
    ("gid", "successive", "carried"),
    [
        (b"another!" + bytes(4), None, False),
        (b"another!" + bytes(4), True, True),
        (None, None, True),
        (None, False, False),
        (None, True, True),
    ],
    ids=["new prefix", "new prefix, said", "next", "next, some missed", "next, said"],
)
async def test_the_source_says_whether_synchronization_is_carried_over(
    gid: bytes | None, successive: bool | None, carried: bool
) -> None:
    world = world_of(1, BASELINE)
    ids = [world.lamp_ids[0], world.switch_ids[0]]
    sources = {kid: world.source(kid) for kid in ids}
    async with (
        lamps(world, source=sources[ids[0]]) as [(lamp, light)],
        switch(world, source=sources[ids[1]]) as multicaster,
    ):
        assert await answers(multicaster.request(put(b"first"), timeout=SHORT)) == []
        configuration = renewed(
            world, sources[ids[0]], gid or world.gid[:-1] + b"\x01", successive=successive, own_id=NEW_ID
        )
        world.keys[NEW_ID] = world.keys[ids[0]]
        sources[ids[0]].tell(EpochInstalled(configuration))
        sources[ids[1]].tell(EpochInstalled(again(world, sources[ids[1]])))
        await answers(multicaster.request(put(b"second"), roster=None, timeout=SHORT))
        assert light.payloads == ([b"second"] if carried else [])
        sender = lamp.groups.current("room").sender
        assert sender is not None
        assert sender.sender_id == NEW_ID


@pytest.mark.parametrize("successive", [None, True, False])
async def test_who_joins_again_ends_what_it_has_begun(successive: bool | None) -> None:
    """A Group Manager gives another Endpoint ID with another Gid only to who joins again; files may say what they
    want."""
    world = world_of(1)
    source = world.source(world.switch_ids[0])
    async with lamps(world), switch(world, source=source) as multicaster:
        observation = multicaster.observe(get())
        await asyncio.wait_for(anext(aiter(observation)), TIMEOUT)
        collection = multicaster.request(get(), roster=[b"\x66"], timeout=0.3)
        changes = {"own_id": NEW_ID, "successive": successive}
        source.tell(EpochInstalled(renewed(world, source, world.gid[:-1] + b"\x01", **changes)))
        assert multicaster.endpoint.interface.awaits_answers is (successive is None)
        assert observation._all.ended is (successive is not None)
        await answers(collection)
        await observation.end()


async def test_who_was_looked_up_stays_known_over_a_renewal_that_keeps_ids() -> None:
    world = world_of(1)
    stranger_id = b"\x77"
    stranger = Member(world, stranger_id)
    world.keys[stranger_id] = stranger.key
    source = world.source(world.lamp_ids[0])
    source.credentials[stranger_id] = world.suite.credential(stranger.key.public_key)
    async with lamps(world, source=source) as [(_, light)], Peer() as peer:
        for number, kept in enumerate((True, True, False)):
            peer.send(Member(world, stranger_id).request(b"on"), stranger.group)
            await light.wait_for(number + 1)
            assert source.looked_up == [stranger_id]
            gid = world.gid[:-1] + bytes((number + 1,))
            source.tell(EpochInstalled(renewed(world, source, gid, ids_kept=kept, successive=True)))
        peer.send(Member(world, stranger_id).request(b"on"), stranger.group)
        await light.wait_for(4)
        assert source.looked_up == [stranger_id] * 2


async def test_who_left_is_not_kept() -> None:
    world = world_of(1)
    kid = world.lamp_ids[0]
    source = world.source(kid)
    async with lamps(world, source=source) as [(lamp, _)]:
        departed = frozenset(world.switch_ids)
        configuration = renewed(
            world, source, world.gid[:-1] + b"\x01", members=(), ids_kept=True, departed=departed
        )
        source.tell(EpochInstalled(configuration))
        assert not lamp.groups.current("room").knows(world.switch_ids[0])


# ---- what the source is told


async def test_the_source_is_told_once_for_each_own_id_that_numbers_run_low() -> None:
    world = world_of(1)
    switch_id = world.switch_ids[0]
    source, state = world.source(switch_id), MemoryState()
    for own_id in (switch_id, NEW_ID):
        state._numbers[StateKey("room", world.gid, own_id)] = SequenceNumbers(MAXIMUM - 100)
    async with lamps(world), switch(world, source=source, state=state, running_low=100) as multicaster:
        assert source.low == []
        for _ in range(3):
            await answers(multicaster.request(get()))
        assert source.low == [("room", world.gid, switch_id)]
        give_another_id(world, source, switch_id, [])
        for _ in range(3):
            await answers(multicaster.request(get(), timeout=0.05))
        assert source.low == [("room", world.gid, switch_id), ("room", world.gid, NEW_ID)]


async def test_numbers_that_are_given_up_run_low_for_nobody() -> None:
    world = world_of(1)
    switch_id = world.switch_ids[0]
    source, state = world.source(switch_id), MemoryState()
    numbers = state.sequence_numbers("room", world.gid, switch_id)
    async with switch(world, source=source, state=state, running_low=MAXIMUM + 1) as multicaster:
        multicaster.request(get(), timeout=0.01).close()
        give_another_id(world, source, switch_id, [])
        await asyncio.sleep(0.01)
        assert source.low == []  # it was about to be told
        numbers.watch(MAXIMUM + 1, numbers._tell)
        multicaster.request(get(), timeout=0.01).close()
        source.tell(GroupLeft("room", "it has left"))
        await asyncio.sleep(0.01)
        assert source.low == []


async def test_the_source_is_told_of_a_gid_that_is_not_known() -> None:
    world = world_of(1)
    elsewhere = World(listeners=1, addresses=world.addresses)
    source = world.source(world.lamp_ids[0])
    stranger = Member(elsewhere, elsewhere.switch_ids[0])
    async with lamps(world, source=source) as [(lamp, _)], Peer() as peer:
        peer.send(stranger.request(), stranger.group)
        await eventually(lambda: source.unknown == [elsewhere.gid])
        assert lamp.counters.rejected == {Reason.UNKNOWN_GROUP: 1}
        if elsewhere.suite.pairwise:
            message, _ = stranger.protect(to=elsewhere.lamp_ids[0])
            peer.send(message, lamp.network.local_address(4))
            await eventually(lambda: source.unknown == [elsewhere.gid] * 2)


@pytest.mark.parametrize("served", [True, False])
async def test_a_request_that_looks_like_one_of_rfc_8613_may_be_of_a_renewal(served: bool) -> None:
    world = World(listeners=1, suite=GROUP_OSCORE)
    elsewhere = World(listeners=1, addresses=world.addresses, suite=GROUP_OSCORE)
    source = world.source(world.lamp_ids[0])
    stranger = Member(elsewhere, elsewhere.switch_ids[0])
    site = aiocoap.resource.Site() if served else None
    async with lamps(world, source=source, plain_site=site, plain=True) as [(lamp, _)], Peer() as peer:
        message, _ = stranger.protect(to=elsewhere.lamp_ids[0], kind=coap.CON)
        peer.send(message, lamp.network.local_address(4))
        await peer.receive()
        assert source.unknown == [elsewhere.gid]
        peer.send(coap.Message(coap.CON, coap.GET, 7, b"x", (), b""), lamp.network.local_address(4))
        await peer.receive()
        assert source.unknown == [elsewhere.gid]


# ---- multicaster and pure listener


async def test_who_is_multicaster_and_pure_listener_sends_and_hears_but_never_answers() -> None:
    world = World(multicasters=2, listeners=1, policy=GroupPolicy(synchronization=CHALLENGE))
    panel_id = world.switch_ids[1]
    roles = frozenset({Role.MULTICASTER, Role.PURE_LISTENER})
    source = Source([replace(world.configuration(panel_id), roles=roles)])
    async with lamps(world), switch(world) as multicaster, world.endpoint(panel_id, source=source) as panel:
        light = Light()
        Listener(panel, light_site(light))
        sender = Multicaster(panel, "room")
        assert [a.endpoint_id for a in await answers(sender.request(get()))] == world.lamp_ids
        # It falls back to the baseline: the first request is not delivered, and challenged by the lamp alone.
        for payload in (b"first", b"second"):
            got = await answers(multicaster.request(put(payload), roster=None, timeout=0.3))
            assert [answer.endpoint_id for answer in got] == world.lamp_ids
        await light.wait_for(1)
        assert light.payloads == [b"second"]
        assert panel.counters.challenges_sent == 0
        assert not panel.groups.can_respond("room")
        assert panel_id not in multicaster.listeners
        there = panel.network.local_address(4)
        asked = await answers(multicaster.ask(panel_id, get(), there, mode=Mode.GROUP, timeout=0.3))
        assert asked == []
        assert light.payloads == [b"second", b""]


# ---- who has left


async def test_a_pairwise_request_of_who_left_is_refused_in_the_grace() -> None:
    world = World(
        multicasters=2, listeners=1, suite=GROUP_OSCORE, policy=GroupPolicy(synchronization=BEST_EFFORT, grace=60)
    )
    kid = world.lamp_ids[0]
    source = world.source(kid)
    stays, leaves = (Member(world, switch_id) for switch_id in world.switch_ids)
    async with lamps(world, source=source) as [(lamp, light)], Peer() as peer:
        there = lamp.network.local_address(4)
        peer.send(leaves.protect(to=kid)[0], there)
        await light.wait_for(1)
        world.renew({kid: source}, departed=frozenset(world.switch_ids[1:]))
        peer.send(leaves.protect(to=kid)[0], there)
        await eventually(lambda: lamp.counters.rejected == {Reason.UNKNOWN_SENDER: 1})
        peer.send(stays.protect(b"late", to=kid)[0], there)
        await light.wait_for(2)
        assert light.payloads == [b"on", b"late"]


@pytest.mark.parametrize("grace", [0, 60])
async def test_what_waits_for_a_credential_when_its_sender_leaves_is_refused(grace: float) -> None:
    world = world_of(1, grace=grace)
    stranger = Member(world, b"\x77")
    source = SlowSource([world.configuration(world.lamp_ids[0])])
    source.credentials[b"\x77"] = world.suite.credential(stranger.key.public_key)
    async with lamps(world, source=source) as [(lamp, light)], Peer() as peer:
        peer.send(stranger.request(), stranger.group)
        await source.asked.wait()
        source.tell(
            EpochInstalled(
                renewed(world, source, world.gid[:-1] + b"\x01", departed=frozenset((b"\x77",)), successive=True)
            )
        )
        source.answer.set()
        await eventually(lambda: lamp.counters.rejected)
        gone = not grace and world.suite.bound  # the context is not there any more to look at it again
        assert lamp.counters.rejected == {Reason.UNKNOWN_GROUP if gone else Reason.UNKNOWN_SENDER: 1}
        assert light.requests == []


async def test_an_answer_that_waits_for_a_credential_when_its_sender_leaves_is_refused() -> None:
    world = World(listeners=1)
    lamp_id = world.lamp_ids[0]
    source = SlowSource([replace_members(world.configuration(world.switch_ids[0]))])
    source.credentials[lamp_id] = world.suite.credential(world.keys[lamp_id].public_key)
    async with lamps(world), switch(world, source=source) as multicaster:
        collection = multicaster.request(put(b"on"), roster=[lamp_id], timeout=1)
        await source.asked.wait()
        source.tell(
            EpochInstalled(
                renewed(world, source, world.gid[:-1] + b"\x01", departed=frozenset((lamp_id,)), successive=True)
            )
        )
        source.answer.set()
        await eventually(lambda: multicaster.endpoint.counters.rejected == {Reason.UNKNOWN_SENDER: 1})
        assert await answers(collection) == []


def replace_members(configuration: GroupConfiguration) -> GroupConfiguration:
    """The same with nobody's credential at hand."""
    epoch = replace(configuration.current, members=())
    return replace(configuration, epochs=(epoch,))


async def test_an_id_that_left_and_was_given_to_a_newcomer_counts_under_the_new_gid_alone() -> None:
    world = world_of(1, grace=60)
    switch_id = world.switch_ids[0]
    source = world.source(world.lamp_ids[0])
    former = Member(world, switch_id)
    async with lamps(world, source=source) as [(lamp, light)], Peer() as peer:
        peer.send(former.request(b"before"), former.group)
        await light.wait_for(1)
        world.keys[switch_id] = world.suite.generate()
        departed = frozenset((switch_id,))
        configuration = renewed(
            world, source, world.gid[:-1] + b"\x01", departed=departed, members=world.members, ids_kept=True
        )
        source.tell(EpochInstalled(configuration))
        peer.send(former.request(b"left"), former.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.UNKNOWN_SENDER: 1})
        newcomer = Member(world, switch_id)
        peer.send(newcomer.request(b"new"), newcomer.group)
        await light.wait_for(2)
        # Said again of the former Gid, it is not said of the newcomer.
        source.tell(MemberLeft("room", former.context.gid, departed))
        peer.send(newcomer.request(b"again"), newcomer.group)
        await light.wait_for(3)
        assert light.payloads == [b"before", b"new", b"again"]


async def test_a_newcomer_with_an_id_that_left_may_have_to_be_looked_up() -> None:
    world = world_of(1)
    switch_id = world.switch_ids[0]
    source = world.source(world.lamp_ids[0])
    async with lamps(world, source=source) as [(_, light)], Peer() as peer:
        world.keys[switch_id] = world.suite.generate()
        source.credentials[switch_id] = world.suite.credential(world.keys[switch_id].public_key)
        configuration = renewed(
            world,
            source,
            world.gid[:-1] + b"\x01",
            departed=frozenset((switch_id,)),
            members=(),
            ids_kept=True,
            successive=True,
        )
        source.tell(EpochInstalled(configuration))
        newcomer = Member(world, switch_id)
        peer.send(newcomer.request(b"new"), newcomer.group)
        await light.wait_for(1)
        assert source.looked_up == [switch_id]


async def test_a_check_that_was_deferred_delivers_nothing_after_its_sender_left() -> None:
    """It was delivered before; the check only says afterwards who it was."""
    from groupcoap.core.policy import Verification
    from groupcoap.endpoint.deferred import SourceReport

    world = World(
        listeners=1, suite=DRAFT, policy=GroupPolicy(synchronization=BEST_EFFORT, verification=Verification.DEFER)
    )
    switch_id = world.switch_ids[0]
    source = world.source(world.lamp_ids[0])
    sender = Member(world, switch_id)
    reports: list[SourceReport] = []
    async with lamps(world, source=source, report=reports.append) as [(lamp, light)], Peer() as peer:
        peer.send(sender.request(b"before"), sender.group)
        await light.wait_for(1)
        source.tell(MemberLeft("room", world.gid, frozenset((switch_id,))))
        peer.send(sender.request(b"after"), sender.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.UNKNOWN_SENDER: 1})
        await eventually(lambda: len(reports) == 1)
        assert light.payloads == [b"before"]


# ---- who is expected to answer


async def test_a_newcomer_is_expected_to_answer_from_when_it_is_known_and_who_left_is_not() -> None:
    world = world_of(2)
    first, second = world.lamp_ids
    source = world.source(world.switch_ids[0])
    known = next(member for member in world.members if member.endpoint_id == second)
    configuration = source.configurations[0]
    members = tuple(member for member in world.members if member is not known and member.endpoint_id != second)
    epoch = replace(configuration.current, members=members)
    source.configurations[0] = replace(configuration, epochs=(epoch,))
    async with switch(world, source=source) as multicaster:
        assert multicaster.listeners == {first}
        source.tell(CredentialLearned(world.name, world.gid, known))
        assert multicaster.listeners == {first, second}
        assert multicaster.name_of(second) == known.name
        source.tell(MemberLeft(world.name, world.gid, frozenset((first,))))
        assert multicaster.listeners == {second}
        source.tell(CredentialLearned(world.name, world.gid[:-1] + b"x", replace(known, endpoint_id=NEW_ID)))
        assert multicaster.listeners == {second}
