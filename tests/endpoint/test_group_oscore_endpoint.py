"""What endpoints do in Group OSCORE only: requests and answers for one alone, in pairwise mode, and what else is
not as in the draft's profile. What both have is tested over both by the fixture `each_profile`, in the other
files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiocoap
import pytest
from aiocoap import resource
from devices import TIMEOUT, Big, answers, eventually, get, lamps, put, switch
from suites import COUNTER_MODE, ES256, ES384, GROUP_MODE_ONLY, GROUP_OSCORE, Suite
from wire import LIGHT, Member, Peer
from world import BEST_EFFORT, CHALLENGE, Source, World

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.group_oscore import FLAG_GROUP
from groupcoap.core.option import decode_prefix
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.profile import Mode, RequestIds
from groupcoap.core.requests import SignatureState, object_security
from groupcoap.core.responses import incoming_exchange, protect_response
from groupcoap.cose import keys
from groupcoap.cose.keys import PrivateKey, PublicKey
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.groups import ListenerPolicy
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Multicaster, Observation
from groupcoap.endpoint.network import SocketAddress
from groupcoap.errors import Limit, MisuseError, Reason
from groupcoap.membership import EpochInstalled
from groupcoap.secret import Secret

VERIFIED, PAIRWISE = SignatureState.VERIFIED, SignatureState.PAIRWISE

NAMES = {
    GROUP_OSCORE: "group-oscore",
    GROUP_MODE_ONLY: "group-mode-only",
    COUNTER_MODE: "counter-mode",
    ES256: "es256",
    ES384: "es384",
}
ALL = pytest.mark.parametrize("suite", NAMES, ids=NAMES.get)


def world_of(suite: Suite = GROUP_OSCORE, **more: object) -> World:
    return World(suite=suite, **more)  # type: ignore[arg-type]


class Wire:
    """What an endpoint sends, as it is on the wire."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.sent: list[tuple[Message, bytes, SocketAddress]] = []
        send = endpoint.network.send

        def record(datagram: bytes, destination: SocketAddress) -> None:
            self.sent.append((coap.decode(datagram), datagram, destination))
            send(datagram, destination)

        endpoint.network.send = record  # type: ignore[method-assign]

    @property
    def modes(self) -> list[Mode]:
        """Of the protected messages, by their Group Flags, in order."""
        found = [message for message, _, _ in self.sent if message.option(coap.OBJECT_SECURITY) is not None]
        return [mode_of(message) for message in found]


def mode_of(message: Message) -> Mode:
    option = object_security(message)
    return Mode.GROUP if option and option[0] & FLAG_GROUP else Mode.PAIRWISE


def where(endpoint: Endpoint) -> SocketAddress:
    return endpoint.network.local_address(4)


async def refused(endpoint: Endpoint, count: int) -> None:
    """Until so many messages have been."""
    await eventually(lambda: sum(endpoint.counters.rejected.values()) == count)


# ---- asking one listener alone


async def test_one_listener_is_asked_alone_and_nobody_else_can_make_anything_of_it() -> None:
    world = world_of(listeners=3)
    one, *others = world.lamp_ids
    async with lamps(world) as opened, switch(world) as multicaster, Peer() as attacker:
        wire, answering = Wire(multicaster.endpoint), Wire(opened[0][0])
        (answer,) = await answers(multicaster.ask(one, put(b"for one"), where(opened[0][0])))
        assert (answer.endpoint_id, answer.message.code) == (one, aiocoap.CHANGED)
        assert answer.provenance.signature is PAIRWISE
        assert opened[0][1].requests[0][1].signature is PAIRWISE
        assert opened[0][1].payloads == [b"for one"]
        assert (wire.modes, answering.modes) == ([Mode.PAIRWISE], [Mode.PAIRWISE])
        ((message, datagram, _),) = wire.sent
        assert b"for one" not in datagram
        assert message.type == coap.CON
        by_multicast = coap.encode(message._replace(type=coap.NON))
        for endpoint, _ in opened[1:]:
            attacker.send(by_multicast, where(endpoint))
        attacker.send(by_multicast, (str(world.addresses[0].host), world.addresses[0].port))
        await eventually(
            lambda: [e.counters.rejected for e, _ in opened[1:]] == [{Reason.DECRYPTION_FAILED: 2}] * 2
        )
        assert [light.payloads for _, light in opened[1:]] == [[], []]
        await eventually(lambda: opened[0][0].counters.rejected == {Reason.REPLAY: 1})
        assert len(others) == 2


