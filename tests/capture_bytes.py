"""Capture files made by hand, byte by byte: what tests put into them is known for certain."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address

ETHERNET, NULL, RAW, SLL, SLL2 = 1, 0, 101, 113, 276
BEGUN = 1_700_000_000
"""Seconds since 1970 of the first frame."""


def udp(payload: bytes, source: int = 40000, destination: int = 5683) -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


def ipv4(
    data: bytes,
    source: str = "10.0.0.1",
    destination: str = "224.0.1.187",
    *,
    protocol: int = 17,
    fragment: int = 0,
    more: bool = False,
    identification: int = 7,
    options: bytes = b"",
) -> bytes:
    """`fragment`: offset in bytes."""
    word = fragment // 8 | (0x2000 if more else 0)
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, words * 4 + len(data), identification, word, 1, protocol, 0)
    return head + ip_address(source).packed + ip_address(destination).packed + options + data


def ipv6(data: bytes, source: str = "fd00::1", destination: str = "ff05::fd", *, following: int = 17) -> bytes:
    head = struct.pack(">IHBB", 0x60000000, len(data), following, 1)
    return head + ip_address(source).packed + ip_address(destination).packed + data


def ipv6_fragment(data: bytes, offset: int, *, more: bool, identification: int = 7) -> bytes:
    """The fragment header and what is behind it."""
    return struct.pack(">BBHI", 17, 0, offset | more, identification) + data


def datagram(source: tuple[str, int], destination: tuple[str, int], payload: bytes) -> bytes:
    """An IP packet with a UDP datagram."""
    ip = ipv6 if ":" in source[0] else ipv4
    return ip(udp(payload, source[1], destination[1]), source[0], destination[0])


def _ethertype(packet: bytes) -> bytes:
    return b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"


def ethernet(packet: bytes, *, tags: Sequence[bytes] = ()) -> bytes:
    """`tags`: Ethertypes of VLAN tags."""
    return bytes(12) + b"".join(tag + b"\x00\x2a" for tag in tags) + _ethertype(packet) + packet


LINKS: dict[int, Callable[[bytes], bytes]] = {
    ETHERNET: ethernet,
    SLL: lambda packet: bytes(14) + _ethertype(packet) + packet,
    SLL2: lambda packet: _ethertype(packet) + bytes(18) + packet,
    RAW: lambda packet: packet,
    NULL: lambda packet: (b"\x02\0\0\0" if packet[0] >> 4 == 4 else b"\0\0\0\x1e") + packet,
}
"""Link type → what makes a frame of an IP packet."""


def pcap(
    frames: Iterable[bytes],
    link: int = ETHERNET,
    *,
    order: str = "<",
    nanoseconds: bool = False,
    snap_length: int = 1 << 18,
) -> bytes:
    """A capture with a frame each 250 ms."""
    magic, unit = (0xA1B23C4D, 10**9) if nanoseconds else (0xA1B2C3D4, 10**6)
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap_length, link)]
    for index, frame in enumerate(frames):
        data = frame[:snap_length]
        times = (BEGUN + index // 4, index % 4 * unit // 4)
        parts += [struct.pack(order + "IIII", *times, len(data), len(frame)), data]
    return b"".join(parts)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int = ETHERNET, order: str = "<", *, options: bytes = b"", snap_length: int = 0) -> bytes:
    return block(1, struct.pack(order + "HHI", link, 0, snap_length) + options, order)


def enhanced(frame: bytes, at: int, index: int = 0, order: str = "<") -> bytes:
    """`at`: units of the interface's time stamps since 1970."""
    head = struct.pack(order + "IIIII", index, at >> 32, at & 0xFFFFFFFF, len(frame), len(frame))
    return block(6, head + frame, order)


def simple(frame: bytes, order: str = "<") -> bytes:
    return block(3, struct.pack(order + "I", len(frame)) + frame, order)


def pcapng(frames: Iterable[bytes], link: int = ETHERNET, *, order: str = "<") -> bytes:
    """A capture with a frame each 250 ms."""
    blocks = (enhanced(frame, BEGUN * 10**6 + index * 250_000, 0, order) for index, frame in enumerate(frames))
    return section(order) + interface(link, order) + b"".join(blocks)
