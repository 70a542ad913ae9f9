"""Processes that are there to be killed, multicasters in full traffic and listeners that deliver; who watches them.

What counts as done is what stands in a victim's log, one line written by one system call, before anything else
happens: the kernel has it, however the process ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count, islice
from mmap import mmap
from pathlib import Path
from random import Random
from typing import Any

import aiocoap
from aiocoap.protocol import ServerObservation
from children import Link
from devices import Light, answers, eventually, get, light_site, put
from world import BEST_EFFORT, CHALLENGE, World, free_port

from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.groups import ListenerPolicy
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Collection, Multicaster
from groupcoap.endpoint.network import NetworkOptions, SocketAddress
from groupcoap.endpoint.remote import provenance
from groupcoap.files import state as state_module
from groupcoap.files.journal import Journal
from groupcoap.files.state import EndpointState, StateKey

BLOCK = 4
"""Sequence numbers reserved at once, so that reservations are frequent."""
COMPACT_AT = 1 << 12
RECENT = 100
PACE = 0.008
"""Seconds between requests."""

IDLE, RESERVING, RECORDING, COMPACTING = range(4)
"""What a process is doing with its state: the first byte of the memory that it shares with the test."""


def watch(phase: mmap) -> None:
    """From now on show in `phase` what this process is doing with its state, and do it more often than usual."""
    state_module.BLOCK = BLOCK  # type: ignore[misc]
    state_module.COMPACT_AT = COMPACT_AT  # type: ignore[misc]
    append, replace = Journal.append, Journal.replace

    def watched_append(self: Journal, record: list[Any]) -> None:
        phase[0] = RESERVING if record[0] == "reserve" else RECORDING
        append(self, record)
        phase[0] = IDLE

    def watched_replace(self: Journal, *arguments: Any, **more: Any) -> None:
        phase[0] = COMPACTING
        replace(self, *arguments, **more)
        phase[0] = IDLE

    Journal.append = watched_append  # type: ignore[method-assign]
    Journal.replace = watched_replace  # type: ignore[method-assign]


@dataclass
class Scene:
    """A group whose members keep their state, logs and ports through all their lives."""

    directory: Path
    methods: dict[bytes, SynchronizationPolicy] = field(init=False)
    world: World = field(init=False)
    ports: dict[bytes, int] = field(init=False)

    def __post_init__(self) -> None:
        self.world = World(multicasters=2, listeners=2)
        one, other = self.world.lamp_ids
        # A few skipped numbers, as after every crash, and it challenges.
        self.methods = {one: BEST_EFFORT, other: SynchronizationPolicy(CHALLENGE.method, max_gap=2)}
        self.ports = {kid: free_port() for kid in self.kids}
        for kid in self.kids:
            EndpointState.create(self.state(kid), [StateKey(self.world.name, self.world.gid, kid)])
            self.log(kid).touch()

    @property
    def kids(self) -> list[bytes]:
        return [*self.world.switch_ids, *self.world.lamp_ids]

    @property
    def group(self) -> tuple[str, int]:
        return str(self.world.addresses[0].host), self.world.addresses[0].port

    def address(self, kid: bytes) -> tuple[str, int]:
        return self.world.host(kid), self.ports[kid]

    def state(self, kid: bytes) -> Path:
        return self.directory / f"{kid.hex()}.state"

    def log(self, kid: bytes) -> Path:
        return self.directory / f"{kid.hex()}.log"

    @property
    def copies(self) -> str:
        """The address of the recorder."""
        return f"\0groupcoap-copies-{self.world.gid.hex()}"

    def endpoint(self, kid: bytes, state: EndpointState) -> Endpoint:
        host, port = self.address(kid)
        network = NetworkOptions("lo", ip_address(host), port, hop_limit=0, kernel_filter=False)
        policy = ListenerPolicy(synchronization=self.methods.get(kid))
        return self.world.endpoint(
            kid, state=state, network=network, policy=policy, leisure=0.005, observation_lifetime=0.3
        )


class Log:
    """Where a member writes down what it does."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def add(self, *words: object) -> None:
        os.write(self._descriptor, " ".join(map(str, words)).encode() + b"\n")


