"""A group's traffic made by the core, with names and addresses: who says what, and the frames it travels in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from capture_bytes import datagram, ethernet
from groupcoap.capture.datagrams import Datagram, Skipped, read_datagrams
from groupcoap.capture.frames import Frame
from groupcoap.cli import main
from groupcoap.cli.onlooker import Onlooker, onlooker
from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.contexts import CommonContext, SecurityContext, SenderContext
from groupcoap.core.profile import RequestIds
from groupcoap.core.requests import protect_request
from groupcoap.core.responses import incoming_exchange, protect_response
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.files.provisioned import load_member

GROUP = ("224.0.1.187", 5683)
SWITCH = ("10.0.0.1", 40000)
LAMP_1 = ("10.0.0.2", 5683)
LAMP_2 = ("10.0.0.3", 61616)
ELSEWHERE = ("10.0.0.66", 6666)

LIGHT = (coap.URI_PATH, b"light")
OBSERVE = (coap.OBSERVE, b"")
FORMAT = (12, b"2")


def provisioned(directory: Path) -> Path:
    """One switch and two lamps in the group room."""
    assert main(["provision", str(directory), "--switches", "1", "--lamps", "2"]) == 0
    return directory


def renewed(home: Path, directory: Path) -> Path:
    """The same devices after a renewal: the next Gid, another Master Secret."""
    shutil.copytree(home, directory)
    for path in directory.glob("*/room.group.json"):
        document = json.loads(path.read_text())
        (epoch,) = document["epochs"]
        epoch["gid"] = f"{int(epoch['gid'], 16) + 1:024x}"
        epoch["master_secret"] = "77" * 16
        path.write_text(json.dumps(document))
    return directory


def view_of(*devices: Path) -> Onlooker:
    return onlooker((path, group) for path in devices for group in load_member(path).groups)


@dataclass
class Speaker:
    """A device that protects messages, from this sequence number on."""

    security: SecurityContext
    sender: SenderContext
    asked: dict[bytes, RequestIds] = field(default_factory=dict)

    @property
    def gid(self) -> bytes:
        return self.security.gid

    def request(
        self,
        code: int,
        *options: tuple[int, bytes],
        payload: bytes = b"",
        token: bytes = b"\xaa",
        kind: int = coap.NON,
    ) -> bytes:
        message = Message(kind, code, 7, token, tuple(sorted(options)), payload)
        protected = protect_request(self.security, self.sender, message)
        datagram = coap.encode(protected.message)
        self.asked[datagram] = protected.exchange.ids
        return datagram

    def answer(
        self,
        to: RequestIds,
        code: int,
        *options: tuple[int, bytes],
        payload: bytes = b"",
        token: bytes = b"\xaa",
        fresh: bool = False,
        kind: int = coap.NON,
    ) -> bytes:
        exchange = incoming_exchange(self.sender, to, may_reuse_nonce=not fresh)
        message = Message(kind, code, 9, token, tuple(sorted(options)), payload)
        return coap.encode(protect_response(self.sender, exchange, message, fresh=fresh))


def speaker(device: Path, first: int = 0, group_name: str = "room") -> Speaker:
    group = next(group for group in load_member(device).groups if group.name == group_name)
    epoch = group.current
    assert epoch.own_id is not None
    assert epoch.private_key is not None
    common = CommonContext(
        profile=group.profile,
        aead=group.aead,
        kdf=group.kdf,
        signature=group.signature,
        master_secret=epoch.master_secret,
        gid=epoch.gid,
    )
    sender = SenderContext(common, epoch.own_id, epoch.private_key, SequenceNumbers(first))
    return Speaker(SecurityContext(group.name, common, sender, {}), sender)


End = tuple[str, int]
Step = tuple[End, End, bytes]
"""From, to, the datagram."""


def frames_of(steps: Iterable[Step]) -> list[bytes]:
    """Each datagram in an Ethernet frame of its own."""
    return [ethernet(datagram(source, destination, data)) for source, destination, data in steps]


def datagrams_of(steps: Iterable[Step]) -> list[Datagram]:
    """As they come out of a capture, a quarter of a second apart."""
    frames = (
        Frame(number, number * 250_000_000, 1, frame, len(frame))
        for number, frame in enumerate(frames_of(steps), 1)
    )
    found = list(read_datagrams(frames))
    assert not any(isinstance(item, Skipped) for item in found)
    return [item for item in found if isinstance(item, Datagram)]
