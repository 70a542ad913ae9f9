"""A group whose keys the targets know: what the fuzzer chooses is protected correctly, so that the code behind AEAD
and countersignature is reached. Nothing here is random, and nothing changes from one input to the next."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from ipaddress import ip_address

from groupcoap.core import coap
from groupcoap.core.coap import Message, Options
from groupcoap.core.contexts import CommonContext, SenderContext
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.option import partial_iv_bytes
from groupcoap.core.profile import RequestIds
from groupcoap.core.sequence import MAXIMUM, SequenceNumbers
from groupcoap.core.splitting import with_option
from groupcoap.cose.algorithms import DEFAULT_AEAD, Kdf
from groupcoap.cose.keys import DEFAULT_SIGNATURE, PrivateKey
from groupcoap.secret import Secret

from .choices import Choices

NAME = "lights"
PREFIX = bytes.fromhex("a1b2c3d4e5f60718")
ADDRESS = ip_address("224.0.1.187")

LAMP = b"\x01"
OTHER_LAMP = b"\x02"
SWITCH = b"\x80"
STRANGER = b"\x81"
"""A member whose credential is not at hand at first."""
IDS = (LAMP, OTHER_LAMP, SWITCH, STRANGER)
NOBODY = b"\x05"
"""No member; but any member can encrypt in its name."""
SPEAKERS = (*IDS, NOBODY)

NUMBERS = (0, 1, 2, 31, 32, 33, 255, 256, 65535, 1 << 32, MAXIMUM - 1, MAXIMUM)
"""Sequence numbers at the edges of encodings and of the window."""


def gid(epoch: int = 0) -> bytes:
    """The Gid of this epoch."""
    return PREFIX + epoch.to_bytes(4, "big")


@cache
def private_key(endpoint_id: bytes) -> PrivateKey:
    """The signing key of this member, or would-be member."""
    return DEFAULT_SIGNATURE.private_key(Secret(sha256(b"key of " + endpoint_id).digest()))


@cache
def common_context(epoch: int = 0) -> CommonContext:
    """The Common Context of this epoch, each with a Master Secret of its own."""
    return CommonContext(
        profile=MULTICAST_OSCORE_04,
        aead=DEFAULT_AEAD,
        kdf=Kdf.HKDF_SHA_256,
        signature=DEFAULT_SIGNATURE,
        master_secret=master_secret(epoch),
        gid=gid(epoch),
    )


def master_secret(epoch: int = 0) -> Secret:
    return Secret(sha256(b"secret of " + gid(epoch)).digest()[:16])


@cache
def _sender(endpoint_id: bytes, epoch: int) -> SenderContext:
    return SenderContext(common_context(epoch), endpoint_id, private_key(endpoint_id), SequenceNumbers())


@cache
def _impostor(endpoint_id: bytes, epoch: int) -> SenderContext:
    common = common_context(epoch)
    return SenderContext(common, endpoint_id, private_key(b"somebody else's"), SequenceNumbers())


def sender(endpoint_id: bytes, epoch: int = 0) -> SenderContext:
    """What this member protects with, its sequence numbers starting at 0. There is one of each: use it up before
    the next is asked for."""
    context = _sender(endpoint_id, epoch)
    context.numbers = SequenceNumbers()
    return context


def request(
    kid: bytes,
    number: int,
    plaintext: bytes,
    *,
    epoch: int = 0,
    forged: bool = False,
    kind: int = coap.NON,
    code: int = coap.POST,
    message_id: int = 1,
    token: bytes = b"\x70",
    outer: Options = (),
) -> Message:
    """A request under this sequence number with any bytes as plaintext, protected as `kid` would; or by another
    member in its name, if `forged`."""
    by = (_impostor if forged else _sender)(kid, epoch)
    partial_iv = partial_iv_bytes(number)
    nonce = (by.nonce_base ^ number).to_bytes(by.nonce_length, "big")
    option, payload, _, _ = MULTICAST_OSCORE_04.seal(
        by, by.bind(partial_iv), nonce, partial_iv, by.common.gid, plaintext
    )
    options = with_option(outer, coap.OBJECT_SECURITY, option)
    return Message(kind, code, message_id, token, options, payload)


def response(
    kid: bytes,
    ids: RequestIds,
    number: int | None,
    plaintext: bytes,
    *,
    epoch: int = 0,
    with_gid: bool = False,
    forged: bool = False,
    kind: int = coap.NON,
    code: int = coap.CHANGED,
    message_id: int = 1,
    token: bytes = b"\x70",
    outer: Options = (),
) -> Message:
    """A response to the request with these ids, likewise. Without a number it uses the request's nonce."""
    by = (_impostor if forged else _sender)(kid, epoch)
    prepared = MULTICAST_OSCORE_04.binder(by.common, ids.kid, ids.gid)(ids.partial_iv)
    if number is None:
        partial_iv, nonce = None, by.common.nonce(ids.kid, ids.partial_iv)
    else:
        partial_iv = partial_iv_bytes(number)
        nonce = (by.nonce_base ^ number).to_bytes(by.nonce_length, "big")
    shown = by.common.gid if with_gid else None
    option, payload, _, _ = MULTICAST_OSCORE_04.seal(by, prepared, nonce, partial_iv, shown, plaintext)
    options = with_option(outer, coap.OBJECT_SECURITY, option)
    return Message(kind, code, message_id, token, options, payload)


# ---- choosing messages

OPTION_NUMBERS = (
    *(0, 1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 23, 27, 28, 35, 39, 60, 252, 258, 292),
    *(65000, 65535),
)
"""Those that somebody here or in aiocoap knows, 0, and large ones."""


def choose_options(choices: Choices, at_most: int = 6) -> Options:
    """Options in ascending order of number."""
    found = [(choices.one_of(OPTION_NUMBERS), choices.some()) for _ in range(choices.below(at_most + 1))]
    return tuple(sorted(found, key=lambda option: option[0]))


def choose_number(choices: Choices) -> int:
    """A sequence number: small, at an edge, or any."""
    how = choices.byte()
    if how < 128:
        return how
    if how < 192:
        return NUMBERS[how % len(NUMBERS)]
    return choices.number(5)


def choose_plaintext(choices: Choices) -> bytes:
    """What is encrypted: a message of chosen fields, or any bytes at all."""
    if choices.flag():
        return choices.some()
    code = choices.byte()
    return coap.encode_options(choose_options(choices), coap.BYTE[code], choices.some())


def object_security_of(message: Message) -> bytes:
    """The Object-Security value; empty if there is none."""
    return message.option(coap.OBJECT_SECURITY) or b""


def damaged(message: Message, choices: Choices) -> Message:
    """The message with one part of its protection changed, and changed for certain."""
    value, payload = object_security_of(message), message.payload
    if choices.flag() and payload:
        payload = _changed(payload, choices)
    else:
        value = _changed(value, choices)
    options = tuple((n, value if n == coap.OBJECT_SECURITY else v) for n, v in message.options)
    return message._replace(options=options, payload=payload)


def _changed(data: bytes, choices: Choices) -> bytes:
    how, at = choices.below(4), choices.byte()
    if not data or how == 0:
        return data + (choices.some() or b"\0")
    at %= len(data)
    if how == 1:
        return data[:at]
    bit = 1 << choices.below(8)
    return data[:at] + bytes((data[at] ^ bit,)) + data[at + 1 :]
