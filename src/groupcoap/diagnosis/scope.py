"""How far a multicast address reaches, by its scope, by the hop limit, and by the interface."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

from ..membership import GroupAddress
from .finding import Finding, ok, problem, warning

_RESERVED = "reserved"

_IPV4_SCOPES = {
    # RFC 5771 §4 and §10, RFC 2365 §6, RFC 4607 §1; the first that holds the address counts
    "224.0.0.0/24": "link-local",
    "239.255.0.0/16": "site-local",
    "239.192.0.0/14": "organization-local",
    "239.0.0.0/8": "administratively scoped",
    "232.0.0.0/8": "source-specific",
    "224.0.0.0/4": "global",
}
_IPV6_SCOPES = {
    # RFC 7346 §2, RFC 4291 §2.7
    0x0: _RESERVED,
    0x1: "interface-local",
    0x2: "link-local",
    0x3: "realm-local",
    0x4: "admin-local",
    0x5: "site-local",
    0x8: "organization-local",
    0xE: "global",
    0xF: "global (reserved)",
}


def scope_of(address: GroupAddress) -> str:
    """The address's scope in words."""
    host = address.host
    if host.version == 6:
        nibble = host.packed[1] & 0xF
        return _IPV6_SCOPES.get(nibble, f"of the unassigned scope {nibble:x}")
    return next(scope for network, scope in _IPV4_SCOPES.items() if host in _network(network))


def _network(text: str) -> IPv4Network:
    network = ip_network(text)
    assert isinstance(network, IPv4Network)
    return network


def check_scope(address: GroupAddress, hop_limit: int, *, loopback: bool, sends: bool) -> Finding:
    """What address, hop limit and interface make of each other. `loopback`: the interface for multicast is the
    loopback interface. `sends`: the device is multicaster; the hop limit is nothing to others."""
    scope = scope_of(address)
    shown = f"{address} is {scope}"
    if scope == _RESERVED:
        return problem("scope", f"{shown}: nothing is delivered there", "give the group an address of ff02 to ff0e")
    if scope == "interface-local" and not loopback:
        return problem(
            "scope",
            f"{shown}: it never leaves this machine",
            "give the group an address of a wider scope, such as ff02::fd, or choose the interface lo",
        )
    if scope == "source-specific":
        return warning(
            "scope",
            f"{shown}: routers forward it only to those who have named a source, which groupcoap does not",
            "give the group an address outside 232.0.0.0/8",
        )
    if loopback:
        return ok("scope", f"{shown}; by the loopback interface it reaches this machine")
    if not sends:
        return ok("scope", shown)
    if hop_limit == 0:
        return warning(
            "scope",
            f"{shown}, but with hop limit 0 nothing leaves this machine",
            "give --hop-limit 1 for this link, more for others behind multicast routers",
        )
    if hop_limit > 1 and scope == "link-local":
        return warning(
            "scope",
            f"{shown}: no router forwards it, whatever the hop limit",
            "give --hop-limit 1, or the group an address of a wider scope",
        )
    if hop_limit == 1:
        return ok("scope", f"{shown}; hop limit 1 keeps it on this link")
    return ok("scope", f"{shown}; hop limit {hop_limit} is gone after {hop_limit - 1} of the routers between")
