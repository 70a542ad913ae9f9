"""Credentials that are not in the configuration: looked up once AEAD has passed, asynchronously and bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

import pytest
import suites
from devices import answers, eventually, lamps, put, switch
from wire import Member, Peer
from world import Source, World

from groupcoap.core import coap
from groupcoap.core.contexts import SecurityContext
from groupcoap.core.requests import SignatureState
from groupcoap.cose.credentials import Credential, CredentialKind
from groupcoap.cose.keys import DEFAULT_SIGNATURE, PublicKey
from groupcoap.endpoint import lookups
from groupcoap.endpoint.limits import Limits
from groupcoap.endpoint.lookups import FIRST_BACKOFF, MAX_BACKOFF, CredentialLookups
from groupcoap.errors import Busy, EnvironmentFault, Limit, Reason, Rejected
from groupcoap.membership import GroupConfiguration, MemberLeft

pytestmark = pytest.mark.usefixtures("each_profile")

STRANGER = b"\x77"
LIMITS = Limits(lookups=8, waiting_per_lookup=3, not_found=16)
HOST = "192.0.2.1"


class SlowSource(Source):
    """Answers when the test says so."""

    def __init__(self, configurations: Iterable[GroupConfiguration]) -> None:
        super().__init__(configurations)
        self.answer = asyncio.Event()
        self.asked = asyncio.Event()
        self.problem: Exception | None = None

    async def credential(self, group: str, gid: bytes, endpoint_id: bytes) -> Credential | None:
        self.looked_up.append(endpoint_id)
        self.asked.set()
        await self.answer.wait()
        if self.problem is not None:
            raise self.problem
        return self.credentials.get(endpoint_id)


async def test_a_request_waits_for_its_senders_credential() -> None:
    world = World(listeners=1)
    stranger = Member(world, STRANGER)
    source = SlowSource([world.configuration(world.lamp_ids[0])])
    source.credentials[STRANGER] = world.suite.credential(stranger.key.public_key)
    async with lamps(world, source=source) as [(lamp, light)], switch(world) as multicaster, Peer() as peer:
        peer.send(stranger.request(b"from a stranger"), stranger.group)
        await source.asked.wait()
        assert light.payloads == []
        # Meanwhile the others are served.
        await answers(multicaster.request(put(b"from the switch")))
        assert light.payloads == [b"from the switch"]
        source.answer.set()
        await light.wait_for(2)
        payload, origin = light.requests[1]
        assert (payload, origin.endpoint_id, origin.signature) == (
            b"from a stranger",
            STRANGER,
            SignatureState.VERIFIED,
        )
        # From now on the key is at hand.
        peer.send(stranger.request(b"again"), stranger.group)
        await light.wait_for(3)
        assert source.looked_up == [STRANGER]
        assert not lamp.counters.rejected


async def test_its_answer_comes_and_can_be_verified() -> None:
    world = World(listeners=1)
    stranger = Member(world, STRANGER)
    source = world.source(world.lamp_ids[0])
    source.credentials[STRANGER] = world.suite.credential(stranger.key.public_key)
    async with lamps(world, source=source), Peer() as peer:
        message, exchange = stranger.protect()
        peer.send(message, stranger.group)
        delivered = stranger.answer(exchange, await peer.receive())
        assert (delivered.sender_id, delivered.message.code) == (world.lamp_ids[0], coap.CHANGED)


async def test_an_answer_waits_for_its_senders_credential_too() -> None:
    """A lamp that the switch's configuration does not know yet."""
    world = World(listeners=1)
    lamp_id = world.lamp_ids[0]
    newcomers = World(
        listeners=0,
        keys=dict(world.keys),
        secret=world.secret,
        salt=world.salt,
        gid=world.gid,
        addresses=world.addresses,
    )
    source = newcomers.source(world.switch_ids[0])
    source.credentials[lamp_id] = world.suite.credential(world.keys[lamp_id].public_key)
    async with lamps(world), switch(newcomers, source=source) as multicaster:
        async with multicaster.request(put(b"on"), roster=[lamp_id]) as collection:
            got = await answers(collection)
        assert [(a.endpoint_id, a.provenance.signature) for a in got] == [(lamp_id, SignatureState.VERIFIED)]
        assert source.looked_up == [lamp_id]


async def test_nobody_knows_the_sender() -> None:
    world = World(listeners=1)
    stranger = Member(world, STRANGER)
    source = world.source(world.lamp_ids[0])
    async with lamps(world, source=source) as [(lamp, light)], Peer() as peer:
        peer.send(stranger.request(), stranger.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.NO_PUBLIC_KEY: 1})
        for _ in range(5):  # a short while ago nobody knew it
            peer.send(stranger.request(), stranger.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.NO_PUBLIC_KEY: 6})
        assert source.looked_up == [STRANGER]
        assert light.requests == []


