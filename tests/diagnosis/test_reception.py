"""Trying ports, groups and datagrams on real sockets, each failing and passing."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from devices import Light, eventually, light_site
from homes import IPV4, IPV6, diagnosed, make_home, obey
from namespaces import Link, Namespace, why_not
from world import World, free_port

from groupcoap.diagnosis import Finding, Level
from groupcoap.diagnosis.interfaces import Interface, interfaces
from groupcoap.diagnosis.reception import check_port, check_reception, memberships
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.errors import Reason
from groupcoap.membership import GroupAddress

HOLD = (
    "import socket, sys\n"
    "family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
    "sock = socket.socket(family, socket.SOCK_DGRAM)\n"
    "sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(sys.argv[3]))\n"
    "sock.bind((sys.argv[1], int(sys.argv[2])))\n"
    "print('bound', flush=True)\n"
    "sys.stdin.read()\n"
)
ETH_P_ALL = 0x0003


@contextmanager
def another(host: str, port: int, *, shares: bool = False) -> Iterator[int]:
    """Another process that has this port; its id."""
    words = [sys.executable, "-c", HOLD, host, str(port), str(int(shares))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "bound\n"
        try:
            yield process.pid
        finally:
            process.kill()


def interface(name: str = "lo") -> Interface:
    return next(interface for interface in interfaces() if interface.name == name)


def options(port: int | None = None, bind: str = "127.0.0.2") -> NetworkOptions:
    return NetworkOptions("lo", ip_address(bind), port, 0)


def group(port: int) -> GroupAddress:
    return GroupAddress(IPV4.host, port)


async def port(network: NetworkOptions, own: int | None = None, version: int = 4) -> Finding:
    return await check_port(network, version, interface(), own)


# ---- the port


async def test_a_port_that_is_free() -> None:
    number = free_port()
    finding = await port(options(number))
    assert (finding.level, finding.found) == (Level.OK, f"127.0.0.2 port {number} is free")
    finding = await port(options())
    assert (finding.level, finding.found) == (Level.OK, "127.0.0.2, any free port")


@pytest.mark.processes
@pytest.mark.parametrize("host", ["127.0.0.2", "0.0.0.0"])
async def test_a_port_that_another_process_has(host: str) -> None:
    number = free_port()
    with another(host, number) as pid:
        finding = await port(options(number))
        assert finding.level is Level.PROBLEM
        assert finding.found.startswith(f"port {number} is taken by process {pid} (")
        assert finding.found.endswith(f") at {host}:{number}")
        assert (await port(options(number), own=pid)).level is Level.OK
    assert (await port(options(number))).level is Level.OK


@pytest.mark.processes
async def test_a_port_that_another_address_has_is_free() -> None:
    number = free_port()
    with another("127.0.0.3", number):
        assert (await port(options(number))).level is Level.OK


@pytest.mark.processes
async def test_an_ipv6_port_that_another_process_has_at_any_address() -> None:
    if "::1" not in {str(address) for address in interface().usable}:
        pytest.skip("this host has no IPv6")
    number = free_port()
    assert (await port(options(number), version=6)).found == f":: port {number} is free"
    with another("::1", number) as pid:
        finding = await port(options(number), version=6)
        assert finding.level is Level.PROBLEM
        assert f"process {pid} (" in finding.found


async def test_an_address_that_is_not_this_hosts() -> None:
    finding = await port(options(free_port(), bind="192.0.2.77"))
    assert (finding.level, finding.found) == (Level.PROBLEM, "192.0.2.77 is no address of this host")
    assert finding.advice == "choose one of its own"


async def test_without_a_bound_address_the_interfaces_own_is_taken() -> None:
    number = free_port()
    with another("127.0.0.1", number) as pid:
        finding = await port(NetworkOptions("lo", None, number, 0))
    assert f"process {pid} (" in finding.found


# ---- joining and hearing


async def test_joined_and_heard() -> None:
    number = free_port()
    membership, heard = await check_reception(options(), group(number), interface())
    assert (membership.level, membership.found) == (Level.OK, f"224.0.1.187:{number} can be joined on lo")
    assert (heard.level, heard.check) == (Level.OK, "self-test")


@pytest.mark.processes
async def test_who_else_listens_there_is_said() -> None:
    number = free_port()
    with another("224.0.1.187", number, shares=True) as pid:
        membership, heard = await check_reception(options(), group(number), interface())
    assert membership.level is heard.level is Level.OK
    assert f"also listening there: process {pid} (" in membership.found


@pytest.mark.processes
async def test_somebody_has_the_groups_port_and_shares_it_with_nobody() -> None:
    number = free_port()
    with another("0.0.0.0", number) as pid:
        (finding,) = await check_reception(options(), group(number), interface())
    assert (finding.level, finding.check) == (Level.PROBLEM, "membership")
    assert f"cannot be joined on lo: its port is taken by process {pid} (" in finding.found


async def test_every_listener_ignores_the_self_test_in_silence() -> None:
    world = World(listeners=1)
    seeing_all = NetworkOptions("lo", ip_address("127.0.0.3"), None, 0, kernel_filter=False)
    async with world.endpoint(world.lamp_ids[0], network=seeing_all) as endpoint:
        light = Light()
        Listener(endpoint, light_site(light))
        membership, heard = await check_reception(options(), world.addresses[0], interface())
        assert membership.level is heard.level is Level.OK
        await eventually(lambda: bool(endpoint.counters.rejected))
        assert endpoint.counters.rejected == {Reason.NOT_FOR_MULTICAST: 1}
        assert endpoint.counters.errors_sent == 0
        assert light.payloads == []


def test_the_kernels_tables_of_memberships_are_read() -> None:
    table = (
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
        "1\tlo        :     2      V3\n"
        "\t\t\t\t{}     1 0:00000000\t\t0\n"
        "\t\t\t\t{}     1 0:00000000\t\t0\n"
        "4\teth0.1234567890: 1      V3\n"
        "\t\t\t\t{}     1 0:00000000\t\t0\n"
    )
    joined = ("224.0.0.1", "224.0.1.187", "239.1.2.3")
    numbers = [int.from_bytes(ip_address(text).packed, sys.byteorder) for text in joined]
    table = table.format(*(f"{number:08X}" for number in numbers))
    assert [(name, str(address)) for name, address in memberships(table)] == [
        ("lo", "224.0.0.1"),
        ("lo", "224.0.1.187"),
        ("eth0.1234567890", "239.1.2.3"),
    ]
    table = "4    eth0            ff0500000000000000000000000000fd     1 0000000C 0\n"
    assert list(memberships(table)) == [("eth0", ip_address("ff05::fd"))]


# ---- in namespaces


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """With the interface e0, and the other end of its cable, wire."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Namespace() as made:
        made.ip("link", "add", "e0", "type", "veth", "peer", "name", "wire")
        for name in ("e0", "wire"):
            made.ip("link", "set", name, "addrgenmode", "none")
            made.ip("link", "set", name, "up")
        made.ip("addr", "add", "10.5.0.1/24", "dev", "e0")
        made.ip("addr", "add", "fe80::5/64", "dev", "e0", "nodad")
        made.ip("addr", "add", "fd05::1/64", "dev", "e0", "nodad")
        yield made


