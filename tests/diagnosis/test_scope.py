"""How far multicast addresses reach."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from groupcoap.diagnosis import Level
from groupcoap.diagnosis.scope import check_scope, scope_of
from groupcoap.membership import GroupAddress


def at(address: str) -> GroupAddress:
    return GroupAddress(ip_address(address))


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("224.0.0.0", "link-local"),
        ("224.0.0.255", "link-local"),
        ("224.0.1.0", "global"),
        ("224.0.1.187", "global"),
        ("231.255.255.255", "global"),
        ("232.0.0.0", "source-specific"),
        ("233.0.0.1", "global"),
        ("238.255.255.255", "global"),
        ("239.0.0.1", "administratively scoped"),
        ("239.191.255.255", "administratively scoped"),
        ("239.192.0.0", "organization-local"),
        ("239.195.255.255", "organization-local"),
        ("239.196.0.0", "administratively scoped"),
        ("239.255.0.0", "site-local"),
        ("239.255.255.255", "site-local"),
        ("ff00::1", "reserved"),
        ("ff01::fd", "interface-local"),
        ("ff02::fd", "link-local"),
        ("ff03::fd", "realm-local"),
        ("ff04::fd", "admin-local"),
        ("ff05::fd", "site-local"),
        ("ff35:30:2001:db8::23", "site-local"),
        ("ff06::fd", "of the unassigned scope 6"),
        ("ff08::fd", "organization-local"),
        ("ff0e::fd", "global"),
        ("ff3e::1", "global"),
        ("ff0f::fd", "global (reserved)"),
    ],
)
def test_the_scope_is_in_the_address(address: str, scope: str) -> None:
    assert scope_of(at(address)) == scope


@pytest.mark.parametrize(
    ("address", "hop_limit", "loopback", "level", "says"),
    [
        ("224.0.1.187", 1, False, Level.OK, "hop limit 1 keeps it on this link"),
        ("224.0.0.100", 1, False, Level.OK, "link-local; hop limit 1"),
        ("224.0.0.100", 2, False, Level.WARNING, "no router forwards it, whatever the hop limit"),
        ("ff02::fd", 64, False, Level.WARNING, "no router forwards it, whatever the hop limit"),
        ("ff05::fd", 0, False, Level.WARNING, "with hop limit 0 nothing leaves this machine"),
        ("ff05::fd", 5, False, Level.OK, "hop limit 5 is gone after 4 of the routers between"),
        ("ff05::fd", 0, True, Level.OK, "by the loopback interface it reaches this machine"),
        ("ff01::fd", 1, True, Level.OK, "interface-local"),
        ("ff01::fd", 1, False, Level.PROBLEM, "it never leaves this machine"),
        ("ff00::fd", 1, True, Level.PROBLEM, "nothing is delivered there"),
        ("232.1.1.1", 1, True, Level.WARNING, "which groupcoap does not"),
    ],
)
def test_address_hop_limit_and_interface_have_to_fit(
    address: str, hop_limit: int, loopback: bool, level: Level, says: str
) -> None:
    finding = check_scope(at(address), hop_limit, loopback=loopback, sends=True)
    assert finding.level is level
    assert says in finding.found
    assert bool(finding.advice) == (level is not Level.OK)


def test_the_hop_limit_is_nothing_to_who_does_not_send() -> None:
    finding = check_scope(at("ff05::fd"), 0, loopback=False, sends=False)
    assert (finding.level, finding.found) == (Level.OK, "[ff05::fd] is site-local")
