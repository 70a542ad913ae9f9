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
from groupcoap.core.contexts import SecurityContext, SenderContext
from groupcoap.core.policy import PROFILES
from groupcoap.core.profile import RequestIds
from groupcoap.core.requests import protect_request
from groupcoap.core.responses import incoming_exchange, protect_response
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.files.checker import checked_group
from groupcoap.files.provisioned import load_member

GROUP = ("224.0.1.187", 5683)
SWITCH = ("10.0.0.1", 40000)
LAMP_1 = ("10.0.0.2", 5683)
LAMP_2 = ("10.0.0.3", 61616)
ELSEWHERE = ("10.0.0.66", 6666)

LIGHT = (coap.URI_PATH, b"light")
OBSERVE = (coap.OBSERVE, b"")
FORMAT = (12, b"2")


DRAFT, TODAY = PROFILES
"""Names of the two profiles."""


def provisioned(directory: Path, profile: str = DRAFT, *options: str) -> Path:
    """One switch and two lamps in the group room, and a panel where that is asked for."""
    arguments = ("--switches", "1", "--lamps", "2", "--profile", profile, *options)
    assert main(["provision", str(directory), *arguments]) == 0
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


def checkers_view(*devices: Path) -> Onlooker:
    """Of a signature checker that was exported from each of these."""
    return onlooker((path, checked_group(group)) for path in devices for group in load_member(path).groups)


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
        only: bytes | None = None,
    ) -> bytes:
        """For the group, or in pairwise mode for `only` one."""
        message = Message(kind, code, 7, token, tuple(sorted(options)), payload)
        to = None if only is None else self.security.recipient(only)
        protected = protect_request(self.security, self.sender, message, to=to)
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
        only: bytes | None = None,
        asked_alone: bool = False,
        with_gid: bool = False,
    ) -> bytes:
        """For the group, or in pairwise mode for the requester, who is `only` here. `asked_alone`: the request was
        in pairwise mode."""
        exchange = incoming_exchange(self.sender, to, may_reuse_nonce=not fresh, pairwise=asked_alone)
        message = Message(kind, code, 9, token, tuple(sorted(options)), payload)
        alone = None if only is None else (self.security, self.security.recipient(only))
        answer = protect_response(self.sender, exchange, message, to=alone, fresh=fresh, include_gid=with_gid)
        return coap.encode(answer)


def speaker(device: Path, first: int = 0, group_name: str = "room") -> Speaker:
    group = next(group for group in load_member(device).groups if group.name == group_name)
    epoch = group.current
    assert epoch.own_id is not None
    assert epoch.private_key is not None
    assert epoch.credential is not None
    common, parameters = group.common_context(epoch), group.parameters
    own = parameters.authenticated(epoch.credential)
    sender = SenderContext(common, epoch.own_id, epoch.private_key, SequenceNumbers(first), own)
    context = SecurityContext(group.name, common, sender, {})
    for member in epoch.members:
        key = member.credential.public_key(group.signature)
        context.learn(member.endpoint_id, key, parameters.authenticated(member.credential))
    return Speaker(context, sender)


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
