"""Who has which UDP port on this host."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from ..endpoint.network import Address
from .system import process_name, read

_WORD = 8  # hex digits of a 32-bit number as the kernel prints it: in the machine's own byte order


@dataclass(frozen=True, slots=True)
class UdpSocket:
    """A UDP socket of this host: what it is bound to, whose it is (user id), and its inode number."""

    address: Address
    port: int
    uid: int
    inode: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a socket. `pid` is None where that may not be seen."""

    socket: UdpSocket
    pid: int | None

    def __str__(self) -> str:
        who = f"a process of user {self.socket.uid}" if self.pid is None else process_name(self.pid)
        return f"{who} at {self.socket}"


def parse_sockets(table: str) -> Iterator[UdpSocket]:
    """The sockets in the text of /proc/net/udp or /proc/net/udp6."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        host, _, port = fields[1].partition(":")
        yield UdpSocket(_address(host), int(port, 16), int(fields[7]), int(fields[9]))


def _address(digits: str) -> Address:
    words = (int(digits[at : at + _WORD], 16) for at in range(0, len(digits), _WORD))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def holders(port: int) -> list[Holder]:
    """Who else has sockets at this port, of any address and IP version."""
    tables = (read("/proc/net/udp") or "", read("/proc/net/udp6") or "")
    sockets = [sock for table in tables for sock in parse_sockets(table) if sock.port == port]
    owners = _owners({sock.inode for sock in sockets})
    found = [Holder(sock, owners.get(sock.inode)) for sock in sockets]
    return [holder for holder in found if holder.pid != os.getpid()]


def _owners(inodes: Collection[int]) -> dict[int, int]:
    """{inode number: process id} of those that may be seen; without root these are one's own."""
    found: dict[int, int] = {}
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for process in Path("/proc").iterdir() if wanted else ():
        if not process.name.isdigit():
            continue
        for target in _open_files(process):
            if target in wanted:
                found[wanted[target]] = int(process.name)
    return found


def _open_files(process: Path) -> Iterator[str]:
    with suppress(OSError):  # not ours, or gone meanwhile
        for entry in os.scandir(process / "fd"):
            with suppress(OSError):
                yield os.readlink(entry)


def in_the_way(found: Iterable[Holder], address: Address) -> list[Holder]:
    """Those of them whose port nobody else can have at this address, unless both want to share it."""
    return [holder for holder in found if _overlap(holder.socket.address, address)]


def _overlap(one: Address, other: Address) -> bool:
    if one == other:
        return True
    if one.version == other.version:
        return one.is_unspecified or other.is_unspecified
    # An IPv6 socket bound to :: takes IPv4 as well, unless it was told not to, which cannot be seen.
    return one.version == 6 and one.is_unspecified


def shown(found: Iterable[Holder]) -> str:
    """These, in words."""
    return ", ".join(sorted({str(holder) for holder in found}))
