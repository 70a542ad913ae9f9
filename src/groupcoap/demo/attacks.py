"""What others on the network can do: record datagrams, send them again, change them, or forge them with the keys of
another member."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass

from ..core import coap
from ..core.contexts import SecurityContext, SenderContext
from ..core.option import decode_prefix, partial_iv_bytes
from ..core.requests import object_security, protect_request
from ..core.sequence import SequenceNumbers
from ..errors import NetworkFault
from ..files.provisioned import load_member
from ..files.provisioning import ProvisionedDevice
from ..membership import GroupAddress
from .room import HOP_LIMIT, endpoint_id

_LOOPBACK = socket.inet_aton("127.0.0.1")
MAX_DATAGRAM = 65535


class Recorder:
    """Records what is sent to a multicast address on the loopback interface. Anybody can: no key is needed.
    `NetworkFault` if the interface does not take part in multicast."""

    def __init__(self, address: GroupAddress) -> None:
        self.datagrams: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((str(address.host), address.port))
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, address.packed + _LOOPBACK)
        except OSError as error:
            self._socket.close()
            raise NetworkFault(f"no multicast on the loopback interface ({error.strerror}); bring it up") from None
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _read(self) -> None:
        try:
            while True:
                self.datagrams.append(self._socket.recv(MAX_DATAGRAM))
        except BlockingIOError:
            pass

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


class Attacker:
    """Sends any bytes to a multicast address on the loopback interface."""

    def __init__(self, address: GroupAddress) -> None:
        self._address = (str(address.host), address.port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _LOOPBACK)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOP_LIMIT)
        self._socket.bind(("127.0.0.1", 0))

    def send(self, datagram: bytes, to: tuple[str, int] | None = None) -> None:
        """To the multicast address, or to this one alone (host, port)."""
        self._socket.sendto(datagram, to or self._address)

    def close(self) -> None:
        self._socket.close()


class Relay:
    """Somebody on the way to one listener, such as a router: passes on what comes for it, and what it answers, and
    keeps the former: the request first, then what acknowledges the answer. No key is needed for that."""

    def __init__(self, listener: tuple[str, int]) -> None:
        self.datagrams: list[bytes] = []
        self._listener = listener
        self._asking: tuple[str, int] | None = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    @property
    def address(self) -> tuple[str, int]:
        """Where the listener seems to be: (host, port)."""
        host, port = self._socket.getsockname()
        return host, port

    def _read(self) -> None:
        with suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                datagram, source = self._socket.recvfrom(MAX_DATAGRAM)
                if source != self._listener:
                    self._asking = source
                    self.datagrams.append(datagram)
                    self._socket.sendto(datagram, self._listener)
                elif self._asking is not None:
                    self._socket.sendto(datagram, self._asking)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recorded request shows to anybody."""

    datagram: bytes

    @property
    def number(self) -> int:
        """The sequence number."""
        partial_iv = decode_prefix(object_security(coap.decode(self.datagram)))[1]
        return int.from_bytes(partial_iv or b"", "big")

    def renumbered(self, number: int) -> bytes:
        """The same bytes but for the sequence number: what an outsider can do to a recording so that it is not
        recognized as a repetition."""
        message = coap.decode(self.datagram)
        value = object_security(message)
        old = decode_prefix(value)[1] or b""
        new = partial_iv_bytes(number)
        changed = bytes((value[0] & ~7 | len(new),)) + new + value[1 + len(old) :]
        options = tuple((n, changed if n == coap.OBJECT_SECURITY else v) for n, v in message.options)
        return coap.encode(message._replace(options=options))


def impersonate(insider: ProvisionedDevice, victim: ProvisionedDevice, number: int, message: coap.Message) -> bytes:
    """A request in the victim's name, made by another member: group keys are shared, so all of it is right but
    the countersignature, which takes the victim's private key. `FileFault` if the insider has no usable files."""
    (group,) = load_member(insider.directory).groups
    epoch = group.current
    assert epoch.private_key is not None
    common = group.common_context(epoch)
    victims = next(member for member in epoch.members if member.endpoint_id == victim.endpoint_id)
    credential = group.parameters.authenticated(victims.credential)
    sender = SenderContext(common, endpoint_id(victim), epoch.private_key, SequenceNumbers(number), credential)
    context = SecurityContext(group.name, common, sender, {})
    return coap.encode(protect_request(context, sender, message).message)
