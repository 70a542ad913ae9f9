"""Verification skipped or deferred (Appendix E): marked on delivery, reported later, never where it must not be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import aiocoap
import pytest
from devices import Light, answers, eventually, lamps, put, switch
from wire import Member, Peer
from world import BASELINE, BEST_EFFORT, CHALLENGE, World

from groupcoap.core import coap
from groupcoap.core.policy import GroupPolicy, Verification
from groupcoap.core.requests import DecryptedRequest, SignatureState
from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.cose.keys import DEFAULT_SIGNATURE
from groupcoap.endpoint import deferred
from groupcoap.endpoint.deferred import BATCH, DeferredChecks, SourceReport, log_report
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.groups import ListenerPolicy
from groupcoap.endpoint.limits import DEFAULT_LIMITS, Limits
from groupcoap.errors import Limit, Reason

DEFER = ListenerPolicy(verification=Verification.DEFER)
SKIP = ListenerPolicy(verification=Verification.SKIP)


def forger(world: World, *, first: int = 0) -> Member:
    """Another member that speaks as the switch: it has the group's keys, but not the switch's private one."""
    return Member(world, world.switch_ids[0], DEFAULT_SIGNATURE.generate(), first=first)


def honest(world: World, *, first: int = 0) -> Member:
    return Member(world, world.switch_ids[0], first=first)


def states(light: Light) -> list[SignatureState]:
    return [origin.signature for _, origin in light.requests]


def window_of(endpoint: Endpoint, kid: bytes) -> int:
    return endpoint.groups.current("room").recipient(kid).window.highest


# ---- deferred


async def test_delivered_at_once_and_vouched_for_later() -> None:
    world = World(listeners=1)
    reports: list[SourceReport] = []
    async with lamps(world, policy=DEFER, report=reports.append) as [(_, light)], switch(world) as multicaster:
        [answer] = await answers(multicaster.request(put(b"on")))
        assert answer.message.code == aiocoap.CHANGED
        assert states(light) == [SignatureState.DEFERRED]
        await eventually(lambda: reports)
        assert reports == [SourceReport("room", world.gid, world.switch_ids[0], 0, True)]


async def test_an_answer_to_what_is_not_verified_has_a_nonce_of_its_own() -> None:
    """The right to the request's nonce exists only when its signature was verified (§7)."""
    world = World(listeners=1)
    async with lamps(world, policy=DEFER, report=lambda _: None), switch(world) as multicaster:
        [answer] = await answers(multicaster.request(put(b"on")))
        assert answer.provenance.sequence_number == 0


async def test_what_another_member_forged_raises_an_alarm() -> None:
    """And the window stays where the forgery moved it."""
    world = World(listeners=1)
    reports: list[SourceReport] = []
    async with lamps(world, policy=DEFER, report=reports.append) as [(lamp, light)], Peer() as peer:
        bad, good = forger(world, first=40), honest(world)
        peer.send(bad.request(b"forged"), bad.group)
        await light.wait_for(1)
        await eventually(lambda: reports)
        assert reports == [SourceReport("room", world.gid, world.switch_ids[0], 40, False)]
        assert states(light) == [SignatureState.DEFERRED]
        assert window_of(lamp, world.switch_ids[0]) == 40
        peer.send(good.request(b"genuine, but too old now"), good.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.REPLAY: 1})
        assert light.payloads == [b"forged"]
        assert window_of(lamp, world.switch_ids[0]) == 40


async def test_an_alarm_nobody_asked_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = World(listeners=1)
    async with lamps(world, policy=DEFER) as [(_, light)], Peer() as peer:
        for member in (honest(world), forger(world, first=1)):
            peer.send(member.request(), member.group)
        await light.wait_for(2)
        await eventually(lambda: caplog.records)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "ALARM: group room: request 1 was not made by 80, in whose name it came"
    ]


