"""Sockets: which interface, which addresses, and what is reported as multicast."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from devices import eventually
from wire import Inbox, Peer
from world import free_port

from groupcoap.endpoint.limits import Limits
from groupcoap.endpoint.network import (
    Channel,
    Network,
    NetworkOptions,
    SocketAddress,
    choose_interface,
    interface_index,
    parse_address,
)
from groupcoap.errors import Limit, NetworkFault
from groupcoap.membership import GroupAddress

GROUP = IPv4Address("224.0.1.187")
OTHER_GROUP = IPv4Address("224.0.1.188")


def options(bind: str = "127.0.0.1", **more: Any) -> NetworkOptions:
    """Without the kernel's filter: the datagrams here are no CoAP."""
    return NetworkOptions(interface="lo", bind=ip_address(bind), **{"hop_limit": 0, "kernel_filter": False, **more})


@asynccontextmanager
async def network(bind: str = "127.0.0.1", **more: Any) -> AsyncIterator[tuple[Network, Inbox]]:
    inbox = Inbox()
    opened = Network(options(bind, **more), inbox)
    try:
        opened.open_unicast(4)
        yield opened, inbox
    finally:
        opened.close()


# ---- which interface


def test_the_named_interface() -> None:
    assert choose_interface(NetworkOptions(interface="lo")) == "lo"


def test_an_interface_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(NetworkFault, match=r"^there is no interface 'lamp0'; there is .*\blo\b"):
        choose_interface(NetworkOptions(interface="lamp0"))


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.0.3.7", "::1"])
def test_inferred_from_a_loopback_address(bind: str) -> None:
    assert choose_interface(NetworkOptions(bind=ip_address(bind))) == "lo"


@pytest.mark.parametrize("bind", [None, "192.0.2.1", "2001:db8::1", "0.0.0.0", "::"])
def test_refused_where_nothing_is_safe_to_infer(bind: str | None) -> None:
    with pytest.raises(NetworkFault, match=r"^name the interface for multicast \(one of .*\blo\b"):
        choose_interface(NetworkOptions(bind=None if bind is None else ip_address(bind)))


def test_an_index_of_no_interface() -> None:
    with pytest.raises(NetworkFault, match="lamp0"):
        interface_index("lamp0")


@pytest.mark.parametrize("hops", [-1, 256, 1000])
def test_hop_limit_out_of_range(hops: int) -> None:
    with pytest.raises(NetworkFault, match=str(hops)):
        NetworkOptions(hop_limit=hops)


@pytest.mark.parametrize("hops", [0, 1, 255])
async def test_hop_limit_of_multicast(hops: int) -> None:
    async with network(hop_limit=hops) as (opened, _):
        sock = opened._unicast[4].socket
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == hops


def test_bound_to_a_multicast_address() -> None:
    with pytest.raises(NetworkFault, match=r"224\.0\.1\.187 is a multicast address"):
        NetworkOptions(bind=GROUP)


def test_text_that_is_no_address() -> None:
    with pytest.raises(NetworkFault, match="'lamp'"):
        parse_address("lamp")


# ---- binding


async def test_a_port_that_is_in_use() -> None:
    async with network() as (first, _):
        port = first.local_address(4)[1]
        second = Network(options(port=port), Inbox())
        with pytest.raises(NetworkFault) as caught:
            second.open_unicast(4)
        assert str(caught.value) == (
            f"127.0.0.1 port {port} is in use by another program; stop it or choose another address or port"
        )
        second.close()


async def test_an_address_that_is_not_ours() -> None:
    opened = Network(options("192.0.2.1"), Inbox())
    with pytest.raises(NetworkFault, match=r"^192\.0\.2\.1 is no address of this host; [^\n]+$"):
        opened.open_unicast(4)
    opened.close()


async def test_opened_once_and_closed() -> None:
    async with network() as (opened, _):
        before = opened.local_address(4)
        opened.open_unicast(4)
        assert opened.local_address(4) == before
    opened.close()  # once more does nothing
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(before)  # the port is free again


async def test_a_socket_of_the_other_family_is_opened_when_it_is_needed() -> None:
    async with network() as (opened, inbox), network("127.0.0.2") as (other, _):
        opened.open_unicast(6)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
            sock.sendto(b"six", ("::1", opened.local_address(6)[1]))
            datagram, source, destination = await inbox.next()
            assert (datagram, source[:2], destination) == (b"six", sock.getsockname()[:2], None)
            sock.settimeout(5)
            other.send(b"answer", sock.getsockname())
            assert sock.recv(100) == b"answer"