async def reception(link: Link, name: str, address: GroupAddress) -> list[Finding]:
    return await check_reception(NetworkOptions(name), address, interface(name))


async def what_left(link: Link, home: Path) -> tuple[list[Finding], list[tuple[int, int]]]:
    """A whole diagnosis, and the (Ethernet type, protocol) of everything that came out at the other end of the
    cable."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.bind(("wire", 0))
        wire.setblocking(False)
        findings = await diagnosed(link, home, NetworkOptions("e0", hop_limit=5))
        frames: list[tuple[int, int]] = []
        while True:
            try:
                frame, source = wire.recvfrom(2048)
            except BlockingIOError:
                return findings, frames
            if source[2] != socket.PACKET_OUTGOING:
                frames.append(_protocol(frame))


def _protocol(frame: bytes) -> tuple[int, int]:
    (ethernet,) = struct.unpack_from("!H", frame, 12)
    if ethernet != 0x86DD:
        return ethernet, frame[14 + 9]
    hop_by_hop = frame[14 + 6] == 0
    return ethernet, frame[14 + 40] if hop_by_hop else frame[14 + 6]


@pytest.mark.namespaces
@pytest.mark.parametrize("address", [IPV4, IPV6], ids=str)
def test_heard_over_an_interface_with_nobody_at_the_other_end(namespace: Namespace, address: GroupAddress) -> None:
    findings = namespace.start(reception, "e0", address).result()
    assert [(finding.check, finding.level) for finding in findings] == [
        ("membership", Level.OK),
        ("self-test", Level.OK),
    ]


@pytest.mark.namespaces
def test_no_datagram_leaves_but_what_announces_the_membership(namespace: Namespace, tmp_path: Path) -> None:
    findings, frames = namespace.start(what_left, make_home(tmp_path, IPV4, IPV6)).result()
    assert [finding.level for finding in findings if finding.check == "self-test"] == [Level.OK, Level.OK]
    igmp, mld = (0x0800, socket.IPPROTO_IGMP), (0x86DD, socket.IPPROTO_ICMPV6)
    assert set(frames) <= {igmp, mld}


@pytest.mark.namespaces
def test_a_host_that_may_join_nothing(namespace: Namespace) -> None:
    within = ("ip", "netns", "exec", namespace.name)
    obey(Finding("", Level.OK, "", "", "sysctl -w net.ipv4.igmp_max_memberships=0"), *within)
    (finding,) = namespace.start(reception, "e0", IPV4).result()
    assert finding.level is Level.PROBLEM
    assert finding.found.endswith("cannot be joined on e0: net.ipv4.igmp_max_memberships is 0")
    obey(finding, *within)
    assert len(namespace.start(reception, "e0", IPV4).result()) == 2


@pytest.mark.namespaces
def test_an_interface_without_ipv6_cannot_join_ipv6(namespace: Namespace) -> None:
    within = ("ip", "netns", "exec", namespace.name)
    obey(Finding("", Level.OK, "", "", "ip link set e0 mtu 1000"), *within)  # too small for IPv6
    (finding,) = namespace.start(reception, "e0", IPV6).result()
    assert (finding.check, finding.level) == ("membership", Level.PROBLEM)
    assert finding.advice


@pytest.mark.namespaces
def test_what_may_not_be_sent(namespace: Namespace) -> None:
    namespace.ip("-6", "rule", "add", "pref", "10", "lookup", "local")
    namespace.ip("-6", "rule", "add", "pref", "5", "to", "ff05::/16", "prohibit")
    namespace.ip("-6", "rule", "del", "pref", "0")
    membership, heard = namespace.start(reception, "e0", IPV6).result()
    assert membership.level is Level.OK
    assert (heard.level, heard.found) == (Level.PROBLEM, "cannot send to ff05::fd: Permission denied")
    assert heard.advice == "look for a firewall or a route that forbids it"


@pytest.mark.namespaces
def test_what_is_dropped_on_the_way(namespace: Namespace) -> None:
    try:
        to_the_group = ("src", "0.0.0.0/0", "dst", "224.0.1.187/32")
        namespace.ip("xfrm", "policy", "add", *to_the_group, "dir", "in", "action", "block")
    except RuntimeError as problem:
        pytest.skip(f"this kernel has no IPsec policies: {problem}")
    membership, heard = namespace.start(reception, "e0", IPV4).result()
    assert membership.level is Level.OK
    assert heard.level is Level.PROBLEM
    assert heard.found == "a datagram from this host to 224.0.1.187:5699 does not come back to it"
    namespace.ip("xfrm", "policy", "flush")
    _, heard = namespace.start(reception, "e0", IPV4).result()
    assert heard.level is Level.OK
