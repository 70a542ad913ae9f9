"""What is in a datagram, field by field, and whether it is authentic. Pure: no output, no state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType

from ..core import coap
from ..core.coap import Message
from ..core.group_oscore import FLAG_GROUP, GROUP_OSCORE
from ..core.multicast_oscore_04 import FLAG_COUNTERSIGN, MULTICAST_OSCORE_04
from ..core.option import FLAG_GID, FLAG_KID, OptionPrefix, decode_prefix
from ..core.policy import PROFILES
from ..core.profile import Mode, Profile
from ..core.reassembly import parse_block
from ..core.requests import object_security
from ..cose.algorithms import EncryptionAlgorithm
from ..cose.keys import DEFAULT_SIGNATURE
from ..errors import Reason, Rejected
from ..membership import Role
from .known import KnownEpoch
from .onlooker import Onlooker, Opened, Question
from .text import payload_text, plural
from .vocabulary import TYPES, code_name, option_class, option_name, option_value
from .watched import PairwiseKeysNeeded

NOBODY: Mapping[bytes, bytes] = MappingProxyType({})

MAX_KID = 7
"""Bytes of an Endpoint ID at most, with the longest nonces."""


@dataclass(frozen=True, slots=True)
class Row:
    """A field: its name, its bytes as they travel (None: not bytes of the datagram), what they mean, a remark."""

    name: str
    data: bytes | None
    meaning: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a title."""

    title: str
    rows: tuple[Row, ...]


class Outcome(Enum):
    """What came of it; the value is the name used in JSON."""

    VERIFIED = "verified"
    COUNTERSIGNED = "countersigned"
    """The countersignature is right; there were no keys to decrypt it."""
    REFUSED = "refused"
    NOT_TRIED = "not tried"

    @property
    def authentic(self) -> bool:
        """Whether it is certain who has made the message."""
        return self in (Outcome.VERIFIED, Outcome.COUNTERSIGNED)