def send_copies(endpoint: Endpoint, scene: Scene) -> None:
    """The recorder gets a copy of each datagram, with its destination, before it leaves. None is lost: who sends it
    waits for room."""
    send = endpoint.network.send
    copies = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    copies.connect(scene.copies)

    def copy_and_send(datagram: bytes, destination: SocketAddress) -> None:
        copies.send(f"{destination[0]} {destination[1]}\n".encode() + datagram)
        send(datagram, destination)

    endpoint.network.send = copy_and_send  # type: ignore[method-assign]


def commands() -> Iterator[aiocoap.Message]:
    """Each another, in all lives."""
    life = os.urandom(4).hex()
    return (put(f"{life}-{number}".encode()) for number in count())


async def multicaster(link: Link, scene: Scene, kid: bytes, phase: mmap) -> None:
    """Goes on collecting where the process before was, observes, and sends one command after the other. Its log
    says whose answer to what it got."""
    watch(phase)
    log = Log(scene.log(kid))
    with EndpointState.open(scene.state(kid)) as state:
        async with scene.endpoint(kid, state) as endpoint:
            send_copies(endpoint, scene)
            own = Multicaster(endpoint, scene.world.name)
            reading = [asyncio.create_task(read(collection, log)) for collection in own.left_over()]
            own.observe(get(), refresh=0.05)
            for command in commands():
                collection = own.request(command, timeout=0.3)
                reading.append(asyncio.create_task(read(collection, log)))
                await asyncio.sleep(PACE)


async def read(collection: Collection, log: Log) -> None:
    async for answer in collection:
        log.add("answer", answer.endpoint_id.hex(), answer.message.payload.decode())


