"""Responses: protecting them (draft §5.3) and the stages of receiving one (§5.4).

    decrypt_response ─► DecryptedResponse ─ check_signature ─► AuthenticResponse ─ accept ─► DeliveredResponse

Countersignatures of responses are always verified: there is no other way through. In pairwise mode there is none,
and no need of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from ..cose.keys import PublicKey
from ..errors import MisuseError, Reason, Rejected, SequenceNumbersExhausted
from . import coap
from .coap import Message
from .contexts import CredentialNeeded, RecipientContext, SecurityContext, SenderContext
from .exchange import IncomingExchange, OutgoingExchange
from .option import OptionPrefix, decode_prefix, partial_iv_bytes
from .profile import OptionTail, RequestIds, Signed
from .registry import Registry
from .requests import SignatureState, Trace, TraceHook, object_security, outgoing_pairwise, verify_countersignature
from .splitting import with_option
from .synchronization import Freshness

_Tried = TypeVar("_Tried")


def incoming_exchange(
    sender: SenderContext,
    ids: RequestIds,
    *,
    may_reuse_nonce: bool,
    by_multicast: bool = True,
    pairwise: bool = False,
) -> IncomingExchange:
    """The low-level seam: an exchange from the bare triple of a request, as test vectors give it.

    With `may_reuse_nonce` the caller vouches for what `admit` would have established: that the request was
    verified, is answered for the first time, and that the sender's window is unbroken. The right is granted only
    if `sender` still is of the request's Gid. `MisuseError` for ids that cannot be a request's, or are of our own
    request."""
    if ids.gid == sender.common.gid and ids.kid == sender.sender_id:
        raise MisuseError("a request of our own is not answered")
    nonce = sender.common.nonce(ids.kid, ids.partial_iv)
    right = nonce if may_reuse_nonce and sender.common.gid == ids.gid else None
    return IncomingExchange(*ids, right, by_multicast, pairwise=pairwise)


def protect_response(
    sender: SenderContext,
    exchange: IncomingExchange,
    message: Message,
    *,
    to: tuple[SecurityContext, RecipientContext] | None = None,
    fresh: bool = False,
    include_gid: bool = False,
    trace: TraceHook | None = None,
) -> Message:
    """Protect a response to this exchange's request, under the listener's present Sender Context: for the group, or
    in pairwise mode for `to` alone, who is the requester in the context that `sender` is of.

    The request's nonce is used only where that is safe (multicast-oscore-04 §7): first response, no Observe, no
    challenge, same Gid, right still there. Otherwise, and always if `fresh`, a Partial IV of our own is used and
    sent. The Gid is sent if `include_gid`, and always when it is not the request's. The kid is left out only where
    the requester asked us alone and answers are for it alone (Group OSCORE §3.2), under the Gid that it knows.

    `MisuseError` if the message cannot be protected, or not in this mode, `SequenceNumbersExhausted` if there is no
    number left."""
    if not coap.is_response(message.code):
        raise MisuseError("not a response")
    if sender.numbers.exhausted:
        raise SequenceNumbersExhausted("no sequence numbers left under this Sender Context")
    common = sender.common
    profile = common.profile
    ids = exchange.ids
    code, outer, plaintext = profile.split(message)
    channel = sender.channel if to is None else outgoing_pairwise(to[0], sender, to[1])
    renewed = common.gid != ids.gid
    nonce = exchange.take_request_nonce()  # taken in any case: a later response is not the first
    partial_iv = None
    length = channel.nonce_length
    if nonce is None or fresh or renewed or _needs_own_partial_iv(message):
        number = sender.numbers.take()
        partial_iv = partial_iv_bytes(number)
        nonce = (channel.nonce_base ^ number).to_bytes(length, "big")
    elif len(nonce) != length:  # the request's mode has another length of nonces
        nonce = common.nonce(ids.kid, ids.partial_iv, length)
    prepared = profile.binder(common, ids.kid, ids.gid)(ids.partial_iv)
    gid = common.gid if renewed or include_gid else None
    kid = None if to is not None and exchange.pairwise and gid is None else sender.sender_id
    header = (partial_iv, gid, kid, True, to is not None)
    option, payload, aad, to_be_signed = profile.seal(sender, channel, prepared, nonce, header, plaintext)
    if trace is not None:
        external_aad = profile.external_aad(common, ids, option, sender.author)
        trace(Trace(plaintext, external_aad, aad, to_be_signed, nonce, option))
    options = with_option(outer, coap.OBJECT_SECURITY, option)
    return Message(message.type, code, message.message_id, message.token, options, payload)


def _needs_own_partial_iv(message: Message) -> bool:
    """Notifications, and 4.03 with Repeat."""
    return any(number in (coap.OBSERVE, coap.REPEAT) for number, _ in message.options)


class _Response:
    """What the stages of one received response carry. The message stays private until delivery; it is None where
    the profile wants the countersignature first, and `_closed` then has what it takes to look inside."""

    __slots__ = (
        "_closed",
        "_exchange",
        "_inside",
        "_number",
        "_outer",
        "_signed",
        "context",
        "recipient",
    )

    def __init__(
        self,
        exchange: OutgoingExchange,
        context: SecurityContext,
        recipient: RecipientContext,
        number: int | None,
        signed: Signed | None,
        outer: Message,
        closed: tuple[bytes | None, bytes],
    ) -> None:
        self._exchange = exchange
        self.context = context
        self.recipient = recipient
        self._number = number
        self._signed = signed
        self._outer = outer
        self._closed = closed
        self._inside: Message | None = None

    def _message(self) -> Message:
        """What is inside. `Rejected` (malformed) if it is no response to such a request."""
        if self._inside is None:
            plaintext, nonce = self._closed
            profile = self.context.common.profile
            if plaintext is None:
                assert self._signed is not None
                plaintext = profile.reveal(self.recipient.channel, nonce, self._signed)
            inner = profile.join(self._outer, plaintext)
            if self._number is None and not profile.rules.long_exchanges and _needs_own_partial_iv(inner):
                raise Rejected(Reason.MALFORMED, "challenge without Partial IV")
            self._inside = inner
        return self._inside

    @property
    def _notification(self) -> bool:
        return self._message().option(coap.OBSERVE) is not None


class DeliveredResponse(NamedTuple):
    """An answer for the application, with what is known about it. `sequence_number` is None where the listener
    used the request's nonce. It is certain who made it: `signature` says by what."""

    message: Message
    group: str
    gid: bytes
    sender_id: bytes
    sequence_number: int | None
    freshness: Freshness
    notification: bool
    signature: SignatureState = SignatureState.VERIFIED
    asked: bytes | None = None


