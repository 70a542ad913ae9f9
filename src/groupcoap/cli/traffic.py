"""The CoAP messages of a capture, one after the other: which answer belongs to which request, what is a repetition,
and what is to be said of each. Pure: datagrams in, sightings out. All tables are bounded, so that a capture may be
of any length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple, TypeVar

from ..capture.datagrams import Datagram, HostPort, Skip, Skipped
from ..core import coap
from ..core.coap import Message
from ..core.option import decode_prefix
from ..core.profile import Mode
from ..core.requests import object_security
from ..errors import Rejected
from ..membership import Member, Role
from .explain import (
    Others,
    Outcome,
    Verdict,
    gid_of,
    looks_like_group_message,
    mode_of,
    open_request,
    open_response,
    refused,
)
from .known import KnownEpoch
from .onlooker import Onlooker, Opened, Question

MAX_REQUESTS = 1 << 14
"""Tokens of requests that are remembered, those used last."""
MAX_SAME_TOKEN = 8
"""Requests with the same token of the same sender that are remembered, the newest: an observation's refreshes."""
MAX_SEEN = 1 << 17
"""Messages among which repetitions are found."""
MAX_CAUSES = 32
"""Reasons that a summary tells apart. Anybody can invent Gids that there are no keys for."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Kind(Enum):
    """What a datagram at a CoAP port is; the value is the text for people."""

    REQUEST = "group request"
    RESPONSE = "group response"
    EMPTY = "empty message"
    PLAIN = "plain CoAP"
    OSCORE = "RFC 8613 or pairwise mode"
    NOT_COAP = "not CoAP"
    CUT_SHORT = "only the beginning of a message"


class Earlier(NamedTuple):
    """A message that was there before. `same`: nothing in it is new; otherwise the same nonce was used for another
    one. `elsewhere`: it came from another address."""

    number: int
    same: bool
    elsewhere: bool


class Asked(NamedTuple):
    """A group request. `question`: what is known of it, None if it could not be opened. `answered`: Endpoint IDs
    from which a verified answer has come. `certain`: it is a group request, rather than one of RFC 8613; in
    pairwise mode that takes keys."""

    datagram: Datagram
    message: Message
    question: Question | None
    answered: set[bytes]
    certain: bool

    @property
    def by_multicast(self) -> bool:
        return self.datagram.destination.host.is_multicast


@dataclass(frozen=True, slots=True)
class Sighting:
    """One datagram of a capture.

    `verdict`: None for what is no group message. `message`: as decrypted, or as it came if it is plain CoAP; None
    if it cannot be read. `gid`, `mode`, `sender_id`, `sequence_number`: as the message says, which is certain only
    if it is verified; `peer`: in pairwise mode, whom it is for, if that is known. `epoch`: whose keys it is under,
    if they are known. `request`: what it answers."""

    datagram: Datagram
    kind: Kind
    verdict: Verdict | None = None
    message: Message | None = None
    epoch: KnownEpoch | None = None
    gid: bytes | None = None
    sender_id: bytes | None = None
    sequence_number: int | None = None
    mode: Mode | None = None
    peer: bytes | None = None
    request: Asked | None = None
    earlier: Earlier | None = None

    @property
    def verified(self) -> bool:
        """Whether it is certain who has made it."""
        return self.verdict is not None and self.verdict.outcome.authentic

    @property
    def sender(self) -> Member | None:
        """The member that it says it is from."""
        return self._member(self.sender_id)

    @property
    def recipient(self) -> Member | None:
        """In pairwise mode, the member that it is for."""
        return self._member(self.peer)

    def _member(self, endpoint_id: bytes | None) -> Member | None:
        return None if self.epoch is None or endpoint_id is None else self.epoch.members.get(endpoint_id)


class _Seen(NamedTuple):
    number: int
    source: HostPort
    ciphertext: int


_CUT_SHORT = Verdict(Outcome.NOT_TRIED, "cut short by the capture's snap length; capture with a longer one (-s 0)")
_NO_REQUEST = Verdict(Outcome.NOT_TRIED, "the request that it answers is not in the capture")


class Traffic:
    """What has been seen so far. `view`: with whose keys to look, None for without. `ports`: where CoAP is spoken;
    whoever sends a group request there is also followed at its own port."""

    def __init__(self, view: Onlooker | None, ports: Collection[int]) -> None:
        self._view = view
        self._ports = frozenset(ports)
        self._requests: dict[tuple[HostPort, bytes], list[Asked]] = {}
        self._multicasters: dict[HostPort, None] = {}
        self._seen: dict[tuple[object, ...], _Seen] = {}
        self._speakers: dict[HostPort, dict[bytes, bytes]] = {}

    def look(self, datagram: Datagram) -> Sighting | None:
        """What this datagram is; None if it is at other ports. Never raises for what is in it."""
        ends = (datagram.source, datagram.destination)
        if not any(end.port in self._ports or end in self._multicasters for end in ends):
            return None
        try:
            message = coap.decode(datagram.payload)
        except Rejected as rejection:
            if not datagram.whole:
                return Sighting(datagram, Kind.CUT_SHORT, _CUT_SHORT)
            return Sighting(datagram, Kind.NOT_COAP, refused(rejection))
        if message.option(coap.OBJECT_SECURITY) is None:
            kind = Kind.PLAIN if message.code else Kind.EMPTY
            return Sighting(datagram, kind, message=message)
        if coap.is_request(message.code):
            sighting = self._request(datagram, message)
        else:
            sighting = self._response(datagram, message)
        if sighting.verified:
            self._note_speaker(sighting)
        return sighting if sighting.verdict is None else self._compared(sighting, message)

    def _note_speaker(self, sighting: Sighting) -> None:
        """Who is at an address, under each Gid."""
        if sighting.gid is not None and sighting.sender_id is not None:
            source = sighting.datagram.source
            known = self._speakers.get(source, {})
            _put(known, sighting.gid, sighting.sender_id, MAX_SAME_TOKEN)
            _put(self._speakers, source, known, MAX_REQUESTS)

    def _at(self, end: HostPort) -> dict[bytes, bytes]:
        return self._speakers.get(end, {})

    # ---- requests

    def _request(self, datagram: Datagram, message: Message) -> Sighting:
        gid = gid_of(message)
        if not self._is_group_message(message, gid):
            self._remember(datagram, message, None, certain=False)
            return Sighting(datagram, Kind.OSCORE)
        host = datagram.destination.host
        destination = host.packed if host.is_multicast else None
        opened, verdict = open_request(message, self._view, destination, self._at(datagram.destination))
        if not datagram.whole:
            opened, verdict = None, _CUT_SHORT
        if verdict.outcome is not Outcome.REFUSED:
            _put(self._multicasters, datagram.source, None, MAX_REQUESTS)
            self._remember(datagram, message, opened, certain=True)
        return self._sighting(datagram, Kind.REQUEST, message, opened, verdict, gid)

    def _is_group_message(self, message: Message, gid: bytes | None) -> bool:
        known = self._view is not None and bool(self._view.locate(gid))
        return known or looks_like_group_message(message)

    def _remember(self, datagram: Datagram, message: Message, opened: Opened | None, *, certain: bool) -> None:
        question = None if opened is None else opened.question
        key = (datagram.source, message.token)
        before = self._requests.get(key, [])
        same = (asked.answered for asked in before if asked.datagram.payload == datagram.payload)
        asked = Asked(datagram, message, question, next(same, set()), certain)
        _put(self._requests, key, [*before[-MAX_SAME_TOKEN + 1 :], asked], MAX_REQUESTS)

    # ---- responses

    def _response(self, datagram: Datagram, message: Message) -> Sighting:
        gid = gid_of(message)
        key = (datagram.destination, message.token)
        found = [
            asked
            for asked in self._requests.get(key, ())
            if asked.by_multicast or asked.datagram.destination == datagram.source
        ]
        if not any(asked.certain for asked in found) and not self._is_group_message(message, gid):
            return Sighting(datagram, Kind.OSCORE)
        if not found:
            return self._sighting(datagram, Kind.RESPONSE, message, None, _NO_REQUEST, gid)
        _put(self._requests, key, self._requests[key], MAX_REQUESTS)
        asked, opened, verdict = self._answered(message, found, self._at(datagram.source))
        if not datagram.whole:
            opened, verdict = None, _CUT_SHORT
        sighting = self._sighting(datagram, Kind.RESPONSE, message, opened, verdict, gid or gid_of(asked.message))
        return replace(sighting, request=asked)

    def _answered(
        self, message: Message, found: list[Asked], other: Others
    ) -> tuple[Asked, Opened | None, Verdict]:
        """The request that this is an answer to: the newest with which it is authentic, or at least decrypts. A
        listener that has missed a refresh answers the request before it."""
        tried = []
        for asked in reversed(found):
            opened, verdict = open_response(message, self._view, asked.message, asked.question, other)
            if verdict.outcome.authentic:
                return asked, opened, verdict
            tried.append((asked, opened, verdict))
        return next((answer for answer in tried if answer[1] is not None), tried[0])

    # ---- both

    def _sighting(
        self,
        datagram: Datagram,
        kind: Kind,
        message: Message,
        opened: Opened | None,
        verdict: Verdict,
        gid: bytes | None,
    ) -> Sighting:
        epochs = [] if self._view is None else self._view.locate(gid)
        if opened is not None:
            epochs = [opened.epoch]
        epoch = epochs[0] if epochs else None
        sender_id, number = _claims(message, epoch)
        sighting = Sighting(datagram, kind, verdict, None, epoch, gid, sender_id, number)
        if epoch is not None:
            sighting = replace(sighting, mode=mode_of(message, epoch.profile))
        if opened is None:
            return sighting
        return replace(
            sighting, message=opened.message, gid=opened.epoch.gid, sender_id=opened.sender_id, peer=opened.peer
        )

    def _compared(self, sighting: Sighting, message: Message) -> Sighting:
        """With what was the same before."""
        assert sighting.verdict is not None
        if sighting.verdict.outcome is Outcome.REFUSED:
            return sighting  # anybody can put the ids of an authentic message on another
        key: tuple[object, ...] = (message.option(coap.OBJECT_SECURITY), message.payload)
        if sighting.verified:
            key = _nonce(sighting)
        datagram, ciphertext = sighting.datagram, hash(message.payload)
        first = self._seen.get(key)
        if first is None:
            _put(self._seen, key, _Seen(datagram.number, datagram.source, ciphertext), MAX_SEEN)
            return sighting
        earlier = Earlier(first.number, first.ciphertext == ciphertext, first.source != datagram.source)
        return replace(sighting, earlier=earlier)


def _put(table: dict[_Key, _Value], key: _Key, value: _Value, limit: int) -> None:
    """Put in as the newest; what is more than the limit goes, the oldest first."""
    table.pop(key, None)
    table[key] = value
    if len(table) > limit:
        del table[next(iter(table))]


def _claims(message: Message, epoch: KnownEpoch | None) -> tuple[bytes | None, int | None]:
    """Sender and sequence number as they stand in a message, as far as they can be found."""
    try:
        prefix = decode_prefix(object_security(message))
        number = None if prefix[1] is None else int.from_bytes(prefix[1], "big")
        if epoch is None:
            return None, number
        return epoch.split(message, prefix)[0], number
    except Rejected:
        return None, None


def _nonce(sighting: Sighting) -> tuple[object, ...]:
    """What stands for the key and nonce of a verified message: Gid, sender and its sequence number, of which there
    is one series for all keys of a sender; or, where a listener has used the request's nonce, the request's ids and
    the mode, in which the key is another one (multicast-oscore-04 §3, §7; Group OSCORE §2.5)."""
    if sighting.sequence_number is not None or sighting.request is None:
        return sighting.gid, sighting.sender_id, sighting.sequence_number
    return sighting.gid, sighting.sender_id, object_security(sighting.request.message), sighting.mode


# ---- all together


@dataclass(slots=True)
class MemberTally:
    """Verified messages of a member, repetitions left out. `asked`: requests of others by multicast that want an
    answer, while it was a listener; `answered`: how many of them it has answered."""

    requests: int = 0
    responses: int = 0
    asked: int = 0
    answered: int = 0


def _wants_answers(sighting: Sighting) -> bool:
    """Whether every listener that has the resource answers this request, if only with a challenge."""
    message = sighting.message
    if message is None or not sighting.datagram.destination.host.is_multicast or sighting.peer is not None:
        return False
    observe = message.option(coap.OBSERVE)
    ends = observe is not None and coap.uint_value(observe) == 1
    return not ends and message.option(coap.NO_RESPONSE) is None


MemberKey = tuple[str, bytes, str]
"""(group, Endpoint ID, name)"""

_PERHAPS = frozenset((Skip.LINK_TYPE, Skip.CUT_SHORT, Skip.FRAGMENTS))
"""What may have been a group message."""


@dataclass(slots=True)
class Summary:
    """What has been seen. `with_keys`: whether there were any to look with. `other`:
    datagrams at other ports. `begun`, `ended`: times of the first and the last frame, in nanoseconds since 1970.
    `reused`: frames whose nonce had been used for another message."""

    with_keys: bool
    kinds: Counter[Kind] = field(default_factory=Counter)
    verdicts: Counter[tuple[Outcome, str]] = field(default_factory=Counter)
    skipped: Counter[Skip] = field(default_factory=Counter)
    other: int = 0
    repeated: int = 0
    reused: list[int] = field(default_factory=list)
    begun: int | None = None
    ended: int | None = None
    members: dict[MemberKey, MemberTally] = field(default_factory=dict)

    def note_time(self, time: int | None) -> None:
        """Of one more frame."""
        if time is not None:
            self.begun = time if self.begun is None else self.begun
            self.ended = time

    def add(self, found: Datagram | Skipped, sighting: Sighting | None) -> None:
        """What was found, and what it is if it is CoAP."""
        if isinstance(found, Skipped):
            self.skipped[found.reason] += 1
        elif sighting is None:
            self.other += 1
        else:
            self._count(sighting)

    def _count(self, sighting: Sighting) -> None:
        self.kinds[sighting.kind] += 1
        if sighting.verdict is not None:
            key = (sighting.verdict.outcome, sighting.verdict.cause)
            if key not in self.verdicts and len(self.verdicts) >= MAX_CAUSES:
                key = (sighting.verdict.outcome, "other reasons")
            self.verdicts[key] += 1
        if sighting.earlier is not None:
            self.repeated += sighting.earlier.same
            if not sighting.earlier.same:
                self.reused.append(sighting.datagram.number)
        if sighting.verified and (sighting.earlier is None or not sighting.earlier.same):
            self._tally(sighting)

    def _tally(self, sighting: Sighting) -> None:
        epoch, sender = sighting.epoch, sighting.sender
        assert epoch is not None
        assert sender is not None  # verified with the key of one of them
        wanted = sighting.kind is Kind.REQUEST and _wants_answers(sighting)
        for member in epoch.members.values():  # those that say nothing too
            key = (epoch.group, member.endpoint_id, member.name)
            tally = self.members.setdefault(key, MemberTally())
            tally.asked += wanted and member is not sender and Role.LISTENER in member.roles
        tally = self.members[epoch.group, sender.endpoint_id, sender.name]
        if sighting.kind is Kind.REQUEST:
            tally.requests += 1
            return
        tally.responses += 1
        asked = sighting.request
        if asked is not None and asked.by_multicast and sender.endpoint_id not in asked.answered:
            asked.answered.add(sender.endpoint_id)
            tally.answered += 1

    def count(self, outcome: Outcome) -> int:
        """Messages with this outcome."""
        return sum(count for (found, _), count in self.verdicts.items() if found is outcome)

    @property
    def complete(self) -> bool:
        """Whether everything that may have been a group message is verified (without keys: is well-formed), and no
        nonce was used twice. With keys, what only others could read leaves a question open."""
        open_questions = sum(self.skipped[reason] for reason in _PERHAPS)
        not_tried = self.count(Outcome.NOT_TRIED) if self.with_keys else 0
        return not (self.count(Outcome.REFUSED) or not_tried or open_questions or self.reused)
