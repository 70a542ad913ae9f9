"""What others on the network can do: record datagrams, send them again, change them, or forge them with the keys of
a device whose files they have."""

from __future__ import annotations

import asyncio
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..core import coap
from ..core.contexts import CommonContext, SecurityContext, SenderContext
from ..core.option import decode_prefix, partial_iv_bytes
from ..core.registry import Registry
from ..core.requests import decrypt_request, object_security, protect_request
from ..core.sequence import SequenceNumbers
from ..errors import FileFault, NetworkFault
from ..files.atomic import describe
from ..files.identity import IDENTITY_FILE, load_identity
from ..member.keeping import kept_path, load_kept
from ..membership import GroupAddress, GroupConfiguration, Member
from .room import GROUP, HOP_LIMIT, Device

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
    def gid(self) -> bytes:
        """Which keys it takes to read it."""
        return decode_prefix(object_security(coap.decode(self.datagram)))[2] or b""

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


class Insider:
    """Somebody who has taken a device over: has a copy of its files, and so its keys of then."""

    def __init__(self, device: Device, copy: Path) -> None:
        """Copy the files into a new directory. `FileFault` if that cannot be done."""
        path = kept_path(device.directory, GROUP)
        try:
            copy.mkdir(mode=0o700)
            for file in (path, device.directory / IDENTITY_FILE):
                shutil.copy2(file, copy)
        except OSError as error:
            raise FileFault(device.directory, f"cannot be copied ({describe(error)})") from None
        kept = load_kept(copy / path.name, GROUP)
        assert kept is not None  # it was copied
        self.name = device.name
        self._group: GroupConfiguration = kept.state.configuration(load_identity(copy / IDENTITY_FILE))

    @property
    def gid(self) -> bytes:
        """What was current when the files were copied."""
        return self._group.current.gid

    def speak(
        self, number: int, message: coap.Message, *, name: str | None = None, gid: bytes | None = None
    ) -> bytes:
        """A request with the keys that the files have. `name`: of the member in whose name; None: its own. In
        another's all of it is right but the countersignature, since group keys are shared; that takes the other's
        private key. `gid`: under another Gid than was current."""
        private_key = self._group.current.private_key
        assert private_key is not None
        sender = next(member for member in self._members if member.name == (name or self.name))
        common = self._common(gid or self.gid)
        credential = self._group.parameters.authenticated(sender.credential)
        context = SenderContext(common, sender.endpoint_id, private_key, SequenceNumbers(number), credential)
        return coap.encode(protect_request(SecurityContext(GROUP, common, context, {}), context, message).message)

    def read(self, datagram: bytes) -> None:
        """Try to read a request to the group, whatever its Gid is, with the keys that the files have. `Rejected` if
        they are not the right ones."""
        common = self._common(Recorded(datagram).gid)
        credentials = {member.endpoint_id: member.credential for member in self._group.current.members}
        authenticated = {kid: self._group.parameters.authenticated(one) for kid, one in credentials.items()}
        keys = {kid: one.public_key(self._group.signature) for kid, one in credentials.items()}
        known = {kid: data for kid, data in authenticated.items() if data is not None}
        registry, address = Registry(), self._group.addresses[0].packed
        registry.install(SecurityContext(GROUP, common, None, keys, credentials=known), [address])
        decrypt_request(registry, coap.decode(datagram), address, 0.0).check_signature()

    @property
    def _members(self) -> tuple[Member, ...]:
        """All, with the device itself."""
        epoch = self._group.current
        assert epoch.own_id is not None
        assert epoch.credential is not None
        return (*epoch.members, Member(epoch.own_id, self.name, self._group.roles, epoch.credential))

    def _common(self, gid: bytes) -> CommonContext:
        return self._group.common_context(replace(self._group.current, gid=gid))
