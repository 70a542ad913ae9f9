"""Requests: protecting them (draft §5.1) and the stages of receiving one (§5.2).

    decrypt_request ─► DecryptedRequest ─ check_signature ─► AuthenticRequest ─┐
                                        └ waive_signature ─► GroupRequest ─────┴ admit ─► DeliveredRequest
                                                                                       └► ChallengedRequest

Only a DeliveredRequest shows its message. Nothing is changed before `admit`. In pairwise mode there is no signature
to check: decrypting has shown who made the request. Where the profile wants the signature first (`Rules`), what is
inside comes to light only in `check_signature`."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from ..cose.keys import PublicKey
from ..errors import MisuseError, Reason, Rejected
from . import coap
from .coap import NON, OBJECT_SECURITY, REPEAT, Message, is_request
from .contexts import Channel, CommonContext, CredentialNeeded, RecipientContext, SecurityContext, SenderContext
from .exchange import IncomingExchange, OutgoingExchange, outgoing_exchange
from .option import OptionPrefix, decode_prefix, partial_iv_bytes
from .profile import RequestIds, Signed
from .reassembly import is_piece
from .registry import Registry
from .splitting import with_option
from .synchronization import Challenge, Entropy, Freshness, Method

_new = tuple.__new__  # a NamedTuple made this way costs a third; its own constructor does nothing else
_integer = int.from_bytes  # big endian, like `int.to_bytes`, unless told otherwise


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
    PAIRWISE = "pairwise"
    """There is none, nor need of one: only its sender and this endpoint have the key (Group OSCORE §8)."""

    @property
    def authentic(self) -> bool:
        """Whether it is certain who made the message."""
        return self is _VERIFIED or self is _PAIRWISE


_VERIFIED = SignatureState.VERIFIED  # a member looked up in its Enum costs as much as a function call
_SKIPPED = SignatureState.SKIPPED
_DEFERRED = SignatureState.DEFERRED
_PAIRWISE = SignatureState.PAIRWISE


class ProtectedRequest(NamedTuple):
    """A request ready to be sent, and the exchange that its answers belong to."""

    message: Message
    exchange: OutgoingExchange


def protect_request(
    context: SecurityContext,
    sender: SenderContext,
    message: Message,
    trace: TraceHook | None = None,
    *,
    to: RecipientContext | None = None,
) -> ProtectedRequest:
    """Protect a request under the next sequence number: for the group, or in pairwise mode for `to` alone. `sender`
    is the context's own: a pure listener has none, so it cannot call this.

    `MisuseError` if the message cannot be protected, or not in this mode, `SequenceNumbersExhausted` if there is no
    number left, `ContextExpired` if the context is past its lifetime."""
    common = sender.common
    if sender is not context.sender or not context.current:
        raise MisuseError("not the Sender Context of its Security Context, or of one that is no longer current")
    if context.refusal is not None:
        context.check_lifetime()
    kind, code, message_id, token, _, _ = message
    if not is_request(code):
        raise MisuseError("not a request")
    profile = common.profile
    gid = common.gid
    outer_code, outer, plaintext = profile.split(message)
    channel = sender.channel if to is None else outgoing_pairwise(context, sender, to)
    number = sender.numbers.take()
    partial_iv = partial_iv_bytes(number)
    bind = sender.bind  # called as a method, a function in a slot is looked up the slow way
    prepared = bind(partial_iv)
    kid = sender.sender_id
    ids = (kid, partial_iv, gid)
    nonce = (channel.nonce_base ^ number).to_bytes(channel.nonce_length)
    header = (partial_iv, gid, kid, False, to is not None)
    option, payload, aad, to_be_signed = profile.seal(sender, channel, prepared, nonce, header, plaintext)
    if trace is not None:
        external_aad = profile.external_aad(common, RequestIds(*ids), option, sender.author)
        trace(Trace(plaintext, external_aad, aad, to_be_signed, nonce, option))
    observe = message.option(coap.OBSERVE) if outer else None
    registers = observe is not None and coap.uint_value(observe) == 0
    options = with_option(outer, OBJECT_SECURITY, option) if outer else ((OBJECT_SECURITY, option),)
    protected = _new(Message, (kind, outer_code, message_id, token, options, payload))
    peer = None if to is None else to.recipient_id
    exchange = outgoing_exchange(context, ids, prepared, nonce, registers, peer)
    return _new(ProtectedRequest, (protected, exchange))


def outgoing_pairwise(context: SecurityContext, sender: SenderContext, to: RecipientContext) -> Channel:
    """What a message of `sender` for this member alone is protected with. `MisuseError` if there is no way to, or
    they are not both of this context: a nonce could repeat."""
    if context.sender is not sender or to.common is not context.common:
        raise MisuseError("a sender or recipient of another Security Context")
    try:
        return context.pairwise(to).outgoing
    except Rejected as rejection:
        raise MisuseError(f"the pairwise mode cannot be used: {rejection}") from None


def verify_countersignature(
    context: SecurityContext, recipient: RecipientContext, signed: Signed, public_key: PublicKey | None
) -> None:
    """Verify with this key, or else with the one that is at hand. Pure; may run in any thread. `Rejected` if the
    signature is wrong or there is no key."""
    key = public_key or recipient.public_key
    if key is None:
        raise Rejected(Reason.NO_PUBLIC_KEY, recipient.recipient_id.hex())
    common = context.common
    profile = common.profile
    signature, message = profile.countersigned(common, signed)
    otherwise = recipient.signs_otherwise  # the usual form first: only what is forged costs two verifications
    if not otherwise and key.verify(signature, message):
        return
    other = profile.countersigned_otherwise(common, signed)
    if other is not None and key.verify(signature, other):
        recipient.signs_otherwise = True
        return
    if otherwise and key.verify(signature, message):
        recipient.signs_otherwise = False
        return
    raise Rejected(Reason.SIGNATURE_FAILED, recipient.recipient_id.hex())


_Inside = tuple[Message, bytes | None, bytes, bytes, bool, bool]
"""(message, Repeat value, Partial IV, nonce, by multicast, pairwise) of a request that is not delivered yet"""

_Closed = tuple[Message, bytes | None, bytes, bytes, bool]
"""(protected message, plaintext or None if it is encrypted still, Partial IV, nonce, by multicast) of a request in
which nothing is looked at before its countersignature is verified"""


class _Request:
    """What all stages of one received request carry. What is inside stays private until delivery.

    This and the stages have no `__init__`, which would cost three times what filling them in from outside does."""

    __slots__ = ("_closed", "_inside", "_signed", "context", "number", "recipient")

    context: SecurityContext
    recipient: RecipientContext
    number: int
    _signed: Signed | None
    _closed: _Closed | None
    _inside: _Inside | None

    @property
    def _content(self) -> _Inside:
        if self._inside is None:
            raise MisuseError("nothing is looked at in this request before its countersignature is verified")
        return self._inside


class AuthenticRequest:
    """Encryption and countersignature are right, or the pairwise key. Replay and synchronization are still open."""

    __slots__ = ("_request", "state")

    _request: _Request
    state: SignatureState


class GroupRequest:
    """Some member of the group sent this; the countersignature was not verified (Appendix E)."""

    __slots__ = ("_request", "state")

    _request: _Request
    state: SignatureState


class DecryptedRequest(_Request):
    """Decrypted, as far as its profile lets that come before the countersignature; nothing more is certain than
    that some member of the group made it, and with an encryption without integrity not even that."""

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
        """Whether it came in pairwise mode: then it is certain who made it."""
        return self._signed is None

    def for_onlooker(self) -> Message:
        """The message, for tools that explain or check a datagram: never for an application. `Rejected` (malformed)
        if it is none, where that has not been looked at yet."""
        return self._inside[0] if self._inside is not None else self._look_inside()[0]

    def settle(self) -> None:
        """Make sure that this is the right one of several possible contexts: an encryption without tag does not
        tell, only the countersignature does. `Rejected` if it is not."""
        if self._closed is not None and self._closed[1] is None:
            self.check_signature()

    def _look_inside(self) -> _Inside:
        assert self._closed is not None
        message, plaintext, partial_iv, nonce, by_multicast = self._closed
        profile = self.context.common.profile
        if plaintext is None:
            assert self._signed is not None
            plaintext = profile.reveal(self.recipient.channel, nonce, self._signed)
        inner = profile.join(message, plaintext)
        options = inner.options
        repeat = None
        if not by_multicast or (options and options[-1][0] >= REPEAT):
            repeat = _repeat_of(inner, by_multicast, False, profile.rules.repeat_lengths)
        return inner, repeat, partial_iv, nonce, by_multicast, False

    def signature_needed(self) -> bool:
        """Whether verification may not be skipped or deferred, whatever the application says: an echo, an old
        context, a request that would start the window or cause a challenge, a profile that wants it first, or a
        sender whose key is not at hand (or any member could fill this endpoint's memory with invented senders)."""
        context, recipient = self.context, self.recipient
        policy = context.synchronization
        if context.common.profile.rules.signature_first or self._content[1] is not None:
            return True
        if recipient.public_key is None or not context.current:
            return True
        if recipient.sync.synchronized:
            return policy.max_gap is not None and recipient.sync.too_far(policy, recipient.window, self.number)
        return policy.method is not Method.BEST_EFFORT

    def has_option(self, numbers: frozenset[int]) -> bool:
        """Whether one of these options is inside. Not authentic yet."""
        return any(number in numbers for number, _ in self._content[0].options)

    def peek_resource(self) -> tuple[int, tuple[bytes, ...]]:
        """Code and Uri-Path, for the decision whether to verify now (Appendix E). Not authentic yet."""
        message = self._content[0]
        return message.code, tuple(value for number, value in message.options if number == coap.URI_PATH)

    def check_signature(self, public_key: PublicKey | None = None) -> AuthenticRequest:
        """Verify the countersignature, if there is one, with the sender's public key, or with this one, which was
        looked up meanwhile. Pure; may run in another thread. `Rejected` if it is wrong or there is no key, or what
        comes to light then is malformed or may not come this way."""
        verified = AuthenticRequest()
        verified._request = self
        if self._signed is None:
            verified.state = _PAIRWISE
            return verified
        verify_countersignature(self.context, self.recipient, self._signed, public_key)
        verified.state = _VERIFIED
        if self._inside is None:
            self._inside = self._look_inside()
        return verified

    def waive_signature(self, *, deferred: bool) -> GroupRequest:
        """Go on without verifying. `MisuseError` where that is never allowed: see `signature_needed`."""
        if self.signature_needed():
            raise MisuseError("the countersignature of this request must be verified")
        waived = GroupRequest()
        waived._request = self
        waived.state = _DEFERRED if deferred else _SKIPPED
        return waived


class DeliveredRequest:
    """A request for the application, with what is known about it. Made by `admit` alone, and not to be changed."""

    __slots__ = ("_request", "_right", "freshness", "message", "sequence_number", "signature")

    message: Message
    sequence_number: int
    signature: SignatureState
    freshness: Freshness
    _request: _Request
    _right: bytes | IncomingExchange | None

    @property
    def group(self) -> str:
        return self._request.context.group

    @property
    def gid(self) -> bytes:
        return self._request.context.gid

    @property
    def sender_id(self) -> bytes:
        return self._request.recipient.recipient_id

    @property
    def exchange(self) -> IncomingExchange:
        """What an answer needs: the same object each time, made when it is first asked for."""
        right = self._right
        if not isinstance(right, IncomingExchange):
            self._right = right = _incoming(self._request, right)
        return right


class ChallengedRequest(NamedTuple):
    """A valid request that is not delivered: a 4.03 with this Repeat value answers it (Appendix D.3)."""

    repeat: bytes
    group: str
    gid: bytes
    sender_id: bytes
    sequence_number: int
    exchange: IncomingExchange


def _incoming(request: _Request, right: bytes | None) -> IncomingExchange:
    _, _, partial_iv, _, by_multicast, pairwise = request._content
    recipient = request.recipient
    requester = None if recipient.public_key is None else recipient.public_key.data
    gid = request.context.gid
    return IncomingExchange(recipient.recipient_id, partial_iv, gid, right, by_multicast, requester, pairwise)


def challenge_message(request: Message, repeat: bytes, code: int = coap.FORBIDDEN) -> Message:
    """The 4.03 Forbidden with Repeat (4.01 with Echo: `Rules.challenge_code`), to be protected; type and Message ID
    are the sender's to choose."""
    return Message(coap.NON, code, 0, request.token, ((coap.REPEAT, repeat),), b"")


def object_security(message: Message) -> bytes:
    """The value of the Object-Security option. `Rejected` if there is none or more than one."""
    options = message.options
    if len(options) == 1 and options[0][0] == OBJECT_SECURITY:
        return options[0][1]
    values = [value for number, value in options if number == OBJECT_SECURITY]
    if len(values) == 1:
        return values[0]
    if not values:
        raise Rejected(Reason.NOT_PROTECTED)
    raise Rejected(Reason.MALFORMED, "Object-Security more than once")


def decrypt_request(
    registry: Registry,
    message: Message,
    destination: bytes | None,
    now: float,
) -> DecryptedRequest:
    """The first stage: find the context, check for replay, decrypt.

    `destination`: the packed multicast address that the datagram was sent to, None if it came by unicast.
    `now`: monotonic seconds. `Rejected` with the reason otherwise; no state changes."""
    kind, code, _, _, options, payload = message
    alone = len(options) == 1 and options[0][0] == OBJECT_SECURITY  # nearly every request
    value = options[0][1] if alone else object_security(message)
    # What a proxy has cut into pieces is put together before, and not by multicast.
    if destination is not None and (kind != NON or (not alone and is_piece(message.option(coap.BLOCK1)))):
        raise Rejected(Reason.NOT_FOR_MULTICAST)
    if not 0 < code < 0x20 or not payload:
        raise Rejected(Reason.MALFORMED, "not a request with a ciphertext")
    prefix = decode_prefix(value)
    gid = prefix[2]
    if gid is None:
        raise Rejected(Reason.MALFORMED, "request without Gid")
    if destination is not None:
        context = registry.by_address.get((gid, destination))
        if context is None or context.refusal is not None or not context.accepts_requests:
            context = registry.at(gid, destination)  # which refuses
        return _decrypt_under(context, message, value, prefix, True, now)
    contexts = registry.of(gid)
    if len(contexts) == 1:
        return _decrypt_under(contexts[0], message, value, prefix, False, now)
    refused = Rejected(Reason.DECRYPTION_FAILED)
    for context in contexts:  # by unicast one Gid may stand for several groups: the right one decrypts
        try:
            request = _decrypt_under(context, message, value, prefix, False, now)
            request.settle()
        except Rejected as rejection:
            # what can be mended comes before other reasons, and those before that it is of another group
            mends = isinstance(rejection, CredentialNeeded) and not isinstance(refused, CredentialNeeded)
            if mends or refused.reason is Reason.DECRYPTION_FAILED:
                refused = rejection
        else:
            return request
    raise refused


def _decrypt_under(
    context: SecurityContext,
    message: Message,
    value: bytes,
    prefix: OptionPrefix,
    by_multicast: bool,
    now: float,
) -> DecryptedRequest:
    common = context.common
    profile = common.profile
    tail = profile.split_request_option(common, prefix)
    kid, _, pairwise = tail
    partial_iv = prefix[1]
    assert partial_iv is not None  # as split_request_option promises
    assert kid is not None
    payload = message.payload
    recipient = context.kept.get(kid)
    if recipient is None:
        _check_length(common, payload, pairwise)
        recipient = context.recipient(kid)
    number = _integer(partial_iv)
    window = recipient.window
    if number <= window.highest and not window.is_new(number):
        _check_length(common, payload, pairwise)
        raise Rejected(Reason.REPLAY, f"sequence number {number} of {kid.hex()}")
    sync = recipient.sync
    if by_multicast and not sync.synchronized and sync.drops_early(context.synchronization, number, now):
        raise Rejected(Reason.CHALLENGE_PENDING)
    if recipient.author is None:
        raise CredentialNeeded(context, kid)
    channel = recipient.channel if not pairwise else context.pairwise(recipient).incoming
    bind = recipient.bind  # called as a method, a function in a slot is looked up the slow way
    prepared = bind(partial_iv)
    nonce = (channel.nonce_base ^ number).to_bytes(channel.nonce_length)
    plaintext, signed = profile.open(recipient, channel, prepared, nonce, (value, prefix, tail, payload, False))
    request = DecryptedRequest()
    request.context = context
    request.recipient = recipient
    request.number = number
    request._signed = signed
    rules = profile.rules
    if signed is not None and rules.signature_first:
        request._closed = message, plaintext, partial_iv, nonce, by_multicast
        request._inside = None
        return request
    assert plaintext is not None  # only of what is looked at later may it be withheld
    inner = profile.join(message, plaintext)
    options = inner.options
    repeat = None
    if not by_multicast or (options and options[-1][0] >= REPEAT):
        repeat = _repeat_of(inner, by_multicast, pairwise, rules.repeat_lengths)
    request._closed = None
    request._inside = inner, repeat, partial_iv, nonce, by_multicast, pairwise
    return request


def _check_length(common: CommonContext, payload: bytes, pairwise: bool) -> None:
    """Malformed comes first: it never gets an error."""
    if len(payload) <= (common.pairwise_overhead if pairwise else common.overhead):
        raise Rejected(Reason.MALFORMED, "payload too short for a ciphertext")


def _repeat_of(message: Message, by_multicast: bool, pairwise: bool, lengths: tuple[int, int]) -> bytes | None:
    """The Repeat value, if any. `Rejected` if this may not come this way (multicast-oscore-04 §7, §9): nothing in a
    request in group mode names the one listener that it is for."""
    repeat = message.option(coap.REPEAT)
    if repeat is not None:
        if by_multicast:
            raise Rejected(Reason.REPEAT_BY_MULTICAST)
        if not lengths[0] <= len(repeat) <= lengths[1]:
            raise Rejected(Reason.MALFORMED, "Repeat value not of {} to {} bytes".format(*lengths))
    elif not by_multicast and not pairwise and message.code not in (coap.GET, coap.FETCH):
        raise Rejected(Reason.UNICAST_METHOD, coap.code_text(message.code))
    return repeat


def admit(
    verified: AuthenticRequest | GroupRequest, now: float, entropy: Entropy
) -> DeliveredRequest | ChallengedRequest:
    """The last stage: keep the Recipient Context, check and update the window, synchronize. One step: nothing
    may run in between. `Rejected` if the request is not delivered."""
    request = verified._request
    context = request.context
    state = verified.state
    authentic = state is _VERIFIED or state is _PAIRWISE
    if context.refusal is not None:
        raise Rejected(context.refusal, context.gid.hex())  # since this one has come
    if not context.current and not (context.accepts_requests and authentic):
        raise Rejected(Reason.CONTEXT_RETIRED, context.gid.hex())  # renewed while this one was under way
    recipient = request.recipient
    if not recipient.kept:
        recipient = context.keep(recipient)
    number = request.number
    message, repeat, _, nonce, _, pairwise = request._content
    rule = context.pairwise_echo_rule if pairwise else context.echo_rule
    verdict = recipient.sync.decide(
        context.synchronization, recipient.window, number, repeat, message, now, entropy, rule
    )
    if isinstance(verdict, Challenge):
        kid, gid = recipient.recipient_id, context.gid
        return ChallengedRequest(verdict.repeat, context.group, gid, kid, number, _incoming(request, None))
    delivered = DeliveredRequest()
    delivered.message = message
    delivered.sequence_number = number
    delivered.signature = state
    delivered.freshness = verdict
    delivered._request = request
    delivered._right = nonce if authentic and recipient.unbroken else None
    return delivered