async def test_honest_and_forged_ones_mixed_up_each_get_their_own_report() -> None:
    world = World(listeners=1)
    reports: list[SourceReport] = []
    async with lamps(world, policy=DEFER, report=reports.append) as [(_, light)], Peer() as peer:
        for number in range(3 * BATCH):
            member = (forger if number % 3 == 0 else honest)(world, first=number)
            peer.send(member.request(b"%d" % number), member.group)
        await light.wait_for(3 * BATCH)
        await eventually(lambda: len(reports) == 3 * BATCH)
    assert {r.sequence_number: r.verified for r in reports} == {n: n % 3 != 0 for n in range(3 * BATCH)}


async def test_no_key_is_no_alarm() -> None:
    """Without the sender's key there is nothing to check later: it is looked up, as always."""
    world = World(listeners=1)
    stranger = Member(world, b"\x77")
    reports: list[SourceReport] = []
    source = world.source(world.lamp_ids[0])
    async with lamps(world, policy=DEFER, report=reports.append, source=source) as [(lamp, light)], Peer() as peer:
        peer.send(stranger.request(), stranger.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.NO_PUBLIC_KEY: 1})
        assert source.looked_up == [b"\x77"]
    assert not reports
    assert not light.requests


async def test_what_is_pending_when_the_endpoint_closes_is_still_reported() -> None:
    world = World(listeners=1)
    reports: list[SourceReport] = []
    async with lamps(world, policy=DEFER, report=reports.append) as [(_, light)], Peer() as peer:
        member = honest(world)
        for _ in range(10):
            peer.send(member.request(), member.group)
        await light.wait_for(10)
    assert sorted(r.sequence_number for r in reports) == list(range(10))


# ---- the queue


class Gate:
    """Checks that wait until the test lets them go, in the threads that make them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        real = deferred._check_all

        def check_all(requests: list[DecryptedRequest]) -> list[SourceReport]:
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            self.open.wait(5)
            with self._lock:
                self._now -= 1
            return real(requests)

        monkeypatch.setattr(deferred, "_check_all", check_all)


async def test_the_delivery_path_does_not_wait_for_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several run at a time, off it; when no more may be pending, requests are verified at once."""
    limits = Limits(deferred=2 * BATCH)
    gate = Gate(monkeypatch)
    world = World(listeners=1)
    reports: list[SourceReport] = []
    opened = lamps(world, policy=DEFER, report=reports.append, limits=limits)
    async with opened as [(lamp, light)], Peer() as peer:
        member = honest(world)
        bad = forger(world, first=1000)
        for _ in range(2 * BATCH):
            peer.send(member.request(), member.group)
        await light.wait_for(2 * BATCH)
        assert set(states(light)) == {SignatureState.DEFERRED}
        assert reports == []
        assert lamp.deferred.full
        peer.send(bad.request(), bad.group)  # with the queue full this one is found out at once
        await eventually(lambda: lamp.counters.rejected == {Reason.SIGNATURE_FAILED: 1})
        assert lamp.counters.limited == {Limit.DEFERRED: 1}
        peer.send(member.request(), member.group)
        await light.wait_for(2 * BATCH + 1)
        assert states(light)[-1] is SignatureState.VERIFIED
        gate.open.set()
        await eventually(lambda: len(reports) == 2 * BATCH)
        assert gate.most == deferred.WORKERS
        await eventually(lambda: not lamp.deferred.full)
        peer.send(member.request(), member.group)
        await light.wait_for(2 * BATCH + 2)
        assert states(light)[-1] is SignatureState.DEFERRED


async def test_a_report_that_fails_takes_no_others_with_it(caplog: pytest.LogCaptureFixture) -> None:
    world = World(listeners=1)
    reports: list[int] = []

    def report(found: SourceReport) -> None:
        reports.append(found.sequence_number)
        raise ValueError("the application's own mistake")

    async with lamps(world, policy=DEFER, report=report) as [(lamp, light)], Peer() as peer:
        member = honest(world)
        for _ in range(5):
            peer.send(member.request(), member.group)
        await light.wait_for(5)
        await eventually(lambda: len(reports) == 5)
        assert lamp.deferred._pending == 0
    assert sum("not taken" in record.getMessage() for record in caplog.records) == 5


async def test_an_empty_queue_closes_at_once() -> None:
    checks = DeferredChecks(log_report, DEFAULT_LIMITS)
    await checks.close()
    await checks.close()


