"""Requests: protecting them (draft §5.1) and the stages of receiving one (§5.2).

    decrypt_request ─► DecryptedRequest ─ check_signature ─► AuthenticRequest ─┐
                                        └ waive_signature ─► GroupRequest ─────┴ admit ─► DeliveredRequest
                                                                                       └► ChallengedRequest

Only a DeliveredRequest shows its message. Nothing is changed before `admit`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from ..cose.keys import PublicKey
from ..errors import MisuseError, Reason, Rejected
from . import coap
from .coap import Message
from .contexts import RecipientContext, SecurityContext, SenderContext
from .exchange import IncomingExchange, OutgoingExchange
from .option import OptionPrefix, decode_prefix, partial_iv_bytes
from .profile import OptionTail, Prepared, RequestIds
from .registry import Registry
from .splitting import with_option
from .synchronization import Challenge, Entropy, Freshness, Method, SynchronizationPolicy

_new = tuple.__new__  # a NamedTuple made this way costs a third; its own constructor does nothing else


class Trace(NamedTuple):
    """The intermediate values of one protection, for vectors and explanations. Holds plaintext: never logged."""

    plaintext: bytes
    external_aad: bytes
    aad: bytes
    to_be_signed: bytes
    nonce: bytes
    option: bytes


TraceHook = Callable[[Trace], None]


class SignatureState(Enum):
    """What is known of a delivered message's countersignature (Appendix E)."""

    VERIFIED = "verified"
    SKIPPED = "skipped"
    """Not verified: says only "some member of the group"."""
    DEFERRED = "deferred"
    """Not verified yet: a report follows."""


class ProtectedRequest(NamedTuple):
    """A request ready to be sent, and the exchange that its answers belong to."""

    message: Message
    exchange: OutgoingExchange


def protect_request(
    context: SecurityContext, sender: SenderContext, message: Message, trace: TraceHook | None = None
) -> ProtectedRequest:
    """Protect a group request under the next sequence number. `sender` is the context's own: a pure listener
    has none, so it cannot call this.

    `MisuseError` if the message cannot be protected, `SequenceNumbersExhausted` if there is no number left."""
    common = sender.common
    if common is not context.common:
        raise MisuseError("a Sender Context of another Security Context")
    if not coap.is_request(message.code):
        raise MisuseError("not a request")
    profile = common.profile
    code, outer, plaintext = profile.split(message)
    number = sender.numbers.take()
    partial_iv = partial_iv_bytes(number)
    prepared = sender.bind(partial_iv)
    ids = _new(RequestIds, (sender.sender_id, partial_iv, common.gid))
    nonce = (sender.nonce_base ^ number).to_bytes(common.aead.nonce_length, "big")
    sealed = profile.seal(sender, prepared, nonce, partial_iv, common.gid, plaintext)
    if trace is not None:
        external_aad = profile.external_aad(common, ids)
        trace(Trace(plaintext, external_aad, sealed.aad, sealed.to_be_signed, nonce, sealed.option))
    options = with_option(outer, coap.OBJECT_SECURITY, sealed.option)
    observe = message.option(coap.OBSERVE) if outer else None
    registers = observe is not None and coap.uint_value(observe) == 0
    return _new(
        ProtectedRequest,
        (
            _new(Message, (message.type, code, message.message_id, message.token, options, sealed.payload)),
            OutgoingExchange(context, ids, prepared, nonce, observe=registers),
        ),
    )


class _Request:
    """What all stages of one received request carry. The message stays private until delivery."""

    __slots__ = (
        "_by_multicast",
        "_message",
        "_nonce",
        "_partial_iv",
        "_payload",
        "_prepared",
        "_tail",
        "context",
        "number",
        "recipient",
    )

    def __init__(
        self,
        context: SecurityContext,
        recipient: RecipientContext,
        number: int,
        partial_iv: bytes,
        tail: OptionTail,
        prepared: Prepared,
        nonce: bytes,
        payload: bytes,
        message: Message,
        by_multicast: bool,
    ) -> None:
        self.context = context
        self.recipient = recipient
        self.number = number
        self._partial_iv = partial_iv
        self._tail = tail
        self._prepared = prepared
        self._nonce = nonce
        self._payload = payload
        self._message = message
        self._by_multicast = by_multicast


