"""What a flood costs a listener: a dropped datagram in microseconds, and members while it lasts.

The drops are measured one kind after the other through the endpoint's own `receive`, in turn, on datagrams made
before. Then another process sends such datagrams by multicast on the loopback interface, as fast as it can, while a
member in a third process asks the listener something twenty times a second. Nothing leaves this machine.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from statistics import median
from time import monotonic, perf_counter
from typing import Any, Final, NamedTuple

import aiocoap
from aiocoap import resource
from cryptography.exceptions import InvalidTag

from ..core import coap
from ..core.contexts import CommonContext, SecurityContext, SenderContext
from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.option import FLAG_GID, OptionPrefix, decode_prefix, encode_prefix
from ..core.policy import GroupPolicy
from ..core.requests import protect_request
from ..core.sequence import SequenceNumbers
from ..core.synchronization import Method, SynchronizationPolicy
from ..cose.algorithms import DEFAULT_AEAD, Kdf
from ..cose.credentials import Credential, CredentialKind
from ..cose.keys import DEFAULT_SIGNATURE, PrivateKey
from ..endpoint.endpoint import Endpoint
from ..endpoint.listener import Listener
from ..endpoint.multicaster import Multicaster
from ..endpoint.network import NetworkOptions
from ..errors import GroupcoapError, Rejected
from ..files.provisioned import ProvisionedMembership
from ..files.state import MemoryState
from ..membership import Epoch, GroupAddress, GroupConfiguration, Member, Role
from ..secret import Secret
from .collect import free_port, interrupts_ignored, loopback_socket

DEFAULT_ROUNDS: Final = 60
"""How often a batch of each kind of datagram is dropped."""
DEFAULT_SECONDS: Final = 2.0
"""How long each flood lasts."""
GOALS: Final[dict[str, dict[str, tuple[str, float]]]] = {
    "garbage": {"us": ("≤", 10.0)},
    "replay": {"above_parse_us": ("≤", 10.0)},
    "unicast_replay": {"above_parse_us": ("≤", 10.0)},
}

_GROUP: Final = "bench"
_MULTICAST: Final = IPv4Address("224.0.1.187")
_LISTENER, _ASKER, _RECORDED = b"\x01", b"\x80", b"\x81"
_HOSTS: Final = {_LISTENER: IPv4Address("127.0.0.2"), _ASKER: IPv4Address("127.0.0.3")}
_BATCH: Final = 200
_WARM_UP: Final = 3
_INTERVAL: Final = 0.05
_PATIENCE: Final = 1.0
"""Seconds that the member waits for an answer."""
_SOURCE: Final = ("127.0.0.9", 40000)
_START: Final = 60.0
_SLICE: Final = 512
"""Datagrams that are sent between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class _Room:
    """A listener, a member that asks, and one whose request was recorded; every process can make it for itself."""

    secret: bytes
    gid: bytes
    seeds: dict[bytes, bytes]
    port: int

    @staticmethod
    def new() -> _Room:
        seeds = {kid: os.urandom(32) for kid in (_LISTENER, _ASKER, _RECORDED)}
        return _Room(os.urandom(16), os.urandom(12), seeds, free_port())

    def key(self, kid: bytes) -> PrivateKey:
        return DEFAULT_SIGNATURE.private_key(Secret(self.seeds[kid]))

    def configuration(self, own: bytes) -> GroupConfiguration:
        def member(kid: bytes) -> Member:
            role = Role.LISTENER if kid == _LISTENER else Role.MULTICASTER
            credential = Credential(CredentialKind.RAW_KEY, self.key(kid).public_key.data)
            return Member(kid, kid.hex(), frozenset({role}), credential)

        return GroupConfiguration(
            _GROUP,
            MULTICAST_OSCORE_04,
            (GroupAddress(_MULTICAST, self.port),),
            frozenset({Role.LISTENER if own == _LISTENER else Role.MULTICASTER}),
            (Epoch(self.gid, Secret(self.secret), own, self.key(own), tuple(member(kid) for kid in self.seeds)),),
            GroupPolicy(synchronization=SynchronizationPolicy(Method.BEST_EFFORT)),
        )

    def endpoint(self, own: bytes, *, kernel_filter: bool = True) -> Endpoint:
        network = NetworkOptions("lo", _HOSTS[own], hop_limit=0, kernel_filter=kernel_filter)
        membership = ProvisionedMembership([self.configuration(own)])
        return Endpoint(membership, MemoryState(), network, leisure=0.0)

    def recorded(self) -> coap.Message:
        """A request that the listener will have received."""
        common = CommonContext(
            profile=MULTICAST_OSCORE_04,
            aead=DEFAULT_AEAD,
            kdf=Kdf.HKDF_SHA_256,
            signature=DEFAULT_SIGNATURE,
            master_secret=Secret(self.secret),
            gid=self.gid,
        )
        sender = SenderContext(common, _RECORDED, self.key(_RECORDED), SequenceNumbers())
        context = SecurityContext(_GROUP, common, sender, {})
        plain = coap.Message(coap.NON, coap.GET, 1, b"tokn", ((coap.URI_PATH, b"light"),), b"")
        return protect_request(context, sender, plain).message


