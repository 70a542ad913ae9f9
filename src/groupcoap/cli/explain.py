"""What is in a datagram, field by field, and whether it is authentic. Pure: no output, no state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ..core import coap
from ..core.coap import Message
from ..core.contexts import CommonContext, SecurityContext
from ..core.multicast_oscore_04 import FLAG_COUNTERSIGN
from ..core.option import FLAG_GID, FLAG_KID, OptionPrefix, decode_prefix
from ..core.policy import PROFILES
from ..core.reassembly import parse_block
from ..core.requests import DecryptedRequest, object_security
from ..cose.keys import DEFAULT_SIGNATURE
from ..errors import Reason, Rejected
from ..membership import Role
from .onlooker import KnownEpoch, Onlooker, Opened
from .text import payload_text
from .vocabulary import TYPES, code_name, is_class_u, option_name, option_value


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
    REFUSED = "refused"
    NOT_TRIED = "not tried"


_LEADS = {
    Outcome.VERIFIED: "decrypted, and the countersignature is right",
    Outcome.REFUSED: "refused",
    Outcome.NOT_TRIED: "not decrypted",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it, and in words why; `reason` where it was refused, or where there are no keys for the Gid."""

    outcome: Outcome
    detail: str
    reason: Reason | None = None

    @property
    def text(self) -> str:
        """On one line."""
        return f"{_LEADS[self.outcome]}: {self.detail}"

    @property
    def cause(self) -> str:
        """What to count it under; empty if it is verified."""
        if self.outcome is Outcome.VERIFIED:
            return ""
        return self.detail if self.reason in (None, Reason.UNKNOWN_GROUP) else self.reason.value


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
    sections = [Section("CoAP header", tuple(_header(datagram)))]
    try:
        message = coap.decode(datagram)
    except Rejected as rejection:
        return Explanation(tuple(sections), refused(rejection))
    sections.append(Section("Options outside", tuple(_options(message, outside=True))))
    try:
        value = object_security(message)
    except Rejected as rejection:
        if message.payload:
            sections.append(Section("Payload", (_payload(message.payload),)))
        return Explanation(_filled(sections), refused(rejection))
    gid = gid_of(message) or (None if request is None else _gid_in(request))
    where = [] if view is None else view.locate(gid)
    sections.append(Section("Object-Security", tuple(_object_security(value, view, where))))
    sections.append(Section("Payload", tuple(_ciphertext(message.payload, where[0].common if where else None))))
    if coap.is_request(message.code):
        if not destination_known and message.type == coap.NON and where:
            destination = where[0].addresses[0].packed
        opened, verdict = open_request(message, view, destination)
        if not destination_known and verdict.reason is Reason.REPEAT_BY_MULTICAST:
            opened, verdict = open_request(message, view, None)  # an echo comes by unicast
    else:
        opened, verdict = _open_response(message, view, request)
    inside = [] if view is None or opened is None else [_inside(opened)]
    return Explanation(_filled([*sections, *inside]), verdict)


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


def _options(message: Message, *, outside: bool) -> Iterator[Row]:
    protected = message.option(coap.OBJECT_SECURITY) is not None
    for number, value in message.options:
        if number == coap.OBJECT_SECURITY:
            yield Row("Object-Security", None, f"{len(value)} bytes, see below", f"option {number}, class U")
            continue
        class_u = is_class_u(number)
        remark = f"option {number}, class {'U' if class_u else 'E'}"
        if outside and protected and not class_u:
            remark += ": a proxy's, or discarded on receipt"
        if not outside and class_u:
            remark += ": from outside, not protected"
        yield Row(option_name(number), value, option_value(number, value), remark)


def _payload(payload: bytes) -> Row:
    return Row("payload", payload, payload_text(payload), f"{len(payload)} bytes")


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


def _object_security(value: bytes, view: Onlooker | None, where: _Where) -> Iterator[Row]:
    """The value from its first byte to its last, as far as it can be split."""
    if not value:
        yield Row("value", b"", "(empty)", "all flags 0")
        return
    flags, rest = value[0], value[1:]
    yield Row("flags", value[:1], f"{flags:08b}", _flags_text(flags))
    n = flags & 7
    if n:
        yield _number_row("Partial IV", rest[:n], n)
        rest = rest[n:]
    if flags & FLAG_GID and rest:
        size, gid = rest[0], rest[1 : 1 + rest[0]]
        yield Row("Gid length", rest[:1], str(size))
        yield Row("Gid", gid, _cut(gid, size) or _gid_text(view, where), _epoch_text(where))
        rest = rest[1 + size :]
    yield from _tail(flags, rest, where)


def _flags_text(flags: int) -> str:
    parts = [
        name
        for bit, name in ((FLAG_COUNTERSIGN, "countersignature"), (FLAG_GID, "Gid"), (FLAG_KID, "kid"))
        if flags & bit
    ]
    parts.append(f"Partial IV of {flags & 7}" if flags & 7 else "no Partial IV")
    if flags & 7 > 5:
        parts[-1] += " (reserved)"
    if flags & 0xC0:
        parts.append("reserved bits set")
    if not _is_group_prefix((flags, None, None, b"")):
        parts.append("no group message (RFC 8613?)")
    return ", ".join(parts)