class AuthenticRequest:
    """Encryption and countersignature are right. Replay and synchronization are still open."""

    __slots__ = ("_request",)
    state = SignatureState.VERIFIED

    def __init__(self, request: _Request) -> None:
        self._request = request


class GroupRequest:
    """Some member of the group sent this; the countersignature was not verified (Appendix E)."""

    __slots__ = ("_request", "state")

    def __init__(self, request: _Request, state: SignatureState) -> None:
        self._request = request
        self.state = state


class DecryptedRequest(_Request):
    """Decrypted; nothing more is certain than that some member of the group made it."""

    __slots__ = ()

    @property
    def sender_id(self) -> bytes:
        return self.recipient.recipient_id

    @property
    def public_key(self) -> PublicKey | None:
        """The sender's public key, if it is at hand."""
        return self.recipient.public_key

    def signature_needed(self, policy: SynchronizationPolicy) -> bool:
        """Whether verification may not be skipped or deferred, whatever the application says: an echo, an old
        context, or a first request that would set the window or cause a challenge."""
        return (
            not self.context.current
            or (policy.method is not Method.BEST_EFFORT and not self.recipient.sync.synchronized)
            or (not self._by_multicast and self._message.option(coap.REPEAT) is not None)
        )

    def peek_resource(self) -> tuple[int, tuple[bytes, ...]]:
        """Code and Uri-Path, for the decision whether to verify now (Appendix E). Not authentic yet."""
        path = tuple(value for number, value in self._message.options if number == coap.URI_PATH)
        return self._message.code, path

    def check_signature(self, public_key: PublicKey | None = None) -> AuthenticRequest:
        """Verify the countersignature with the sender's public key, or with this one, which was looked up
        meanwhile. Pure; may run in another thread. `Rejected` if it is wrong or there is no key."""
        key = public_key or self.recipient.public_key
        if key is None:
            raise Rejected(Reason.NO_PUBLIC_KEY, self.sender_id.hex())
        profile = self.context.common.profile
        if not key.verify(*profile.countersigned(self._prepared, self._tail, self._payload)):
            raise Rejected(Reason.SIGNATURE_FAILED, self.sender_id.hex())
        return AuthenticRequest(self)

    def waive_signature(self, policy: SynchronizationPolicy, *, deferred: bool) -> GroupRequest:
        """Go on without verifying. `MisuseError` where that is never allowed: see `signature_needed`."""
        synchronized = self.recipient.sync.synchronized and self._by_multicast and self.context.current
        if not synchronized and self.signature_needed(policy):
            raise MisuseError("the countersignature of this request must be verified")
        return GroupRequest(self, SignatureState.DEFERRED if deferred else SignatureState.SKIPPED)


class DeliveredRequest(NamedTuple):
    """A request for the application, with what is known about it."""

    message: Message
    group: str
    gid: bytes
    sender_id: bytes
    sequence_number: int
    signature: SignatureState
    freshness: Freshness
    exchange: IncomingExchange


class ChallengedRequest(NamedTuple):
    """A valid request that is not delivered: a 4.03 with this Repeat value answers it (Appendix D.3)."""

    repeat: bytes
    group: str
    gid: bytes
    sender_id: bytes
    sequence_number: int
    exchange: IncomingExchange


def challenge_message(request: Message, repeat: bytes) -> Message:
    """The 4.03 Forbidden with Repeat, to be protected; type and Message ID are the sender's to choose."""
    return Message(coap.NON, coap.FORBIDDEN, 0, request.token, ((coap.REPEAT, repeat),), b"")


def object_security(message: Message) -> bytes:
    """The value of the Object-Security option. `Rejected` if there is none or more than one."""
    options = message.options
    if len(options) == 1 and options[0][0] == coap.OBJECT_SECURITY:
        return options[0][1]
    values = [value for number, value in options if number == coap.OBJECT_SECURITY]
    if len(values) == 1:
        return values[0]
    if not values:
        raise Rejected(Reason.NOT_PROTECTED)
    raise Rejected(Reason.MALFORMED, "Object-Security more than once")


