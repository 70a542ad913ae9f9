"""What reviewers found in the second profile, each with the test that would have shown it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import aiocoap
import pytest
from devices import TIMEOUT, answers, get, lamps, put, switch
from suites import COUNTER_MODE, DRAFT, GROUP_MODE_ONLY, GROUP_OSCORE, Suite
from world import BEST_EFFORT, Source, World

from groupcoap.core.contexts import SecurityContext
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.profile import Mode
from groupcoap.cose import keys
from groupcoap.cose.keys import PublicKey
from groupcoap.endpoint.layers import ends_observation
from groupcoap.endpoint.limits import Limits
from groupcoap.endpoint.lookups import FIRST_BACKOFF, CredentialLookups
from groupcoap.endpoint.network import SocketAddress
from groupcoap.errors import Busy, MisuseError, Reason, Rejected
from groupcoap.membership import EpochInstalled, MemberLeft
from groupcoap.secret import Secret

GRACE = GroupPolicy(synchronization=BEST_EFFORT, grace=60.0)


@pytest.mark.parametrize("mode", [None, Mode.GROUP])
@pytest.mark.parametrize("suite", [DRAFT, GROUP_MODE_ONLY], ids=["draft", "group-mode-only"])
async def test_no_command_for_one_alone_is_sent_where_it_could_be_turned_to_all(
    suite: Suite, mode: Mode | None
) -> None:
    """Listeners refuse it by unicast; whoever is on the path could repeat it by multicast."""
    world = World(listeners=2, suite=suite)
    async with lamps(world) as opened, switch(world) as multicaster:
        sent: list[bytes] = []
        network = multicaster.endpoint.network
        network.send = lambda datagram, destination: sent.append(datagram)  # type: ignore[method-assign]
        with pytest.raises(MisuseError, match="GET and FETCH"):
            multicaster.ask(world.lamp_ids[0], put(b"open"), opened[0][0].network.local_address(4), mode=mode)
        assert sent == []


class LateSource(Source):
    """Has a renewal that is found only when somebody looks for it."""

    found: EpochInstalled | None = None

    def refresh(self) -> None:
        super().refresh()
        event, self.found = self.found, None
        if event is not None:
            self.configurations[0] = event.configuration
            self.tell(event)


async def test_the_first_request_for_one_alone_under_a_new_gid_is_a_sign_of_the_renewal() -> None:
    """Without the Group Flag and with a Gid that is not known it looks like a request of RFC 8613."""
    world = World(listeners=1, suite=GROUP_OSCORE)
    kid, switch_id = world.lamp_ids[0], world.switch_ids[0]
    lamp_source, switch_source = LateSource([world.configuration(kid)]), world.source(switch_id)
    async with (
        lamps(world, source=lamp_source) as [(lamp, _)],
        switch(world, source=switch_source) as multicaster,
    ):
        before = lamp_source.configurations[0]
        world.renew({switch_id: switch_source})
        lamp_source.found = EpochInstalled(replace(before, epochs=(*before.epochs, world.epoch(kid))))
        got = await answers(multicaster.ask(kid, get(), lamp.network.local_address(4), timeout=TIMEOUT))
        assert [answer.endpoint_id for answer in got] == [kid]
        assert Reason.NOT_PROTECTED not in lamp.counters.rejected


@pytest.mark.parametrize("suite", [GROUP_OSCORE, COUNTER_MODE], ids=["AEAD", "counter mode"])
async def test_a_notification_of_who_has_not_renewed_yet_is_taken(suite: Suite) -> None:
    """It says no Gid: an encryption without tag does not tell which Security Context it is under."""
    world = World(listeners=1, suite=suite)
    switch_id = world.switch_ids[0]
    source = world.source(switch_id)
    async with (
        lamps(world) as [(_, light)],
        switch(world, source=source) as multicaster,
        multicaster.observe(get(), refresh=60) as observation,
        asyncio.timeout(TIMEOUT),
    ):
        notifications = aiter(observation)
        await anext(notifications)
        world.renew({switch_id: source})
        light.state = b"later"
        light.updated_state()
        assert (await anext(notifications)).message.payload == b"later"


@pytest.fixture
def agreements(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The public keys that secrets were agreed on with."""
    made: list[bytes] = []
    agree = keys.Ed25519PrivateKey.agree

    def counted(self: keys.Ed25519PrivateKey, other: PublicKey) -> Secret:
        made.append(other.data)
        return agree(self, other)

    monkeypatch.setattr(keys.Ed25519PrivateKey, "agree", counted)
    return made


async def test_forgeries_under_an_old_gid_cost_one_key_agreement_as_well(agreements: list[bytes]) -> None:
    """Old pairwise keys go with a renewal (§2.5.1); in the grace they are derived again, once."""
    world = World(listeners=1, suite=GROUP_OSCORE, policy=GRACE)
    kid, switch_id = world.lamp_ids[0], world.switch_ids[0]
    source = world.source(kid)
    async with lamps(world, source=source) as [(lamp, _)]:
        old = lamp.groups.current("room")
        old.pairwise(old.recipient(switch_id))
        assert len(agreements) == 1
        world.renew({kid: source})
        assert old.accepts_requests
        for _ in range(50):
            old.pairwise(old.recipient(switch_id))
        assert len(agreements) == 2


