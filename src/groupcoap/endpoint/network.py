"""UDP sockets for group communication: one unicast socket per family to send from, one socket per multicast
address that only receives.

Multicast leaves by the interface that was chosen and by no other. Linux.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from time import monotonic

from ..errors import Limit, NetworkFault
from ..membership import COAP_PORT, GroupAddress
from .fairness import FairQueue
from .limits import DEFAULT_LIMITS, Limits, Reached, uncounted
from .packet_filter import kernel_drops, let_group_requests_pass

Address = IPv4Address | IPv6Address
SocketAddress = tuple[str, int] | tuple[str, int, int, int]
Receive = Callable[[bytes, SocketAddress, bytes | None], None]
"""(datagram, source, packed multicast destination or None if it came by unicast)"""

_IP_MULTICAST_ALL = 49  # linux/in.h; a socket gets only what it joined itself
_IPV6_MULTICAST_ALL = 29  # linux/in6.h
_SIOCGIFADDR = 0x8915
_SIOCGIFFLAGS = 0x8913
# Seconds before other sockets and timers get their turn. Reading goes first: what is lost in the kernel may be a
# member's, what is given up after reading is the flooder's.
_READING = 0.008
_PROCESSING = 0.002
_MAX_DATAGRAM = 65535

IFF_LOOPBACK = 0x8  # linux/if.h

log = logging.getLogger("groupcoap.network")


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """Where an endpoint sends and receives.

    `interface`: name of the interface for multicast; None: the one that `bind` belongs to, else refused.
    `bind`: unicast address to answer from; None: the interface's own. `port`: of the unicast socket; None: any free
    one. `hop_limit`: of multicast datagrams, 0 to 255. `kernel_filter`: let the kernel drop what comes by multicast
    and cannot be a group request; without it each such drop is counted and logged with its reason."""

    interface: str | None = None
    bind: Address | None = None
    port: int | None = None
    hop_limit: int = 1
    kernel_filter: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.hop_limit <= 255:
            raise NetworkFault(f"hop limit {self.hop_limit} is not between 0 and 255")
        if self.bind is not None and self.bind.is_multicast:
            raise NetworkFault(f"{self.bind} is a multicast address; bind to a unicast one")


def _interface_request(name: str, request: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock.fileno(), request, struct.pack("256s", name.encode()[:15]))


def _ipv4_of(name: str) -> IPv4Address | None:
    try:
        return IPv4Address(_interface_request(name, _SIOCGIFADDR)[20:24])
    except OSError:
        return None  # no IPv4 address there


def interface_flags(name: str) -> int:
    """The interface's flags (linux/if.h). `OSError` if it does not exist."""
    flags: int = struct.unpack_from("H", _interface_request(name, _SIOCGIFFLAGS), 16)[0]
    return flags


def _is_loopback(name: str) -> bool:
    try:
        return bool(interface_flags(name) & IFF_LOOPBACK)
    except OSError:
        return False


def choose_interface(options: NetworkOptions) -> str:
    """The name of the interface for multicast. `NetworkFault` if it does not exist, or none was named and none
    is safe to infer: a guess could send a building's commands out of the wrong side."""
    names = [name for _, name in socket.if_nameindex()]
    if options.interface is not None:
        if options.interface not in names:
            raise NetworkFault(f"there is no interface {options.interface!r}; there is {', '.join(names)}")
        return options.interface
    if options.bind is not None:
        if options.bind.is_loopback:
            return next(name for name in names if _is_loopback(name))
        matching = [name for name in names if _ipv4_of(name) == options.bind]
        if len(matching) == 1:
            return matching[0]
    raise NetworkFault(f"name the interface for multicast (one of {', '.join(names)})")


