"""What only trying shows: whether the port can be had, the group joined, and a datagram to it heard.

The sockets are those that an endpoint would open (`endpoint.network`). Hop limit 0 keeps on this host what is sent,
an empty message, which every listener drops. Joining makes the kernel announce the membership (IGMP, MLD) by the
interface, as it does when a device starts.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from ..core import coap
from ..endpoint.network import Address, Network, NetworkOptions, SocketAddress
from ..errors import NetworkFault
from ..membership import GroupAddress
from .finding import Finding, from_fault, ok, problem
from .interfaces import Interface
from .sockets import holders, in_the_way, shown
from .system import read, read_number

PATIENCE = 1.0
"""Seconds to wait for a datagram that goes no further than this host's kernel."""

_MAX_MEMBERSHIPS = "net.ipv4.igmp_max_memberships"  # of one socket; an endpoint's have one each
_USUAL_MEMBERSHIPS = 20  # what Linux begins with


async def check_port(options: NetworkOptions, version: int, interface: Interface, own: int | None) -> Finding:
    """Whether an endpoint with these options could have its unicast socket of this IP version, or who has it
    instead. `own`: the process that runs this device, if one does."""
    network = Network(options, _ignore)
    try:
        network.open_unicast(version)
        address = network.local_address(version)
    except NetworkFault as fault:
        return _port_problem(options, version, interface, own, fault)
    finally:
        network.close()
    if not options.port:
        return ok("port", f"{address[0]}, any free port")
    return ok("port", f"{address[0]} port {address[1]} is free")


def _port_problem(
    options: NetworkOptions, version: int, interface: Interface, own: int | None, fault: NetworkFault
) -> Finding:
    found = in_the_way(holders(options.port or 0), _bound_to(options, version, interface))
    if own is not None and any(holder.pid == own for holder in found):
        return ok("port", f"port {options.port} is held by the process that runs this device")
    if not found:
        return from_fault("port", fault)
    return problem(
        "port",
        f"port {options.port} is taken by {shown(found)}",
        "stop it, or choose another address (--bind) or another port (--port)",
    )


def _bound_to(options: NetworkOptions, version: int, interface: Interface) -> Address:
    """What the unicast socket of this IP version is bound to."""
    if options.bind is not None and options.bind.version == version:
        return options.bind
    return next((own for own in interface.usable if own.version == version == 4), IPv6Address("::"))


async def check_reception(options: NetworkOptions, address: GroupAddress, interface: Interface) -> list[Finding]:
    """Join this multicast address, send an empty message to it that stays on this host, hear it, and leave."""
    probe = coap.encode(coap.Message(coap.NON, coap.EMPTY, int.from_bytes(os.urandom(2)), b"", (), b""))
    heard = asyncio.Event()

    def receive(datagram: bytes, source: SocketAddress, destination: bytes | None) -> None:
        if datagram == probe and destination is not None:
            heard.set()

    # The kernel's filter drops empty messages too.
    network = Network(replace(options, port=None, hop_limit=0, kernel_filter=False), receive)
    try:
        network.join(address)
        return [_check_listed(address, interface), await _check_heard(network, address, probe, heard)]
    except NetworkFault as fault:
        return [_join_problem(address, interface, fault)]
    finally:
        network.close()


def _join_problem(address: GroupAddress, interface: Interface, fault: NetworkFault) -> Finding:
    finding = from_fault("membership", fault)
    if os.strerror(errno.EADDRINUSE) in finding.found:
        who = shown(in_the_way(holders(address.port), address.host)) or "another process"
        return replace(
            finding,
            found=f"{address} cannot be joined on {interface.name}: its port is taken by {who}",
            advice="stop it, or let it share the port (SO_REUSEADDR)",
        )
    if address.host.version == 4 and read_number(f"/proc/sys/{_MAX_MEMBERSHIPS.replace('.', '/')}") == 0:
        return problem(
            "membership",
            f"{address} cannot be joined on {interface.name}: {_MAX_MEMBERSHIPS} is 0",
            "allow some",
            *("sysctl", "-w", f"{_MAX_MEMBERSHIPS}={_USUAL_MEMBERSHIPS}"),
        )
    return replace(finding, advice="see what the interface lacks")


def _check_listed(address: GroupAddress, interface: Interface) -> Finding:
    """Whether the kernel says that the address is joined, as it is now by this process."""
    table = read("/proc/net/igmp" if address.host.version == 4 else "/proc/net/igmp6")
    if table is not None and (interface.name, address.host) not in set(memberships(table)):
        return problem(
            "membership",
            f"{address} was joined, but the kernel does not list it for {interface.name}",
            "see whether something made the interface anew, and run this again",
        )
    others = in_the_way(holders(address.port), address.host)
    beside = f"; also listening there: {shown(others)}" if others else ""
    return ok("membership", f"{address} can be joined on {interface.name}{beside}")


def memberships(table: str) -> Iterator[tuple[str, Address]]:
    """(interface, joined address) in the text of /proc/net/igmp or /proc/net/igmp6."""
    name = ""
    for line in table.splitlines():
        fields = line.split()
        if line.startswith("\t"):
            yield name, IPv4Address(int(fields[0], 16).to_bytes(4, sys.byteorder))
        elif ": " in line:
            name = fields[1].rstrip(":")
        elif len(fields) > 2 and len(fields[2]) == 32:
            yield fields[1], IPv6Address(bytes.fromhex(fields[2]))


async def _check_heard(network: Network, address: GroupAddress, probe: bytes, heard: asyncio.Event) -> Finding:
    try:
        network.send(probe, network.socket_address(address.host, address.port))
        async with asyncio.timeout(PATIENCE):
            await heard.wait()
    except NetworkFault as fault:
        finding = from_fault("self-test", fault)
        return replace(finding, advice=finding.advice or "look for a firewall or a route that forbids it")
    except TimeoutError:
        return problem(
            "self-test",
            f"a datagram from this host to {address} does not come back to it",
            "something on this host drops it: look at the firewall first",
        )
    return ok("self-test", f"a datagram from this host to {address} comes back to it")


def _ignore(datagram: bytes, source: SocketAddress, destination: bytes | None) -> None:
    """What comes while a port is only tried is nobody's."""