_LEADS = {
    Outcome.VERIFIED: "decrypted, and the countersignature is right",
    Outcome.COUNTERSIGNED: "countersignature right",
    Outcome.REFUSED: "refused",
    Outcome.NOT_TRIED: "not decrypted",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it, and in words why; `reason` where it was refused, or where there are no keys for the Gid.
    `lead`: what the words begin with, if it is not the usual. `advice`: what would help. `kind`: what to count it
    under, if it is not `detail` or `reason`."""

    outcome: Outcome
    detail: str
    reason: Reason | None = None
    lead: str = ""
    advice: str = ""
    kind: str = ""

    @property
    def text(self) -> str:
        """On one line."""
        words = (self.lead or _LEADS[self.outcome], self.detail, self.advice)
        return ": ".join(word for word in words if word)

    @property
    def cause(self) -> str:
        """What to count it under; empty if it is authentic."""
        if self.outcome.authentic:
            return ""
        return self.kind or (self.detail if self.reason in (None, Reason.UNKNOWN_GROUP) else self.reason.value)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A datagram explained."""

    sections: tuple[Section, ...]
    verdict: Verdict


def explain(
    datagram: bytes,
    view: Onlooker | None = None,
    *,
    destination: bytes | None = None,
    destination_known: bool = False,
    request: bytes | None = None,
) -> Explanation:
    """Explain a datagram; never raises for what is in it.

    `view`: with whose keys to look, None for what can be seen without. `destination`: packed multicast address that
    a request was sent to, None for unicast; unless `destination_known`, the group's own is taken for what may have
    come by multicast. `request`: the datagram that a response answers."""
    header = Section("CoAP header", tuple(_header(datagram)))
    try:
        message = coap.decode(datagram)
    except Rejected as rejection:
        return Explanation((header,), refused(rejection))
    try:
        value = object_security(message)
    except Rejected as rejection:
        outside = Section("Options outside", tuple(_options(message, None, outside=True)))
        payload = Section("Payload", (_payload(message.payload),) if message.payload else ())
        return Explanation(_filled([header, outside, payload]), refused(rejection))
    gid = gid_of(message) or (None if request is None else _gid_in(request))
    where = [] if view is None else view.locate(gid)
    if coap.is_request(message.code):
        if not destination_known and message.type == coap.NON and where:
            destination = where[0].addresses[0].packed
        opened, verdict = open_request(message, view, destination)
        if not destination_known and verdict.reason is Reason.REPEAT_BY_MULTICAST:
            opened, verdict = open_request(message, view, None)  # an echo comes by unicast
    else:
        opened, verdict = _open_response(message, view, request)
    where = where if opened is None else [opened.epoch]
    profile = where[0].profile if where else likely_profile(value)
    sections = [
        header,
        Section("Options outside", tuple(_options(message, profile, outside=True))),
        Section(_title(profile), (*_option(value, profile, view, where), *_left_out(message, opened))),
        Section("Payload", tuple(_protected(message.payload, value, profile, where))),
    ]
    if opened is not None and opened.message is not None:
        sections.append(_inside(opened, opened.message, profile))
    return Explanation(_filled(sections), verdict)


def _filled(sections: Sequence[Section]) -> tuple[Section, ...]:
    return tuple(section for section in sections if section.rows)


def refused(rejection: Rejected) -> Verdict:
    return Verdict(Outcome.REFUSED, str(rejection), rejection.reason)


def _header(datagram: bytes) -> Iterator[Row]:
    """As far as the datagram reaches."""
    if datagram:
        first = datagram[0]
        yield Row("version", datagram[:1], str(first >> 6), "" if first >> 6 == 1 else "CoAP has 1")
        yield Row("type", datagram[:1], TYPES[first >> 4 & 3])
        yield Row("token length", datagram[:1], str(first & 15), "at most 8" if first & 15 > 8 else "")
    if len(datagram) > 1:
        remark = "outer code; the real one is encrypted" if _is_protected(datagram) else ""
        yield Row("code", datagram[1:2], code_name(datagram[1]), remark)
    if len(datagram) > 3:
        yield Row("Message ID", datagram[2:4], str(int.from_bytes(datagram[2:4], "big")))
        token = datagram[4 : 4 + (datagram[0] & 15)]
        yield Row("token", token, token.hex() or "(empty)")


def _is_protected(datagram: bytes) -> bool:
    try:
        return coap.decode(datagram).option(coap.OBJECT_SECURITY) is not None
    except Rejected:
        return False


def _options(message: Message, profile: Profile | None, *, outside: bool) -> Iterator[Row]:
    protected = message.option(coap.OBJECT_SECURITY) is not None
    for number, value in message.options:
        name, of_class = option_name(number, profile), option_class(number, profile)
        remark = f"option {number}, class {of_class}"
        if number == coap.OBJECT_SECURITY:
            yield Row(name, None, f"{len(value)} bytes, see below", remark)
            continue
        if outside and protected and of_class == "E":
            remark += ": a proxy's, or discarded on receipt"
        if outside and protected and of_class == "E and U":
            remark += ": for proxies, what counts is inside"
        if not outside and of_class == "U":
            remark += ": from outside, not protected"
        yield Row(name, value, option_value(number, value), remark)


def _payload(payload: bytes) -> Row:
    return Row("payload", payload, payload_text(payload), plural(len(payload), "byte"))


def gid_of(message: Message) -> bytes | None:
    """The Gid of a protected message, if there is one in it."""
    try:
        return decode_prefix(object_security(message))[2]
    except Rejected:
        return None


def _gid_in(datagram: bytes) -> bytes | None:
    try:
        return gid_of(coap.decode(datagram))
    except Rejected:
        return None


_Where = list[KnownEpoch]


def likely_profile(value: bytes) -> Profile | None:
    """Which profile an option is of that no keys are at hand for, as its length says: the draft's countersignature
    is longer than any kid. What has no countersignature and no Group Flag is rather RFC 8613's, or in pairwise
    mode: both look the same. None if it is too long for the one and too short for the other."""
    try:
        flags, _, _, rest = decode_prefix(value)
    except Rejected:
        return None
    if flags & FLAG_GROUP and len(rest) >= DEFAULT_SIGNATURE.signature_length:
        return MULTICAST_OSCORE_04
    return GROUP_OSCORE if len(rest) <= MAX_KID else None


def mode_of(message: Message, profile: Profile) -> Mode | None:
    """The mode of a protected message of this profile; None if it cannot be told."""
    try:
        flags = decode_prefix(object_security(message))[0]
    except Rejected:
        return None
    return Mode.PAIRWISE if profile.rules.pairwise and not flags & FLAG_GROUP else Mode.GROUP


def _title(profile: Profile | None) -> str:
    return "OSCORE option" if profile is GROUP_OSCORE else "Object-Security"


def _option(value: bytes, profile: Profile | None, view: Onlooker | None, where: _Where) -> Iterator[Row]:
    """The value from its first byte to its last, as far as it can be split."""
    if not where:
        yield _read_as(value, profile)
    if not value:
        yield Row("value", b"", "(empty)", "all flags 0")
        return
    flags, rest = value[0], value[1:]
    yield Row("flags", value[:1], f"{flags:08b}", _flags_text(flags, profile, where))
    n = flags & 7
    if n:
        yield _number_row("Partial IV", rest[:n], n)
        rest = rest[n:]
    if flags & FLAG_GID and rest:
        size, gid = rest[0], rest[1 : 1 + rest[0]]
        yield Row("Gid length", rest[:1], str(size))
        yield Row("Gid", gid, _cut(gid, size) or _gid_text(view, where), _epoch_text(where))
        rest = rest[1 + size :]
    yield from _tail(flags, rest, profile, where)


def _read_as(value: bytes, profile: Profile | None) -> Row:
    """What it is taken for where there are no keys to tell."""
    if profile is MULTICAST_OSCORE_04:
        why = f"by its length: {GROUP_OSCORE.name} has the countersignature in the payload"
        return Row("read as", None, profile.name, why)
    if profile is None:
        return Row("read as", None, "malformed", f"of no length that {' or '.join(PROFILES)} has")
    if value and value[0] & FLAG_GROUP:
        why = f"by its length: {MULTICAST_OSCORE_04.name} has the countersignature here"
        return Row("read as", None, f"{profile.name} in group mode", why)
    return Row("read as", None, f"RFC 8613, or {profile.name} in pairwise mode", "they look the same")


def _flags_text(flags: int, profile: Profile | None, where: _Where) -> str:
    parts = [name for bit, name in ((FLAG_GID, "Gid"), (FLAG_KID, "kid")) if flags & bit]
    parts.append(f"Partial IV of {flags & 7}" if flags & 7 else "no Partial IV")
    if flags & 7 > 5:
        parts[-1] += " (reserved)"
    if flags & 0xC0:
        parts.append("reserved bits set")
    if profile is GROUP_OSCORE:
        if flags & FLAG_GROUP:
            parts.insert(0, "group mode")
        elif where:
            parts.insert(0, "pairwise mode")
    elif flags & FLAG_COUNTERSIGN:
        parts.insert(0, "countersignature")
    else:
        parts.append("no group message (RFC 8613?)")
    return ", ".join(parts)


def _is_group_prefix(prefix: OptionPrefix) -> bool:
    return any(profile.is_group_message(prefix) for profile in PROFILES.values())


def looks_like_group_message(message: Message) -> bool:
    """Whether a protected message whose Gid is not known is rather a group message than one of RFC 8613, which in
    pairwise mode cannot be told. One that is malformed is taken for the former."""
    try:
        return _is_group_prefix(decode_prefix(object_security(message)))
    except Rejected:
        return True


def _number_row(name: str, data: bytes, size: int) -> Row:
    return Row(name, data, _cut(data, size) or f"sequence number {int.from_bytes(data, 'big')}")


def _cut(data: bytes, size: int) -> str:
    return f"cut short: {size} bytes needed, {len(data)} left" if len(data) < size else ""


def _gid_text(view: Onlooker | None, where: _Where) -> str:
    if where:
        return " or ".join(f"group {epoch.group}" for epoch in where)
    return "" if view is None else "not a Gid of these files"


def _epoch_text(where: _Where) -> str:
    return " or ".join(
        ("" if epoch.number is None else f"epoch {epoch.number}, ")
        + ("current" if epoch.current else "an older")
        + " Security Context"
        for epoch in where
    )


def _tail(flags: int, rest: bytes, profile: Profile | None, where: _Where) -> Iterator[Row]:
    algorithm = where[0].signature if where else DEFAULT_SIGNATURE
    if profile is MULTICAST_OSCORE_04 and flags & FLAG_COUNTERSIGN:
        q = algorithm.signature_length
        what = f"{q} bytes, {algorithm.name}" if where else f"{q} bytes (assumed: its length comes from the group)"
        yield Row("countersignature", rest[:q], _cut(rest[:q], q) or what)
        rest = rest[q:]
    if flags & FLAG_KID:
        yield Row("kid", rest, f"Endpoint ID {rest.hex() or '(empty)'}", _member_text(rest, where))
    elif rest:
        yield Row("left over", rest, f"{len(rest)} bytes", "malformed")


def _left_out(message: Message, opened: Opened | None) -> Iterator[Row]:
    """Who an answer is from that does not say so."""
    if opened is not None and not decode_prefix(object_security(message))[0] & FLAG_KID:
        who = _member_text(opened.sender_id, [opened.epoch])
        yield Row("kid", None, f"left out: Endpoint ID {opened.sender_id.hex() or '(empty)'}, who was asked", who)


def _member_text(kid: bytes, where: _Where) -> str:
    names = []
    for epoch in where:
        member = epoch.members.get(kid)
        if member is not None:
            own = " (this device itself)" if epoch.own_ids == {kid} else ""
            roles = (role.value for role in Role if role in member.roles)
            names.append(f"{', '.join((member.name, *roles))}{own}")
        if kid in epoch.departed:
            names.append("a member that has left")
    return " or ".join(names) or ("no member in these files" if where else "")


def _protected(payload: bytes, value: bytes, profile: Profile | None, where: _Where) -> Iterator[Row]:
    pairwise = not value or not value[0] & FLAG_GROUP
    if not payload:
        yield Row("payload", b"", "none", "malformed: nothing is encrypted")
    elif not where:
        signed = profile is GROUP_OSCORE and not pairwise
        what = "with its tag, if it has one, and its encrypted countersignature" if signed else "with its tag"
        yield Row("ciphertext", payload, f"{len(payload)} bytes {what}")
    elif profile is not GROUP_OSCORE:
        yield from _ciphertext(payload, where[0].encryption)
    elif pairwise:
        yield from _ciphertext(payload, where[0].aead or where[0].encryption)
    else:
        algorithm = where[0].signature
        q = algorithm.signature_length
        if len(payload) > q:
            yield from _ciphertext(payload[:-q], where[0].encryption)
        signature = payload[-q:]
        yield Row("countersignature", signature, _cut(signature, q) or f"{q} bytes, encrypted, {algorithm.name}")


def _ciphertext(payload: bytes, algorithm: EncryptionAlgorithm) -> Iterator[Row]:
    tag = min(algorithm.tag_length, len(payload))
    inner = len(payload) - tag
    yield Row("ciphertext", payload[:inner], f"{plural(inner, 'byte')}, {algorithm.name}")
    if algorithm.tag_length:
        yield Row("tag", payload[inner:], plural(tag, "byte"))


# ---- what is inside

Reading = tuple[Opened | None, Verdict]
"""What was inside a protected message, if it could be opened, and what is to be said of it."""


Others = Mapping[bytes, bytes]
"""Who else takes part in what may be in pairwise mode, as far as addresses tell: {Gid: Endpoint ID}."""


def open_request(
    message: Message, view: Onlooker | None, destination: bytes | None, other: Others = NOBODY
) -> Reading:
    """Try to open a request that was sent to this packed multicast address, None for unicast. `other`: who is
    there."""
    useless = _useless(message, view, (gid_of(message),), by_multicast=destination is not None)
    if view is None or useless is not None:
        return None, useless or _NO_KEYS
    return _read(view, lambda: view.open_request(message, destination), other)


def open_response(
    message: Message,
    view: Onlooker | None,
    request: Message,
    asked: Question | None = None,
    other: Others = NOBODY,
) -> Reading:
    """Try to open a response to this request, of which `asked` is known, None if it could not be opened. `other`:
    who is where it came from."""
    useless = _useless(message, view, (gid_of(message), gid_of(request)), by_multicast=False)
    if view is None or useless is not None:
        return None, useless or _NO_KEYS
    return _read(view, lambda: view.open_response(message, request, asked), other)


_NO_KEYS = Verdict(Outcome.NOT_TRIED, "that takes keys, give --member PATH or --key-log FILE")


def _open_response(message: Message, view: Onlooker | None, datagram: bytes | None) -> Reading:
    if view is None:
        return None, _NO_KEYS
    if datagram is None:
        return None, Verdict(Outcome.NOT_TRIED, "a response takes its request, give --request HEX or a capture")
    try:
        request = coap.decode(datagram)
    except Rejected as rejection:
        return None, refused(rejection)
    opened, verdict = open_response(message, view, request, _question(request, view))
    if request.token != message.token:
        remark = "; but its token is not the request's, so a multicaster would not find the request"
        verdict = replace(verdict, detail=verdict.detail + remark)
    return opened, verdict


def _question(request: Message, view: Onlooker) -> Question | None:
    """What can be found out of a request, wherever it was sent to."""
    where = view.locate(gid_of(request))
    destinations = [address.packed for epoch in where for address in epoch.addresses] if where else []
    for destination in (*destinations, None):
        opened, verdict = open_request(request, view, destination)
        if opened is not None and verdict.outcome.authentic:
            return opened.question
    return None


def _useless(
    message: Message, view: Onlooker | None, gids: Sequence[bytes | None], *, by_multicast: bool
) -> Verdict | None:
    """Why there is no point in trying to decrypt, if there is none."""
    if view is None:
        return _NO_KEYS
    if not by_multicast and _is_block(message):
        return Verdict(Outcome.NOT_TRIED, "one block of a message that a proxy has cut")
    if not any(view.locate(gid) for gid in gids) and not looks_like_group_message(message):
        return Verdict(Outcome.NOT_TRIED, "it looks like RFC 8613, or like a group's pairwise mode")
    unknown = next((gid for gid in gids if gid is not None and not view.locate(gid)), None)
    if unknown is None:
        return None
    return Verdict(Outcome.NOT_TRIED, f"no keys for its Gid {unknown.hex()}", Reason.UNKNOWN_GROUP)


def _is_block(message: Message) -> bool:
    """Whether this is not the whole of what has been protected (OSCORE-06 §4.2.3.2)."""
    try:
        blocks = [parse_block(value) for number, value in message.options if number in (coap.BLOCK1, coap.BLOCK2)]
    except Rejected:
        return False
    return any(number or more for number, more, _ in blocks)


def _read(view: Onlooker, attempt: Callable[[], Opened], other: Others) -> Reading:
    try:
        opened = attempt()
    except PairwiseKeysNeeded as needed:
        return None, _between_others(needed, view.epoch_of(needed.context), other)
    except Rejected as rejection:
        if rejection.reason is Reason.NO_COUNTERSIGNATURE:
            return None, Verdict(Outcome.NOT_TRIED, rejection.reason.value, lead="not verified")
        return None, refused(rejection)
    if opened.refused is not None:
        return opened, refused(opened.refused)
    epoch, sender_id = opened.epoch, opened.sender_id
    text = f"from {_member_text(sender_id, [epoch]) or sender_id.hex()}"
    if not opened.readable:
        return opened, Verdict(Outcome.COUNTERSIGNED, f"{text}; content not readable")
    lead = ""
    if opened.peer is not None:
        lead = "decrypted, in pairwise mode"
        text = f"from {_name(epoch, sender_id)} for {_name(epoch, opened.peer)}; only these two could have made it"
    if opened.is_request and not epoch.current:
        text += "; under an older Security Context: once renewed, a device takes no new request under it"
    return opened, Verdict(Outcome.VERIFIED, text, lead=lead)


def _between_others(needed: PairwiseKeysNeeded, epoch: KnownEpoch, other: Others) -> Verdict:
    """Of the two a request names one, and an answer to that perhaps none."""
    peer = "another member"
    if needed.peer is not None:
        peer = _name(epoch, needed.peer)
    elif other.get(epoch.gid, needed.sender_id) != needed.sender_id:
        peer = f"{_name(epoch, other[epoch.gid])}, by the address"
    detail = f"in pairwise mode between {_name(epoch, needed.sender_id)} and {peer}"
    advice = "takes the member files of one of them"
    return Verdict(Outcome.NOT_TRIED, detail, advice=advice, kind=f"in pairwise mode between others: {advice}")


def _name(epoch: KnownEpoch, endpoint_id: bytes) -> str:
    member = epoch.members.get(endpoint_id)
    return f"endpoint {endpoint_id.hex() or '(empty id)'}" if member is None else member.name


def _inside(opened: Opened, message: Message, profile: Profile | None) -> Section:
    rows = [Row("code", None, code_name(message.code)), *_options(message, profile, outside=False)]
    if message.payload:
        rows.append(_payload(message.payload))
    return Section("Decrypted" if opened.refused is None else "Decrypted, NOT authentic", tuple(rows))