async def test_the_kid_is_left_out_of_an_answer_for_one_alone() -> None:
    world = world_of(listeners=1)
    async with lamps(world) as [(endpoint, _)], switch(world) as multicaster:
        wire = Wire(endpoint)
        await answers(multicaster.ask(world.lamp_ids[0], get(), where(endpoint)))
        ((message, _, _),) = wire.sent
        assert object_security(message) == b""  # the request's nonce, its Gid, and who was asked


async def test_in_group_mode_one_can_only_be_asked_what_changes_nothing() -> None:
    world = world_of(listeners=1)
    kid = world.lamp_ids[0]
    async with lamps(world) as [(endpoint, light)], switch(world) as multicaster:
        wire = Wire(multicaster.endpoint)
        (answer,) = await answers(multicaster.ask(kid, get(), where(endpoint), mode=Mode.GROUP))
        assert (answer.message.payload, answer.provenance.signature) == (b"off", VERIFIED)
        with pytest.raises(MisuseError, match="only GET and FETCH"):
            multicaster.ask(kid, put(b"on"), where(endpoint), mode=Mode.GROUP)
        assert wire.modes == [Mode.GROUP]
        async with Peer() as peer:  # and who sends it all the same
            message, _ = Member(world, world.switch_ids[0], first=100).protect(b"on")
            peer.send(message, where(endpoint))
            await eventually(lambda: endpoint.counters.rejected == {Reason.UNICAST_METHOD: 1})
        assert light.payloads == [b""]


async def test_a_group_without_pairwise_mode() -> None:
    world = world_of(GROUP_MODE_ONLY, listeners=1)
    kid = world.lamp_ids[0]
    async with lamps(world) as [(endpoint, light)], switch(world) as multicaster:
        (answer,) = await answers(multicaster.ask(kid, get(), where(endpoint)))
        assert answer.provenance.signature is VERIFIED
        with pytest.raises(MisuseError, match="pairwise"):
            multicaster.ask(kid, get(), where(endpoint), mode=Mode.PAIRWISE)
        with pytest.raises(MisuseError, match="only GET and FETCH"):
            multicaster.ask(kid, put(b"on"), where(endpoint))
        assert light.payloads == [b""]


@pytest.mark.parametrize("kid", [b"\x66", b"\x80"], ids=["nobody", "itself"])
async def test_who_is_not_known_cannot_be_asked_alone(kid: bytes) -> None:
    world = world_of(listeners=1)
    async with switch(world) as multicaster:
        sender = multicaster.endpoint.groups.current("room").sender
        assert sender is not None
        with pytest.raises(MisuseError):
            multicaster.ask(kid, get(), ("127.0.0.1", 9))
        assert not multicaster.endpoint.interface.awaits_answers
        assert sender.numbers.take() == 0  # none was used up


async def test_what_could_not_be_sent_delays_nothing() -> None:
    """Confirmable messages to one member wait for each other: not for one that never left."""
    world = world_of(listeners=1)
    kid = world.lamp_ids[0]
    async with lamps(world) as [(endpoint, light)], switch(world) as multicaster:
        for _ in range(2):
            with pytest.raises(MisuseError):
                multicaster.ask(kid, put(b"refused"), where(endpoint), mode=Mode.GROUP)
            (answer,) = await answers(multicaster.ask(kid, put(b"on"), where(endpoint)))
            assert answer.message.code == aiocoap.CHANGED
        assert light.payloads == [b"on"] * 2
        assert not multicaster.endpoint.messages._active_exchanges


async def test_the_answer_of_another_to_what_one_was_asked_alone_is_refused() -> None:
    """Another member knows the request's ids, which are not secret, but it was not asked."""
    world = world_of(listeners=2)
    one, other = world.lamp_ids
    async with Peer() as peer, switch(world) as multicaster:
        collection = multicaster.ask(one, put(b"on"), peer.address)
        datagram, source = await peer.receive_from()
        request = coap.decode(datagram)
        for number, alone in enumerate((False, True)):
            peer.send(reply_of(world, other, request, number, alone=alone), source)
        await eventually(lambda: multicaster.endpoint.counters.rejected == {Reason.OTHER_RESPONDER: 2})
        peer.send(reply_of(world, one, request, 0, alone=True), source)
        assert [answer.endpoint_id for answer in await answers(collection)] == [one]


