"""Which way datagrams for a group go on this host, and which it throws away on the way in."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from ..membership import GroupAddress
from .finding import Finding, ok, problem, warning
from .interfaces import Interface
from .system import read, read_number

_STRICT = 1
_DEFAULT_ROUTE = "00000000"


def check_route(interface: Interface, address: GroupAddress, present: Sequence[Interface]) -> Finding:
    """Whether datagrams for this address can leave by the interface. Nothing is sent to find out."""
    if address.host.version == 6:
        return _check_ipv6(interface, address)
    default = _default_interface(address, present)
    if default == interface.name:
        return ok("route", f"{address}: by {default}, as the kernel would choose too")
    otherwise = "could not send" if default is None else f"would send by {default}"
    return ok("route", f"{address}: by {interface.name}; a program that names no interface {otherwise}")


def _default_interface(address: GroupAddress, present: Sequence[Interface]) -> str | None:
    """By which interface the kernel sends to this IPv4 address if it is not told; None: by none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((str(address.host), address.port))
        except OSError:
            return None
        own = ip_address(sock.getsockname()[0])
    return next((interface.name for interface in present if interface.owns(own)), None)


def _check_ipv6(interface: Interface, address: GroupAddress) -> Finding:
    """The kernel makes this route for interfaces with the flag MULTICAST, which the loopback interface lacks."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index)
        try:
            sock.connect((str(address.host), address.port, 0, interface.index))
        except OSError as error:
            found = f"{address}: no way by {interface.name} ({error.strerror})"
            if error.errno != errno.ENETUNREACH:
                return problem("route", found, "see what the interface lacks")
            kind = "local" if interface.loopback else "multicast"
            words = ("ip", "-6", "route", "add", kind, "ff00::/8", "dev", interface.name, "table", "local")
            return problem("route", found, "let root make one", *words)
    return ok("route", f"{address}: by {interface.name}")


def check_reverse_path(interface: Interface) -> Finding:
    """Whether the kernel drops IPv4 datagrams from senders that it would answer by another interface."""
    setting = f"net.ipv4.conf.{interface.name}.rp_filter"
    own, of_all = (read_number(f"/proc/sys/net/ipv4/conf/{name}/rp_filter") for name in (interface.name, "all"))
    if max(own or 0, of_all or 0) != _STRICT:
        return ok("rp_filter", f"{interface.name} takes datagrams from senders behind any interface")
    elsewhere = sorted(default_routes(read("/proc/net/route") or "") - {interface.name})
    if not elsewhere:
        return ok("rp_filter", f"{interface.name} is strict, and there is no default route by another interface")
    return warning(
        "rp_filter",
        f"{interface.name} drops what senders off its own subnets send: they would be answered by "
        f"{', '.join(elsewhere)}",
        "be less strict, if there are such senders",
        *("sysctl", "-w", f"{setting}=2"),
    )


def default_routes(table: str) -> frozenset[str]:
    """The interfaces with an IPv4 default route, by the text of /proc/net/route."""
    lines = (line.split() for line in table.splitlines()[1:])
    return frozenset(fields[0] for fields in lines if len(fields) > 7 and fields[1] == fields[7] == _DEFAULT_ROUTE)


def check_forwarding(interface: Interface, version: int) -> Finding:
    """Whether this host itself carries multicast from the interface to others."""
    if read_number(f"/proc/sys/net/ipv{version}/conf/{interface.name}/mc_forwarding"):
        return warning(
            "forwarding",
            f"this host routes IPv{version} multicast that comes by {interface.name} on to other interfaces",
            "see what the multicast routing daemon (smcroute, pimd, …) is told to carry, unless it is meant so",
        )
    return ok("forwarding", f"this host routes no IPv{version} multicast")
