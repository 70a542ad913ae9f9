"""Twenty hosts on a hub that loses, delays and repeats datagrams: every answer is delivered or named missing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from itertools import cycle

import aiocoap
import pytest
from children import Child, Link
from devices import Light, answers, eventually, get, light_site, put
from namespaces import Host, Lan, why_not
from relay import FAIR, Weather
from suites import DRAFT, GROUP_OSCORE, Suite
from world import BASELINE, BEST_EFFORT, CHALLENGE, Source, World

from groupcoap.core.policy import GroupPolicy
from groupcoap.endpoint import endpoint as endpoint_module
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Multicaster, Observation
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.membership import GroupAddress

pytestmark = pytest.mark.namespaces

LISTENERS = 19  # and the multicaster: twenty hosts
QUICK = aiocoap.TransportTuning()
QUICK.ACK_TIMEOUT = 0.1
MAX_ROUNDS = 60
ROUND = 0.3
LAST = b"last"

METHODS = {
    "best effort": BEST_EFFORT,
    "baseline": BASELINE,
    "challenge": replace(CHALLENGE, rechallenge_after=0.1),
}


def weather(loss: float) -> Weather:
    return Weather(loss=loss, repeated=0.1, delayed=0.3, delay=0.05)


@pytest.fixture(autouse=True)
def _possible() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(seed=4) as made:
        yield made


@dataclass(frozen=True)
class Building:
    """A group for each synchronization method, all with the same members and with addresses of both IP versions.
    They are protected with the suites in turn."""

    worlds: tuple[World, ...]

    @classmethod
    def new(cls, *suites: Suite, without: str = "") -> Building:
        worlds = []
        for number, ((name, method), suite) in enumerate(zip(METHODS.items(), cycle(suites), strict=False), 1):
            if name == without:
                continue
            addresses = (
                GroupAddress(IPv4Address(f"239.1.2.{number}")),
                GroupAddress(IPv6Address(f"ff35:30:2001:db8::{number}")),
            )
            policy = GroupPolicy(synchronization=method)
            worlds.append(World(name, listeners=LISTENERS, addresses=addresses, policy=policy, suite=suite))
        return cls(tuple(worlds))

    @property
    def lamp_ids(self) -> list[bytes]:
        return self.worlds[0].lamp_ids

    @property
    def switch_id(self) -> bytes:
        return self.worlds[0].switch_ids[0]

    def endpoint(self, kid: bytes) -> Endpoint:
        source = Source([world.configuration(kid) for world in self.worlds])
        network = NetworkOptions(interface=Host.interface)
        return self.worlds[0].endpoint(kid, source=source, network=network, leisure=0.05)


# ---- what runs in the namespaces


class Lamp(Light):
    """Says in its answer who it is and what it was asked for."""

    def __init__(self, kid: bytes) -> None:
        super().__init__()
        self.kid = kid

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        answer = await super().render_put(request)
        answer.payload = self.kid + request.payload
        return answer


async def change(resource: Lamp) -> None:
    """Several states in quick succession, the last of them `LAST`."""
    for state in (b"1", b"2", b"3", LAST):
        resource.state = state
        resource.updated_state()
        await asyncio.sleep(0.02)


async def account(endpoint: Endpoint, datagrams: object) -> None:
    """Until exactly so many datagrams were delivered, or refused with a reason; None: never mind."""
    counters = endpoint.counters

    def accounted_for() -> int:
        return counters.delivered_requests + counters.delivered_responses + sum(counters.rejected.values())

    await eventually(lambda: datagrams in (None, accounted_for()))


async def lamp(link: Link, building: Building, kid: bytes) -> dict[str, list[bytes]]:
    """A listener of all groups until it is told how many datagrams have come. Returns what was asked of it."""
    endpoint_module.REJOIN_INTERVAL = 0.05
    lamps = {world.name: Lamp(kid) for world in building.worlds}
    async with building.endpoint(kid) as endpoint:
        for name, resource in lamps.items():
            Listener(endpoint, light_site(resource), [name])
        link.tell("ready")
        while (what := await link.told()) == "change":
            for resource in lamps.values():
                await change(resource)
            link.tell("changed")
        await account(endpoint, what)
    return {name: resource.payloads for name, resource in lamps.items()}


@dataclass(frozen=True)
class Round:
    """One group request, and who was found to have answered, or not."""

    payload: bytes
    roster: frozenset[bytes]
    answered: frozenset[bytes]
    missing: frozenset[bytes]


async def one_round(
    multicaster: Multicaster, payload: bytes, roster: frozenset[bytes], hosts: dict[bytes, str]
) -> Round:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    request = put(payload)
    request.transport_tuning = QUICK
    collection = multicaster.request(request, timeout=ROUND, roster=roster)
    got = await answers(collection)
    for answer in got:
        assert answer.message.payload == answer.endpoint_id + payload
        assert answer.address[0] == hosts[answer.endpoint_id]
    assert len(got) == len(collection.answered)
    assert {answer.endpoint_id for answer in got} == collection.answered
    if collection.missing:
        assert loop.time() - begun >= ROUND
    return Round(payload, roster, collection.answered, collection.missing)


async def reach_all(multicaster: Multicaster, hosts: dict[bytes, str], most: int) -> list[Round]:
    """Ask again whoever is missing, until nobody is, or so often."""
    rounds: list[Round] = []
    missing = multicaster.listeners
    while missing and len(rounds) < most:
        rounds.append(await one_round(multicaster, b"round %d" % len(rounds), missing, hosts))
        missing = rounds[-1].missing
    return rounds


async def ask_all(link: Link, building: Building, version: int, hosts: dict[bytes, str]) -> None:
    """Reach all listeners of all groups, or try it once, whenever the test says so, at the addresses of this IP
    version; until it is told how many datagrams have come."""
    endpoint_module.REJOIN_INTERVAL = 0.05
    async with building.endpoint(building.switch_id) as endpoint:
        multicasters = [Multicaster(endpoint, w.name, w.addresses[version == 6]) for w in building.worlds]
        link.tell("ready")
        while (what := await link.told()) in ("once", "all"):
            most = 1 if what == "once" else MAX_ROUNDS
            found = await asyncio.gather(*(reach_all(m, hosts, most) for m in multicasters))
            link.tell({m.group: rounds for m, rounds in zip(multicasters, found, strict=True)})
        await account(endpoint, what)


async def observe_all(link: Link, building: Building) -> None:
    """Observe all listeners of all groups, until the test says that the last state of each must appear."""
    async with building.endpoint(building.switch_id) as endpoint, AsyncExitStack() as stack:
        request = get()
        request.transport_tuning = QUICK
        observations = []
        for world in building.worlds:
            observed = Multicaster(endpoint, world.name).observe(request, refresh=0.2)
            observations.append(await stack.enter_async_context(observed))
        link.tell("observing")
        assert await link.told() == "settle"
        await eventually(lambda: all(shows_last(observed, building) for observed in observations))


def shows_last(observed: Observation, building: Building) -> bool:
    """Whether every listener's stream goes on, and its newest notification is of the last state."""
    streams = [observed.streams.get(kid) for kid in building.lamp_ids]
    return all(s is not None and not s.ended and s.latest and s.latest.message.payload == LAST for s in streams)