def reply_of(world: World, kid: bytes, request: Message, number: int, *, alone: bool) -> Message:
    """An answer of this member to a request of the switch, be it for it or not."""
    member = Member(world, kid, first=number)
    prefix = decode_prefix(object_security(request))
    ids = RequestIds(world.switch_ids[0], prefix[1] or b"", prefix[2] or b"")
    exchange = incoming_exchange(member.sender, ids, may_reuse_nonce=False)
    answer = Message(coap.NON, coap.CHANGED, member_id(kid, number), request.token, (), b"")
    to = (member.context, member.context.recipient(ids.kid)) if alone else None
    return protect_response(member.sender, exchange, answer, to=to)


def member_id(kid: bytes, number: int) -> int:
    return kid[0] << 8 | number


# ---- the mode of answers


@pytest.mark.parametrize(
    ("of_group", "of_listener", "to_group", "to_one"),
    [
        (None, ListenerPolicy(), Mode.GROUP, Mode.PAIRWISE),
        (Mode.PAIRWISE, ListenerPolicy(), Mode.PAIRWISE, Mode.PAIRWISE),
        (Mode.GROUP, ListenerPolicy(), Mode.GROUP, Mode.GROUP),
        (Mode.GROUP, ListenerPolicy(response_mode=Mode.PAIRWISE), Mode.PAIRWISE, Mode.PAIRWISE),
        (Mode.PAIRWISE, ListenerPolicy(response_mode=Mode.GROUP), Mode.GROUP, Mode.GROUP),
        (Mode.PAIRWISE, ListenerPolicy(as_requested=True), Mode.GROUP, Mode.PAIRWISE),
    ],
)
async def test_answers_go_in_the_mode_of_the_request_unless_a_policy_says_otherwise(
    of_group: Mode | None, of_listener: ListenerPolicy, to_group: Mode, to_one: Mode
) -> None:
    world = world_of(listeners=1, policy=GroupPolicy(synchronization=BEST_EFFORT, response_mode=of_group))
    async with lamps(world, policy=of_listener) as [(endpoint, _)], switch(world) as multicaster:
        wire = Wire(endpoint)
        got = await answers(multicaster.request(put(b"all")))
        got += await answers(multicaster.ask(world.lamp_ids[0], put(b"one"), where(endpoint)))
        assert wire.modes == [to_group, to_one]
        states = {Mode.GROUP: VERIFIED, Mode.PAIRWISE: PAIRWISE}
        assert [answer.provenance.signature for answer in got] == [states[to_group], states[to_one]]