# ---- skipped, and decided per request


async def test_skipped_says_so_and_reports_nothing() -> None:
    world = World(listeners=1)
    reports: list[SourceReport] = []
    async with lamps(world, policy=SKIP, report=reports.append) as [(_, light)], Peer() as peer:
        member = forger(world)
        peer.send(member.request(b"some member of the group"), member.group)
        await light.wait_for(1)
        assert states(light) == [SignatureState.SKIPPED]
        assert light.requests[0][1].endpoint_id == world.switch_ids[0]  # the name it came in, no more
    assert reports == []


async def test_outsiders_stay_outside_even_so() -> None:
    world = World(listeners=1)
    outsider = Member(World(gid=world.gid, addresses=world.addresses), world.switch_ids[0])
    async with lamps(world, policy=SKIP) as [(lamp, light)], Peer() as peer:
        peer.send(outsider.request(), outsider.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.DECRYPTION_FAILED: 1})
        assert not light.requests


async def test_decided_per_request() -> None:
    """By code and path: a lamp may be read by any member, but is switched by the switch alone."""
    asked: list[tuple[int, tuple[bytes, ...]]] = []

    def decide(code: int, path: tuple[bytes, ...]) -> Verification:
        asked.append((code, path))
        return Verification.SKIP if code == coap.GET else Verification.ALWAYS

    world = World(listeners=1)
    async with lamps(world, policy=ListenerPolicy(verification=decide)) as [(lamp, light)], Peer() as peer:
        member = forger(world)
        peer.send(member.request(b"", code=coap.GET), member.group)
        await light.wait_for(1)
        assert states(light) == [SignatureState.SKIPPED]
        peer.send(member.request(b"forged", code=coap.PUT), member.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.SIGNATURE_FAILED: 1})
    assert asked == [(coap.GET, (b"light",)), (coap.PUT, (b"light",))]
    assert len(light.requests) == 1


async def test_the_groups_policy_and_a_listener_that_differs() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=BEST_EFFORT, verification=Verification.SKIP))
    for policy, state in (
        (None, SignatureState.SKIPPED),
        (ListenerPolicy(verification=Verification.ALWAYS), SignatureState.VERIFIED),
    ):
        async with lamps(world, policy=policy) as [(_, light)], Peer() as peer:
            member = honest(world)
            peer.send(member.request(), member.group)
            await light.wait_for(1)
            assert states(light) == [state]


# ---- never


@pytest.mark.parametrize("policy", [DEFER, SKIP], ids=["defer", "skip"])
@pytest.mark.parametrize("synchronization", [BASELINE, CHALLENGE], ids=["baseline", "challenge"])
async def test_first_contact_is_always_verified(
    synchronization: SynchronizationPolicy, policy: ListenerPolicy
) -> None:
    """Where it starts a window or causes a challenge."""
    world = World(listeners=1, policy=GroupPolicy(synchronization=synchronization))
    async with lamps(world, policy=policy, report=lambda _: None) as [(lamp, light)], Peer() as peer:
        bad = forger(world, first=100)
        peer.send(bad.request(), bad.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.SIGNATURE_FAILED: 1})
        assert lamp.counters.challenges_sent == 0
        assert list(lamp.groups.current("room").recipients) == []
        assert not light.requests


@pytest.mark.parametrize("policy", [DEFER, SKIP], ids=["defer", "skip"])
async def test_after_baseline_has_begun_it_may_be_waived(policy: ListenerPolicy) -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=BASELINE))
    async with lamps(world, policy=policy, report=lambda _: None) as [(lamp, light)], Peer() as peer:
        member = honest(world)
        peer.send(member.request(), member.group)
        await eventually(lambda: lamp.counters.rejected == {Reason.NOT_SYNCHRONIZED: 1})
        peer.send(member.request(), member.group)
        await light.wait_for(1)
        assert states(light) != [SignatureState.VERIFIED]


