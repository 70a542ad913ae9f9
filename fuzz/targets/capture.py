"""Capture files, from their bytes to what is shown of them (capture/, cli/captures.py and what it uses)."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path

from groupcoap.cli.captures import Capture
from groupcoap.cli.onlooker import Onlooker, onlooker
from groupcoap.cli.sightings import sighting_json, summary_json, summary_lines
from groupcoap.cli.text import printable
from groupcoap.core import coap
from groupcoap.core.profile import RequestIds
from groupcoap.errors import FileFault, MisuseError

from ..choices import Choices
from ..device import configuration
from ..group import (
    ADDRESS,
    GROUPS,
    LAMP,
    SPEAKERS,
    SWITCH,
    Group,
    choose_number,
    choose_peer,
    choose_plaintext,
    damaged,
    gid,
)

_NAME = Path("capture")
_LINK_TYPES = (101, 1, 113, 276, 0, 228, 7)
_LINK_HEADERS = {
    1: bytes(12) + b"\x08\x00",
    113: bytes(14) + b"\x08\x00",
    276: b"\x08\x00" + bytes(18),
    0: b"\x02\x00\x00\x00",
}
_HOSTS = (bytes((192, 0, 2, 1)), bytes((192, 0, 2, 9)), ADDRESS.packed)


def check(data: bytes) -> None:
    """`FileFault` from where the file is damaged, and nothing else; whatever has come by then can be shown, line by
    line, as JSON and explained. Without keys nothing is called verified."""
    choices = Choices(data)
    group = choices.one_of(GROUPS)
    view = _view(group) if choices.flag() else None
    content = choices.rest() if choices.below(8) == 7 else _choose_capture(choices, group)
    try:
        capture = Capture(BytesIO(content), _NAME, view)
    except FileFault:
        return
    frames = []
    try:
        for found, sighting in capture:
            frames.append(found.number)
            if sighting is not None:
                json.dumps(sighting_json(sighting))
                assert view is not None or not sighting.verified
    except FileFault:
        pass
    json.dumps(summary_json(capture.seen))
    assert all(printable(line).isprintable() for line in summary_lines(capture.seen))
    for number in frames[-1:]:
        with suppress(FileFault, MisuseError):
            Capture(BytesIO(content), _NAME, view).explain(number)


@cache
def _view(group: Group) -> Onlooker:
    return onlooker([(Path("lamp-1"), configuration(epochs=2, group=group))])


@cache
def _asked(group: Group) -> bytes:
    return coap.encode(group.request(SWITCH, 5, coap.BYTE[coap.GET], token=b"\x05"))


# ---- files


def _choose_capture(choices: Choices, group: Group) -> bytes:
    """A capture of up to eight frames, sometimes cut short or with one byte changed."""
    link_type = choices.one_of(_LINK_TYPES)
    order = choices.one_of("<>")
    frames = [_choose_frame(choices, group, link_type) for _ in range(choices.below(9))]
    content = _pcap(frames, link_type, order) if choices.flag() else _pcapng(frames, link_type, order)
    how, at = choices.below(8), choices.number(2) % len(content)
    if how == 6:
        return content[:at]
    if how == 7:
        return content[:at] + bytes((choices.byte(),)) + content[at + 1 :]
    return content


def _pcap(frames: list[bytes], link_type: int, order: str) -> bytes:
    head = struct.pack(order + "IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link_type)
    records = [
        struct.pack(order + "IIII", 1511400000, at, len(frame), len(frame)) + frame
        for at, frame in enumerate(frames)
    ]
    return b"".join([head, *records])


def _pcapng(frames: list[bytes], link_type: int, order: str) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        length = struct.pack(order + "I", len(body) + 12)
        return struct.pack(order + "I", kind) + length + body + length

    section = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    interface = block(1, struct.pack(order + "HHI", link_type, 0, 0))
    packets = [
        block(6, struct.pack(order + "IIIII", 0, 351895, at, len(frame), len(frame)) + frame)
        for at, frame in enumerate(frames)
    ]
    return b"".join([section, interface, *packets])


# ---- frames


def _choose_frame(choices: Choices, group: Group, link_type: int) -> bytes:
    """A frame with a datagram in it; or any bytes behind a link header."""
    head = _LINK_HEADERS.get(link_type, b"")
    if choices.below(4) == 3:
        return head + choices.some()
    source, destination = choices.one_of(_HOSTS), choices.one_of(_HOSTS)
    payload = _choose_datagram(choices, group)
    ports = choices.one_of(((5683, 5683), (61616, 5683), (5683, 61616), (1, 2)))
    udp = struct.pack(">HHHH", *ports, len(payload) + 8, 0) + payload
    fragment = choices.number(2) if choices.below(4) == 3 else 0
    if choices.flag():
        return (
            head
            + struct.pack(">BBHHHBBH", 0x45, 0, len(udp) + 20, 7, fragment, 64, 17, 0)
            + source
            + destination
            + udp
        )
    if link_type in (1, 113):
        head = head[:-2] + b"\x86\xdd"
    following, extension = (44, bytes((17, 0)) + fragment.to_bytes(2, "big") + bytes(4)) if fragment else (17, b"")
    hosts = source.rjust(16, b"\x20") + destination.rjust(16, b"\xff")
    return head + struct.pack(">IHBB", 0x60000000, len(extension + udp), following, 64) + hosts + extension + udp


def _choose_datagram(choices: Choices, group: Group) -> bytes:
    """Any bytes, a group request, or a response to the same request each time; some damaged."""
    what = choices.below(4)
    if what == 0:
        return choices.some()
    if what == 1:
        return _asked(group)
    kid, number, plaintext = choices.one_of(SPEAKERS), choose_number(choices), choose_plaintext(choices)
    token, epoch, forged = choices.one_of((b"\x05", b"")), choices.below(3), choices.below(8) == 7
    if what == 2:
        to = choose_peer(choices, group, (LAMP,))
        message = group.request(kid, number, plaintext, to=to, epoch=epoch, forged=forged, token=token)
    else:
        ids = RequestIds(SWITCH, b"\x05", gid())
        own = None if choices.flag() else number
        to, with_gid = choose_peer(choices, group, (LAMP, SWITCH)), choices.flag()
        message = group.response(
            kid, ids, own, plaintext, to=to, epoch=epoch, with_gid=with_gid, forged=forged, token=token
        )
    return coap.encode(damaged(message, choices) if choices.below(8) == 7 else message)