class AuthenticResponse:
    """Encryption and countersignature are right. Whether it is a repetition is still open."""

    __slots__ = ("_response",)

    def __init__(self, response: _Response) -> None:
        self._response = response

    def accept(self) -> DeliveredResponse:
        """Check and update what the exchange has had from this listener, in one step. `Rejected` if it is a
        replay or an older notification."""
        response = self._response
        context = response.context
        kid = response.recipient.recipient_id
        if context.refusal is not None:
            raise Rejected(context.refusal, context.gid.hex())  # since this one has come
        exchange, number, notification = response._exchange, response._number, response._notification
        exchange.check(kid, context.generation, number, notification=notification)
        context.keep_answering(response.recipient)
        key = response.recipient.public_key if context.common.profile.rules.long_exchanges else None
        exchange.accept(
            kid,
            context.generation,
            number,
            notification=notification,
            public_key=None if key is None else key.data,
        )
        return DeliveredResponse(
            response._message(),
            context.group,
            context.gid,
            kid,
            number,
            Freshness.ORDERED if notification else Freshness.BOUND,
            notification,
            SignatureState.PAIRWISE if response._signed is None else SignatureState.VERIFIED,
            exchange.peer,
        )


class DecryptedResponse(_Response):
    """Decrypted; nothing more is certain than that some member of the group made it for this request."""

    __slots__ = ()

    @property
    def sender_id(self) -> bytes:
        return self.recipient.recipient_id

    @property
    def public_key(self) -> PublicKey | None:
        """The sender's public key, if it is at hand."""
        return self.recipient.public_key

    @property
    def pairwise(self) -> bool:
        """Whether it came in pairwise mode."""
        return self._signed is None

    def settle(self) -> None:
        """As `DecryptedRequest.settle`."""
        if self._signed is not None and self._closed[0] is None:
            self.check_signature()

    def for_onlooker(self) -> Message:
        """As `DecryptedRequest.for_onlooker`."""
        return self._message()

    def check_signature(self, public_key: PublicKey | None = None) -> AuthenticResponse:
        """Verify the countersignature, as in `DecryptedRequest.check_signature`."""
        if self._signed is not None:
            verify_countersignature(self.context, self.recipient, self._signed, public_key)
            self._message()
        return AuthenticResponse(self)