def _is_group_prefix(prefix: OptionPrefix) -> bool:
    return any(profile.is_group_message(prefix) for profile in PROFILES.values())


def looks_like_group_message(message: Message) -> bool:
    """Whether a protected message whose Gid is not known is rather a group message than one of RFC 8613. One that
    is malformed is taken for the former."""
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


def _tail(flags: int, rest: bytes, where: _Where) -> Iterator[Row]:
    algorithm = where[0].common.signature if where else DEFAULT_SIGNATURE
    assumed = "" if where else " (assumed: its length comes from the group)"
    if flags & FLAG_COUNTERSIGN:
        q = algorithm.signature_length
        what = f"{q} bytes{assumed}" if not where else f"{q} bytes, {algorithm.name}"
        yield Row("countersignature", rest[:q], _cut(rest[:q], q) or what)
        rest = rest[q:]
    if flags & FLAG_KID:
        yield Row("kid", rest, f"Endpoint ID {rest.hex() or '(empty)'}", _member_text(rest, where))
    elif rest:
        yield Row("left over", rest, f"{len(rest)} bytes", "malformed")


def _member_text(kid: bytes, where: _Where) -> str:
    names = []
    for epoch in where:
        member = epoch.members.get(kid)
        if member is not None:
            own = " (this device itself)" if epoch.own_ids == {kid} else ""
            roles = ", ".join(role.value for role in Role if role in member.roles)
            names.append(f"{member.name}, {roles}{own}")
        if kid in epoch.departed:
            names.append("a member that has left")
    return " or ".join(names) or ("no member in these files" if where else "")


def _ciphertext(payload: bytes, common: CommonContext | None) -> Iterator[Row]:
    if not payload:
        yield Row("payload", b"", "none", "malformed: nothing is encrypted")
    elif common is None:
        yield Row("ciphertext", payload, f"{len(payload)} bytes with its tag")
    else:
        tag = min(common.encryption.tag_length, len(payload))
        inner = len(payload) - tag
        yield Row("ciphertext", payload[:inner], f"{inner} bytes, {common.encryption.name}")
        yield Row("tag", payload[inner:], f"{tag} bytes")


# ---- what is inside

Reading = tuple[Opened | None, Verdict]
"""What was inside a protected message, if it could be opened, and what is to be said of it."""


def open_request(message: Message, view: Onlooker | None, destination: bytes | None) -> Reading:
    """Try to open a request that was sent to this packed multicast address, None for unicast."""
    useless = _useless(message, view, (gid_of(message),), by_multicast=destination is not None)
    if view is None or useless is not None:
        return None, useless or _NO_KEYS
    return _read(view, lambda: view.open_request(message, destination))


def open_response(
    message: Message, view: Onlooker | None, request: Message, context: SecurityContext | None = None
) -> Reading:
    """Try to open a response to this request, which was sent under this context (None: the one with its Gid)."""
    useless = _useless(message, view, (gid_of(message), gid_of(request)), by_multicast=False)
    if view is None or useless is not None:
        return None, useless or _NO_KEYS
    return _read(view, lambda: view.open_response(message, view.exchange(request, context)))


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
    opened, verdict = open_response(message, view, request)
    if request.token != message.token:
        remark = "; but its token is not the request's, so a multicaster would not find the request"
        verdict = replace(verdict, detail=verdict.detail + remark)
    return opened, verdict


def _useless(
    message: Message, view: Onlooker | None, gids: Sequence[bytes | None], *, by_multicast: bool
) -> Verdict | None:
    """Why there is no point in trying to decrypt, if there is none."""
    if view is None:
        return _NO_KEYS
    if not by_multicast and _is_block(message):
        return Verdict(Outcome.NOT_TRIED, "one block of a message that a proxy has cut")
    if not any(view.locate(gid) for gid in gids) and not looks_like_group_message(message):
        return Verdict(Outcome.NOT_TRIED, "it looks like RFC 8613, not like a group message")
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


def _read(view: Onlooker, attempt: Callable[[], Opened]) -> Reading:
    try:
        opened = attempt()
    except Rejected as rejection:
        return None, refused(rejection)
    if opened.refused is not None:
        return opened, refused(opened.refused)
    decrypted = opened.decrypted
    epoch = view.epoch_of(decrypted.context)
    text = f"from {_member_text(decrypted.sender_id, [epoch]) or decrypted.sender_id.hex()}"
    if isinstance(decrypted, DecryptedRequest) and not epoch.current:
        text += "; under an older Security Context: once renewed, a device takes no new request under it"
    return opened, Verdict(Outcome.VERIFIED, text)


def _inside(opened: Opened) -> Section:
    message = opened.message
    rows = [Row("code", None, code_name(message.code)), *_options(message, outside=False)]
    if message.payload:
        rows.append(_payload(message.payload))
    return Section("Decrypted" if opened.refused is None else "Decrypted, NOT authentic", tuple(rows))