def start_lamps(building: Building, hosts: list[Host]) -> list[Child]:
    children = [host.start(lamp, building, kid) for host, kid in zip(hosts, building.lamp_ids, strict=True)]
    for child in children:
        assert child.event() == "ready"
    return children


def stop(children: list[Child], came: list[int | None] | None = None) -> list[dict[str, list[bytes]]]:
    for child, datagrams in zip(children, came or [None] * len(children), strict=True):
        child.tell(datagrams)
    return [child.result() for child in children]


def start_switch(building: Building, version: int, switch: Host, hosts: list[Host]) -> Child:
    names = {kid: str(host.address(version)) for kid, host in zip(building.lamp_ids, hosts, strict=True)}
    child = switch.start(ask_all, building, version, names)
    assert child.event() == "ready"
    return child


# ---- what is shown


@pytest.mark.parametrize(
    ("loss", "version", "suite"),
    [(0.1, 4, DRAFT), (0.1, 6, GROUP_OSCORE), (0.3, 4, GROUP_OSCORE), (0.3, 6, DRAFT)],
    ids=lambda value: value.name if isinstance(value, Suite) else None,
)
def test_every_listener_answers_or_is_named_missing(lan: Lan, loss: float, version: int, suite: Suite) -> None:
    """And asked again until nobody is missing, all are reached; nobody acts twice on one request."""
    building = Building.new(suite)
    switch, *hosts = [lan.host() for _ in range(LISTENERS + 1)]
    children = start_lamps(building, hosts)
    asking = start_switch(building, version, switch, hosts)
    lan.hub.weather(weather(loss))
    asking.tell("all")
    found: dict[str, list[Round]] = asking.event()
    counts = lan.hub.weather(FAIR)
    assert min(counts.lost, counts.repeated, counts.delayed) > 0
    stop([asking])
    acted = dict(zip(building.lamp_ids, stop(children), strict=True))
    for group, rounds in found.items():
        for made in rounds:
            assert made.answered.isdisjoint(made.missing)
            assert made.answered | made.missing >= made.roster
            assert all(made.payload in acted[kid][group] for kid in made.answered)
        assert frozenset().union(*(made.answered for made in rounds)) == frozenset(building.lamp_ids)
        for kid in building.lamp_ids:
            assert set(Counter(acted[kid][group]).values()) == {1}


