"""The parts of a protected request, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass

from ..core import coap
from ..core.multicast_oscore_04 import split_tail
from ..core.option import decode_prefix
from ..core.requests import object_security
from ..errors import Reason, Rejected

OUTER, SECURITY, CIPHERTEXT = "CoAP", "Object-Security", "ciphertext"
_TYPES = ("confirmable", "non-confirmable", "acknowledgement", "reset")


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a datagram: which layer they belong to, and what they say."""

    layer: str
    data: bytes
    meaning: str


def dissect(datagram: bytes, *, signature_length: int, tag_length: int, inside: str, sender: str) -> list[Part]:
    """A request's parts in the order of its bytes. The lengths are the group's algorithms', in bytes; `inside` says
    what was encrypted, `sender` whose Endpoint ID it is. `Rejected` if it is no protected request."""
    message = coap.decode(datagram)
    value = object_security(message)
    prefix = decode_prefix(value)
    kid, signature = split_tail(prefix, signature_length)
    _, partial_iv, gid, _ = prefix
    if partial_iv is None or gid is None or kid is None or signature is None:
        raise Rejected(Reason.MALFORMED, "not all that a request needs is there")
    token_end = 4 + len(message.token)
    option_at = datagram.index(value, token_end)
    number = int.from_bytes(partial_iv, "big")
    return [
        Part(OUTER, datagram[:4], f"{_TYPES[message.type]} POST"),
        Part(OUTER, message.token, "token: answers repeat it"),
        Part(OUTER, datagram[token_end:option_at], f"option 9, {len(value)} bytes long"),
        Part(SECURITY, value[:1], "flags: which parts there are"),
        Part(SECURITY, partial_iv, f"Partial IV: sequence number {number}"),
        Part(SECURITY, bytes((len(gid),)) + gid, "length, Gid: which keys"),
        Part(SECURITY, signature, "countersignature"),
        Part(SECURITY, kid, f"kid: {sender}'s ID"),
        Part(OUTER, b"\xff", "payload marker"),
        Part(CIPHERTEXT, message.payload[:-tag_length], inside),
        Part(CIPHERTEXT, message.payload[-tag_length:], "tag"),
    ]