async def test_the_senders_credential_is_another_key() -> None:
    world = World(listeners=1)
    stranger = Member(world, STRANGER)
    source = world.source(world.lamp_ids[0])
    source.credentials[STRANGER] = world.suite.credential(DEFAULT_SIGNATURE.generate().public_key)
    async with lamps(world, source=source) as [(lamp, light)], Peer() as peer:
        peer.send(stranger.request(), stranger.group)
        # Where messages are bound to it, nothing can be decrypted with another credential.
        reason = Reason.DECRYPTION_FAILED if world.suite.bound else Reason.SIGNATURE_FAILED
        await eventually(lambda: lamp.counters.rejected == {reason: 1})
        assert light.requests == []


async def test_who_is_no_member_causes_no_look_up_unless_it_takes_the_credential_to_tell() -> None:
    """AEAD goes first: outsiders cost nothing but its time. Where it takes the credential it cannot."""
    world = World(listeners=1)
    outsider = Member(World(gid=world.gid, addresses=world.addresses), STRANGER)
    source = world.source(world.lamp_ids[0])
    async with lamps(world, source=source) as [(lamp, _)], Peer() as peer:
        peer.send(outsider.request(), outsider.group)
        reason = Reason.NO_PUBLIC_KEY if world.suite.bound else Reason.DECRYPTION_FAILED
        await eventually(lambda: lamp.counters.rejected == {reason: 1})
        assert source.looked_up == ([STRANGER] if world.suite.bound else [])


async def test_only_so_many_messages_of_one_sender_wait_and_each_is_delivered_once() -> None:
    world = World(listeners=1)
    stranger = Member(world, STRANGER)
    source = SlowSource([world.configuration(world.lamp_ids[0])])
    source.credentials[STRANGER] = world.suite.credential(stranger.key.public_key)
    async with lamps(world, source=source, limits=LIMITS) as [(lamp, light)], Peer() as peer:
        for number in range(5):
            peer.send(stranger.request(b"%d" % number), stranger.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.BUSY: 2})
        assert lamp.counters.limited == {Limit.WAITING_PER_LOOKUP: 2}
        source.answer.set()
        await light.wait_for(3)
        assert light.payloads == [b"0", b"1", b"2"]
        assert source.looked_up == [STRANGER]


async def test_the_same_datagram_twice_while_its_sender_is_looked_up() -> None:
    world = World(listeners=1)
    stranger = Member(world, STRANGER)
    source = SlowSource([world.configuration(world.lamp_ids[0])])
    source.credentials[STRANGER] = world.suite.credential(stranger.key.public_key)
    async with lamps(world, source=source) as [(lamp, light)], Peer() as peer:
        datagram = stranger.request(b"once")
        peer.send(datagram, stranger.group)
        peer.send(datagram, stranger.group)
        await source.asked.wait()
        source.answer.set()
        await eventually(lambda: lamp.counters.rejected == {Reason.REPLAY: 1})
        assert light.payloads == [b"once"]


async def test_a_retransmission_while_the_sender_is_looked_up_is_no_replay() -> None:
    """It is the same confirmable message, and is answered as such: no error goes out."""
    world = World(listeners=1)
    stranger = Member(world, STRANGER)
    source = SlowSource([world.configuration(world.lamp_ids[0])])
    source.credentials[STRANGER] = world.suite.credential(stranger.key.public_key)
    async with lamps(world, source=source) as [(lamp, light)], Peer() as peer:
        message, exchange = stranger.protect(b"", code=coap.GET, kind=coap.CON)
        for _ in range(2):
            peer.send(message, lamp.network.local_address(4))
        await source.asked.wait()
        source.answer.set()
        answer = await peer.receive()
        assert stranger.answer(exchange, answer).message.payload == b"off"
        assert len(light.requests) == 1
        assert lamp.counters.errors_sent == 0
        peer.send(message, lamp.network.local_address(4))
        assert await peer.receive() == answer


async def test_a_member_that_left_while_it_was_looked_up() -> None:
    world = World(listeners=1)
    stranger = Member(world, STRANGER)
    source = SlowSource([world.configuration(world.lamp_ids[0])])
    source.credentials[STRANGER] = world.suite.credential(stranger.key.public_key)
    async with lamps(world, source=source) as [(lamp, light)], Peer() as peer:
        peer.send(stranger.request(), stranger.group)
        await source.asked.wait()
        source.tell(MemberLeft("room", world.gid, frozenset((STRANGER,))))
        source.answer.set()
        await eventually(lambda: lamp.counters.rejected == {Reason.UNKNOWN_SENDER: 1})
        assert light.requests == []


