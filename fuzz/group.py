"""A group whose keys the targets know: what the fuzzer chooses is protected correctly, so that the code behind AEAD
and countersignature is reached. Nothing here is random, and nothing changes from one input to the next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from ipaddress import ip_address

from groupcoap.core import coap
from groupcoap.core.coap import Message, Options
from groupcoap.core.contexts import (
    DEFAULT_SYNCHRONIZATION,
    Channel,
    CommonContext,
    PairwiseContext,
    RecipientContext,
    SecurityContext,
    SenderContext,
    pairwise_context,
)
from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.option import decode_prefix, partial_iv_bytes
from groupcoap.core.profile import RequestIds
from groupcoap.core.sequence import MAXIMUM, SequenceNumbers
from groupcoap.core.splitting import with_option
from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.cose.algorithms import aead_algorithm, encryption_algorithm, key_agreement
from groupcoap.cose.credentials import Credential, CredentialKind, claims_set
from groupcoap.cose.keys import DEFAULT_SIGNATURE, PrivateKey
from groupcoap.membership import SecurityParameters
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


def master_secret(epoch: int = 0) -> Secret:
    return Secret(sha256(b"secret of " + gid(epoch)).digest()[:16])


class Group:
    """The group with the parameters of one profile; its members, keys and Gids are the same in all of them."""

    def __init__(self, parameters: SecurityParameters) -> None:
        self.parameters = parameters
        self.profile = parameters.profile
        self._senders: dict[tuple[bytes, int, bool], SenderContext] = {}
        self._pairwise: dict[tuple[bytes, bytes, int, bool], PairwiseContext] = {}
        self._commons: dict[int, CommonContext] = {}

    @property
    def pairwise(self) -> bool:
        """Whether it has a pairwise mode."""
        return self.parameters.key_agreement is not None

    @property
    def master_salt(self) -> bytes:
        """Only Group OSCORE has one."""
        return b"salt" if self.profile.rules.pairwise else b""

    def credential(self, endpoint_id: bytes) -> Credential:
        """This member's, as its group has it."""
        return _claims(endpoint_id) if self.profile.rules.binds_credentials else _raw(endpoint_id)

    def common_context(self, epoch: int = 0) -> CommonContext:
        """The Common Context of this epoch, each with a Master Secret of its own."""
        if epoch not in self._commons:
            made = self.parameters.common_context(gid(epoch), master_secret(epoch), self.master_salt)
            self._commons[epoch] = made
        return self._commons[epoch]

    def context(
        self,
        own_id: bytes | None,
        epoch: int = 0,
        synchronization: SynchronizationPolicy = DEFAULT_SYNCHRONIZATION,
        established: float | None = None,
    ) -> SecurityContext:
        """A new Security Context of this member, or of a pure listener, with the keys of all others but the
        stranger at hand."""
        others = [kid for kid in IDS if kid not in (own_id, STRANGER)]
        return SecurityContext(
            NAME,
            self.common_context(epoch),
            None if own_id is None else self.sender(own_id, epoch),
            {kid: private_key(kid).public_key for kid in others},
            credentials={kid: data for kid in others if (data := self._authenticated(kid)) is not None},
            synchronization=synchronization,
            established=established,
        )

    def learn(self, context: SecurityContext, endpoint_id: bytes) -> None:
        """This member's credential has been looked up."""
        context.learn(endpoint_id, private_key(endpoint_id).public_key, self._authenticated(endpoint_id))

    def _authenticated(self, endpoint_id: bytes) -> bytes | None:
        return self.parameters.authenticated(self.credential(endpoint_id))

    def _sender(self, endpoint_id: bytes, epoch: int, forged: bool = False) -> SenderContext:
        """Somebody else in the name of this member, if `forged`: with all keys of the group, but not with the
        private key."""
        key = endpoint_id, epoch, forged
        if key not in self._senders:
            private = private_key(b"somebody else's" if forged else endpoint_id)
            common, credential = self.common_context(epoch), self._authenticated(endpoint_id)
            self._senders[key] = SenderContext(common, endpoint_id, private, SequenceNumbers(), credential)
        return self._senders[key]

    def sender(self, endpoint_id: bytes, epoch: int = 0) -> SenderContext:
        """What this member protects with, its sequence numbers starting at 0. There is one of each: use it up
        before the next is asked for."""
        context = self._sender(endpoint_id, epoch)
        context.numbers = SequenceNumbers()
        return context

    def _channel(self, by: SenderContext, to: bytes | None, epoch: int, forged: bool) -> Channel:
        if to is None:
            return by.channel
        key = by.sender_id, to, epoch, forged
        if key not in self._pairwise:
            public, credential = private_key(to).public_key, self._authenticated(to)
            recipient = RecipientContext(by.common, to, public, unbroken=True, credential=credential)
            self._pairwise[key] = pairwise_context(by, recipient)
        return self._pairwise[key].outgoing

    def request(
        self,
        kid: bytes,
        number: int,
        plaintext: bytes,
        *,
        to: bytes | None = None,
        epoch: int = 0,
        forged: bool = False,
        kind: int = coap.NON,
        code: int = coap.POST,
        message_id: int = 1,
        token: bytes = b"\x70",
        outer: Options = (),
    ) -> Message:
        """A request under this sequence number with any bytes as plaintext, protected as `kid` would, in pairwise
        mode for `to` if that is somebody; or by another member in its name, if `forged`."""
        by = self._sender(kid, epoch, forged)
        partial_iv = partial_iv_bytes(number)
        channel = self._channel(by, to, epoch, forged)
        nonce = (channel.nonce_base ^ number).to_bytes(channel.nonce_length, "big")
        header = (partial_iv, by.common.gid, kid, False, to is not None)
        option, payload, _, _ = self.profile.seal(by, channel, by.bind(partial_iv), nonce, header, plaintext)
        options = with_option(outer, coap.OBJECT_SECURITY, option)
        return Message(kind, code, message_id, token, options, payload)

    def response(
        self,
        kid: bytes,
        ids: RequestIds,
        number: int | None,
        plaintext: bytes,
        *,
        to: bytes | None = None,
        with_kid: bool = True,
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
        by = self._sender(kid, epoch, forged)
        channel = self._channel(by, to, epoch, forged)
        prepared = self.profile.binder(by.common, ids.kid, ids.gid)(ids.partial_iv)
        if number is None:
            partial_iv, nonce = None, by.common.nonce(ids.kid, ids.partial_iv, channel.nonce_length)
        else:
            partial_iv = partial_iv_bytes(number)
            nonce = (channel.nonce_base ^ number).to_bytes(channel.nonce_length, "big")
        header = (partial_iv, by.common.gid if with_gid else None, kid if with_kid else None, True, to is not None)
        option, payload, _, _ = self.profile.seal(by, channel, prepared, nonce, header, plaintext)
        options = with_option(outer, coap.OBJECT_SECURITY, option)
        return Message(kind, code, message_id, token, options, payload)

    def ids_of(self, request: Message) -> RequestIds:
        """Of a request that was protected in this group."""
        prefix = decode_prefix(object_security_of(request))
        _, partial_iv, of, _ = prefix
        kid, _, _ = self.profile.split_request_option(self.common_context(), prefix)
        assert kid is not None
        assert partial_iv is not None
        assert of is not None
        return RequestIds(kid, partial_iv, of)


@cache
def _raw(endpoint_id: bytes) -> Credential:
    return Credential(CredentialKind.RAW_KEY, private_key(endpoint_id).public_key.data)


@cache
def _claims(endpoint_id: bytes) -> Credential:
    return claims_set(private_key(endpoint_id).public_key, DEFAULT_SIGNATURE, endpoint_id.hex())


def _group_oscore(encryption: int, aead: int | None, *, sign_protected: bool = True) -> Group:
    return Group(
        SecurityParameters(
            GROUP_OSCORE,
            aead=None if aead is None else aead_algorithm(aead),
            group_encryption=encryption_algorithm(encryption),
            key_agreement=None if aead is None else key_agreement(-27),
            sign_protected=sign_protected,
            manager_credential=_claims(b"the Group Manager"),
        )
    )


MULTICAST = Group(SecurityParameters(MULTICAST_OSCORE_04))
GROUPS = (
    MULTICAST,
    _group_oscore(10, 10),
    _group_oscore(-65534, 10),  # counter mode, whose nonces are shorter than those of the pairwise mode
    _group_oscore(24, None, sign_protected=False),
)
"""The draft's profile, then Group OSCORE: with pairwise mode twice, and without it."""


def choose_peer(choices: Choices, group: Group, peers: Sequence[bytes]) -> bytes | None:
    """Whom a message is for alone, in pairwise mode; None in group mode."""
    if not group.pairwise or not choices.flag():
        return None
    return choices.one_of(peers)


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
