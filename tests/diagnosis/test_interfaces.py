"""Checks of the interface, each failing and passing, in namespaces where it takes one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from homes import obey
from namespaces import Link, Namespace, why_not

from groupcoap.diagnosis import Finding, Level
from groupcoap.diagnosis.interfaces import Interface, check_interface, choose, interfaces
from groupcoap.endpoint.network import Address, NetworkOptions

LAN = Interface(
    "e0",
    7,
    up=True,
    running=True,
    multicast=True,
    loopback=False,
    usable=(IPv4Address("10.5.0.1"), IPv6Address("fe80::1")),
)
LO = replace(LAN, name="lo", multicast=False, loopback=True, usable=(IPv4Address("127.0.0.1"), IPv6Address("::1")))


def check(interface: Interface, bind: str | None = None, versions: tuple[int, ...] = (4, 6)) -> list[Finding]:
    return check_interface(interface, None if bind is None else ip_address(bind), versions)


def said(findings: list[Finding]) -> list[tuple[Level, str]]:
    return [(finding.level, finding.found) for finding in findings]


# ---- what is made of what the system says


def test_all_is_well() -> None:
    assert said(check(LAN)) == [(Level.OK, "e0 is up, 10.5.0.1, fe80::1")]
    assert said(check(LAN, "10.5.0.1")) == [(Level.OK, "e0 is up, 10.5.0.1, fe80::1")]


def test_loopback_needs_no_multicast_flag_and_reaches_nobody_else() -> None:
    ((level, found),) = said(check(LO, "127.0.0.200"))
    assert level is Level.OK
    assert found.startswith("lo is up, 127.0.0.1, ::1; it reaches this machine only")


def test_an_interface_that_is_down_has_no_other_problem() -> None:
    (finding,) = check(replace(LAN, up=False, running=False, usable=()))
    assert (finding.found, finding.command) == ("e0 is down", "ip link set e0 up")


def test_one_that_lacks_everything_else() -> None:
    assert said(check(replace(LAN, running=False, multicast=False, usable=()))) == [
        (Level.PROBLEM, "e0 has no carrier"),
        (Level.PROBLEM, "e0 has multicast switched off"),
        (Level.PROBLEM, "e0 has no IPv4 address"),
        (Level.PROBLEM, "e0 has no IPv6 address"),
    ]


def test_only_the_ip_versions_of_the_groups_count() -> None:
    assert said(check(replace(LAN, usable=LAN.usable[:1]), versions=(4,)))[0][0] is Level.OK
    assert said(check(replace(LAN, usable=()), versions=()))[0] == (Level.OK, "e0 is up, no address")


def test_an_ipv6_address_that_another_host_has() -> None:
    pending = replace(LAN, usable=LAN.usable[:1], pending=(IPv6Address("fe80::1"),))
    assert said(check(pending)) == [(Level.PROBLEM, "e0 may not use its IPv6 address fe80::1 (yet)")]


def test_answers_from_another_interface_may_be_meant_so() -> None:
    ((level, found),) = said(check(replace(LAN, usable=LAN.usable[1:]), "192.0.2.1"))
    assert level is Level.WARNING
    assert found.startswith("192.0.2.1 is no address of e0")


def test_the_interface_is_named_or_follows_from_the_address() -> None:
    present = interfaces()

    def chosen(interface: str | None, bind: Address | None = None) -> Interface | Finding:
        return choose(NetworkOptions(interface, bind), present)

    by_name, by_address = chosen("lo"), chosen(None, ip_address("127.0.0.9"))
    assert isinstance(by_name, Interface)
    assert by_name == by_address
    nowhere, unnamed = chosen("nosuch0"), chosen(None)
    assert isinstance(nowhere, Finding)
    assert isinstance(unnamed, Finding)
    assert nowhere.found == "there is no interface 'nosuch0'"
    assert unnamed.found == "no interface for multicast is named, and none is safe to infer"
    assert all("give --interface with one of lo" in finding.advice for finding in (nowhere, unnamed))


def test_loopback_as_it_is_here() -> None:
    lo = next(interface for interface in interfaces() if interface.name == "lo")
    assert (lo.up, lo.running, lo.multicast, lo.loopback) == (True, True, False, True)
    assert IPv4Address("127.0.0.1") in lo.usable
    assert lo.has(4)
    assert not lo.owns(IPv4Address("192.0.2.1"))


# ---- as it is in a namespace


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Namespace() as made:
        made.ip("link", "add", "e0", "type", "veth", "peer", "name", "other")
        made.ip("link", "set", "other", "up")
        yield made


async def look(link: Link, versions: tuple[int, ...]) -> list[Finding]:
    chosen = choose(NetworkOptions("e0"), interfaces())
    assert isinstance(chosen, Interface)
    return check_interface(chosen, None, versions)


async def what_is_there(link: Link) -> Interface:
    return next(interface for interface in interfaces() if interface.name == "e0")


def look_in(namespace: Namespace, *versions: int) -> list[Finding]:
    found: list[Finding] = namespace.start(look, versions).result()
    return found


def mend(finding: Finding, namespace: Namespace) -> None:
    obey(finding, "ip", "netns", "exec", namespace.name)


@pytest.mark.namespaces
def test_step_by_step_from_down_to_well(namespace: Namespace) -> None:
    namespace.ip("link", "set", "e0", "multicast", "off", "addrgenmode", "none")
    (down,) = look_in(namespace, 4)
    assert down.found == "e0 is down"
    mend(down, namespace)
    silent, addressless = look_in(namespace, 4)
    assert silent.found == "e0 has multicast switched off"
    mend(silent, namespace)
    assert addressless.found == "e0 has no IPv4 address"
    namespace.ip("addr", "add", "10.5.0.1/24", "dev", "e0")
    assert [finding.level for finding in look_in(namespace, 4)] == [Level.OK]


@pytest.mark.namespaces
def test_the_other_end_of_the_cable(namespace: Namespace) -> None:
    namespace.ip("addr", "add", "10.5.0.1/24", "dev", "e0")
    namespace.ip("link", "set", "e0", "up")
    namespace.ip("link", "set", "other", "down")
    assert [finding.found for finding in look_in(namespace, 4)] == ["e0 has no carrier"]
    namespace.ip("link", "set", "other", "up")
    assert [finding.level for finding in look_in(namespace, 4)] == [Level.OK]


@pytest.mark.namespaces
def test_ipv6_switched_off(namespace: Namespace) -> None:
    exec_inside = ("ip", "netns", "exec", namespace.name)
    obey(Finding("", Level.OK, "", "", "sysctl -w net.ipv6.conf.e0.disable_ipv6=1"), *exec_inside)
    namespace.ip("link", "set", "e0", "addrgenmode", "none")
    namespace.ip("link", "set", "e0", "up")
    (finding,) = look_in(namespace, 6)
    assert finding.found == "e0 has no IPv6 address"
    mend(finding, namespace)
    namespace.ip("addr", "add", "fd05::1/64", "dev", "e0", "nodad")
    assert [finding.level for finding in look_in(namespace, 6)] == [Level.OK]


@pytest.mark.namespaces
def test_every_address_counts(namespace: Namespace) -> None:
    namespace.ip("link", "set", "e0", "addrgenmode", "none")
    namespace.ip("link", "set", "e0", "up")
    namespace.ip("addr", "add", "10.5.0.1/24", "dev", "e0")
    namespace.ip("addr", "add", "10.5.0.2/24", "dev", "e0")
    namespace.ip("addr", "add", "10.6.0.1/24", "dev", "e0", "label", "e0:two")
    namespace.ip("addr", "add", "fd05::1/64", "dev", "e0", "nodad")
    e0 = namespace.start(what_is_there).result()
    assert {str(address) for address in e0.usable} == {"10.5.0.1", "10.5.0.2", "10.6.0.1", "fd05::1"}
    assert e0.pending == ()


@pytest.mark.namespaces
def test_an_address_that_another_host_answers_for_is_not_usable(namespace: Namespace) -> None:
    with Namespace() as neighbour:
        namespace.ip("link", "set", "other", "netns", neighbour.name)
        neighbour.ip("link", "set", "other", "addrgenmode", "none")
        neighbour.ip("link", "set", "other", "up")
        neighbour.ip("addr", "add", "fd05::1/64", "dev", "other", "nodad")
        namespace.ip("link", "set", "e0", "addrgenmode", "none")
        namespace.ip("link", "set", "e0", "up")
        namespace.ip("addr", "add", "fd05::1/64", "dev", "e0")  # tentative first, then found to be a duplicate
        (finding,) = look_in(namespace, 6)
    assert finding.found == "e0 may not use its IPv6 address fd05::1 (yet)"