def test_scope_of_what_is_sent_to() -> None:
    async def check() -> None:
        async with network() as (opened, _):
            index = interface_index("lo")
            assert opened.socket_address(GROUP, 5683) == ("224.0.1.187", 5683)
            assert opened.socket_address(IPv6Address("ff02::fd"), 61616) == ("ff02::fd", 61616, 0, index)
            assert opened.socket_address(IPv6Address("fe80::1")) == ("fe80::1", 5683, 0, index)
            assert opened.socket_address(IPv6Address("2001:db8::1")) == ("2001:db8::1", 5683, 0, 0)

    asyncio.run(check())


# ---- multicast


async def test_every_listener_at_one_address_gets_each_datagram() -> None:
    address = GroupAddress(GROUP, free_port())
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(network(f"127.0.0.{n}")) for n in range(2, 7)]
        for opened, _ in listeners:
            opened.join(address)
        sender, _ = await stack.enter_async_context(network())
        for number in range(20):
            sender.send(b"%d" % number, sender.socket_address(address.host, address.port))
        for _, inbox in listeners:
            for number in range(20):
                assert await inbox.next() == (b"%d" % number, sender.local_address(4), GROUP.packed)


async def test_only_what_was_sent_to_the_group_is_reported_so() -> None:
    """Neither unicast, nor another group at this port, nor this group at another port."""
    port, other_port = free_port(), free_port()
    async with (
        network("127.0.0.2") as (listener, inbox),
        network("127.0.0.3") as (neighbour, others),
        Peer() as peer,
    ):
        listener.join(GroupAddress(GROUP, port))
        neighbour.join(GroupAddress(OTHER_GROUP, port))
        neighbour.join(GroupAddress(GROUP, other_port))
        for to in ((str(OTHER_GROUP), port), (str(GROUP), other_port)):
            peer.send(b"not for the listener", to)
            assert (await others.next())[0] == b"not for the listener"
        for host in ("127.0.0.2", "127.0.0.1"):
            peer.send(b"to nobody", (host, port))
        peer.send(b"by unicast", listener.local_address(4))
        assert await inbox.next() == (b"by unicast", peer.address, None)
        peer.send(b"to the group", (str(GROUP), port))
        assert await inbox.next() == (b"to the group", peer.address, GROUP.packed)
        assert inbox.empty
        assert others.empty


async def test_the_unicast_socket_gets_no_multicast() -> None:
    """Even when it has the group's port."""
    port = free_port()
    async with network("127.0.0.2", port=port) as (silent, nothing), network("127.0.0.3") as (listener, inbox):
        listener.join(GroupAddress(GROUP, port))
        async with Peer() as peer:
            peer.send(b"to the group", (str(GROUP), port))
            assert (await inbox.next())[2] == GROUP.packed
            peer.send(b"marker", silent.local_address(4))
            assert await nothing.next() == (b"marker", peer.address, None)


async def test_joining_and_leaving() -> None:
    address = GroupAddress(GROUP, free_port())
    to = (str(GROUP), address.port)
    async with network("127.0.0.2") as (one, inbox), network("127.0.0.3") as (two, others), Peer() as peer:
        one.join(address)
        one.join(address)  # once is enough
        two.join(address)
        assert list(one.joined) == [address]
        peer.send(b"1", to)
        assert (await inbox.next())[0] == b"1"
        one.leave([address, GroupAddress(OTHER_GROUP)])  # the second was never joined
        assert list(one.joined) == []
        peer.send(b"2", to)
        assert [(await others.next())[0] for _ in range(2)] == [b"1", b"2"]
        one.join(address)
        peer.send(b"3", to)
        assert (await inbox.next())[0] == b"3"


async def test_an_address_that_cannot_be_joined() -> None:
    port = free_port()
    async with network("127.0.0.2") as (listener, _):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as greedy:
            greedy.bind(("", port))  # a program that shares nothing
            with pytest.raises(NetworkFault, match=rf"^cannot join 224\.0\.1\.187:{port} on lo: [^\n]+$"):
                listener.join(GroupAddress(GROUP, port))
        assert listener.joined == ()
        listener.join(GroupAddress(GROUP, port))  # nothing was left behind


async def test_two_addresses_at_once_and_which_one_it_was() -> None:
    port = free_port()
    async with network("127.0.0.2") as (listener, inbox), Peer() as peer:
        for host in (GROUP, OTHER_GROUP):
            listener.join(GroupAddress(host, port))
        for host in (OTHER_GROUP, GROUP):
            peer.send(b"x", (str(host), port))
            _, source, destination = await inbox.next()
            assert destination == host.packed
            assert listener.local_of(source, destination) == (str(host), port)
        assert listener.local_of(peer.address, None) == listener.local_address(4)


