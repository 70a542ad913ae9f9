"""What is in a datagram, field by field, and whether it is authentic. Pure: no output, no state.

Contexts are built without a Sender Context and with empty windows: an onlooker's view, to which nobody's messages
are reflections or replays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from ..core import coap
from ..core.coap import Message
from ..core.contexts import CommonContext, SecurityContext
from ..core.exchange import OutgoingExchange, outgoing_exchange
from ..core.multicast_oscore_04 import FLAG_COUNTERSIGN, MULTICAST_OSCORE_04
from ..core.option import FLAG_GID, FLAG_KID, OptionPrefix, decode_prefix
from ..core.profile import RequestIds
from ..core.registry import Registry
from ..core.requests import DecryptedRequest, decrypt_request, object_security
from ..core.responses import DecryptedResponse, decrypt_response
from ..cose.keys import DEFAULT_SIGNATURE
from ..errors import Reason, Rejected
from ..files.provisioned import MemberFiles
from ..membership import Epoch, GroupConfiguration, Role
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it, in words; `reason` where it was refused."""

    outcome: Outcome
    text: str
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A datagram explained."""

    sections: tuple[Section, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Onlooker:
    """What a member's files let one see: made by `onlooker`."""

    files: MemberFiles
    registry: Registry = field(repr=False)

    def locate(self, gid: bytes | None) -> Iterator[tuple[GroupConfiguration, int, Epoch]]:
        """The (group, index of the epoch, epoch) that have this Gid."""
        for group in self.files.groups:
            for index, epoch in enumerate(group.epochs):
                if epoch.gid == gid:
                    yield group, index, epoch


def onlooker(files: MemberFiles) -> Onlooker:
    """Contexts for every epoch of every group in these files, all of them open for requests."""
    registry = Registry()
    for group in files.groups:
        for epoch in group.epochs:
            context = _context(group, epoch)
            registry.install(context, sorted({address.packed for address in group.addresses}))
        for context in registry.contexts(group.name):
            context.accepts_requests = True
    return Onlooker(files, registry)


def _context(group: GroupConfiguration, epoch: Epoch) -> SecurityContext:
    common = CommonContext(
        profile=group.profile,
        aead=group.aead,
        kdf=group.kdf,
        signature=group.signature,
        master_secret=epoch.master_secret,
        gid=epoch.gid,
    )
    keys = {member.endpoint_id: member.credential.public_key(group.signature) for member in epoch.members}
    context = SecurityContext(group.name, common, None, keys)
    context.depart(epoch.departed)
    return context


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
        return Explanation(tuple(sections), _refused(rejection))
    sections.append(Section("Options outside", tuple(_options(message, outside=True))))
    try:
        value = object_security(message)
    except Rejected as rejection:
        if message.payload:
            sections.append(Section("Payload", (_payload(message.payload),)))
        return Explanation(_filled(sections), _refused(rejection))
    gid = _gid(value)
    where = list(view.locate(gid)) if view is not None and gid is not None else []
    if view is not None and gid is None and request is not None:
        where = list(view.locate(_gid_of(request)))
    group = where[0][0] if where else None
    sections.append(Section("Object-Security", tuple(_object_security(value, view, where))))
    sections.append(Section("Payload", tuple(_ciphertext(message.payload, group))))
    if view is None:
        text = "not decrypted: that takes keys, give --member PATH"
        return Explanation(_filled(sections), Verdict(Outcome.NOT_TRIED, text))
    inside, verdict = _open(message, view, where, destination, destination_known, request)
    return Explanation(_filled([*sections, *inside]), verdict)


def _filled(sections: Sequence[Section]) -> tuple[Section, ...]:
    return tuple(section for section in sections if section.rows)


def _refused(rejection: Rejected) -> Verdict:
    return Verdict(Outcome.REFUSED, f"refused: {rejection}", rejection.reason)


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


def _gid(value: bytes) -> bytes | None:
    try:
        return decode_prefix(value)[2]
    except Rejected:
        return None


def _gid_of(datagram: bytes) -> bytes | None:
    try:
        return _gid(object_security(coap.decode(datagram)))
    except Rejected:
        return None


_Where = list[tuple[GroupConfiguration, int, Epoch]]


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
    if not MULTICAST_OSCORE_04.is_group_message((flags, None, None, b"")):
        parts.append("no group message (RFC 8613?)")
    return ", ".join(parts)


def _number_row(name: str, data: bytes, size: int) -> Row:
    return Row(name, data, _cut(data, size) or f"sequence number {int.from_bytes(data, 'big')}")


def _cut(data: bytes, size: int) -> str:
    return f"cut short: {size} bytes needed, {len(data)} left" if len(data) < size else ""


def _gid_text(view: Onlooker | None, where: _Where) -> str:
    if where:
        return " or ".join(f"group {group.name}" for group, _, _ in where)
    return "" if view is None else "not a Gid of these files"


