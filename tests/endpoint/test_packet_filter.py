"""The kernel's filter: it must never keep back what the decoder and the message interface would take."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from devices import Light as Lamp
from devices import eventually, light_site
from wire import Member, Peer
from world import World

from groupcoap.core import coap
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.endpoint.packet_filter import kernel_drops, let_group_requests_pass
from groupcoap.errors import Rejected


@contextmanager
def filtered(version: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """(a socket with the filter, one connected to it)"""
    family, host = (socket.AF_INET, "127.0.0.1") if version == 4 else (socket.AF_INET6, "::1")
    with socket.socket(family, socket.SOCK_DGRAM) as receiver, socket.socket(family, socket.SOCK_DGRAM) as sender:
        receiver.bind((host, 0))
        receiver.setblocking(False)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        let_group_requests_pass(receiver)
        sender.connect(receiver.getsockname())
        yield receiver, sender


def passes(pair: tuple[socket.socket, socket.socket], datagram: bytes) -> bool:
    receiver, sender = pair
    sender.send(datagram)
    try:
        got = receiver.recv(65535)
    except BlockingIOError:  # on loopback it is there at once, or never
        return False
    assert got == datagram
    return True


def may_be_taken(datagram: bytes) -> bool:
    """What the message interface asks of a datagram by multicast before anything else."""
    try:
        message = coap.decode(datagram)
    except Rejected:
        return False
    return message.type == coap.NON and coap.is_request(message.code)


def headers() -> Iterable[bytes]:
    """Every first byte with every code, with all of a Token of any length and with a byte less."""
    for first in range(256):
        for code in range(256):
            for length in (first & 15, max(0, (first & 15) - 1)):
                yield bytes((first, code, 1, 2)) + bytes(length)


@pytest.mark.parametrize("version", [4, 6])
def test_of_all_headers_exactly_those_of_group_requests_pass(version: int) -> None:
    with filtered(version) as pair:
        wrong = [header.hex() for header in headers() if passes(pair, header) != may_be_taken(header)]
    assert wrong == []


def test_nothing_that_may_be_taken_is_kept_back_whatever_follows_the_header() -> None:
    choose = random.Random(1)
    passed = 0
    with filtered(4) as pair:
        for _ in range(20_000):
            datagram = bytearray(choose.randbytes(choose.choice((0, 1, 3, 4, 5, 12, 60, 1400))))
            if len(datagram) > 1 and choose.random() < 0.8:  # nearly right
                datagram[0] = 0x50 | datagram[0] & 0x0F
                datagram[1] &= 0x3F
            came = passes(pair, bytes(datagram))
            passed += came
            assert came or not may_be_taken(bytes(datagram)), datagram.hex()
    assert 500 < passed < 15_000


def test_what_is_kept_back_is_counted() -> None:
    with filtered(4) as pair:
        before = kernel_drops(pair[0])
        for _ in range(5):
            assert not passes(pair, b"garbage")
        assert kernel_drops(pair[0]) == before + 5
    assert kernel_drops(pair[0]) == 0  # it is closed


@pytest.mark.parametrize("kernel_filter", [True, False])
async def test_a_listener_with_and_without(kernel_filter: bool) -> None:
    """Members are served the same; garbage is counted by one or by the other."""
    world = World(listeners=1)
    network = NetworkOptions("lo", ip_address("127.0.0.2"), hop_limit=0, kernel_filter=kernel_filter)
    member = Member(world, world.switch_ids[0])
    async with world.endpoint(world.lamp_ids[0], network=network) as endpoint, Peer() as peer:
        lamp = Lamp()
        Listener(endpoint, light_site(lamp))
        for number in range(3):
            peer.send(b"\0" + os.urandom(20), member.group)
            peer.send(member.request(b"%d" % number), member.group)
        await lamp.wait_for(3)
        assert lamp.payloads == [b"0", b"1", b"2"]
        assert endpoint.network.kernel_drops == (3 if kernel_filter else 0)
        await eventually(lambda: sum(endpoint.counters.rejected.values()) == (0 if kernel_filter else 3))
    assert endpoint.network.kernel_drops == (3 if kernel_filter else 0)  # still known after the end