class Directory:
    """A source of credentials that knows nobody, until it is told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.known = False
        self.asked = 0
        self.lookups = CredentialLookups(self, self._learn, Limits(waiting_per_lookup=3))  # type: ignore[arg-type]

    async def credential(self, group: str, gid: bytes, endpoint_id: bytes) -> object:
        self.asked += 1
        await asyncio.sleep(0)
        return "a credential" if self.known else None

    def _learn(self, group: str, gid: bytes, endpoint_id: bytes, credential: object) -> PublicKey:
        return self.world.keys[self.world.switch_ids[0]].public_key

    def ask(self, context: SecurityContext, host: str, now: float, *, unverified: bool) -> list[PublicKey | None]:
        found: list[PublicKey | None] = []
        kid = self.world.switch_ids[0]
        self.lookups.request(context, kid, host, now, found.append, unverified=unverified)
        return found


@pytest.mark.parametrize("unverified", [True, False])
async def test_who_is_not_found_on_account_of_an_outsider_is_found_for_others(unverified: bool) -> None:
    """Only what a member has sent keeps everybody from looking again."""
    world = World(listeners=1, suite=GROUP_OSCORE)
    directory = Directory(world)
    async with lamps(world) as [(lamp, _)]:
        context, now = lamp.groups.current("room"), asyncio.get_running_loop().time()
        assert directory.ask(context, "192.0.2.66", now, unverified=unverified) == []
        await asyncio.sleep(0.01)
        directory.known = True
        with pytest.raises(Rejected, match="not found"):
            directory.ask(context, "192.0.2.66", now + FIRST_BACKOFF / 2, unverified=unverified)
        if unverified:
            found = directory.ask(context, "192.0.2.1", now + FIRST_BACKOFF / 2, unverified=True)
            await asyncio.sleep(0.01)
            assert found == [world.keys[world.switch_ids[0]].public_key]
        else:
            with pytest.raises(Rejected, match="not found"):
                directory.ask(context, "192.0.2.1", now + FIRST_BACKOFF / 2, unverified=False)
        await directory.lookups.close()


async def test_the_many_messages_of_one_host_make_room_for_one_of_another() -> None:
    world = World(listeners=1, suite=GROUP_OSCORE)
    directory = Directory(world)
    directory.known = True
    async with lamps(world) as [(lamp, _)]:
        context, now = lamp.groups.current("room"), asyncio.get_running_loop().time()
        crowd = [directory.ask(context, "192.0.2.66", now, unverified=True) for _ in range(3)]
        with pytest.raises(Busy):
            directory.ask(context, "192.0.2.66", now, unverified=True)
        found = directory.ask(context, "192.0.2.1", now, unverified=True)
        await asyncio.sleep(0.01)
        assert [len(one) for one in crowd] == [1, 1, 0]
        assert len(found) == 1
        assert directory.asked == 1
        await directory.lookups.close()


@pytest.mark.parametrize("suite", [DRAFT, GROUP_OSCORE], ids=["draft", "group-oscore"])
async def test_who_leaves_is_not_heard_under_the_gid_before_either(suite: Suite) -> None:
    world = World(listeners=1, suite=suite, policy=GRACE)
    kid, switch_id = world.lamp_ids[0], world.switch_ids[0]
    source = world.source(kid)
    async with lamps(world, source=source) as [(lamp, light)], switch(world) as multicaster:
        world.renew({kid: source})
        source.tell(MemberLeft("room", world.gid, frozenset({switch_id})))
        assert await answers(multicaster.request(put(b"after leaving"), timeout=0.3)) == []
        assert light.payloads == []
        assert lamp.counters.rejected[Reason.UNKNOWN_SENDER] == 1


@pytest.mark.parametrize("missed", [False, True])
async def test_there_is_no_grace_after_a_renewal_that_was_missed(missed: bool) -> None:
    """Who knows that it has missed one deletes what is older (Group OSCORE §12.2)."""
    world = World(listeners=1, suite=GROUP_OSCORE, policy=GRACE)
    kid = world.lamp_ids[0]
    source = world.source(kid)
    async with lamps(world, source=source) as [(lamp, _)]:
        old = lamp.groups.current("room")
        if missed:
            world.renew({})
        world.renew({kid: source})
        assert lamp.groups.current("room").gid == world.gid
        assert old.accepts_requests is not missed


@pytest.mark.parametrize(("suite", "ends"), [(DRAFT, False), (GROUP_OSCORE, True)], ids=["draft", "group-oscore"])
async def test_an_answer_without_observe_ends_an_observation_where_that_is_authentic(
    suite: Suite, ends: bool
) -> None:
    """In the draft's profile Observe is outside, and whoever is on the path may have taken it away."""
    world = World(listeners=1, suite=suite)
    kid = world.lamp_ids[0]
    async with lamps(world) as [(lamp, _)], switch(world) as multicaster:
        address: SocketAddress = lamp.network.local_address(4)
        (answer,) = await answers(multicaster.ask(kid, get(), address, timeout=TIMEOUT))
        provenance = replace(answer.provenance, sequence_number=7)
        answer.message.remote.provenance = provenance
        assert answer.message.opt.observe is None
        assert answer.message.code is aiocoap.CONTENT
        assert ends_observation(answer.message) is ends
