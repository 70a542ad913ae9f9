"""The parts of a protected request, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass

from ..core import coap
from ..core.group_oscore import FLAG_GROUP
from ..core.multicast_oscore_04 import split_tail
from ..core.option import FLAG_KID, decode_prefix
from ..core.profile import Profile
from ..core.requests import object_security
from ..errors import Reason, Rejected

OUTER, SECURITY, OSCORE, CIPHERTEXT, SIGNATURE = "CoAP", "Object-Security", "OSCORE", "ciphertext", "signature"
_TYPES = ("confirmable", "non-confirmable", "acknowledgement", "reset")


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a datagram: which layer they belong to, and what they say."""

    layer: str
    data: bytes
    meaning: str


@dataclass(frozen=True, slots=True)
class Legend:
    """What the bytes do not say of themselves: the lengths of the group's countersignatures and tags, what was
    encrypted (`inside`), and who has sent it (`sender`)."""

    signature_length: int
    tag_length: int
    inside: str
    sender: str


def dissect(datagram: bytes, profile: Profile, legend: Legend) -> list[Part]:
    """The parts, in the order of its bytes, of a request to a group of this profile. `Rejected` if it is none."""
    parts = _countersignature_encrypted if profile.rules.binds_credentials else _countersignature_in_option
    return parts(datagram, legend)


def _countersignature_in_option(datagram: bytes, legend: Legend) -> list[Part]:
    """Multicast OSCORE."""
    message = coap.decode(datagram)
    value = object_security(message)
    prefix = decode_prefix(value)
    kid, signature = split_tail(prefix, legend.signature_length)
    _, partial_iv, gid, _ = prefix
    if partial_iv is None or gid is None or kid is None or signature is None:
        raise Rejected(Reason.MALFORMED, "not all that a request needs is there")
    return [
        *_head(datagram, message, value),
        Part(SECURITY, value[:1], "flags: which parts there are"),
        *_number_and_gid(SECURITY, partial_iv, gid),
        Part(SECURITY, signature, "countersignature"),
        Part(SECURITY, kid, f"kid: {legend.sender}'s ID"),
        Part(OUTER, b"\xff", "payload marker"),
        Part(CIPHERTEXT, message.payload[: -legend.tag_length], legend.inside),
        Part(CIPHERTEXT, message.payload[-legend.tag_length :], "tag"),
    ]


def _countersignature_encrypted(datagram: bytes, legend: Legend) -> list[Part]:
    """Group OSCORE in group mode."""
    message = coap.decode(datagram)
    value = object_security(message)
    flags, partial_iv, gid, kid = decode_prefix(value)
    if partial_iv is None or gid is None or not flags & FLAG_KID or not flags & FLAG_GROUP:
        raise Rejected(Reason.MALFORMED, "not all that a request to the group needs is there")
    signature_at = len(message.payload) - legend.signature_length
    tag_at = signature_at - legend.tag_length
    if tag_at <= 0:
        raise Rejected(Reason.MALFORMED, "payload too short for a ciphertext")
    return [
        *_head(datagram, message, value),
        Part(OSCORE, value[:1], "flags, with the Group Flag: to all"),
        *_number_and_gid(OSCORE, partial_iv, gid),
        Part(OSCORE, kid, f"kid: {legend.sender}'s ID"),
        Part(OUTER, b"\xff", "payload marker"),
        Part(CIPHERTEXT, message.payload[:tag_at], legend.inside),
        Part(CIPHERTEXT, message.payload[tag_at:signature_at], "tag"),
        Part(SIGNATURE, message.payload[signature_at:], "countersignature, encrypted"),
    ]


def _head(datagram: bytes, message: coap.Message, value: bytes) -> list[Part]:
    """What stands before the option's value."""
    token_end = 4 + len(message.token)
    option_at = datagram.index(value, token_end)
    return [
        Part(OUTER, datagram[:4], f"{_TYPES[message.type]} POST"),
        Part(OUTER, message.token, "token: answers repeat it"),
        Part(OUTER, datagram[token_end:option_at], f"option 9, {len(value)} bytes long"),
    ]


def _number_and_gid(layer: str, partial_iv: bytes, gid: bytes) -> list[Part]:
    number = int.from_bytes(partial_iv, "big")
    return [
        Part(layer, partial_iv, f"Partial IV: sequence number {number}"),
        Part(layer, bytes((len(gid),)) + gid, "length, Gid: which keys"),
    ]