@pytest.mark.parametrize("problem", [EnvironmentFault("the manager does not answer"), None], ids=["fault", "time"])
async def test_the_source_fails(
    problem: Exception | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With an error, or by taking too long. One line in the log; the endpoint goes on."""
    if problem is None:
        monkeypatch.setattr(lookups, "TIMEOUT", 0.05)
    world = World(listeners=1)
    stranger = Member(world, STRANGER)
    source = SlowSource([world.configuration(world.lamp_ids[0])])
    source.problem = problem
    if problem is not None:
        source.answer.set()
    with caplog.at_level(logging.WARNING, "groupcoap.lookups"):
        async with lamps(world, source=source) as [(lamp, light)], switch(world) as multicaster, Peer() as peer:
            peer.send(stranger.request(), stranger.group)
            await eventually(lambda: lamp.counters.rejected == {Reason.NO_PUBLIC_KEY: 1})
            await answers(multicaster.request(put(b"on")))
            assert light.payloads == [b"on"]
    assert len(caplog.records) == 1


async def test_closing_gives_up_what_is_under_way() -> None:
    world = World(listeners=1)
    stranger = Member(world, STRANGER)
    source = SlowSource([world.configuration(world.lamp_ids[0])])
    source.credentials[STRANGER] = world.suite.credential(stranger.key.public_key)
    async with lamps(world, source=source) as [(_, light)], Peer() as peer:
        peer.send(stranger.request(), stranger.group)
        await source.asked.wait()
    source.answer.set()
    assert light.requests == []
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


# ---- the table itself, with times as arguments


def make() -> tuple[CredentialLookups, Source, SecurityContext, dict[bytes, Credential]]:
    """`learned`: what would have become known to the group."""
    world = World()
    source = world.source(world.lamp_ids[0])
    learned: dict[bytes, Credential] = {}

    def learn(group: str, gid: bytes, kid: bytes, credential: Credential) -> PublicKey:
        """As `Groups.learn`: nothing is learned of a credential that is not usable."""
        parameters = world.suite.parameters
        key = credential.public_key(parameters.signature)
        parameters.authenticated(credential)
        learned[kid] = credential
        return key

    table = CredentialLookups(source, learn, LIMITS)
    return table, source, Member(world, world.lamp_ids[0]).context, learned


async def ask(
    table: CredentialLookups, context: SecurityContext, kid: bytes, now: float, host: str = HOST
) -> PublicKey | None:
    answered: asyncio.Future[PublicKey | None] = asyncio.get_running_loop().create_future()
    table.request(context, kid, host, now, answered.set_result)
    return await answered


async def test_each_time_the_wait_is_twice_as_long() -> None:
    table, source, context, _ = make()
    now = asyncio.get_running_loop().time()
    backoff = FIRST_BACKOFF
    for attempt in range(1, 12):
        assert await ask(table, context, STRANGER, now) is None
        assert len(source.looked_up) == attempt
        until_then, waited = table._not_found._entries[("room", context.gid, STRANGER), None][1]
        assert waited == backoff
        with pytest.raises(Rejected) as caught:
            table.request(context, STRANGER, HOST, until_then - 0.01, lambda key: None)
        assert caught.value.reason is Reason.NO_PUBLIC_KEY
        now = until_then
        backoff = min(2 * backoff, MAX_BACKOFF)
    assert waited == MAX_BACKOFF
    assert len(source.looked_up) == 11


async def test_what_one_host_has_invented_does_not_count_against_another() -> None:
    """Where nothing has been verified, anybody may have named a member whose credential is not there yet."""
    table, source, context, _ = make()
    now = asyncio.get_running_loop().time()
    answered: list[PublicKey | None] = []
    for host in (HOST, "192.0.2.2"):
        answered.clear()
        source.looked_up.clear()
        table.request(context, STRANGER, host, now, answered.append, unverified=True)
        await eventually(lambda: len(answered) == len(source.looked_up) > 0)
        with pytest.raises(Rejected) as caught:
            table.request(context, STRANGER, host, now, answered.append, unverified=True)
        assert caught.value.reason is Reason.NO_PUBLIC_KEY
        assert source.looked_up == [STRANGER]
    await table.close()


async def test_who_waits_with_many_makes_room_for_others() -> None:
    world = World()
    source = SlowSource([world.configuration(world.lamp_ids[0])])
    context = Member(world, world.lamp_ids[0]).context
    table = CredentialLookups(source, lambda *_: world.keys[world.lamp_ids[0]].public_key, LIMITS)
    found: list[str] = []

    def waiting(host: str, number: int) -> None:
        table.request(context, STRANGER, host, 0.0, lambda key: found.append(f"{host} {number}"))

    for number in range(LIMITS.waiting_per_lookup):
        waiting("a", number)
    for host in ("b", "c"):
        waiting(host, 0)
    for host in ("a", "b", "d"):  # one place for each now
        with pytest.raises(Busy) as caught:
            waiting(host, 1)
        assert caught.value.limit is Limit.WAITING_PER_LOOKUP
    source.credentials[STRANGER] = world.suite.credential(DEFAULT_SIGNATURE.generate().public_key)
    source.answer.set()
    await eventually(lambda: len(found) == LIMITS.waiting_per_lookup)
    assert found == ["a 0", "b 0", "c 0"]
    await table.close()


async def test_found_after_all() -> None:
    table, source, context, learned = make()
    now = asyncio.get_running_loop().time()
    assert await ask(table, context, STRANGER, now) is None
    key = DEFAULT_SIGNATURE.generate().public_key
    source.credentials[STRANGER] = credential = suites.default.credential(key)
    later = now + FIRST_BACKOFF + 1
    found = await ask(table, context, STRANGER, later)
    assert found is not None
    assert found.data == key.data
    assert learned == {STRANGER: credential}
    assert await ask(table, context, STRANGER, later) is not None  # the bad memory is gone


async def test_a_credential_without_a_key_of_the_groups_algorithm() -> None:
    table, source, context, learned = make()
    source.credentials[STRANGER] = Credential(CredentialKind.CCS, b"\xa0")
    assert await ask(table, context, STRANGER, 0.0) is None
    assert learned == {}


async def test_a_raw_key_where_messages_are_bound_to_credentials() -> None:
    """It says nothing of its algorithm (Group OSCORE §2.4)."""
    table, source, context, learned = make()
    key = DEFAULT_SIGNATURE.generate().public_key
    source.credentials[STRANGER] = Credential(CredentialKind.RAW_KEY, key.data)
    found = await ask(table, context, STRANGER, 0.0)
    assert (found is None) == suites.default.bound
    assert (learned == {}) == suites.default.bound


async def test_only_so_many_look_ups_at_once() -> None:
    world = World()
    source = SlowSource([world.configuration(world.lamp_ids[0])])
    context = Member(world, world.lamp_ids[0]).context
    nobody = world.keys[world.lamp_ids[0]].public_key
    table = CredentialLookups(source, lambda *_: nobody, LIMITS)
    found: list[PublicKey | None] = []
    for number in range(LIMITS.lookups):
        table.request(context, number.to_bytes(2, "big"), HOST, 0.0, found.append)
    with pytest.raises(Busy) as caught:
        table.request(context, STRANGER, HOST, 0.0, found.append)
    assert caught.value.limit is Limit.LOOKUPS
    source.answer.set()
    await eventually(lambda: len(found) == LIMITS.lookups)
    assert await ask(table, context, STRANGER, 0.0) is None  # there is room again
    await table.close()


async def test_the_memory_of_who_was_not_found_is_bounded() -> None:
    table, source, context, _ = make()
    for number in range(1000):
        await ask(table, context, number.to_bytes(2, "big"), float(number))
    assert len(table._not_found) == LIMITS.not_found
    assert len(source.looked_up) == 1000
    await table.close()


async def test_who_invents_senders_uses_up_the_rate_of_its_own_host() -> None:
    table, source, context, _ = make()
    refused: list[Limit] = []
    for number in range(1000):
        try:
            await ask(table, context, number.to_bytes(2, "big"), 0.0)
        except Busy as busy:
            refused.append(busy.limit)
    assert len(source.looked_up) == 2 * LIMITS.lookup_rate_per_peer
    assert set(refused) == {Limit.LOOKUP_RATE_PER_PEER}
    assert await ask(table, context, STRANGER, 0.0, "192.0.2.2") is None  # another host's share is still there
    assert source.looked_up[-1] == STRANGER
    await table.close()


async def test_all_hosts_together_have_a_rate_too() -> None:
    table, source, context, _ = make()
    for number in range(1000):
        with suppress(Busy):
            await ask(table, context, number.to_bytes(2, "big"), 0.0, f"192.0.2.{number % 256}")
    assert len(source.looked_up) == 2 * LIMITS.lookup_rate
    await table.close()