def _epoch_text(where: _Where) -> str:
    return " or ".join(
        _epoch_number(epoch) + ("current" if index == len(group.epochs) - 1 else "an older") + " Security Context"
        for group, index, epoch in where
    )


def _epoch_number(epoch: Epoch) -> str:
    """The Group Epoch, if the Gid has the default sizes; otherwise where it begins is not known here."""
    return f"epoch {int.from_bytes(epoch.gid[8:], 'big')}, " if len(epoch.gid) == 12 else ""


def _tail(flags: int, rest: bytes, where: _Where) -> Iterator[Row]:
    algorithm = where[0][0].signature if where else DEFAULT_SIGNATURE
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
    for _, _, epoch in where:
        for member in epoch.members:
            if member.endpoint_id == kid:
                own = " (this device itself)" if kid == epoch.own_id else ""
                roles = ", ".join(role.value for role in Role if role in member.roles)
                names.append(f"{member.name}, {roles}{own}")
        if kid in epoch.departed:
            names.append("a member that has left")
    return " or ".join(names) or ("no member in these files" if where else "")


def _ciphertext(payload: bytes, group: GroupConfiguration | None) -> Iterator[Row]:
    if not payload:
        yield Row("payload", b"", "none", "malformed: nothing is encrypted")
    elif group is None:
        yield Row("ciphertext", payload, f"{len(payload)} bytes with its tag")
    else:
        tag = min(group.aead.tag_length, len(payload))
        inner = len(payload) - tag
        yield Row("ciphertext", payload[:inner], f"{inner} bytes, {group.aead.name}")
        yield Row("tag", payload[inner:], f"{tag} bytes")


def _open(
    message: Message,
    view: Onlooker,
    where: _Where,
    destination: bytes | None,
    destination_known: bool,
    request: bytes | None,
) -> tuple[list[Section], Verdict]:
    try:
        if coap.is_request(message.code):
            if not destination_known and message.type == coap.NON and where:
                destination = where[0][0].addresses[0].packed
            return _opened(_decrypt_request(message, view, destination, destination_known), where)
        if request is None:
            return [], Verdict(Outcome.NOT_TRIED, "not decrypted: a response takes its request, give --request HEX")
        asked = coap.decode(request)
        sections, verdict = _opened(decrypt_response(view.registry, _exchange(view, asked), message), where)
        if asked.token != message.token:
            remark = "; but its token is not the request's, so a multicaster would not find the request"
            verdict = replace(verdict, text=verdict.text + remark)
        return sections, verdict
    except Rejected as rejection:
        return [], _refused(rejection)


def _is_old(context: SecurityContext, where: _Where) -> bool:
    return all(context.gid != group.current.gid for group, _, _ in where if group.name == context.group)


def _decrypt_request(
    message: Message, view: Onlooker, destination: bytes | None, destination_known: bool
) -> DecryptedRequest:
    try:
        return decrypt_request(view.registry, message, destination, 0.0)
    except Rejected as rejection:
        if destination_known or rejection.reason is not Reason.REPEAT_BY_MULTICAST:
            raise
        return decrypt_request(view.registry, message, None, 0.0)  # an echo comes by unicast


def _exchange(view: Onlooker, request: Message) -> OutgoingExchange:
    """What the multicaster remembered of its request."""
    prefix: OptionPrefix = decode_prefix(object_security(request))
    _, partial_iv, gid, _ = prefix
    if not coap.is_request(request.code) or gid is None or partial_iv is None:
        raise Rejected(Reason.MALFORMED, "what --request gives is not a group request")
    context = view.registry.of(gid)[0]
    common = context.common
    kid, _ = common.profile.split_request_option(common, prefix)
    ids = RequestIds(kid, partial_iv, gid)
    observe = request.option(coap.OBSERVE)
    return outgoing_exchange(
        context,
        ids,
        common.profile.binder(common, kid, gid)(partial_iv),
        common.nonce(kid, partial_iv),
        observe is not None and coap.uint_value(observe) == 0,
    )


def _opened(decrypted: DecryptedRequest | DecryptedResponse, where: _Where) -> tuple[list[Section], Verdict]:
    """A person may look at what has been decrypted, whatever the signature says; programs may not."""
    message = decrypted.for_onlooker()
    rows = [Row("code", None, code_name(message.code)), *_options(message, outside=False)]
    if message.payload:
        rows.append(_payload(message.payload))
    sender = _member_text(decrypted.sender_id, where) or decrypted.sender_id.hex()
    try:
        decrypted.check_signature()
    except Rejected as rejection:
        section = Section("Decrypted, NOT authentic", tuple(rows))
        return [section], _refused(rejection)
    text = f"decrypted, and the countersignature is right: from {sender}"
    if isinstance(decrypted, DecryptedRequest) and _is_old(decrypted.context, where):
        text += "; its Security Context is an older one, under which no new request is taken"
    return [Section("Decrypted", tuple(rows))], Verdict(Outcome.VERIFIED, text)
