"""The frames in a capture file: pcap (microseconds or nanoseconds, either byte order) and pcapng.

Both are read as they come, so a capture may be larger than memory, or a pipe that still grows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ..errors import FileFault

MAX_FRAME = 1 << 20
"""Bytes of a frame at most. libpcap captures no more than a quarter of it."""
MAX_BLOCK = 1 << 24
"""Bytes of a pcapng block at most."""

_NANOSECONDS = 10**9
_LATEST = 2**32 * _NANOSECONDS
"""What is later is a mistake: pcap has no room for it either."""
_SECTION = b"\x0a\x0d\x0d\x0a"
_PCAP = {
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
}
"""Byte order, and nanoseconds in a unit of the time stamps' fractions."""
_BYTE_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_INTERFACE, _SIMPLE_PACKET, _ENHANCED_PACKET = 1, 3, 6
_END_OF_OPTIONS, _RESOLUTION, _OFFSET = 0, 9, 14

MAGIC_SIZE = 4


def is_capture(magic: bytes) -> bool:
    """Whether a file that begins with these `MAGIC_SIZE` bytes is a capture."""
    return magic == _SECTION or magic in _PCAP


@dataclass(frozen=True, slots=True)
class Frame:
    """What was captured at once. `number`: from 1 on, as Wireshark and tcpdump count. `time`: nanoseconds since
    1970, None where the file does not say. `link_type`: of tcpdump.org's list. `length`: bytes that it had on the
    network; `data` has fewer where the capture's snap length has cut it short."""

    number: int
    time: int | None
    link_type: int
    data: bytes
    length: int


def read_frames(file: BinaryIO, path: Path, magic: bytes | None = None) -> Iterator[Frame]:
    """The frames of a capture, one after the other. `path`: what complaints call the file. `magic`: its first
    `MAGIC_SIZE` bytes, where they have been read from it already.

    `FileFault` if it is no capture, or from where it is damaged or cut short; what comes before has been given by
    then. Nothing else is raised, whatever the bytes are."""
    source = _Source(file, path)
    first = source.read(MAGIC_SIZE) if magic is None else magic
    if first == _SECTION:
        return _pcapng(source)
    if first in _PCAP:
        return _pcap(source, *_PCAP[first])
    raise FileFault(path, "is no capture file; give one that tcpdump or Wireshark has written (pcap or pcapng)")


class _Source:
    """The bytes of a file, and how many frames have been read."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self.frames = 0

    def read(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        try:
            return self._file.read(size)
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or error
            raise FileFault(self._path, f"cannot be read ({problem}); check the path and its mode") from None

    def take(self, size: int) -> bytes:
        """So many bytes, which must be there."""
        data = self.read(size)
        if len(data) < size:
            self.fault("is cut short")
        return data

    def head(self, size: int) -> bytes:
        """The first bytes of a record, or nothing if there is none any more."""
        data = self.read(size)
        if data and len(data) < size:
            self.fault("is cut short")
        return data

    def fields(self, layout: str, data: bytes) -> tuple[Any, ...]:
        """What these bytes begin with."""
        try:
            return struct.unpack_from(layout, data)
        except struct.error:
            self.fault("is damaged")

    def fault(self, problem: str) -> NoReturn:
        where = f"behind frame {self.frames}" if self.frames else "before its first frame"
        raise FileFault(self._path, f"{problem} {where}; capture again, or use what comes before")

    def frame(self, time: int | None, link_type: int, data: bytes, captured: int, length: int) -> Frame:
        """The next frame, from bytes of which the first `captured` are it."""
        if captured > MAX_FRAME or captured > len(data):
            self.fault("is damaged")
        self.frames += 1
        return Frame(self.frames, time, link_type, data[:captured], length)


def _pcap(source: _Source, order: str, unit: int) -> Iterator[Frame]:
    """draft-ietf-opsawg-pcap, behind the magic number."""
    major, link_type = source.fields(order + "HxxxxxxxxxxxxxxI", source.take(20))
    if major != 2:
        source.fault(f"is of version {major}, which is not read,")
    while head := source.head(16):
        seconds, fraction, captured, length = source.fields(order + "4I", head)
        data = source.take(min(captured, MAX_FRAME + 1))
        time = seconds * _NANOSECONDS + fraction * unit
        yield source.frame(time, link_type & 0xFFFF, data, captured, length)  # above: length of a checksum


@dataclass(frozen=True, slots=True)
class _Interface:
    """`resolution`: units of time stamps in a second. `offset`: seconds to be added to them."""

    link_type: int
    snap_length: int
    resolution: int
    offset: int

    def time(self, high: int, low: int) -> int | None:
        time = (high << 32 | low) * _NANOSECONDS // self.resolution + self.offset * _NANOSECONDS
        return time if 0 <= time <= _LATEST else None


def _pcapng(source: _Source) -> Iterator[Frame]:
    """draft-ietf-opsawg-pcapng, behind the first section's block type."""
    order = "<"
    interfaces: list[_Interface] = []
    head = _SECTION
    while head:
        length = source.take(4)
        if head == _SECTION:
            mark = source.take(4)
            order = _BYTE_ORDERS.get(mark) or source.fault("has an unknown byte order")
            interfaces = []
            body = _body(source, order, length, mark)
            if source.fields(order + "xxxxH", body)[0] != 1:
                source.fault("has a section of a version that is not read")
        else:
            body = _body(source, order, length, b"")
        (kind,) = source.fields(order + "I", head)
        if kind == _INTERFACE:
            interfaces.append(_interface(source, order, body))
        elif kind == _ENHANCED_PACKET:
            index, high, low, captured, original = source.fields(order + "5I", body)
            interface = _at(source, interfaces, index)
            time = interface.time(high, low)
            yield source.frame(time, interface.link_type, body[20:], captured, original)
        elif kind == _SIMPLE_PACKET:
            (original,) = source.fields(order + "I", body)
            interface = _at(source, interfaces, 0)
            captured = min(original, interface.snap_length or original)
            yield source.frame(None, interface.link_type, body[4:], captured, original)
        head = source.head(4)


def _body(source: _Source, order: str, length: bytes, begun: bytes) -> bytes:
    """A block's body, of which `begun` has been read already, between the two lengths, which must be equal."""
    (total,) = source.fields(order + "I", length)
    rest = total - 12 - len(begun)
    if rest < 0 or total % 4 or total > MAX_BLOCK:
        source.fault("is damaged")
    body = begun + source.take(rest)
    if source.take(4) != length:
        source.fault("is damaged")
    return body


def _at(source: _Source, interfaces: list[_Interface], index: int) -> _Interface:
    if index >= len(interfaces):
        source.fault("is damaged (a frame of an interface that is not described)")
    return interfaces[index]


def _interface(source: _Source, order: str, body: bytes) -> _Interface:
    link_type, snap_length = source.fields(order + "HxxI", body)
    resolution, offset = 10**6, 0
    at = 8
    while at < len(body):
        code, size = source.fields(order + "HH", body[at:])
        value = body[at + 4 : at + 4 + size]
        if code == _END_OF_OPTIONS:
            break
        if code == _RESOLUTION:
            (exponent,) = source.fields("B", value)
            resolution = 2 ** (exponent & 0x7F) if exponent & 0x80 else 10**exponent
        elif code == _OFFSET:
            (offset,) = source.fields(order + "q", value)
        at += 4 + size + -size % 4
    return _Interface(link_type, snap_length, resolution, offset)