def test_whatever_arrives_is_delivered_or_refused_with_a_reason(lan: Lan) -> None:
    """Late, twice or overtaken: at multicaster and listeners no datagram vanishes between socket and counters."""
    # not the one that challenges, whose retransmissions and acknowledgements have no counters
    building = Building.new(DRAFT, GROUP_OSCORE, without="challenge")
    switch, *hosts = [lan.host() for _ in range(LISTENERS + 1)]
    children = start_lamps(building, hosts)
    asking = start_switch(building, 4, switch, hosts)
    lan.hub.weather(weather(0.3))
    for _ in range(3):
        asking.tell("once")
        asking.event()
    arrived = when_all_have_arrived(lan)
    stop(children, [arrived[host.port] for host in hosts])
    stop([asking], [when_all_have_arrived(lan)[switch.port]])


def when_all_have_arrived(lan: Lan) -> Counter[str]:
    counts = lan.hub.weather(FAIR)
    while counts.waiting:
        counts = lan.hub.weather(FAIR)
    return counts.arrived


@pytest.mark.parametrize(("version", "suite"), [(4, GROUP_OSCORE), (6, DRAFT)], ids=["4", "6"])
def test_hosts_whose_interface_goes_away_come_back_by_themselves(lan: Lan, version: int, suite: Suite) -> None:
    """One is taken down, one is deleted, while all are spoken to over a network that loses datagrams."""
    building = Building.new(suite)
    switch, *hosts = [lan.host() for _ in range(LISTENERS + 1)]
    children = start_lamps(building, hosts)
    asking = start_switch(building, version, switch, hosts)
    lan.hub.weather(weather(0.1))
    hosts[0].down()
    hosts[1].unplug()
    asking.tell("once")
    assert all(set(building.lamp_ids[:2]) <= made.missing for [made] in asking.event().values())
    hosts[0].up()
    hosts[1].plug_in()
    asking.tell("all")
    assert not any(rounds[-1].missing for rounds in asking.event().values())
    stop([asking, *children])


def test_observations_show_the_last_state_once_the_loss_has_stopped(lan: Lan) -> None:
    """Registrations and notifications are lost and overtaken; refreshing mends it."""
    building = Building.new(GROUP_OSCORE, DRAFT)
    switch, *hosts = [lan.host() for _ in range(LISTENERS + 1)]
    children = start_lamps(building, hosts)
    lan.hub.weather(weather(0.3))
    observing = switch.start(observe_all, building)
    assert observing.event() == "observing"
    for child in children:
        child.tell("change")
    for child in children:
        assert child.event() == "changed"
    counts = lan.hub.weather(FAIR)
    assert min(counts.lost, counts.repeated, counts.delayed) > 0
    observing.tell("settle")
    observing.result()
    stop(children)