def decrypt_request(
    registry: Registry,
    message: Message,
    destination: bytes | None,
    policy: SynchronizationPolicy,
    now: float,
) -> DecryptedRequest:
    """The first stage: find the context, check for replay, decrypt.

    `destination`: the packed multicast address that the datagram was sent to, None if it came by unicast.
    `now`: monotonic seconds. `Rejected` with the reason otherwise; no state changes."""
    value = object_security(message)
    if destination is not None and message.type != coap.NON:
        raise Rejected(Reason.NOT_FOR_MULTICAST)
    if not 0 < message.code < 0x20 or not message.payload:
        raise Rejected(Reason.MALFORMED, "not a request with a ciphertext")
    prefix = decode_prefix(value)
    gid = prefix[2]
    if gid is None:
        raise Rejected(Reason.MALFORMED, "request without Gid")
    contexts = registry.find(gid, destination)
    if len(contexts) == 1:
        return _decrypt_under(contexts[0], message, prefix, destination, policy, now)
    for context in contexts[:-1]:  # by unicast one Gid may stand for several groups: the right one decrypts
        try:
            return _decrypt_under(context, message, prefix, destination, policy, now)
        except Rejected as rejection:
            if rejection.reason is not Reason.DECRYPTION_FAILED:
                raise
    return _decrypt_under(contexts[-1], message, prefix, destination, policy, now)


def _decrypt_under(
    context: SecurityContext,
    message: Message,
    prefix: OptionPrefix,
    destination: bytes | None,
    policy: SynchronizationPolicy,
    now: float,
) -> DecryptedRequest:
    common = context.common
    profile = common.profile
    tail = profile.split_request_option(common, prefix)
    partial_iv = prefix[1]
    assert partial_iv is not None  # as split_request_option promises
    recipient = context.recipient(tail[0])
    number = int.from_bytes(partial_iv, "big")
    if not recipient.window.is_new(number):
        raise Rejected(Reason.REPLAY, f"sequence number {number} of {tail[0].hex()}")
    by_multicast = destination is not None
    if by_multicast and not recipient.sync.synchronized and recipient.sync.drops_early(policy, number, now):
        raise Rejected(Reason.CHALLENGE_PENDING)
    prepared = recipient.bind(partial_iv)
    nonce = (recipient.nonce_base ^ number).to_bytes(recipient.nonce_length, "big")
    payload = message.payload
    inner = profile.join(message, profile.open(recipient, prepared, nonce, payload))
    if not by_multicast or (inner.options and inner.options[-1][0] >= coap.REPEAT):
        _check_path(inner, by_multicast)
    return DecryptedRequest(
        context, recipient, number, partial_iv, tail, prepared, nonce, payload, inner, by_multicast
    )


def _check_path(message: Message, by_multicast: bool) -> None:
    """What may come which way (multicast-oscore-04 §7, §9)."""
    repeat = message.option(coap.REPEAT)
    if repeat is not None:
        if by_multicast:
            raise Rejected(Reason.REPEAT_BY_MULTICAST)
        if not 8 <= len(repeat) <= 40:
            raise Rejected(Reason.MALFORMED, "Repeat value not of 8 to 40 bytes")
    elif not by_multicast and message.code not in (coap.GET, coap.FETCH):
        raise Rejected(Reason.UNICAST_METHOD, coap.code_text(message.code))


def admit(
    verified: AuthenticRequest | GroupRequest, policy: SynchronizationPolicy, now: float, entropy: Entropy
) -> DeliveredRequest | ChallengedRequest:
    """The last stage: keep the Recipient Context, check and update the window, synchronize. One step: nothing
    may run in between. `Rejected` if the request is not delivered."""
    request = verified._request
    context = request.context
    state = verified.state
    recipient = context.keep(request.recipient)
    kid = recipient.recipient_id
    verdict = recipient.sync.decide(policy, recipient.window, request.number, request._message, now, entropy)
    partial_iv, by_multicast = request._partial_iv, request._by_multicast
    gid = context.gid
    if isinstance(verdict, Challenge):
        exchange = IncomingExchange(kid, partial_iv, gid, None, by_multicast)
        return ChallengedRequest(verdict.repeat, context.group, gid, kid, request.number, exchange)
    safe = state is SignatureState.VERIFIED and recipient.unbroken
    exchange = IncomingExchange(kid, partial_iv, gid, request._nonce if safe else None, by_multicast)
    return _new(
        DeliveredRequest,
        (request._message, context.group, gid, kid, request.number, state, verdict, exchange),
    )