@pytest.mark.parametrize("suite", [GROUP_OSCORE, GROUP_MODE_ONLY], ids=NAMES.get)
async def test_echoes_and_further_blocks_go_in_pairwise_mode_where_there_is_one(suite: Suite) -> None:
    world = world_of(suite, listeners=2, policy=GroupPolicy(synchronization=CHALLENGE))
    alone = Mode.PAIRWISE if suite.pairwise else Mode.GROUP
    async with lamps(world) as opened, switch(world) as multicaster:
        asking, answering = Wire(multicaster.endpoint), Wire(opened[0][0])
        got = await answers(multicaster.request(get("big")))
        assert [answer.message.payload for answer in got] == [Big.body] * 2
        blocks = -(-len(Big.body) // 1024)
        # to each of the two an echo, and a request for all blocks but the first
        assert asking.modes == [Mode.GROUP] + [alone] * (2 * blocks)
        assert answering.modes == [Mode.GROUP] + [alone] * blocks  # the challenge, and what answers them
        assert {endpoint.counters.challenges_sent for endpoint, _ in opened} == {1}
        asking.sent.clear()
        got = await answers(multicaster.request(put(b"on")))
        assert (len(got), asking.modes) == (2, [Mode.GROUP])


@ALL
async def test_a_conversation(suite: Suite) -> None:
    """Challenge, echo, blocks, an observation, and one alone, with every kind of algorithms."""
    world = world_of(suite, listeners=2, policy=GroupPolicy(synchronization=CHALLENGE))
    async with lamps(world) as opened, switch(world) as multicaster:
        assert len(await answers(multicaster.request(put(b"on")))) == 2
        assert [light.payloads for _, light in opened] == [[b"on"]] * 2
        assert [a.message.payload for a in await answers(multicaster.request(get("big")))] == [Big.body] * 2
        async with multicaster.observe(get()) as observation:
            await eventually(lambda: len(observation.streams) == 2)
            if suite.pairwise:
                (answer,) = await answers(multicaster.ask(world.lamp_ids[0], put(b"dim"), where(opened[0][0])))
                assert answer.provenance.signature is PAIRWISE
            else:
                assert len(await answers(multicaster.request(put(b"dim")))) == 2
            stream = observation.streams[world.lamp_ids[0]]
            await eventually(lambda: stream.latest and stream.latest.message.payload == b"dim")
        assert multicaster.endpoint.counters.rejected == {}
        assert [endpoint.counters.rejected for endpoint, _ in opened] == [{}, {}]


@ALL
async def test_every_flipped_bit_of_a_request_is_refused(suite: Suite) -> None:
    """In either mode; in counter mode by the countersignature, since nothing else shows it."""
    world = world_of(suite, listeners=1)
    kid = world.lamp_ids[0]
    step = 1 if suite in (GROUP_OSCORE, COUNTER_MODE) else 11  # verifying takes others longer
    async with lamps(world) as [(endpoint, light)], Peer() as peer:
        member, attacker = Member(world, world.switch_ids[0]), ("127.0.0.77", 9)
        for alone in (None, kid) if suite.pairwise else (None,):
            good, exchange = member.protect(b"", code=coap.GET, to=alone)
            option, payload = object_security(good), good.payload
            before = sum(endpoint.counters.rejected.values())
            bits = range(0, 8 * len(payload), step)
            for bit in bits:
                bent = bytearray(payload)
                bent[bit // 8] ^= 1 << bit % 8
                endpoint.interface.receive(coap.encode(good._replace(payload=bytes(bent))), attacker, None)
            for bit in range(3, 8 * len(option)):
                bent = bytearray(option)
                bent[bit // 8] ^= 1 << bit % 8
                options = ((coap.OBJECT_SECURITY, bytes(bent)),)
                endpoint.interface.receive(coap.encode(good._replace(options=options)), attacker, None)
            expected = before + len(bits) + 8 * len(option) - 3
            await refused(endpoint, expected)  # another kid is looked up first, and nobody has it
            assert light.requests == []
            peer.send(good, where(endpoint))
            assert member.answer(exchange, await peer.receive()).message.payload == b"off"
            light.requests.clear()
        if suite is COUNTER_MODE:
            assert endpoint.counters.rejected[Reason.SIGNATURE_FAILED] > endpoint.counters.rejected.get(
                Reason.DECRYPTION_FAILED, 0
            )


@pytest.mark.parametrize("suite", [GROUP_OSCORE, COUNTER_MODE], ids=NAMES.get)
async def test_both_forms_of_what_is_countersigned_are_taken(suite: Suite) -> None:
    """With an empty sign_protected and without (RFC 9338 §3.3), whichever of the two one makes."""
    world = world_of(suite, listeners=1)
    other = world_of(
        suite.with_algorithms(sign_protected=False),
        listeners=1,
        keys=world.keys,
        secret=world.secret,
        salt=world.salt,
        gid=world.gid,
        addresses=world.addresses,
    )
    async with lamps(other) as [(endpoint, light)], switch(world) as multicaster:
        (answer,) = await answers(multicaster.request(put(b"on")))
        assert (answer.provenance.signature, light.payloads) == (VERIFIED, [b"on"])
        assert (multicaster.endpoint.counters.rejected, endpoint.counters.rejected) == ({}, {})


# ---- who has no Endpoint ID


async def test_a_silent_server_takes_what_is_for_the_group_and_drops_what_is_for_one() -> None:
    world = world_of(listeners=1)
    kid = world.lamp_ids[0]
    async with lamps(world, [None, kid]) as [(silent, light), (lamp, other)], switch(world) as multicaster:
        assert len(await answers(multicaster.request(put(b"all")))) == 1
        await light.wait_for(1)
        member = Member(world, world.switch_ids[0], first=100)
        async with Peer() as peer:
            message, _ = member.protect(b"for the lamp", to=kid)
            peer.send(message, where(silent))
            peer.send(message, member.group)
            await other.wait_for(2)
            await eventually(lambda: silent.counters.rejected == {Reason.NO_PAIRWISE_MODE: 2})
            assert (light.payloads, other.payloads) == ([b"all"], [b"all", b"for the lamp"])
            assert lamp.counters.rejected == {}
        with pytest.raises(MisuseError, match="pure listener"):
            Multicaster(silent, "room")


@pytest.mark.parametrize("kind", [coap.CON, coap.NON])
async def test_without_pairwise_mode_who_asks_in_it_is_told_so_if_it_waits_for_an_acknowledgement(
    kind: int,
) -> None:
    world = world_of(GROUP_MODE_ONLY, listeners=1)
    async with lamps(world) as [(endpoint, light)], Peer() as peer:
        message, _ = Member(world, world.switch_ids[0]).protect(b"", code=coap.GET, kind=kind)
        option = object_security(message)
        other_mode = bytes((option[0] ^ FLAG_GROUP,)) + option[1:]
        pairwise = message._replace(options=((coap.OBJECT_SECURITY, other_mode),))
        peer.send(pairwise, where(endpoint))
        if kind == coap.CON:
            answer = await peer.receive()
            assert (answer.type, answer.code, answer.token) == (coap.ACK, coap.BAD_OPTION, message.token)
            assert answer.option(coap.OBJECT_SECURITY) is None
        else:
            await peer.assert_silence(where(endpoint))
        assert endpoint.counters.rejected == {Reason.NO_PAIRWISE_MODE: 1}
        peer.send(pairwise._replace(type=coap.NON), (str(world.addresses[0].host), world.addresses[0].port))
        await eventually(lambda: endpoint.counters.rejected == {Reason.NO_PAIRWISE_MODE: 2})
        assert light.requests == []


# ---- who has another Endpoint ID, or has left, before it is answered


class Slow(resource.Resource):  # type: ignore[misc]
    """Answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        self.asked.set()
        await self.go.wait()
        return aiocoap.Message(code=aiocoap.CHANGED, payload=b"done")


@asynccontextmanager
async def slow_lamp(world: World, source: Source) -> AsyncIterator[tuple[Endpoint, Slow]]:
    async with world.endpoint(world.lamp_ids[0], source=source) as endpoint:
        slow, site = Slow(), resource.Site()
        site.add_resource(["light"], slow)
        Listener(endpoint, site)
        yield endpoint, slow


def move(world: World, sources: dict[bytes, Source], old: bytes, new: bytes | None) -> None:
    """Renew the group: who had the `old` Endpoint ID has the `new` one, or None any more."""
    number = int.from_bytes(world.gid[8:], "big") + 1
    world.gid = world.gid[:8] + number.to_bytes(4, "big")
    world.secret = Secret(bytes(16))
    for kid, source in sources.items():
        if kid == old and new is None:
            continue
        members = tuple(
            replace(member, endpoint_id=new or b"") if member.endpoint_id == old else member
            for member in world.members
            if member.endpoint_id != old or new is not None
        )
        departed = frozenset((old,)) if new is None else frozenset[bytes]()
        own = new if kid == old else kid
        epoch = replace(world.epoch(kid), members=members, own_id=own, departed=departed)
        before = source.configurations[0]
        source.configurations[0] = replace(before, epochs=(*before.epochs, epoch))
        source.tell(EpochInstalled(source.configurations[0]))


@pytest.mark.parametrize("mode", Mode, ids=lambda mode: mode.value)
async def test_who_has_another_endpoint_id_since_it_asked_is_answered_under_that(mode: Mode) -> None:
    world = world_of(listeners=1, policy=GroupPolicy(synchronization=BEST_EFFORT, response_mode=mode))
    lamp, asking = world.lamp_ids[0], world.switch_ids[0]
    sources = {kid: world.source(kid) for kid in (lamp, asking)}
    async with (
        slow_lamp(world, sources[lamp]) as (endpoint, slow),
        switch(world, source=sources[asking]) as multicaster,
    ):
        wire = Wire(endpoint)
        collection = multicaster.ask(lamp, put(b"on"), where(endpoint))
        await slow.asked.wait()
        move(world, sources, asking, b"\x8f")
        slow.go.set()
        (answer,) = await answers(collection)
        assert (answer.message.payload, answer.provenance.gid) == (b"done", world.gid)
        assert wire.modes == [mode]
        assert multicaster.endpoint.counters.rejected == {}


async def test_who_has_left_since_it_asked_is_not_answered_alone() -> None:
    world = world_of(listeners=1)
    lamp, asking = world.lamp_ids[0], world.switch_ids[0]
    sources = {kid: world.source(kid) for kid in (lamp, asking)}
    async with (
        slow_lamp(world, sources[lamp]) as (endpoint, slow),
        switch(world, source=sources[asking]) as multicaster,
    ):
        wire = Wire(endpoint)
        collection = multicaster.ask(lamp, put(b"on"), where(endpoint), timeout=0.3)
        await slow.asked.wait()
        move(world, sources, asking, None)
        slow.go.set()
        assert await answers(collection) == []
        assert wire.modes == []


# ---- Observe, and long exchanges


def with_observe(message: Message, value: bytes | None) -> Message:
    """The same with another outer Observe, or without any."""
    options = [option for option in message.options if option[0] != coap.OBSERVE]
    if value is not None:
        options.append((coap.OBSERVE, value))
    return message._replace(options=tuple(sorted(options)))


@pytest.mark.parametrize("alone", [False, True], ids=["to the group", "to one alone"])
@pytest.mark.parametrize("outside", [None, b"", b"\x01"], ids=["taken away", "register", "cancel"])
@pytest.mark.parametrize("inside", [True, False], ids=["observes", "asks once"])
async def test_observe_outside_changes_nothing_about_a_request(
    inside: bool, outside: bytes | None, alone: bool
) -> None:
    world = world_of(listeners=1)
    kid = world.lamp_ids[0]
    async with lamps(world) as [(endpoint, light)], Peer() as peer:
        member = Member(world, world.switch_ids[0])
        options = ((coap.OBSERVE, b""), *LIGHT) if inside else LIGHT
        message, exchange = member.protect(b"", code=coap.GET, options=options, to=kid if alone else None)
        peer.send(with_observe(message, outside), where(endpoint) if alone else member.group)
        answer = await peer.receive()
        # nor does what is outside of the answer
        delivered = member.answer(exchange, with_observe(answer, None if inside else b"\x07"))
        assert (delivered.message.payload, delivered.notification) == (b"off", inside)
        assert len(light._observations) == inside


async def test_observe_outside_changes_nothing_about_notifications() -> None:
    world = world_of(listeners=1)
    async with lamps(world) as [(endpoint, light)], switch(world) as multicaster:
        send = endpoint.network.send

        def strip(datagram: bytes, destination: SocketAddress) -> None:
            send(coap.encode(with_observe(coap.decode(datagram), None)), destination)

        endpoint.network.send = strip  # type: ignore[method-assign]
        async with multicaster.observe(get()) as observation:
            await eventually(lambda: observation.streams)
            light.state = b"on"
            light.updated_state()
            (stream,) = observation.streams.values()
            await eventually(lambda: stream.latest and stream.latest.message.payload == b"on")
            assert not stream.ended
            assert multicaster.endpoint.counters.rejected == {}


@pytest.mark.parametrize("mode", Mode, ids=lambda mode: mode.value)
async def test_notifications_go_on_under_every_new_gid(mode: Mode) -> None:
    world = world_of(listeners=2, policy=GroupPolicy(synchronization=BEST_EFFORT, response_mode=mode))
    ids: list[bytes | None] = [*world.lamp_ids, *world.switch_ids]
    sources = {kid: world.source(kid) for kid in ids}
    async with (
        lamps(world, world.lamp_ids[:1], source=sources[ids[0]]) as one,
        lamps(world, world.lamp_ids[1:], source=sources[ids[1]]) as other,
        switch(world, source=sources[ids[2]]) as multicaster,
        multicaster.observe(get()) as observation,
    ):
        await eventually(lambda: len(observation.streams) == 2)
        for number in range(3):
            world.renew(sources)
            wires = [Wire(endpoint) for endpoint, _ in (*one, *other)]
            for _, light in (*one, *other):
                light.state = b"%d" % number
                light.updated_state()
            await shows(observation, b"%d" % number)
            latest = [stream.latest for stream in observation.streams.values()]
            assert {answer.provenance.gid for answer in latest if answer} == {world.gid}
            assert [wire.modes for wire in wires] == [[mode], [mode]]
        assert multicaster.endpoint.counters.rejected == {}


async def shows(observation: Observation, state: bytes) -> None:
    """Until this is the latest from each listener."""
    streams = observation.streams.values()
    await eventually(lambda: all(s.latest and s.latest.message.payload == state for s in streams))


async def test_several_answers_to_one_group_request_and_none_twice() -> None:
    """The first without Partial IV is the oldest; what is behind the newest is not taken any more (§5.3.1)."""
    world = world_of(listeners=1)
    kid = world.lamp_ids[0]
    async with Peer() as peer, switch(world) as multicaster:
        network = multicaster.endpoint.network
        sent: list[bytes] = []
        network.send = lambda datagram, to: sent.append(datagram)  # type: ignore[method-assign,assignment]
        async with multicaster.observe(get()) as observation:
            request = coap.decode(sent[0])
            given = [reply_of(world, kid, request, number, alone=number % 2 == 1) for number in range(4)]
            for answer in (given[0], given[2], given[1], given[2], given[3]):
                peer.send(answer, where(multicaster.endpoint))
            await eventually(lambda: multicaster.endpoint.counters.delivered_responses == 3)
            await eventually(lambda: multicaster.endpoint.counters.rejected == {Reason.NOTIFICATION_ORDER: 2})
            assert kid in observation.streams


# ---- what a flood costs


@pytest.fixture
def agreements(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Public keys that a secret was agreed on with."""
    made: list[bytes] = []
    for kind in (keys.Ed25519PrivateKey, keys.EcdsaPrivateKey):
        agree = kind.agree

        def counted(self: PrivateKey, other: PublicKey, agree: object = agree) -> Secret:
            made.append(other.data)
            secret: Secret = agree(self, other)  # type: ignore[operator]
            return secret

        monkeypatch.setattr(kind, "agree", counted)
    return made


async def test_forgeries_for_one_alone_cost_one_key_agreement_for_each_member(agreements: list[bytes]) -> None:
    world = world_of(listeners=1, multicasters=2)
    kid = world.lamp_ids[0]
    async with lamps(world) as [(endpoint, light)], Peer() as peer:
        members = [Member(world, sender) for sender in world.switch_ids]
        for member in members:
            message, _ = member.protect(b"real", to=kid)
            agreements.clear()
            for number in range(500):
                forged = message._replace(payload=bytes(len(message.payload)), message_id=number)
                endpoint.interface.receive(coap.encode(forged), peer.address, None)
            assert agreements == [member.key.public_key.data]
            peer.send(message, where(endpoint))
        await light.wait_for(2)
        assert len(agreements) == 1
        assert endpoint.counters.rejected == {Reason.DECRYPTION_FAILED: 1000}


async def test_forgeries_of_invented_senders_for_one_alone_are_looked_up_seldom(agreements: list[bytes]) -> None:
    world = world_of(listeners=1)
    kid = world.lamp_ids[0]
    source = world.source(kid)
    async with lamps(world, source=source) as [(endpoint, light)], Peer() as peer:
        member = Member(world, world.switch_ids[0])
        message, _ = member.protect(b"real", to=kid)
        option = object_security(message)
        agreements.clear()
        for number in range(2000):
            options = ((coap.OBJECT_SECURITY, option[:-1] + number.to_bytes(3, "big")),)
            forged = coap.encode(message._replace(options=options))
            endpoint.interface.receive(forged, ("127.0.0.77", 9), None)
        await eventually(lambda: sum(endpoint.counters.rejected.values()) == 2000)
        assert endpoint.counters.rejected.keys() == {Reason.NO_PUBLIC_KEY, Reason.BUSY}
        assert endpoint.counters.limited.keys() == {Limit.LOOKUP_RATE_PER_PEER}
        assert len(source.looked_up) == endpoint.counters.rejected[Reason.NO_PUBLIC_KEY] < 50
        assert agreements == []
        assert not endpoint.groups.current("room")._pairwise
        peer.send(message, where(endpoint))
        async with asyncio.timeout(TIMEOUT):
            await light.wait_for(1)
        assert len(agreements) == 1


async def test_a_window_is_one_for_both_modes() -> None:
    """What has come in one mode is a replay in the other as well."""
    world = world_of(listeners=1)
    kid = world.lamp_ids[0]
    async with lamps(world) as [(endpoint, light)], Peer() as peer:
        to_all, alone = (Member(world, world.switch_ids[0], first=5) for _ in range(2))
        first, _ = to_all.protect(b"to all")
        peer.send(first, to_all.group)
        await light.wait_for(1)
        second, _ = alone.protect(b"alone", to=kid)  # under the same number: no honest member does that
        peer.send(second, where(endpoint))
        await eventually(lambda: endpoint.counters.rejected == {Reason.REPLAY: 1})
        assert light.payloads == [b"to all"]