@pytest.mark.parametrize("policy", [DEFER, SKIP], ids=["defer", "skip"])
async def test_echoes_are_always_verified(policy: ListenerPolicy) -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=CHALLENGE))
    async with lamps(world, policy=policy, report=lambda _: None) as [(lamp, light)], Peer() as peer:
        good = honest(world)
        message, exchange = good.protect(b"on")
        peer.send(message, good.group)
        challenge = good.answer(exchange, await peer.receive()).message
        assert challenge.code == coap.FORBIDDEN
        repeat = challenge.option(coap.REPEAT)
        assert repeat is not None
        echo: Sequence[tuple[int, bytes]] = ((coap.URI_PATH, b"light"), (coap.REPEAT, repeat))
        bad = forger(world, first=50)
        unicast = lamp.network.local_address(4)
        peer.send(bad.protect(b"on", options=tuple(echo))[0], unicast)
        await eventually(lambda: lamp.counters.rejected == {Reason.SIGNATURE_FAILED: 1})
        peer.send(good.protect(b"on", options=tuple(echo))[0], unicast)
        await light.wait_for(1)
        assert states(light) == [SignatureState.VERIFIED]
        assert window_of(lamp, world.switch_ids[0]) == 1


@pytest.mark.parametrize("policy", [DEFER, SKIP], ids=["defer", "skip"])
async def test_so_are_echoes_of_a_second_challenge(policy: ListenerPolicy) -> None:
    """Which come when the first one's has synchronized already."""
    synchronization = SynchronizationPolicy(rechallenge_after=0.0)
    world = World(listeners=1, policy=GroupPolicy(synchronization=synchronization))
    async with lamps(world, policy=policy, report=lambda _: None) as [(lamp, light)], Peer() as peer:
        good, bad = honest(world), forger(world, first=50)
        unicast = lamp.network.local_address(4)
        echoes = []
        for _ in range(2):
            message, exchange = good.protect(b"on")
            peer.send(message, good.group)
            repeat = good.answer(exchange, await peer.receive()).message.option(coap.REPEAT)
            assert repeat is not None
            echoes.append(((coap.URI_PATH, b"light"), (coap.REPEAT, repeat)))
        peer.send(good.protect(b"on", options=echoes[0])[0], unicast)
        await light.wait_for(1)
        peer.send(bad.protect(b"on", options=echoes[1])[0], unicast)
        await eventually(lambda: lamp.counters.rejected == {Reason.SIGNATURE_FAILED: 1})
        assert window_of(lamp, world.switch_ids[0]) == 2
        peer.send(good.protect(b"on", options=echoes[1])[0], unicast)
        await light.wait_for(2)
        assert set(states(light)) == {SignatureState.VERIFIED}


@pytest.mark.parametrize("policy", [DEFER, SKIP], ids=["defer", "skip"])
async def test_a_step_that_ends_synchronization_is_always_verified(policy: ListenerPolicy) -> None:
    """A forged number far ahead must not cause a challenge, nor move the window."""
    synchronization = SynchronizationPolicy(max_gap=100)
    world = World(listeners=1, policy=GroupPolicy(synchronization=synchronization))
    async with lamps(world, policy=policy, report=lambda _: None) as [(lamp, light)], switch(world) as multicaster:
        await answers(multicaster.request(put(b"on")))
        async with Peer() as peer:
            bad = forger(world, first=1000)
            peer.send(bad.request(), bad.group)
            await eventually(lambda: lamp.counters.rejected == {Reason.SIGNATURE_FAILED: 1})
        assert lamp.counters.challenges_sent == 1
        await answers(multicaster.request(put(b"still in step")))
        assert light.payloads == [b"on", b"still in step"]
        assert lamp.counters.challenges_sent == 1


async def test_threads_are_started_only_when_there_is_something_to_check() -> None:
    before = set(threading.enumerate())
    world = World(listeners=1)
    async with lamps(world) as [(_, light)], switch(world) as multicaster:
        await answers(multicaster.request(put(b"on")))
        assert states(light) == [SignatureState.VERIFIED]
        started = set(threading.enumerate()) - before
        assert not [thread for thread in started if thread.name.startswith("countersignatures")]
    await asyncio.sleep(0)
