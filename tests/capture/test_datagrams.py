"""Frames to datagrams: every link type, both versions of IP, VLAN tags, fragments, and what is passed over."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture_bytes import (
    ETHERNET,
    LINKS,
    RAW,
    SLL2,
    enhanced,
    ethernet,
    interface,
    ipv4,
    ipv6,
    ipv6_fragment,
    pcap,
    section,
    udp,
)
from groupcoap.capture.datagrams import (
    MAX_ASSEMBLIES,
    Datagram,
    HostPort,
    Skip,
    Skipped,
    read_datagrams,
)
from groupcoap.capture.frames import Frame, read_frames

PAYLOAD = bytes(range(200)) * 10


def read(data: bytes) -> list[Datagram | Skipped]:
    return list(read_datagrams(read_frames(BytesIO(data), Path("some.pcap"))))


def found(frames: Iterable[bytes], link: int = ETHERNET) -> list[bytes | Skip]:
    """What is in each of these frames: the payload, or why there is none."""
    return [item.payload if isinstance(item, Datagram) else item.reason for item in read(pcap(frames, link))]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("packet", [ipv4(udp(b"coap")), ipv6(udp(b"coap"))], ids=["IPv4", "IPv6"])
def test_every_link_type(link: int, packet: bytes) -> None:
    (datagram,) = read(pcap([LINKS[link](packet)], link))
    assert isinstance(datagram, Datagram)
    version = packet[0] >> 4
    hosts = ("10.0.0.1", "224.0.1.187") if version == 4 else ("fd00::1", "ff05::fd")
    assert datagram.source == HostPort(ip_address(hosts[0]), 40000)
    assert datagram.destination == HostPort(ip_address(hosts[1]), 5683)
    assert (datagram.number, datagram.payload, datagram.whole) == (1, b"coap", True)


def test_an_endpoint_is_shown_as_in_a_uri() -> None:
    assert str(HostPort(ip_address("10.0.0.1"), 5683)) == "10.0.0.1:5683"
    assert str(HostPort(ip_address("fd00::1"), 5683)) == "[fd00::1]:5683"


@pytest.mark.parametrize("tags", [(b"\x81\x00",), (b"\x88\xa8", b"\x81\x00"), (b"\x91\x00",)])
def test_vlan_tags_are_passed_over(tags: tuple[bytes, ...]) -> None:
    assert found([ethernet(ipv4(udp(b"coap")), tags=tags)]) == [b"coap"]
    tagged = b"\x81\x00" + bytes(18) + b"\x00\x2a" + b"\x08\x00" + ipv4(udp(b"coap"))
    assert found([tagged], SLL2) == [b"coap"]


def test_padding_is_not_payload_and_options_are_no_part_of_it() -> None:
    packet = ipv4(udp(b"coap"), options=b"\x94\x04\0\0")
    assert found([ethernet(packet) + bytes(18), ethernet(ipv4(udp(b"coap") + b"beyond"))]) == [b"coap", b"coap"]


def test_a_length_that_a_network_card_would_have_filled_in() -> None:
    packet = bytearray(ipv4(udp(b"coap")))
    packet[2:4] = packet[24:26] = b"\0\0"
    assert found([ethernet(bytes(packet))]) == [b"coap"]
    jumbo = bytearray(ipv6(udp(b"coap")))
    jumbo[4:6] = b"\0\0"
    assert found([ethernet(bytes(jumbo))]) == [b"coap"]


@pytest.mark.parametrize("kind", [0, 43, 60, 51])
def test_ipv6_extension_headers_are_passed_over(kind: int) -> None:
    extension = b"\x11\x01" + bytes(10 if kind == 51 else 14)
    assert found([ethernet(ipv6(extension + udp(b"coap"), following=kind))]) == [b"coap"]


TCP = ipv4(b"segment", protocol=6)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", Skip.NOT_IP),
        (bytes(12) + b"\x08\x06" + bytes(28), Skip.NOT_IP),
        (bytes(12) + b"\x00\x26" + bytes(38), Skip.NOT_IP),
        (bytes(12) + b"\x08\x00" + b"\x50" + bytes(30), Skip.NOT_IP),
        (ethernet(TCP), Skip.NOT_UDP),
        (ethernet(ipv6(b"segment", following=6)), Skip.NOT_UDP),
        (ethernet(ipv6(b"", following=59)), Skip.NOT_UDP),
        (ethernet(ipv4(udp(b"coap")))[:20], Skip.DAMAGED),
        (ethernet(ipv6(udp(b"coap")))[:40], Skip.DAMAGED),
        (bytes(12) + b"\x08\x00" + b"\x41" + bytes(30), Skip.DAMAGED),
        (ethernet(ipv6(b"\x11\xff" + bytes(6), following=0)), Skip.DAMAGED),
        (ethernet(ipv6(b"\x11\x00", following=0)), Skip.DAMAGED),
        (ethernet(ipv4(b"\x9c\x40\x16\x33")), Skip.DAMAGED),
        (ethernet(ipv4(struct.pack(">HHHH", 1, 2, 7, 0))), Skip.DAMAGED),
    ],
)
def test_what_has_no_datagram_says_why(frame: bytes, reason: Skip) -> None:
    assert found([frame, ethernet(ipv4(udp(b"coap")))]) == [reason, b"coap"]


def test_other_link_types_are_not_guessed_at() -> None:
    assert found([ipv4(udp(b"coap"))], 105) == [Skip.LINK_TYPE]


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize("snap_length", [20, 45, 50, 57])
def test_what_the_snap_length_has_cut_off_is_noticed(make: type, snap_length: int) -> None:
    (item,) = read(pcap([ethernet(make(udp(b"a longer payload")))], snap_length=snap_length))
    if isinstance(item, Datagram):
        assert not item.whole
        assert b"a longer payload".startswith(item.payload)
    else:
        assert item.reason is Skip.CUT_SHORT


def fragments(version: int, *cuts: int, identification: int = 7) -> list[bytes]:
    """A datagram cut at these bytes, which are multiples of 8."""
    whole = udp(PAYLOAD)
    pieces = []
    for begin, end in zip((0, *cuts), (*cuts, len(whole)), strict=True):
        more = end < len(whole)
        if version == 4:
            packet = ipv4(whole[begin:end], fragment=begin, more=more, identification=identification)
        else:
            data = ipv6_fragment(whole[begin:end], begin, more=more, identification=identification)
            packet = ipv6(data, following=44)
        pieces.append(ethernet(packet))
    return pieces


both_versions = pytest.mark.parametrize("version", [4, 6])


@both_versions
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_fragments_in_any_order_are_put_together(version: int, order: tuple[int, ...]) -> None:
    pieces = fragments(version, 800, 1600)
    (datagram,) = read(pcap([pieces[at] for at in order]))
    assert isinstance(datagram, Datagram)
    assert (datagram.payload, datagram.number, datagram.whole) == (PAYLOAD, 3, True)


@both_versions
def test_fragments_of_several_datagrams_do_not_mix(version: int) -> None:
    one, other = fragments(version, 800), fragments(version, 1600, identification=8)
    assert found([one[0], other[0], other[1], one[1]]) == [PAYLOAD, PAYLOAD]


@both_versions
def test_a_fragment_that_comes_twice_does_no_harm(version: int) -> None:
    first, second = fragments(version, 800)
    assert found([first, first, second]) == [PAYLOAD]


@both_versions
def test_a_missing_fragment_is_reported_at_the_end(version: int) -> None:
    pieces = fragments(version, 800, 1600)
    assert read(pcap([pieces[0], pieces[2], ethernet(ipv4(udp(b"coap")))]))[1:] == [
        Skipped(1, 1_700_000_000 * 10**9, Skip.FRAGMENTS)
    ]


@pytest.mark.parametrize("last", [1200, 1216], ids=["overlap", "overlap-and-gap"])
def test_overlapping_fragments_are_not_put_together(last: int) -> None:
    whole = udp(PAYLOAD)
    overlapping = [ipv4(whole[:808], more=True), ipv4(whole[800:1208], fragment=800, more=True)]
    overlapping.append(ipv4(whole[last:], fragment=last))
    assert found(map(ethernet, overlapping)) == [Skip.FRAGMENTS]


def test_a_fragment_that_is_the_whole_is_none() -> None:
    packet = ipv6(ipv6_fragment(udp(b"coap"), 0, more=False), following=44)
    assert found([ethernet(packet)]) == [b"coap"]


def test_a_number_that_is_used_again_later_does_not_complete_an_old_datagram() -> None:
    first, second = fragments(4, 800)
    late = section() + interface() + enhanced(first, 0) + enhanced(second, 61_000_000) + enhanced(first, 61_000_001)
    items = read(late)
    assert [item.payload if isinstance(item, Datagram) else item.reason for item in items] == [
        Skip.FRAGMENTS,
        PAYLOAD,
    ]


def test_fragments_fill_no_memory() -> None:
    flood = [fragments(4, 800, identification=at)[0] for at in range(MAX_ASSEMBLIES + 10)]
    result = found([*flood, ethernet(ipv4(udp(b"coap")))])
    assert result == [*[Skip.FRAGMENTS] * 10, b"coap", *[Skip.FRAGMENTS] * MAX_ASSEMBLIES]
    huge = [ethernet(ipv4(bytes(60000), fragment=at * 8, more=True)) for at in (1, 2)]
    assert found([*huge, ethernet(ipv4(udp(b"coap")))]) == [Skip.FRAGMENTS, b"coap"]


def test_a_fragment_cut_short_is_not_put_together() -> None:
    first, second = fragments(4, 800)
    result = read(pcap([first, second], snap_length=600))
    assert [item.reason for item in result if isinstance(item, Skipped)] == [Skip.CUT_SHORT, Skip.CUT_SHORT]


WHOLE = {
    "tagged": (ETHERNET, ethernet(ipv4(udp(b"coap")), tags=(b"\x81\x00",))),
    "fragment-6": (RAW, ipv6(b"\x2c\x00" + bytes(6) + ipv6_fragment(udp(b"coap"), 0, more=True), following=0)),
    "fragment-4": (SLL2, LINKS[SLL2](ipv4(udp(b"coap"), more=True))),
}


@pytest.mark.parametrize("name", WHOLE)
def test_any_byte_of_a_frame_may_be_wrong_or_missing(name: str) -> None:
    link, data = WHOLE[name]
    frames = [Frame(1, None, link, data[:length], len(data)) for length in range(len(data))]
    for at in range(len(data)):
        for value in (0, 1, 0x40, 0x7F, 0xFF):
            wrong = data[:at] + bytes((value,)) + data[at + 1 :]
            frames.append(Frame(1, None, link, wrong, len(wrong)))
    for frame in frames:
        assert len(list(read_datagrams([frame]))) == 1


@given(st.lists(st.tuples(st.sampled_from([*LINKS, 105]), st.binary(max_size=80), st.integers(0, 100))))
def test_any_frames_give_datagrams_or_reasons(frames: list[tuple[int, bytes, int]]) -> None:
    made = [Frame(at, None, link, data, length) for at, (link, data, length) in enumerate(frames, 1)]
    assert len(list(read_datagrams(made))) == len(made)