def decrypt_response(registry: Registry, exchange: OutgoingExchange, message: Message) -> DecryptedResponse:
    """The first stage, for a response whose Token has led to `exchange`. `Rejected` otherwise; no state
    changes.

    Without a Gid it is under the request's, or, where the profile lets listeners leave that out later on, under the
    current one (Group OSCORE §7.3, and its Late Update on the Sender)."""
    value = object_security(message)
    if not coap.is_response(message.code) or not message.payload:
        raise Rejected(Reason.MALFORMED, "no ciphertext" if message.code else "empty message")
    prefix = decode_prefix(value)
    _, partial_iv, gid, _ = prefix
    context = exchange.context
    if gid is not None and gid != context.gid:
        return _decrypt_under(registry.current(context.group, gid), exchange, message, value, prefix)
    if gid is not None or partial_iv is None or context.current or context.common.profile.rules.gid_if_renewed:
        return _decrypt_under(context, exchange, message, value, prefix)
    newest = registry.current(context.group)
    return first_that_fits(lambda tried: _decrypt_under(tried, exchange, message, value, prefix), (newest, context))


def first_that_fits(
    attempt: Callable[[_Tried], DecryptedResponse], candidates: Iterable[_Tried]
) -> DecryptedResponse:
    """The response as the first of these candidates reads it. `Rejected` if none does: for want of a credential
    (`CredentialNeeded`) rather than for another reason, for that can be mended, and else as the last one says."""
    refused: Rejected | None = None
    for tried in candidates:
        try:
            response = attempt(tried)
            response.settle()
        except Rejected as rejection:
            if not isinstance(refused, CredentialNeeded):
                refused = rejection
        else:
            return response
    assert refused is not None  # there is a candidate
    raise refused


def _decrypt_under(
    context: SecurityContext, exchange: OutgoingExchange, message: Message, value: bytes, prefix: OptionPrefix
) -> DecryptedResponse:
    partial_iv = prefix[1]
    same = context is exchange.context
    common = context.common
    profile = common.profile
    rules = profile.rules
    tail = profile.split_response_option(common, prefix)
    if context.refusal is not None:
        raise Rejected(context.refusal, context.gid.hex())
    kid = _responder(context, exchange, tail)
    if kid == exchange.ids.kid and same:
        raise Rejected(Reason.OWN_MESSAGE)
    outer_notification = len(message.options) > 1 and message.option(coap.OBSERVE) is not None
    notification = outer_notification and not rules.inner_observe
    recipient = context.recipient(kid)
    number = None
    if partial_iv is None:
        if notification:
            raise Rejected(Reason.MALFORMED, "notification without Partial IV")
        if not same:
            raise Rejected(Reason.BOUND_TO_OTHER_REQUEST, "another Gid without Partial IV")
    else:
        number = int.from_bytes(partial_iv, "big")
    exchange.check(kid, context.generation, number, notification=notification)
    if recipient.author is None:
        raise CredentialNeeded(context, kid)
    channel = context.pairwise(recipient).incoming if tail[2] else recipient.channel
    length = channel.nonce_length
    if number is not None:
        nonce = (channel.nonce_base ^ number).to_bytes(length, "big")
    elif len(exchange.nonce) == length:
        nonce = exchange.nonce
    else:  # the request's mode has another length of nonces
        nonce = common.nonce(exchange.ids.kid, exchange.ids.partial_iv, length)
    prepared = exchange.prepared
    if not same:
        ids = exchange.ids
        prepared = profile.binder(common, ids.kid, ids.gid)(ids.partial_iv)
    plaintext, signed = profile.open(
        recipient, channel, prepared, nonce, (value, prefix, tail, message.payload, True)
    )
    response = DecryptedResponse(exchange, context, recipient, number, signed, message, (plaintext, nonce))
    if signed is None or not rules.signature_first:
        response._message()
    return response


def _responder(context: SecurityContext, exchange: OutgoingExchange, tail: OptionTail) -> bytes:
    """Who answers, by its Endpoint ID in `context`. `Rejected` if it is not who was asked alone (Group OSCORE
    §7.4)."""
    kid = tail[0]
    if exchange.peer is None:
        if kid is None:
            raise Rejected(Reason.MALFORMED, "no kid in an answer to the group")
        return kid
    expected = exchange.context.same_member(exchange.peer, context)
    if expected is None or kid not in (None, expected):
        raise Rejected(Reason.OTHER_RESPONDER, "" if kid is None else kid.hex())
    return expected
