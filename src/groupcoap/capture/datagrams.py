"""The UDP datagrams in the frames of a capture: link header, IPv4 or IPv6, fragments, UDP.

Checksums are not looked at: a machine that captures what it sends sees them before its network card fills them in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from .frames import Frame

MAX_ASSEMBLIES = 64
"""Datagrams of which fragments are kept; the oldest is given up first."""
MAX_DATAGRAM = 65535
ASSEMBLY_LIFETIME = 60 * 10**9
"""Nanoseconds after which fragments are no longer waited for (RFC 8200 §4.5)."""

_UDP, _FRAGMENT, _AUTHENTICATION = 17, 44, 51
_EXTENSIONS = frozenset((0, 43, 60, _AUTHENTICATION))
"""IPv6 headers that are passed over: hop-by-hop options, routing, destination options, authentication."""

Host = IPv4Address | IPv6Address


class Skip(Enum):
    """Why there is no datagram in a frame; the value is the text for people."""

    NOT_IP = "not IP"
    NOT_UDP = "not UDP"
    DAMAGED = "with a damaged header"
    LINK_TYPE = "of a link type that is not read"
    CUT_SHORT = "cut short by the snap length"
    FRAGMENTS = "of a datagram whose fragments are not all there"


class HostPort(NamedTuple):
    """A host and its UDP port."""

    host: Host
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.host.version == 6 else str(self.host)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram. `number`, `time`: of the frame that (completes the fragments that) it was in. `whole`: false
    where the capture's snap length has cut the payload short."""

    number: int
    time: int | None
    source: HostPort
    destination: HostPort
    payload: bytes
    whole: bool


@dataclass(frozen=True, slots=True)
class Skipped:
    """A frame without a datagram that could be read."""

    number: int
    time: int | None
    reason: Skip


def read_datagrams(frames: Iterable[Frame]) -> Iterator[Datagram | Skipped]:
    """The datagram in each frame, or why there is none. A fragment gives nothing before its datagram is complete
    or, as `Skipped`, given up. Raises only what `frames` raises."""
    fragments = _Fragments()
    for frame in frames:
        piece: _Piece | Skip | None = _network_layer(frame)
        if isinstance(piece, _Piece) and piece.fragment is not None:
            given_up, piece = fragments.add(frame, piece)
            yield from given_up
        if isinstance(piece, Skip):
            yield Skipped(frame.number, frame.time, piece)
        elif piece is not None:
            yield _transport_layer(frame, piece)
    yield from fragments.give_up()


class _Fragment(NamedTuple):
    identification: bytes
    offset: int
    more: bool


class _Piece(NamedTuple):
    """The data of an IP packet, or of a fragment of one."""

    source: Host
    destination: Host
    data: bytes
    whole: bool
    fragment: _Fragment | None


# ---- link layer


def _network_layer(frame: Frame) -> _Piece | Skip:
    packet = _link_layer(frame.link_type, frame.data)
    if packet is None:
        return Skip.LINK_TYPE
    version = packet[0] >> 4 if packet else 0
    piece = _ipv4(packet) if version == 4 else _ipv6(packet) if version == 6 else Skip.NOT_IP
    if piece is Skip.CUT_SHORT and len(frame.data) >= frame.length:
        return Skip.DAMAGED
    return piece


def _link_layer(link_type: int, data: bytes) -> bytes | None:
    """The IP packet inside, empty if there is none; None for an unknown link type."""
    match link_type:
        case 1:  # Ethernet
            return _behind_ethertype(data, 12)
        case 113:  # Linux cooked
            return _behind_ethertype(data, 14)
        case 276:  # Linux cooked, version 2: the protocol stands first, and the header goes on for 18 bytes
            return _behind_ethertype(data[:2] + data[20:], 0)
        case 0 | 108:  # BSD's loopback: an address family, whose number and byte order depend on the system
            return data[4:]
        case 101 | 228 | 229:  # raw IP
            return data
    return None


def _behind_ethertype(data: bytes, at: int) -> bytes:
    """The IP packet behind the Ethertype at this position and VLAN tags, if any; empty if it is something else."""
    while (kind := data[at : at + 2]) in (b"\x81\x00", b"\x88\xa8", b"\x91\x00"):
        at += 4
    return data[at + 2 :] if kind in (b"\x08\x00", b"\x86\xdd") else b""


# ---- IP