async def test_refreshing_changes_nothing_while_the_interface_is_there() -> None:
    address = GroupAddress(GROUP, free_port())
    async with network("127.0.0.2") as (listener, inbox), Peer() as peer:
        listener.join(address)
        for _ in range(3):
            assert listener.refresh()
        peer.send(b"once", (str(GROUP), address.port))
        assert (await inbox.next())[0] == b"once"
        peer.send(b"marker", (str(GROUP), address.port))
        assert (await inbox.next())[0] == b"marker"


async def test_closed_by_what_a_datagram_caused() -> None:
    """The rest of the batch is not read from a closed socket."""
    got: list[bytes] = []
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))

    def receive(datagram: bytes, *_: object) -> None:
        got.append(datagram)
        opened.close()

    opened = Network(options("127.0.0.2"), receive)
    opened.open_unicast(4)
    to = opened.local_address(4)
    async with Peer() as peer:
        for _ in range(3):
            peer.send(b"x", to)
        await eventually(lambda: got)
        await asyncio.sleep(0)
    assert got == [b"x"]
    assert not problems


# ---- sending


async def test_what_the_network_refuses() -> None:
    async with network() as (opened, _):
        with pytest.raises(NetworkFault, match=r"^cannot send to 127\.0\.0\.2: [^\n]+$"):
            opened.send(bytes(70_000), ("127.0.0.2", 9))


async def test_answers_of_closed_ports_are_survived() -> None:
    """A port unreachable message is an error of some earlier datagram; it ends nothing."""
    async with network("127.0.0.2") as (opened, inbox), Peer() as peer:
        for _ in range(3):
            opened.send(b"x", ("127.0.0.3", free_port()))
        peer.send(b"still here", opened.local_address(4))
        assert (await inbox.next())[0] == b"still here"


@pytest.fixture
def pipe(tmp_path: Path) -> Any:
    """(a datagram socket that the kernel makes wait when the other is full, the other, its address)"""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = str(tmp_path / "s")
    receiver.bind(path)
    receiver.setblocking(False)
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect(path)
    yield sender, receiver, path
    sender.close()
    receiver.close()


def drain(receiver: socket.socket, got: list[bytes]) -> Callable[[], None]:
    def take() -> None:
        with suppress(BlockingIOError):
            got.append(receiver.recv(100))

    return take


async def test_what_the_kernel_cannot_take_at_once_waits_in_order(pipe: Any) -> None:
    sender, receiver, path = pipe
    channel = Channel(sender, None, Inbox())
    sent = [b"%d" % n for n in range(900)]
    for datagram in sent:
        channel.send(datagram, path)
    assert channel._waiting, "the kernel took everything"
    got: list[bytes] = []
    asyncio.get_running_loop().add_reader(receiver.fileno(), drain(receiver, got))
    await eventually(lambda: len(got) == len(sent))
    assert got == sent
    assert not channel._waiting
    channel.send(b"at once", path)
    await eventually(lambda: len(got) > len(sent))
    asyncio.get_running_loop().remove_reader(receiver.fileno())
    channel.close()


async def test_the_queue_is_bounded(pipe: Any) -> None:
    sender, receiver, path = pipe
    reached: list[Limit] = []
    channel = Channel(sender, None, Inbox(), Limits(send_queue=10), reached.append)
    for number in range(5000):
        channel.send(b"%d" % number, path)
    assert len(channel._waiting) == 10
    got = []
    with suppress(BlockingIOError):
        while True:
            got.append(receiver.recv(100))
    assert reached == [Limit.SEND_QUEUE] * (5000 - len(got) - 10)
    assert channel._waiting[-1][0] == b"4999"  # the oldest have gone
    channel.close()  # with datagrams still waiting
    channel.close()


async def test_a_flood_at_one_socket_leaves_timers_and_other_sockets_their_turn() -> None:
    order: list[str] = []
    flooded, quiet = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (flooded, quiet):
        sock.bind(("127.0.0.1", 0))

    def work(datagram: bytes, source: SocketAddress, destination: bytes | None) -> None:
        order.append("flood")
        time.sleep(0.001)

    channels = [Channel(flooded, None, work), Channel(quiet, None, lambda *_: order.append("other"))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(b"flood", flooded.getsockname())
        sender.sendto(b"other", quiet.getsockname())
    asyncio.get_running_loop().call_later(0, order.append, "timer")
    await eventually(lambda: order.count("flood") == 100)
    assert "flood" in order[order.index("timer") :]
    assert "flood" in order[order.index("other") :]
    for channel in channels:
        channel.close()