# ---- what one drop costs


class _Kind(NamedTuple):
    """One kind of datagram that is dropped: how a batch is made, whether it comes by multicast, whether its drop
    takes an AEAD call."""

    datagrams: Callable[[], list[bytes]]
    by_multicast: bool
    aead: bool = False


def _forged(message: coap.Message, gid: bytes | None, kid: bytes, number: bytes = b"\x7f") -> bytes:
    """This request with another Partial IV, and with random bytes for signature and ciphertext."""
    prefix: OptionPrefix = decode_prefix(message.options[0][1])
    head = encode_prefix(prefix[0] & ~(FLAG_GID | 7), number, gid)
    option = head + os.urandom(DEFAULT_SIGNATURE.signature_length) + kid
    options = ((coap.OBJECT_SECURITY, option),)
    return coap.encode(message._replace(options=options, payload=os.urandom(len(message.payload))))


def _kinds(message: coap.Message, gid: bytes) -> dict[str, _Kind]:
    replay, plain = coap.encode(message), message._replace(options=((coap.URI_PATH, b"light"),), payload=b"on")
    confirmable = coap.encode(message._replace(type=coap.CON))
    response = coap.encode(message._replace(code=coap.CHANGED, token=b"none"))

    def batch(make: Callable[[], bytes]) -> Callable[[], list[bytes]]:
        return lambda: [make() for _ in range(_BATCH)]

    return {
        "garbage": _Kind(batch(lambda: os.urandom(len(replay))), True),
        "plain": _Kind(batch(lambda: coap.encode(plain)), True),
        "unknown_group": _Kind(batch(lambda: _forged(message, os.urandom(len(gid)), _ASKER)), True),
        "forged": _Kind(batch(lambda: _forged(message, gid, _RECORDED)), True, aead=True),
        "invented_sender": _Kind(batch(lambda: _forged(message, gid, os.urandom(3))), True, aead=True),
        "replay": _Kind(batch(lambda: replay), True),
        "unicast_replay": _Kind(batch(lambda: confirmable), False),
        "unknown_response": _Kind(batch(lambda: response), False),
    }


def _timed(act: Callable[[], None]) -> float:
    """Microseconds for each of a batch."""
    begin = perf_counter()
    act()
    return (perf_counter() - begin) / _BATCH * 1e6


def _parse(datagrams: Sequence[bytes]) -> None:
    decode = coap.decode
    for datagram in datagrams:
        try:
            decode(datagram)
        except Rejected:
            continue


