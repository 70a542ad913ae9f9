"""How fast answers are collected: through `Multicaster`, and through a bare socket with the same core.

Another process stands for a hundred listeners. It has protected and signed all their answers beforehand, for the
sequence numbers to come; on a request it only fills in Token and Message ID and sends. So what is measured is the
collecting side alone. Both ways take turns, request by request; the medians are compared.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter
from typing import Final

import aiocoap

from ..core import coap
from ..core.contexts import CommonContext, SecurityContext, SenderContext
from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.option import partial_iv_bytes
from ..core.policy import GroupPolicy
from ..core.profile import RequestIds
from ..core.registry import Registry
from ..core.requests import protect_request
from ..core.responses import decrypt_response, incoming_exchange, protect_response
from ..core.sequence import SequenceNumbers
from ..core.synchronization import Method, SynchronizationPolicy
from ..cose.algorithms import DEFAULT_AEAD, Kdf
from ..cose.credentials import Credential, CredentialKind
from ..cose.keys import DEFAULT_SIGNATURE
from ..endpoint.endpoint import Endpoint
from ..endpoint.multicaster import Multicaster
from ..endpoint.network import NetworkOptions
from ..errors import GroupcoapError, Rejected
from ..files.provisioned import ProvisionedMembership
from ..files.state import MemoryState
from ..membership import Epoch, GroupAddress, GroupConfiguration, Member, Role
from ..secret import Secret

LISTENERS: Final = 100
DEFAULT_ROUNDS: Final = 30
"""Requests each way."""

_GROUP = "bench"
_SWITCH = b"\xf0"
_LOOPBACK = "127.0.0.1"
_MULTICAST = IPv4Address("224.0.1.187")
_TIMEOUT = 10.0
_LOST_AT_MOST = 0.02
"""A round that lost more answers than this on the way is not counted."""


def _common(secret: bytes, gid: bytes) -> CommonContext:
    return CommonContext(
        profile=MULTICAST_OSCORE_04,
        aead=DEFAULT_AEAD,
        kdf=Kdf.HKDF_SHA_256,
        signature=DEFAULT_SIGNATURE,
        master_secret=Secret(secret),
        gid=gid,
    )


def _listener_id(number: int) -> bytes:
    return bytes((number,))


def _answers(secret: bytes, gid: bytes, seeds: list[bytes], number: int) -> list[coap.Message]:
    """What all listeners answer to the request with this sequence number, still without Token."""
    common = _common(secret, gid)
    ids = RequestIds(_SWITCH, partial_iv_bytes(number), gid)
    plain = coap.Message(coap.NON, coap.CONTENT, 0, b"", (), b"on".ljust(20))
    made = []
    for at, seed in enumerate(seeds):
        key = DEFAULT_SIGNATURE.private_key(Secret(seed))
        sender = SenderContext(common, _listener_id(at), key, SequenceNumbers())
        made.append(protect_response(sender, incoming_exchange(sender, ids, may_reuse_nonce=True), plain))
    return made


def _listen(pipe: Connection, secret: bytes, gid: bytes, seeds: list[bytes], port: int, requests: int) -> None:
    """The other process: sign everything, say so, then answer requests 0 … `requests` - 1 and end."""
    prepared = [_answers(secret, gid, seeds, number) for number in range(requests)]
    group = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    group.bind((str(_MULTICAST), port))
    membership = _MULTICAST.packed + socket.inet_aton(_LOOPBACK)
    group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    group.settimeout(_TIMEOUT)
    senders = []
    for at in range(len(seeds)):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.bind((f"127.0.0.{at + 2}", 0))
        senders.append(sender)
    pipe.send("ready")
    try:
        for answers in prepared:
            datagram, multicaster = group.recvfrom(2048)
            token = coap.decode(datagram).token
            for message_id, (sender, answer) in enumerate(zip(senders, answers, strict=True)):
                sender.sendto(coap.encode(answer._replace(token=token, message_id=message_id)), multicaster)
    except TimeoutError:
        return  # the measuring side has given up


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Around starting a process: it never gets Ctrl-C, not even while it still imports. Whoever started it ends
    it. In the main thread only."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def free_port() -> int:
    """A UDP port that nobody uses at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((_LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port


def _configuration(secret: bytes, gid: bytes, seeds: list[bytes], port: int) -> GroupConfiguration:
    def member(endpoint_id: bytes, public_key: bytes, role: Role) -> Member:
        credential = Credential(CredentialKind.RAW_KEY, public_key)
        return Member(endpoint_id, endpoint_id.hex(), frozenset({role}), credential)

    own = DEFAULT_SIGNATURE.generate()
    keys = [DEFAULT_SIGNATURE.private_key(Secret(seed)).public_key.data for seed in seeds]
    members = tuple(member(_listener_id(at), key, Role.LISTENER) for at, key in enumerate(keys))
    return GroupConfiguration(
        _GROUP,
        MULTICAST_OSCORE_04,
        (GroupAddress(_MULTICAST, port),),
        frozenset({Role.MULTICASTER}),
        (Epoch(gid, Secret(secret), _SWITCH, own, members),),
        GroupPolicy(synchronization=SynchronizationPolicy(Method.BEST_EFFORT)),
    )


async def _through_multicaster(multicaster: Multicaster) -> float | None:
    """Verified answers per second of one request; None if too many were lost."""
    message = aiocoap.Message(code=aiocoap.GET, uri_path=["light"])
    begin = perf_counter()
    collection = multicaster.request(message, timeout=_TIMEOUT)
    count = 0
    async for _ in collection:
        count += 1
    return _rate(count, perf_counter() - begin)


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count >= LISTENERS * (1 - _LOST_AT_MOST) else None


def _throughloopback_socket(
    sock: socket.socket, registry: Registry, context: SecurityContext, port: int
) -> float | None:
    """The same with a blocking socket and the core alone."""
    assert context.sender is not None
    message = coap.Message(coap.NON, coap.GET, 1, b"bare", ((coap.URI_PATH, b"light"),), b"")
    begin = perf_counter()
    protected, exchange = protect_request(context, context.sender, message)
    sock.sendto(coap.encode(protected), (str(_MULTICAST), port))
    count = 0
    while count < LISTENERS:
        try:
            datagram = sock.recv(2048)
        except TimeoutError:
            break
        try:
            answer = coap.decode(datagram)
            if answer.token == message.token:
                decrypt_response(registry, exchange, answer).check_signature().accept()
                count += 1
        except Rejected:
            continue
    return _rate(count, perf_counter() - begin)


def loopback_socket() -> socket.socket:
    """A blocking UDP socket whose multicast stays on the loopback interface."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    route = struct.pack("4s4si", bytes(4), socket.inet_aton(_LOOPBACK), 0)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, route)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
    sock.bind((_LOOPBACK, 0))
    sock.settimeout(_TIMEOUT)
    return sock


async def _measure(configuration: GroupConfiguration, port: int, rounds: int) -> tuple[list[float], list[float]]:
    through, bare = [], []
    network = NetworkOptions(interface="lo", bind=IPv4Address(_LOOPBACK), hop_limit=0)
    with loopback_socket() as sock:
        async with Endpoint(
            ProvisionedMembership([configuration]), MemoryState(), network, leisure=0.0
        ) as endpoint:
            multicaster = Multicaster(endpoint, _GROUP)
            context = endpoint.groups.current(_GROUP)
            registry = endpoint.groups.registry
            for _ in range(rounds):
                rate = await _through_multicaster(multicaster)
                bare_rate = _throughloopback_socket(sock, registry, context, port)
                if rate is not None and bare_rate is not None:
                    through.append(rate)
                    bare.append(bare_rate)
    return through, bare


def run(rounds: int = DEFAULT_ROUNDS) -> dict[str, dict[str, float]]:
    """Measure; {"collect": {"rate", "bare_rate", "ratio"}}, rates in verified answers per second.

    `GroupcoapError` if answers were lost in every round."""
    secret, gid = os.urandom(16), os.urandom(12)
    seeds = [os.urandom(32) for _ in range(LISTENERS)]
    port = free_port()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    listeners = spawn.Process(target=_listen, args=(theirs, secret, gid, seeds, port, 2 * rounds), daemon=True)
    with interrupts_ignored():
        listeners.start()
    try:
        if not ours.poll(60) or ours.recv() != "ready":
            raise GroupcoapError("the listeners' process did not start")
        through, bare = asyncio.run(_measure(_configuration(secret, gid, seeds, port), port, rounds))
    finally:
        listeners.terminate()
        listeners.join()
    if not through:
        raise GroupcoapError("answers were lost in every round; is the machine overloaded?")
    ratio = median(a / b for a, b in zip(through, bare, strict=True))
    return {"collect": {"rate": round(median(through)), "bare_rate": round(median(bare)), "ratio": round(ratio, 3)}}
