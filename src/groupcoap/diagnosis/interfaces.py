"""Network interfaces: what they are, and whether a group can work over the chosen one."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from array import array
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ..endpoint.network import IFF_LOOPBACK, Address, NetworkOptions, choose_interface, interface_flags
from ..errors import NetworkFault
from .finding import Finding, ok, problem, warning
from .system import read

_SIOCGIFCONF = 0x8912
_IFREQ = struct.Struct(f"16s4x4s{16 if struct.calcsize('P') == 8 else 8}x")  # linux/if.h: name, sockaddr_in, rest
_IFF_UP, _IFF_RUNNING, _IFF_MULTICAST = 0x1, 0x40, 0x1000
_IFA_F_UNUSABLE = 0x40 | 0x08  # linux/if_addr.h: tentative, or a duplicate was found
_MAX_ADDRESSES = 1024


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface. `running`: it has a carrier. `usable`, `pending`: its addresses, and those of IPv6 that
    may not be used (yet), since another host might have or has them."""

    name: str
    index: int
    up: bool
    running: bool
    multicast: bool
    loopback: bool
    usable: tuple[Address, ...]
    pending: tuple[IPv6Address, ...] = ()

    def has(self, version: int) -> bool:
        """Whether there is an address of this IP version to be used."""
        return any(address.version == version for address in self.usable)

    def owns(self, address: Address) -> bool:
        """Whether this is one of its addresses; all of 127.0.0.0/8 is the loopback interface's."""
        return address in self.usable or (self.loopback and address.is_loopback)


def interfaces() -> tuple[Interface, ...]:
    """The interfaces of this host, or of its network namespace."""
    ipv4 = tuple(_ipv4_addresses())
    ipv6 = tuple(_ipv6_addresses(read("/proc/net/if_inet6") or ""))
    found = []
    for index, name in socket.if_nameindex():
        with suppress(OSError):  # gone meanwhile
            found.append(_interface(index, name, ipv4, ipv6))
    return tuple(found)


def _interface(
    index: int,
    name: str,
    ipv4: Sequence[tuple[str, IPv4Address]],
    ipv6: Sequence[tuple[str, IPv6Address, bool]],
) -> Interface:
    flags = interface_flags(name)
    usable = [address for owner, address in ipv4 if owner == name]
    return Interface(
        name,
        index,
        up=bool(flags & _IFF_UP),
        running=bool(flags & _IFF_RUNNING),
        multicast=bool(flags & _IFF_MULTICAST),
        loopback=bool(flags & IFF_LOOPBACK),
        usable=(*usable, *(address for owner, address, good in ipv6 if owner == name and good)),
        pending=tuple(address for owner, address, good in ipv6 if owner == name and not good),
    )


def _ipv4_addresses() -> Iterator[tuple[str, IPv4Address]]:
    """(interface, address), further addresses of an interface included. Those of labels (`eth0:1`) are eth0's."""
    buffer = array("B", bytes(_IFREQ.size * _MAX_ADDRESSES))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("iP", len(buffer), buffer.buffer_info()[0])
        (length,) = struct.unpack_from("i", fcntl.ioctl(sock.fileno(), _SIOCGIFCONF, request))
    for name, packed in _IFREQ.iter_unpack(buffer.tobytes()[:length]):
        yield os.fsdecode(name.split(b"\0")[0]).partition(":")[0], IPv4Address(packed)


def _ipv6_addresses(if_inet6: str) -> Iterator[tuple[str, IPv6Address, bool]]:
    """(interface, address, whether it may be used)"""
    for line in if_inet6.splitlines():
        address, _, _, _, flags, name = line.split()
        yield name, IPv6Address(bytes.fromhex(address)), not int(flags, 16) & _IFA_F_UNUSABLE


def choose(options: NetworkOptions, present: Sequence[Interface]) -> Interface | Finding:
    """The interface, of those present, that an endpoint with these options would take, or why it takes none."""
    try:
        name = choose_interface(options)
        found = f"there is no interface {name!r}"
    except NetworkFault as fault:
        name, found = "", str(fault).partition(";")[0]
        if options.interface is None:
            found = "no interface for multicast is named, and none is safe to infer"
    names = ", ".join(interface.name for interface in present)
    advice = f"give --interface with one of {names}; lo stays on this machine"
    return next((i for i in present if i.name == name), None) or problem("interface", found, advice)


def check_interface(interface: Interface, bind: Address | None, versions: Collection[int]) -> list[Finding]:
    """Whether groups with addresses of these IP versions can work over this interface, answering from `bind`."""
    name = interface.name
    if not interface.up:
        return [problem("interface", f"{name} is down", "bring it up", "ip", "link", "set", name, "up")]
    findings = []
    if not interface.running:
        findings.append(problem("interface", f"{name} has no carrier", "look at the cable, or at the other end"))
    if not interface.multicast and not interface.loopback:
        findings.append(
            problem(
                "interface",
                f"{name} has multicast switched off",
                "switch it on",
                *("ip", "link", "set", name, "multicast", "on"),
            )
        )
    for version in sorted(versions):
        if bind is None or bind.version != version:
            findings += _check_address(interface, version)
    if bind is not None and not interface.owns(bind):
        findings.append(
            warning(
                "interface",
                f"{bind} is no address of {name}: what comes for the group by {name} is answered from there",
                f"give --bind with an address of {name}, unless it is meant so",
            )
        )
    return findings or [ok("interface", _described(interface))]


def _check_address(interface: Interface, version: int) -> list[Finding]:
    name = interface.name
    if interface.has(version):
        return []
    if version == 4:
        return [problem("interface", f"{name} has no IPv4 address", f"give it one: ip address add … dev {name}")]
    if interface.pending:
        shown = ", ".join(str(address) for address in interface.pending)
        advice = "wait two seconds, and if it stays so look for another host with the same address"
        return [problem("interface", f"{name} may not use its IPv6 address {shown} (yet)", advice)]
    setting = f"net.ipv6.conf.{name}.disable_ipv6=0"
    return [problem("interface", f"{name} has no IPv6 address", "let it have one", "sysctl", "-w", setting)]


def _described(interface: Interface) -> str:
    addresses = ", ".join(str(address) for address in interface.usable) or "no address"
    reach = "; it reaches this machine only (others: another --interface)" if interface.loopback else ""
    return f"{interface.name} is up, {addresses}{reach}"