def interface_index(name: str) -> int:
    """The interface's index. `NetworkFault` if it does not exist."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise NetworkFault(f"there is no interface {name!r}") from None


class Channel:
    """A non-blocking UDP socket on the event loop. Reads what has come, and gives it on for a short while at a
    time, each host's in its turn; a datagram that the kernel cannot take at once waits in a bounded queue."""

    def __init__(
        self,
        sock: socket.socket,
        destination: bytes | None,
        receive: Receive,
        limits: Limits = DEFAULT_LIMITS,
        reached: Reached = uncounted,
    ) -> None:
        self.socket = sock
        self._destination = destination
        self._receive = receive
        self._reached = reached
        self._loop = asyncio.get_running_loop()
        self._received = FairQueue(limits.receive_buffer, reached)
        self._scheduled = False
        self._most_waiting = limits.send_queue
        self._waiting: deque[tuple[bytes, SocketAddress]] = deque()
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        receive, put = self.socket.recvfrom, self._received.put
        end = monotonic() + _READING
        while monotonic() < end:
            try:
                put(receive(_MAX_DATAGRAM))
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if self.socket.fileno() < 0:
                    return
                log.debug("receiving failed: %s", error)  # an ICMP error of some earlier datagram
        if not self._scheduled:
            self._process()

    def _process(self) -> None:
        """Give on what has been read; what is left, in the loop's next turn."""
        self._scheduled = False
        end = monotonic() + _PROCESSING
        while self._received:
            if monotonic() >= end:
                self._scheduled = True
                self._loop.call_soon(self._process)
                return
            datagram, source = self._received.take()
            self._receive(datagram, source, self._destination)

    def send(self, datagram: bytes, destination: SocketAddress) -> None:
        """Send, or queue while the kernel is full. `NetworkFault` if the network refuses the datagram."""
        if self._waiting:
            self._waiting.append((datagram, destination))
            if len(self._waiting) > self._most_waiting:
                self._waiting.popleft()
                self._reached(Limit.SEND_QUEUE)
            return
        try:
            self.socket.sendto(datagram, destination)
        except (BlockingIOError, InterruptedError):
            self._waiting.append((datagram, destination))
            self._loop.add_writer(self.socket.fileno(), self._writable)
        except OSError as error:
            raise NetworkFault(f"cannot send to {destination[0]}: {error.strerror or error}") from None

    def _writable(self) -> None:
        while self._waiting:
            datagram, destination = self._waiting[0]
            try:
                self.socket.sendto(datagram, destination)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.debug("sending a queued datagram failed: %s", error)
            self._waiting.popleft()
        self._loop.remove_writer(self.socket.fileno())

    def close(self) -> None:
        self._received.clear()
        if self.socket.fileno() >= 0:
            self._loop.remove_reader(self.socket.fileno())
            self._loop.remove_writer(self.socket.fileno())
            self.socket.close()