class _Listening:
    """A listener that has received the recorded request, and what drops are measured by."""

    def __init__(self, endpoint: Endpoint, message: coap.Message) -> None:
        self._receive = endpoint.interface.receive
        self._receive(coap.encode(message), _SOURCE, _MULTICAST.packed)
        if endpoint.counters.delivered_requests != 1:
            raise GroupcoapError("the listener did not take the request that is to be replayed")
        context = endpoint.groups.current(_GROUP)
        self._decrypt = context.recipient(_RECORDED).channel.apply
        self._nonce = bytes(DEFAULT_AEAD.nonce_length)

    def drop(self, datagrams: Sequence[bytes], by_multicast: bool) -> None:
        receive, destination = self._receive, _MULTICAST.packed if by_multicast else None
        for datagram in datagrams:
            receive(datagram, _SOURCE, destination)

    def decrypt(self, ciphertexts: Sequence[bytes]) -> None:
        """What a forgery costs at least, besides parsing."""
        decrypt, nonce = self._decrypt, self._nonce
        for ciphertext in ciphertexts:
            try:
                decrypt(nonce, ciphertext, _AAD)
            except InvalidTag:
                continue

    def measure(self, kind: _Kind) -> dict[str, float]:
        """One batch of this kind."""
        datagrams = kind.datagrams()
        ciphertexts = [datagram[-20:] for datagram in datagrams]
        figures = {
            "us": _timed(lambda: self.drop(datagrams, kind.by_multicast)),
            "parse_us": _timed(lambda: _parse(datagrams)),
        }
        if kind.aead:
            figures["aead_us"] = _timed(lambda: self.decrypt(ciphertexts))
        figures["above_parse_us"] = figures["us"] - figures["parse_us"]
        figures["ratio"] = figures["us"] / (figures["parse_us"] + figures.get("aead_us", 0.0))
        return figures


_AAD: Final = bytes(40)


async def _drops(rounds: int) -> dict[str, dict[str, float]]:
    room = _Room.new()
    message = room.recorded()
    measured: dict[str, list[dict[str, float]]] = {}
    async with room.endpoint(_LISTENER) as endpoint:
        listening = _Listening(endpoint, message)
        kinds = _kinds(message, room.gid)
        for number in range(rounds + _WARM_UP):
            for name, kind in kinds.items():
                with _collector_resting():
                    figures = listening.measure(kind)
                if number >= _WARM_UP:
                    measured.setdefault(name, []).append(figures)
            await asyncio.sleep(0)
    return {
        name: {what: round(median(r[what] for r in rows), 2) for what in rows[0]} for name, rows in measured.items()
    }


@contextmanager
def _collector_resting() -> Iterator[None]:
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# ---- the flood


class _Flood(NamedTuple):
    """One flood: of which kind, with or without the kernel's filter, and whether listener and flooder share one
    processor core."""

    kind: str
    one_core: bool = False
    kernel_filter: bool = True


_FLOODS: Final = {
    "garbage": _Flood("garbage"),
    "garbage_unfiltered": _Flood("garbage", kernel_filter=False),
    "replay": _Flood("replay"),
    "garbage_one_core": _Flood("garbage", one_core=True),
    "garbage_unfiltered_one_core": _Flood("garbage", one_core=True, kernel_filter=False),
    "replay_one_core": _Flood("replay", one_core=True),
    "invented_sender_one_core": _Flood("invented_sender", one_core=True),
}


class _Pouring(NamedTuple):
    """What the flooder is to send by multicast to this port, how long, and on which processor core."""

    datagrams: list[bytes]
    port: int
    seconds: float
    core: int | None

    def do(self, wait: Callable[[], object]) -> int:
        """Send at full speed, once the word is given; how many datagrams."""
        os.sched_setaffinity(0, range(os.cpu_count() or 1) if self.core is None else {self.core})
        destination = (str(_MULTICAST), self.port)
        sent = 0
        with loopback_socket() as sock:
            sock.setblocking(False)
            wait()
            end = monotonic() + self.seconds
            while monotonic() < end:
                for at in range(_SLICE):
                    try:
                        sock.sendto(self.datagrams[at % len(self.datagrams)], destination)
                        sent += 1
                    except OSError:
                        continue  # no room at the moment
        return sent


class _Asking(NamedTuple):
    """What the member is to do: ask twenty times a second, so long."""

    room: _Room
    seconds: float

    def do(self, wait: Callable[[], object]) -> tuple[int, int]:
        """Ask, once the word is given; (how often, how many answers)."""
        return asyncio.run(self._ask(wait))

    async def _ask(self, wait: Callable[[], object]) -> tuple[int, int]:
        async with self.room.endpoint(_ASKER) as endpoint:
            multicaster = Multicaster(endpoint, _GROUP)

            async def ask() -> int:
                request = aiocoap.Message(code=aiocoap.GET, uri_path=["light"])
                collection = multicaster.request(request, timeout=_PATIENCE, roster=[_LISTENER])
                return len([answer async for answer in collection])

            wait()
            asked = []
            end = monotonic() + self.seconds
            while monotonic() < end:
                asked.append(asyncio.ensure_future(ask()))
                await asyncio.sleep(_INTERVAL)
            return len(asked), sum(await asyncio.gather(*asked))