def _ipv4(packet: bytes) -> _Piece | Skip:
    if len(packet) < 20:
        return Skip.CUT_SHORT
    header = (packet[0] & 0x0F) * 4
    total = int.from_bytes(packet[2:4], "big") or len(packet)  # 0 before a network card has cut it up
    if not 20 <= header <= total:
        return Skip.DAMAGED
    if packet[9] != _UDP:
        return Skip.NOT_UDP
    word = int.from_bytes(packet[6:8], "big")
    fragment = _Fragment(packet[4:6], (word & 0x1FFF) * 8, bool(word & 0x2000)) if word & 0x3FFF else None
    source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    return _Piece(source, destination, packet[header:total], len(packet) >= total, fragment)


def _ipv6(packet: bytes) -> _Piece | Skip:
    if len(packet) < 40:
        return Skip.CUT_SHORT
    length = int.from_bytes(packet[4:6], "big") or len(packet) - 40
    data, whole = packet[40 : 40 + length], len(packet) >= 40 + length
    following, fragment = packet[6], None
    while following in _EXTENSIONS or (following == _FRAGMENT and fragment is None):
        if len(data) < 8:
            return Skip.DAMAGED if whole else Skip.CUT_SHORT
        if following == _FRAGMENT:
            word = int.from_bytes(data[2:4], "big")
            fragment, size = _Fragment(data[4:8], word & 0xFFF8, bool(word & 1)), 8
        else:
            size = (data[1] + 2) * 4 if following == _AUTHENTICATION else (data[1] + 1) * 8
        following, data = data[0], data[size:]
        if fragment is not None and fragment.offset:
            break  # what follows is the middle of something
    if following != _UDP:
        return Skip.NOT_UDP
    if fragment is not None and not fragment.offset and not fragment.more:
        fragment = None
    return _Piece(IPv6Address(packet[8:24]), IPv6Address(packet[24:40]), data, whole, fragment)


@dataclass(slots=True)
class _Assembly:
    """Fragments of one datagram, by offset. `length`: of the whole, once the last fragment is there."""

    begun: Frame
    pieces: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    length: int | None = None

    def joined(self) -> bytes | None:
        """The whole, if it is complete and no two fragments overlap."""
        if self.size != self.length:
            return None
        at = 0
        for offset, piece in sorted(self.pieces.items()):
            if offset != at:
                return None
            at += len(piece)
        return b"".join(piece for _, piece in sorted(self.pieces.items()))


class _Fragments:
    """Datagrams of which only some fragments have come."""

    def __init__(self) -> None:
        self._assemblies: dict[tuple[Host, Host, bytes], _Assembly] = {}

    def add(self, frame: Frame, piece: _Piece) -> tuple[list[Skipped], _Piece | Skip | None]:
        """What is given up now, and the datagram if this fragment completes it."""
        assert piece.fragment is not None
        if not piece.whole:
            return [], Skip.CUT_SHORT
        key = (piece.source, piece.destination, piece.fragment.identification)
        given_up = self._outdated(key, frame)
        assembly = self._assemblies.setdefault(key, _Assembly(frame))
        _, offset, more = piece.fragment
        if offset not in assembly.pieces:
            assembly.pieces[offset] = piece.data
            assembly.size += len(piece.data)
        if not more:
            assembly.length = offset + len(piece.data)
        whole = assembly.joined()
        if whole is not None:
            del self._assemblies[key]
            return given_up, piece._replace(data=whole, fragment=None)
        if assembly.size > MAX_DATAGRAM:
            given_up.append(self._drop(key))
        elif len(self._assemblies) > MAX_ASSEMBLIES:
            given_up.append(self._drop(next(iter(self._assemblies))))
        return given_up, None

    def _outdated(self, key: tuple[Host, Host, bytes], frame: Frame) -> list[Skipped]:
        """The number of a datagram is used again sooner or later."""
        found = self._assemblies.get(key)
        if found is None or frame.time is None or found.begun.time is None:
            return []
        return [self._drop(key)] if frame.time - found.begun.time > ASSEMBLY_LIFETIME else []

    def _drop(self, key: tuple[Host, Host, bytes]) -> Skipped:
        begun = self._assemblies.pop(key).begun
        return Skipped(begun.number, begun.time, Skip.FRAGMENTS)

    def give_up(self) -> list[Skipped]:
        return [self._drop(key) for key in list(self._assemblies)]


# ---- UDP


def _transport_layer(frame: Frame, piece: _Piece) -> Datagram | Skipped:
    data = piece.data
    length = int.from_bytes(data[4:6], "big") or len(data)
    if len(data) < 8 or length < 8:
        return Skipped(frame.number, frame.time, Skip.DAMAGED if piece.whole else Skip.CUT_SHORT)
    source = HostPort(piece.source, int.from_bytes(data[:2], "big"))
    destination = HostPort(piece.destination, int.from_bytes(data[2:4], "big"))
    return Datagram(frame.number, frame.time, source, destination, data[8:length], len(data) >= length)