def _new_socket(version: int, receive_buffer: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    except OSError:
        sock.close()
        raise
    return sock


class Network:
    """An endpoint's sockets. Made on the event loop; `close` leaves all multicast addresses."""

    def __init__(
        self,
        options: NetworkOptions,
        receive: Receive,
        limits: Limits = DEFAULT_LIMITS,
        reached: Reached = uncounted,
    ) -> None:
        self.options = options
        self._limits = limits
        self._reached = reached
        self.interface = choose_interface(options)
        self._receive = receive
        self._unicast: dict[int, Channel] = {}
        self._joined: dict[GroupAddress, Channel] = {}
        self._past_drops = 0
        self._index = interface_index(self.interface)
        self._bound_index = self._index  # of the sockets whose addresses have a scope

    def open_unicast(self, version: int) -> None:
        """Make sure that there is a unicast socket for this IP version. `NetworkFault` if it cannot be."""
        if version not in self._unicast:
            self._unicast[version] = self._unicast_channel(version, self.options.port or 0)

    def _unicast_channel(self, version: int, port: int) -> Channel:
        bind = self._bind_address(version)
        sock = _new_socket(version, self._limits.receive_buffer)
        try:
            self._route_multicast(sock, version)
            if version == 4:
                sock.bind((str(bind), port))
            else:
                scope = self._index if bind.is_link_local else 0
                sock.bind((str(bind), port, 0, scope))
                # Set only now, it lets no other program have this port by binding as this socket did, but does let
                # the multicast sockets have it (:: covers their addresses).
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            sock.close()
            raise NetworkFault(self._bind_problem(bind, error)) from None
        return Channel(sock, None, self._receive, self._limits, self._reached)

    def _bind_address(self, version: int) -> Address:
        bind = self.options.bind
        if bind is not None and bind.version == version:
            return bind
        if version == 6:
            return IPv6Address("::")
        found = _ipv4_of(self.interface)
        if found is None:
            raise NetworkFault(f"interface {self.interface} has no IPv4 address; name one to bind to")
        return found

    def _bind_problem(self, bind: Address, error: OSError) -> str:
        where = f"{bind} port {self.options.port}" if self.options.port else str(bind)
        if error.errno == errno.EADDRINUSE:
            return f"{where} is in use by another program; stop it or choose another address or port"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{bind} is no address of this host; choose one of its own"
        return f"cannot use {where}: {error.strerror}"

    def _route_multicast(self, sock: socket.socket, version: int) -> None:
        hops = self.options.hop_limit
        if version == 4:
            out = struct.pack("4s4si", bytes(4), bytes(4), self._index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, out)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, hops)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)

    def join(self, address: GroupAddress) -> None:
        """Receive what is sent to this multicast address on the interface. `NetworkFault` if it cannot be."""
        if address not in self._joined:
            self._joined[address] = self._multicast_channel(address)

    def _multicast_channel(self, address: GroupAddress) -> Channel:
        sock = _new_socket(address.host.version, self._limits.receive_buffer)
        try:
            # Several listeners on one host share the address; each gets every datagram.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.options.kernel_filter:
                with suppress(OSError):  # it only saves work
                    let_group_requests_pass(sock)
            if address.host.version == 4:
                sock.bind((str(address.host), address.port))
            else:
                sock.bind((str(address.host), address.port, 0, self._index))
            self._membership(sock, address)
        except OSError as error:
            sock.close()
            raise NetworkFault(f"cannot join {address} on {self.interface}: {error.strerror or error}") from None
        return Channel(sock, address.packed, self._receive, self._limits, self._reached)

    def _membership(self, sock: socket.socket, address: GroupAddress) -> None:
        """Join, if not joined already."""
        try:
            if address.host.version == 4:
                request = struct.pack("4s4si", address.packed, bytes(4), self._index)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            else:
                request = struct.pack("16si", address.packed, self._index)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # EADDRINUSE: this socket is a member
                raise

    def leave(self, addresses: Iterable[GroupAddress]) -> None:
        """Stop receiving from these multicast addresses. Closing the socket ends its membership."""
        for address in addresses:
            channel = self._joined.pop(address, None)
            if channel is not None:
                self._close(channel)

    def refresh(self) -> bool:
        """Join again, and send by, an interface that went away and came back; a no-op otherwise. False while the
        interface is away."""
        try:
            self._index = interface_index(self.interface)
            if self._index != self._bound_index:
                self._bind_again()
            for version, channel in self._unicast.items():
                self._route_multicast(channel.socket, version)
            for address, channel in self._joined.items():
                self._membership(channel.socket, address)
        except (OSError, NetworkFault) as error:
            log.debug("membership not renewed: %s", error)
            return False
        return True

    def _bind_again(self) -> None:
        """The interface was made anew: a socket with a scope is bound to the former one and gets nothing more."""
        for version, channel in self._unicast.items():
            if version == 6 and self._bind_address(6).is_link_local:
                self._unicast[version] = self._unicast_channel(version, channel.socket.getsockname()[1])
                self._close(channel)
        for address, channel in self._joined.items():
            if address.host.version == 6:
                self._joined[address] = self._multicast_channel(address)
                self._close(channel)
        self._bound_index = self._index

    def socket_address(self, host: Address, port: int = COAP_PORT) -> SocketAddress:
        """What to send to for this host: multicast and link-local IPv6 go by the chosen interface."""
        if host.version == 4:
            return str(host), port
        scoped = host.is_multicast or host.is_link_local
        return str(host), port, 0, self._index if scoped else 0

    def send(self, datagram: bytes, destination: SocketAddress) -> None:
        """Send from the unicast socket of the destination's family. `NetworkFault` if it cannot be."""
        version = 4 if len(destination) == 2 else 6
        channel = self._unicast.get(version)
        if channel is None:
            self.open_unicast(version)
            channel = self._unicast[version]
        channel.send(datagram, destination)

    def local_address(self, version: int) -> SocketAddress:
        """The address that the unicast socket is bound to."""
        address: SocketAddress = self._unicast[version].socket.getsockname()
        return address

    def local_of(self, source: SocketAddress, destination: bytes | None) -> SocketAddress:
        """The address that a datagram was sent to: this multicast address, or our unicast one."""
        if destination is None:
            return self.local_address(4 if len(source) == 2 else 6)
        return next(((str(a.host), a.port) for a in self._joined if a.packed == destination), ("", 0))

    @property
    def kernel_drops(self) -> int:
        """Datagrams that the kernel has dropped at our sockets: kept back by the filter, or no room."""
        return self._past_drops + sum(kernel_drops(channel.socket) for channel in self._channels)

    @property
    def _channels(self) -> tuple[Channel, ...]:
        return (*self._unicast.values(), *self._joined.values())

    def _close(self, channel: Channel) -> None:
        self._past_drops += kernel_drops(channel.socket)
        channel.close()

    @property
    def joined(self) -> tuple[GroupAddress, ...]:
        return tuple(self._joined)

    def close(self) -> None:
        for channel in self._channels:
            self._close(channel)
        self._unicast.clear()
        self._joined.clear()


def parse_address(text: str) -> Address:
    """An IP address from text. `NetworkFault` if it is none."""
    try:
        return ip_address(text)
    except ValueError:
        raise NetworkFault(f"{text!r} is not an IP address") from None
