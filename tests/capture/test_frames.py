"""Capture files to frames: both formats, both byte orders, and whatever may be wrong with them."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capture_bytes import (
    BEGUN,
    ETHERNET,
    RAW,
    block,
    enhanced,
    ethernet,
    interface,
    ipv4,
    pcap,
    pcapng,
    section,
    simple,
    udp,
)
from groupcoap.capture.frames import MAX_BLOCK, MAX_FRAME, Frame, is_capture, read_frames
from groupcoap.errors import FileFault

PATH = Path("some.pcap")
FRAMES = [ethernet(ipv4(udp(b"one"))), ethernet(ipv4(udp(b"second"))), b"third"]
SECOND = 10**9


def read(data: bytes) -> list[Frame]:
    return list(read_frames(BytesIO(data), PATH))


def read_as_far_as_possible(data: bytes) -> tuple[list[Frame], str | None]:
    """The frames, and the complaint if there is one: nothing but a `FileFault` may be raised."""
    frames: list[Frame] = []
    try:
        for frame in read_frames(BytesIO(data), PATH):
            frames.append(frame)
    except FileFault as fault:
        return frames, fault.problem
    return frames, None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_pcap_of_either_byte_order_and_resolution(order: str, nanoseconds: bool) -> None:
    frames = read(pcap(FRAMES, order=order, nanoseconds=nanoseconds))
    assert [frame.data for frame in frames] == FRAMES
    assert [frame.number for frame in frames] == [1, 2, 3]
    assert [frame.time for frame in frames] == [BEGUN * SECOND + at * SECOND // 4 for at in range(3)]
    assert {frame.link_type for frame in frames} == {ETHERNET}
    assert [frame.length for frame in frames] == [len(frame) for frame in FRAMES]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_of_either_byte_order(order: str) -> None:
    assert read(pcapng(FRAMES, order=order)) == read(pcap(FRAMES))


def test_what_was_captured_in_part_says_so() -> None:
    frames = read(pcap(FRAMES, snap_length=10))
    assert [(len(frame.data), frame.length) for frame in frames] == [
        (10, len(FRAMES[0])),
        (10, len(FRAMES[1])),
        (5, 5),
    ]
    (frame,) = read(section() + interface(snap_length=7) + block(3, struct.pack("<I", 100) + bytes(7)))
    assert (frame.data, frame.length, frame.time) == (bytes(7), 100, None)


def test_a_checksum_s_length_beside_the_link_type_is_passed_over() -> None:
    data = bytearray(pcap(FRAMES))
    data[20:24] = struct.pack("<I", 0x4400_0000 | ETHERNET)
    assert [frame.link_type for frame in read(bytes(data))] == [ETHERNET] * 3


def option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


@pytest.mark.parametrize(
    ("options", "at", "time"),
    [
        (b"", 5_000_000, 5 * SECOND),
        (option(9, b"\x09"), 5_000_000_001, 5 * SECOND + 1),
        (option(9, b"\x83"), 9, 9 * SECOND // 8),
        (option(14, struct.pack("<q", 100)), 1, 100 * SECOND + 1000),
        (option(2, b"eth0\0") + option(9, b"\x00") + option(0, b"") + b"rest", 3, 3 * SECOND),
        (option(14, struct.pack("<q", -100)), 1, None),
        (option(9, b"\x00"), 2**33, None),
    ],
    ids=["microseconds", "nanoseconds", "eighths", "offset", "others", "before-1970", "far-away"],
)
def test_time_stamps_have_the_resolution_of_their_interface(options: bytes, at: int, time: int | None) -> None:
    (frame,) = read(section() + interface(options=options) + enhanced(b"frame", at))
    assert frame.time == time


def test_interfaces_have_link_types_of_their_own_and_sections_begin_anew() -> None:
    first = section() + interface(ETHERNET) + interface(RAW) + enhanced(b"a", 1, 0) + enhanced(b"b", 1, 1)
    unknown = block(5, b"statistics") + block(0x0BAD, b"")
    second = section(">") + interface(RAW, ">") + enhanced(b"c", 1, 0, ">") + simple(b"d", ">")
    frames = read(first + unknown + second)
    assert [(frame.number, frame.link_type, frame.data) for frame in frames] == [
        (1, ETHERNET, b"a"),
        (2, RAW, b"b"),
        (3, RAW, b"c"),
        (4, RAW, b"d"),
    ]


def test_a_capture_of_nothing() -> None:
    assert read(pcap([])) == read(pcapng([])) == read(section()) == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is no capture file"),
        (b"40 01 00 07", "is no capture file"),
        (pcap([])[:10], "is cut short before its first frame"),
        (pcap(FRAMES)[:-1], "is cut short behind frame 2"),
        (pcap(FRAMES[:1]) + bytes(3), "is cut short behind frame 1"),
        (pcap([])[:4] + b"\x03" + pcap([])[5:], "is of version 3"),
        (pcap([]) + struct.pack("<IIII", 1, 1, MAX_FRAME + 1, 1) + bytes(MAX_FRAME + 1), "is damaged before"),
        (section()[:8] + b"\0\0\0\0" + section()[12:], "has an unknown byte order"),
        (section().replace(b"\x01\x00\x00\x00", b"\x02\x00\x00\x00"), "has a section of a version"),
        (section() + enhanced(b"frame", 1), "is damaged (a frame of an interface that is not described)"),
        (section() + simple(b"frame"), "is damaged (a frame of an interface that is not described)"),
        (section() + interface(options=option(9, b"")), "is damaged"),
        (section() + interface() + block(6, bytes(16)), "is damaged"),
        (section() + interface() + block(6, struct.pack("<IIIII", 0, 0, 0, 5, 5) + b"four"), "is damaged"),
        (section() + block(7, bytes(8))[:-4] + struct.pack("<I", 24), "is damaged"),
        (section() + struct.pack("<II", 7, 8), "is damaged"),
        (section() + struct.pack("<II", 7, MAX_BLOCK + 4), "is damaged"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, problem: str) -> None:
    assert problem in (read_as_far_as_possible(data)[1] or "")


@pytest.mark.parametrize(
    ("data", "boundaries"), [(pcap(FRAMES), 3), (pcapng(FRAMES), 4), (pcapng(FRAMES, order=">"), 4)]
)
def test_cut_short_anywhere_it_gives_what_comes_before(data: bytes, boundaries: int) -> None:
    whole, clean = read(data), 0
    for length in range(len(data)):
        frames, problem = read_as_far_as_possible(data[:length])
        assert frames == whole[: len(frames)]
        assert len(frames) < len(whole)
        assert problem is None or "\n" not in problem
        clean += problem is None
    assert clean == boundaries


@pytest.mark.parametrize("data", [pcap(FRAMES[:1]), pcapng(FRAMES[:1])])
@pytest.mark.parametrize("value", [0x00, 0x01, 0x7F, 0x80, 0xFF])
def test_any_byte_may_be_wrong(data: bytes, value: int) -> None:
    for at in range(len(data)):
        read_as_far_as_possible(data[:at] + bytes((value,)) + data[at + 1 :])


@given(st.binary(max_size=200), st.sampled_from([pcap([]), section() + interface(), b""]))
@example(b"", b"")
def test_any_bytes_give_frames_or_a_fault(data: bytes, head: bytes) -> None:
    frames, _ = read_as_far_as_possible(head + data)
    assert sum(len(frame.data) for frame in frames) <= len(data)


def test_a_file_that_fails_is_a_fault(tmp_path: Path) -> None:
    with (tmp_path / "for-writing").open("wb") as file, pytest.raises(FileFault, match="cannot be read"):
        read_frames(file, PATH)


def test_a_capture_is_known_by_how_it_begins() -> None:
    assert is_capture(pcap([])[:4])
    assert is_capture(section()[:4])
    assert not is_capture(b"4001")
    data = BytesIO(pcap(FRAMES))
    magic = data.read(4)
    assert len(list(read_frames(data, PATH, magic))) == 3