def _help(pipe: Connection) -> None:
    """Another process: takes one thing to do after the other."""
    while True:
        work: _Pouring | _Asking = pipe.recv()

        def wait() -> None:
            pipe.send("ready")
            pipe.recv()

        pipe.send(work.do(wait))


class _Light(resource.Resource):  # type: ignore[misc]
    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=b"on")


def _resident() -> int:
    """Bytes of memory that this process has."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Helper:
    """Another process, and what it says. It ends when this is left."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process: SpawnProcess = spawn.Process(target=_help, args=(theirs,), daemon=True)

    def __enter__(self) -> _Helper:
        with interrupts_ignored():
            self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def tell(self, word: object) -> None:
        """What to do, or to begin."""
        self._pipe.send(word)

    async def said(self, seconds: float) -> Any:
        """What it says next. `GroupcoapError` if that does not come in time."""
        end = monotonic() + seconds
        while not self._pipe.poll():
            if monotonic() > end:
                raise GroupcoapError("a process of the measurement did not answer; is the machine overloaded?")
            await asyncio.sleep(0.02)
        return self._pipe.recv()


async def _flooded(flood: _Flood, seconds: float, helpers: tuple[_Helper, _Helper]) -> dict[str, float]:
    room = _Room.new()
    message = room.recorded()
    datagrams = _kinds(message, room.gid)[flood.kind].datagrams()
    allowed = os.sched_getaffinity(0)
    core = min(allowed) if flood.one_core else None
    flooder, member = helpers
    async with room.endpoint(_LISTENER, kernel_filter=flood.kernel_filter) as endpoint:
        site = resource.Site()
        site.add_resource(["light"], _Light())
        Listener(endpoint, site)
        _Listening(endpoint, message)
        flooder.tell(_Pouring(datagrams, room.port, seconds, core))
        member.tell(_Asking(room, seconds))
        for helper in helpers:
            await helper.said(_START)
        before, delivered = _resident(), endpoint.counters.delivered_requests
        if core is not None:
            os.sched_setaffinity(0, {core})
        try:
            for helper in helpers:
                helper.tell("go")
            sent = await flooder.said(seconds + _START)
            asked, answered = await member.said(seconds + _START)
        finally:
            os.sched_setaffinity(0, allowed)
        return {
            "sent_per_second": round(sent / seconds),
            "dropped_per_second": round(sum(endpoint.counters.rejected.values()) / seconds),
            "delivered": round((endpoint.counters.delivered_requests - delivered) / asked, 3),
            "served": round(answered / asked, 3),
            "memory_growth_bytes": _resident() - before,
        }


def run(rounds: int = DEFAULT_ROUNDS, seconds: float = DEFAULT_SECONDS) -> dict[str, dict[str, float]]:
    """Measure. First what one drop costs, for each kind of datagram:

    `us`: microseconds in all. `parse_us`: of `coap.decode` alone, `aead_us`: of the one AEAD call that cannot be
    avoided, both on the same data. `above_parse_us`, `ratio`: `us` against these.

    Then, under {"sent_per_second", "dropped_per_second", "delivered", "served", "memory_growth_bytes"}, one figure
    for each flood: datagrams sent, and dropped by the listener's process; the part of a member's requests that
    reached the resource, and that were answered within a second; and by how much the process grew.

    `rounds`: batches of each kind; `seconds`: length of each flood. `GroupcoapError` if a process did not start."""
    figures = asyncio.run(_drops(rounds))
    with _Helper() as flooder, _Helper() as member:
        for name, flood in _FLOODS.items():
            for what, value in asyncio.run(_flooded(flood, seconds, (flooder, member))).items():
                figures.setdefault(what, {})[name] = value
    return figures
