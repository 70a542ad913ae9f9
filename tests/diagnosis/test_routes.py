"""Checks of routes, each failing and passing, in namespaces."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest
from homes import IPV4, IPV6, obey
from namespaces import Link, Namespace, why_not

from groupcoap.diagnosis import Finding, Level
from groupcoap.diagnosis.interfaces import interfaces
from groupcoap.diagnosis.routes import check_forwarding, check_reverse_path, check_route, default_routes
from groupcoap.membership import GroupAddress

_MRT_INIT, _MRT_ADD_VIF = 200, 202  # linux/mroute.h
_VIFF_USE_IFINDEX = 8

pytestmark = pytest.mark.namespaces


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """With two interfaces, e0 and e1, of different subnets."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Namespace() as made:
        for number in (0, 1):
            made.ip("link", "add", f"e{number}", "type", "veth", "peer", "name", f"other{number}")
            made.ip("link", "set", f"other{number}", "up")
            made.ip("link", "set", f"e{number}", "addrgenmode", "none")
            made.ip("link", "set", f"e{number}", "up")
            made.ip("addr", "add", f"10.{number}.0.1/24", "dev", f"e{number}")
            made.ip("addr", "add", f"fd0{number}::1/64", "dev", f"e{number}", "nodad")
        yield made


def settings(namespace: Namespace, *values: str) -> None:
    words = ["ip", "netns", "exec", namespace.name, "sysctl", "-w", *values]
    subprocess.run(words, check=True, capture_output=True)


async def route(link: Link, name: str, address: GroupAddress) -> Finding:
    present = interfaces()
    return check_route(next(interface for interface in present if interface.name == name), address, present)


async def reverse_path(link: Link, name: str) -> Finding:
    return check_reverse_path(next(interface for interface in interfaces() if interface.name == name))


async def forwarding(link: Link, name: str) -> Finding:
    return check_forwarding(next(interface for interface in interfaces() if interface.name == name), 4)


async def forwarding_with_a_daemon(link: Link, name: str) -> Finding:
    """As it is while a multicast routing daemon runs, which begins like this."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP) as daemon:
        daemon.setsockopt(socket.IPPROTO_IP, _MRT_INIT, 1)
        vif = struct.pack("HBBIi4x", 0, _VIFF_USE_IFINDEX, 1, 0, socket.if_nametoindex(name))
        daemon.setsockopt(socket.IPPROTO_IP, _MRT_ADD_VIF, vif)
        return await forwarding(link, name)


def test_ipv6_on_loopback_needs_a_route_that_root_makes(namespace: Namespace) -> None:
    missing = namespace.start(route, "lo", IPV6).result()
    assert missing.level is Level.PROBLEM
    assert missing.found == "[ff05::fd]:5699: no way by lo (Network is unreachable)"
    obey(missing, "ip", "netns", "exec", namespace.name)
    there = namespace.start(route, "lo", IPV6).result()
    assert (there.level, there.found) == (Level.OK, "[ff05::fd]:5699: by lo")


def test_ipv6_elsewhere_has_one_unless_somebody_took_it_away(namespace: Namespace) -> None:
    assert namespace.start(route, "e0", IPV6).result().level is Level.OK
    namespace.ip("-6", "route", "del", "multicast", "ff00::/8", "dev", "e0", "table", "local")
    missing = namespace.start(route, "e0", IPV6).result()
    assert missing.level is Level.PROBLEM
    obey(missing, "ip", "netns", "exec", namespace.name)
    assert namespace.start(route, "e0", IPV6).result().level is Level.OK


def test_ipv6_without_an_address_to_send_from(namespace: Namespace) -> None:
    namespace.ip("addr", "del", "fd00::1/64", "dev", "e0")
    namespace.ip("addr", "del", "fd01::1/64", "dev", "e1")
    finding = namespace.start(route, "e0", IPV6).result()
    assert (finding.level, finding.command) == (Level.PROBLEM, "")
    assert finding.found == "[ff05::fd]:5699: no way by e0 (Cannot assign requested address)"


def test_by_which_interface_others_would_send_ipv4(namespace: Namespace) -> None:
    nobody = namespace.start(route, "e0", IPV4).result()
    assert nobody.found == "224.0.1.187:5699: by e0; a program that names no interface could not send"
    namespace.ip("route", "add", "default", "via", "10.1.0.2")
    other = namespace.start(route, "e0", IPV4).result()
    assert other.found == "224.0.1.187:5699: by e0; a program that names no interface would send by e1"
    same = namespace.start(route, "e1", IPV4).result()
    assert same.found == "224.0.1.187:5699: by e1, as the kernel would choose too"
    assert {nobody.level, other.level, same.level} == {Level.OK}


def test_a_strict_reverse_path_matters_where_senders_are_answered_elsewhere(namespace: Namespace) -> None:
    assert namespace.start(reverse_path, "e0").result().level is Level.OK
    settings(namespace, "net.ipv4.conf.all.rp_filter=1")
    assert namespace.start(reverse_path, "e0").result().level is Level.OK  # there is no way elsewhere
    namespace.ip("route", "add", "default", "via", "10.1.0.2")
    strict = namespace.start(reverse_path, "e0").result()
    assert strict.level is Level.WARNING
    assert strict.found.endswith("they would be answered by e1")
    assert namespace.start(reverse_path, "e1").result().level is Level.OK
    obey(strict, "ip", "netns", "exec", namespace.name)
    assert namespace.start(reverse_path, "e0").result().level is Level.OK


def test_a_host_that_routes_multicast(namespace: Namespace) -> None:
    assert namespace.start(forwarding, "e0").result().level is Level.OK
    finding = namespace.start(forwarding_with_a_daemon, "e0").result()
    assert finding.level is Level.WARNING
    assert finding.found.startswith("this host routes IPv4 multicast that comes by e0")


def test_default_routes_are_read_from_the_kernels_table() -> None:
    table = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "eth2\t00000000\t00000000\t0001\t0\t0\t0\t000000F0\t0\t0\t0\n"
    )
    assert default_routes(table) == {"eth0"}
    assert default_routes("") == frozenset()
