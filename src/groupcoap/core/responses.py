"""Responses: protecting them (draft §5.3) and the stages of receiving one (§5.4).

    decrypt_response ─► DecryptedResponse ─ check_signature ─► AuthenticResponse ─ accept ─► DeliveredResponse

Countersignatures of responses are always verified: there is no other way through.
"""

from __future__ import annotations

from typing import NamedTuple

from ..cose.keys import PublicKey
from ..errors import MisuseError, Reason, Rejected, SequenceNumbersExhausted
from . import coap
from .coap import Message
from .contexts import RecipientContext, SecurityContext, SenderContext
from .exchange import IncomingExchange, OutgoingExchange
from .option import decode_prefix, partial_iv_bytes
from .profile import RequestIds
from .registry import Registry
from .requests import Signed, Trace, TraceHook, object_security, verify_countersignature
from .splitting import with_option
from .synchronization import Freshness


def incoming_exchange(
    sender: SenderContext, ids: RequestIds, *, may_reuse_nonce: bool, by_multicast: bool = True
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
    return IncomingExchange(*ids, right, by_multicast)


def protect_response(
    sender: SenderContext,
    exchange: IncomingExchange,
    message: Message,
    *,
    fresh: bool = False,
    include_gid: bool = False,
    trace: TraceHook | None = None,
) -> Message:
    """Protect a response to this exchange's request, under the listener's present Sender Context.

    The request's nonce is used only where that is safe (multicast-oscore-04 §7): first response, no Observe,
    no challenge, same Gid, right still there. Otherwise, and always if `fresh`, a Partial IV of our own is used
    and sent. The Gid is sent if `include_gid`, and always when it is not the request's.

    `MisuseError` if the message cannot be protected, `SequenceNumbersExhausted` if there is no number left."""
    if not coap.is_response(message.code):
        raise MisuseError("not a response")
    if sender.numbers.exhausted:
        raise SequenceNumbersExhausted("no sequence numbers left under this Sender Context")
    common = sender.common
    profile = common.profile
    ids = exchange.ids
    code, outer, plaintext = profile.split(message)
    renewed = common.gid != ids.gid
    nonce = exchange.take_request_nonce()  # taken in any case: a later response is not the first
    partial_iv = None
    if nonce is None or fresh or renewed or _needs_own_partial_iv(message):
        number = sender.numbers.take()
        partial_iv = partial_iv_bytes(number)
        nonce = (sender.nonce_base ^ number).to_bytes(common.aead.nonce_length, "big")
    prepared = profile.binder(common, ids.kid, ids.gid)(ids.partial_iv)
    gid = common.gid if renewed or include_gid else None
    option, payload, aad, to_be_signed = profile.seal(sender, prepared, nonce, partial_iv, gid, plaintext)
    if trace is not None:
        external_aad = profile.external_aad(common, ids)
        trace(Trace(plaintext, external_aad, aad, to_be_signed, nonce, option))
    options = with_option(outer, coap.OBJECT_SECURITY, option)
    return Message(message.type, code, message.message_id, message.token, options, payload)


def _needs_own_partial_iv(message: Message) -> bool:
    """Notifications, and 4.03 with Repeat."""
    return any(number in (coap.OBSERVE, coap.REPEAT) for number, _ in message.options)


class _Response:
    """What the stages of one received response carry. The message stays private until delivery."""

    __slots__ = (
        "_exchange",
        "_message",
        "_notification",
        "_number",
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
        notification: bool,
        signed: Signed,
        message: Message,
    ) -> None:
        self._exchange = exchange
        self.context = context
        self.recipient = recipient
        self._number = number
        self._notification = notification
        self._signed = signed
        self._message = message


class DeliveredResponse(NamedTuple):
    """An answer for the application, with what is known about it. `sequence_number` is None where the listener
    used the request's nonce. The countersignature has been verified."""

    message: Message
    group: str
    gid: bytes
    sender_id: bytes
    sequence_number: int | None
    freshness: Freshness
    notification: bool


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
        response._exchange.check(kid, context.generation, response._number, notification=response._notification)
        context.keep_answering(response.recipient)
        response._exchange.accept(kid, context.generation, response._number, notification=response._notification)
        return DeliveredResponse(
            response._message,
            context.group,
            context.gid,
            kid,
            response._number,
            Freshness.ORDERED if response._notification else Freshness.BOUND,
            response._notification,
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

    def for_onlooker(self) -> Message:
        """As `DecryptedRequest.for_onlooker`."""
        return self._message

    def check_signature(self, public_key: PublicKey | None = None) -> AuthenticResponse:
        """Verify the countersignature, as in `DecryptedRequest.check_signature`."""
        verify_countersignature(self.context, self.recipient, self._signed, public_key)
        return AuthenticResponse(self)


def decrypt_response(registry: Registry, exchange: OutgoingExchange, message: Message) -> DecryptedResponse:
    """The first stage, for a response whose Token has led to `exchange`. `Rejected` otherwise; no state
    changes."""
    value = object_security(message)
    if not coap.is_response(message.code) or not message.payload:
        raise Rejected(Reason.MALFORMED, "no ciphertext" if message.code else "empty message")
    prefix = decode_prefix(value)
    _, partial_iv, gid, _ = prefix
    context = exchange.context
    if gid is not None and gid != context.gid:
        context = registry.current(context.group, gid)
    common = context.common
    profile = common.profile
    tail = profile.split_response_option(common, prefix)
    kid = tail[0]
    if kid == exchange.ids.kid and context is exchange.context:
        raise Rejected(Reason.OWN_MESSAGE)
    notification = len(message.options) > 1 and message.option(coap.OBSERVE) is not None
    recipient = context.recipient(kid)
    if partial_iv is None:
        if notification:
            raise Rejected(Reason.MALFORMED, "notification without Partial IV")
        if context is not exchange.context:
            raise Rejected(Reason.BOUND_TO_OTHER_REQUEST, "another Gid without Partial IV")
        number, nonce = None, exchange.nonce
    else:
        number = int.from_bytes(partial_iv, "big")
        nonce = (recipient.nonce_base ^ number).to_bytes(recipient.nonce_length, "big")
    exchange.check(kid, context.generation, number, notification=notification)
    prepared = exchange.prepared
    if context is not exchange.context:
        ids = exchange.ids
        prepared = profile.binder(common, ids.kid, ids.gid)(ids.partial_iv)
    inner = profile.join(message, profile.open(recipient, prepared, nonce, message.payload))
    if number is None and _needs_own_partial_iv(inner):
        raise Rejected(Reason.MALFORMED, "challenge without Partial IV")
    return DecryptedResponse(
        exchange, context, recipient, number, notification, (prepared, tail, message.payload), inner
    )