class Lamp(Light):
    """Logs what it is asked to do, and by which request to observe it, before it does it."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def _log_request(self, what: str, request: aiocoap.Message) -> None:
        origin = provenance(request)
        assert origin is not None
        self._log.add(what, origin.endpoint_id.hex(), origin.sequence_number)

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        self._log_request(request.payload.decode(), request)
        answer = await super().render_put(request)
        answer.payload = request.payload
        return answer

    async def add_observation(self, request: aiocoap.Message, observation: ServerObservation) -> None:
        self._log_request("observe", request)
        await super().add_observation(request, observation)


GROUP, OWN_ID, SENDER = "room", b"\x01", b"\x80"


def gid(epoch: int) -> bytes:
    return bytes(8) + epoch.to_bytes(4, "big")


class Memory:
    """What a process has been promised, in memory that outlives it: its epoch, the sequence numbers that it got
    (all below `used`), the highest number of the window that it recorded, the epochs forgotten (all below)."""

    def __init__(self) -> None:
        self._shared = mmap(-1, 32)
        self.write(0, 0, -1, 0)

    def read(self) -> tuple[int, int, int, int]:
        epoch, used, highest, forgotten = struct.unpack("qqqq", self._shared[:])
        return epoch, used, highest, forgotten

    @property
    def epoch(self) -> int:
        return self.read()[0]

    def write(self, *promised: int) -> None:
        self._shared[:] = struct.pack("qqqq", *promised)


async def user_of_state(link: Link, path: Path, memory: Memory, phase: mmap) -> None:
    """Opens, uses and closes a state again and again. Fails if a promise was broken."""
    watch(phase)
    while True:
        with EndpointState.open(path) as state:
            use(state, memory)


def use(state: EndpointState, memory: Memory) -> None:
    epoch, used, highest, forgotten = memory.read()
    epochs = {int.from_bytes(key.gid[8:], "big") for key in state.keys}
    if epoch + 1 in epochs:  # written down, though the process did not get to know it
        epoch, used, highest = epoch + 1, 0, -1
        memory.write(epoch, used, highest, forgotten)
    assert {epoch} <= epochs <= set(range(forgotten, epoch + 1))
    window = state.windows(GROUP, gid(epoch), OWN_ID).get(SENDER)
    assert highest <= (-1 if window is None else window.highest)
    numbers = state.sequence_numbers(GROUP, gid(epoch), OWN_ID)
    for _ in range(20):
        number = numbers.take()
        assert number >= used
        memory.write(epoch, number + 1, highest, forgotten)
        state.record_window(GROUP, gid(epoch), OWN_ID, SENDER, number, 1)
        highest = number
        memory.write(epoch, number + 1, highest, forgotten)
    if epoch:
        state.forget(GROUP, gid(epoch - 1))
        memory.write(epoch, number + 1, highest, epoch)
    if highest > 20:
        state.add_key(GROUP, gid(epoch + 1), OWN_ID)
        memory.write(epoch + 1, 0, -1, epoch)


async def listener(link: Link, scene: Scene, kid: bytes, phase: mmap) -> None:
    """Serves a lamp. If it is told a number: says so once exactly so many datagrams are accounted for."""
    watch(phase)
    log = Log(scene.log(kid))
    with EndpointState.open(scene.state(kid)) as state:
        async with scene.endpoint(kid, state) as endpoint:
            send_copies(endpoint, scene)
            Listener(endpoint, light_site(Lamp(log)))
            link.tell("ready")
            while True:
                await account(endpoint, await link.told())
                link.tell("accounted for")


async def account(endpoint: Endpoint, datagrams: object) -> None:
    """Until exactly so many datagrams were delivered, challenged or refused."""
    counters = endpoint.counters

    def accounted_for() -> int:
        return counters.delivered_requests + counters.challenges_sent + sum(counters.rejected.values())

    await eventually(lambda: datagrams == accounted_for())


async def reach_all(link: Link, scene: Scene, kid: bytes) -> frozenset[bytes]:
    """Ask until everybody has answered, but not for ever. Returns who has."""
    with EndpointState.open(scene.state(kid)) as state:
        async with scene.endpoint(kid, state) as endpoint:
            send_copies(endpoint, scene)
            own = Multicaster(endpoint, scene.world.name)
            missing = own.listeners
            for command in islice(commands(), 10):
                collection = own.request(command, timeout=1.2, roster=missing)
                await answers(collection)
                missing = collection.missing
                if not missing:
                    break
            return own.listeners - missing


@dataclass(frozen=True)
class Recording:
    """What was sent: (destination, datagram) as the senders copied it, and what a bare member of the multicast
    address has heard."""

    copies: list[tuple[tuple[str, int], bytes]]
    heard: list[bytes]


async def record(link: Link, scene: Scene, attacks: float) -> Recording:
    """Record until told otherwise. `attacks`: the chance, from 0 to 1, that after a datagram a recent one is sent
    once more to where it went."""
    copies: list[tuple[tuple[str, int], bytes]] = []
    heard: list[bytes] = []
    chance = Random(1)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as copied,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member,
    ):
        copied.bind(scene.copies)
        member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        member.bind(scene.group)
        loopback = socket.inet_aton("127.0.0.1")
        join = struct.pack("4s4s", socket.inet_aton(scene.group[0]), loopback)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)

        def take_copies() -> None:
            for datagram in everything(copied):
                destination, _, sent = datagram.partition(b"\n")
                host, port = destination.decode().split()
                copies.append(((host, int(port)), sent))
                if chance.random() < attacks:
                    where, again = chance.choice(copies[-RECENT:])
                    member.sendto(again, where)

        def hear() -> None:
            heard.extend(everything(member))

        loop = asyncio.get_running_loop()
        loop.add_reader(copied, take_copies)
        loop.add_reader(member, hear)
        link.tell("ready")
        await link.told()
        take_copies()
        hear()
    return Recording(copies, heard)


def everything(sock: socket.socket) -> Iterator[bytes]:
    """What has come."""
    sock.setblocking(False)
    while True:
        try:
            yield sock.recv(1 << 16)
        except BlockingIOError:
            return
