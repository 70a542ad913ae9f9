"""The message interface: between the sockets and aiocoap's message layer.

Inward it decodes, verifies and passes up only what is authentic; outward it protects. What is refused is counted,
and answered only where multicast-oscore-04 §7 says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from hashlib import sha256
from random import SystemRandom
from typing import NamedTuple, TypeVar

import aiocoap
from aiocoap import interfaces

from ..core import coap
from ..core.contexts import CredentialNeeded, RecipientContext, SecurityContext
from ..core.exchange import OutgoingExchange, outgoing_exchange
from ..core.option import FLAG_KID, decode_prefix
from ..core.policy import Verification
from ..core.profile import Mode
from ..core.reassembly import AnswerAssembly, Progress, Reassembler, is_piece
from ..core.requests import (
    AuthenticRequest,
    ChallengedRequest,
    DecryptedRequest,
    DeliveredRequest,
    GroupRequest,
    challenge_message,
    decrypt_request,
    object_security,
    protect_request,
)
from ..core.responses import (
    DecryptedResponse,
    DeliveredResponse,
    decrypt_response,
    first_that_fits,
    protect_response,
)
from ..core.splitting import with_option
from ..cose.keys import PublicKey
from ..errors import Busy, EnvironmentFault, GroupcoapError, Limit, MisuseError, NetworkFault, Reason, Rejected
from ..files.pending import PendingRequest
from .counters import Counters
from .deferred import DeferredChecks
from .groups import Groups
from .layers import GroupMessageManager
from .limits import EXCHANGE_LIFETIME, Limits, PeerRates, PeerTable, Places
from .lookups import CredentialLookups
from .messages import from_core, to_core
from .network import Network, SocketAddress
from .plain import PlainMessageInterface
from .remote import GroupRemote, Incoming, Provenance
from .sparing import sparing_logger

_FLAGS_RESERVED = 0xC0  # of an Object-Security value, in every profile and in RFC 8613
KEPT_EXCHANGES = 2
"""Exchanges of one token: that of the request sent last, and the one it refreshed."""

log = sparing_logger("groupcoap.drops")

_ERRORS: dict[Reason, tuple[int, bytes]] = {
    Reason.UNKNOWN_GROUP: (coap.UNAUTHORIZED, b"Security context not found"),
    Reason.CONTEXT_RETIRED: (coap.UNAUTHORIZED, b"Security context not found"),
    Reason.CONTEXT_EXPIRED: (coap.UNAUTHORIZED, b"Security context not found"),
    Reason.UNKNOWN_SENDER: (coap.UNAUTHORIZED, b"Security context not found"),
    Reason.NO_PUBLIC_KEY: (coap.UNAUTHORIZED, b"Security context not found"),
    Reason.NOT_PROTECTED: (coap.UNAUTHORIZED, b"This resource is served to a group only"),
    Reason.DECRYPTION_FAILED: (coap.BAD_REQUEST, b"Decryption failed"),
    Reason.SIGNATURE_FAILED: (coap.BAD_REQUEST, b"Decryption failed"),
    Reason.NO_PAIRWISE_MODE: (coap.BAD_OPTION, b"The pairwise mode is not used here"),
}


@dataclass(slots=True)
class _Outgoing:
    """What a token stands for: a group, and the exchanges of the requests sent with it, newest last."""

    group: str
    exchanges: list[OutgoingExchange]
    to_one: tuple[coap.Message, SocketAddress] | None = None
    """The request as it was sent, and where to, if it went to one listener."""
    assembly: AnswerAssembly | None = None
    """Of an answer that a proxy has cut into outer blocks."""


class _Confirmable(NamedTuple):
    """A confirmable message of ours that is not acknowledged yet."""

    message: aiocoap.Message
    datagram: bytes


@dataclass(slots=True)
class _Confirmed:
    """A confirmable message that was accepted: its digest, its group, and the bytes that acknowledged it."""

    digest: bytes
    group: str
    answer: bytes | None = None


def _digest(datagram: bytes) -> bytes:
    return sha256(datagram).digest()


_Decrypted = TypeVar("_Decrypted", DecryptedRequest, DecryptedResponse)


def _check_inner_block(message: coap.Message) -> None:
    """`Rejected` if this request by multicast is a part of one: nobody could ask for the next block."""
    value = message.option(coap.BLOCK1)
    if is_piece(value):
        raise Rejected(Reason.NOT_FOR_MULTICAST, "a body in blocks")


def _without_stray_observe(message: coap.Message) -> coap.Message:
    """Observe travels unprotected: whoever adds it to a PUT would have the PUT done again at every change. It means
    something only for GET and FETCH (RFC 7641 §2, RFC 8132 §2.4)."""
    if message.code in (coap.GET, coap.FETCH):
        return message
    return message._replace(options=tuple(o for o in message.options if o[0] != coap.OBSERVE))


def _refuse_redirectable(message: aiocoap.Message) -> None:
    """`MisuseError` if this request to one member does something, and could be turned to others: in group mode
    nothing in it says whom it is for. Listeners refuse it by unicast, but whoever is on the path could send it by
    multicast. The echo of a challenge repeats what went to the group anyway."""
    if int(message.code) not in (coap.GET, coap.FETCH) and message.opt.echo is None:
        raise MisuseError("to one member alone only GET and FETCH can be sent in group mode")


Received = tuple[coap.Message, bytes, SocketAddress, bytes | None]
"""(message, its datagram, source, packed multicast destination or None)"""


class GroupMessageInterface(interfaces.MessageInterface):  # type: ignore[misc]
    """See the module's text. `plain` gets what comes by unicast and is no group message; None: nobody does."""

    def __init__(
        self,
        manager: GroupMessageManager,
        network: Network,
        groups: Groups,
        counters: Counters,
        deferred: DeferredChecks,
        *,
        leisure: float,
        limits: Limits,
    ) -> None:
        self._manager = manager
        self._network = network
        self._groups = groups
        self._counters = counters
        self._deferred = deferred
        self.leisure = leisure
        self._random = SystemRandom()
        self._loop = asyncio.get_running_loop()
        groups.in_use = self._in_use
        self._limits = limits
        self._lookups = CredentialLookups(groups.source, groups.learn, limits)
        self._outgoing: dict[bytes, _Outgoing] = {}
        remembered = limits, Limit.REMEMBERED, Limit.REMEMBERED_PER_PEER, EXCHANGE_LIFETIME, counters.reached
        self._confirmable: PeerTable[tuple[object, int], _Confirmable] = PeerTable(*remembered)
        self._confirmed: PeerTable[tuple[object, int], _Confirmed] = PeerTable(*remembered)
        total, each = limits.bound(Limit.ASSEMBLIES), limits.bound(Limit.ASSEMBLIES_PER_PEER)
        self._reassembler = Reassembler(total, each, counters.reached)
        self._errors = PeerRates(limits, Limit.ERROR_RATE, Limit.ERROR_RATE_PER_PEER)
        self._waiting = Places(limits, Limit.RESPONSES, Limit.RESPONSES_PER_PEER)
        self._timers: set[asyncio.TimerHandle] = set()
        self._closed = False
        self.plain: PlainMessageInterface | None = None

    # ---- from the sockets

    def receive(self, datagram: bytes, source: SocketAddress, destination: bytes | None) -> None:
        """A datagram has come. Nothing is raised: what is wrong with it is counted."""
        if self._closed:
            return
        try:
            message = coap.decode(datagram)
        except Rejected as rejection:
            self._dropped(rejection, source)
            return
        self._take((message, datagram, source, destination), may_be_newer=True)

    def _take(self, received: Received, *, may_be_newer: bool) -> None:
        """`may_be_newer`: a message under a Gid that is not known may be the first sign of a renewal."""
        source, destination = received[2:]
        try:
            if destination is not None:
                self._by_multicast(received)
            else:
                self._by_unicast(received)
        except Rejected as rejection:
            unknown = rejection.reason is Reason.UNKNOWN_GROUP
            if may_be_newer and unknown and self._groups.look_for_renewal():
                self._take(received, may_be_newer=False)
            else:
                if unknown:
                    self._unknown_gid(received[0])
                self._refuse(rejection, received)
        except EnvironmentFault as fault:  # the state cannot be made durable: then nothing may be delivered
            log.error("not delivered: %s", fault)
        except Exception:  # an application's function, or a mistake: other datagrams must not suffer from it
            log.exception("a datagram from %s was not processed", source[0])

    def _unknown_gid(self, message: coap.Message) -> None:
        """Say to the membership source under which Gid this has come."""
        gid = decode_prefix(object_security(message))[2]
        if gid is not None:
            self._groups.source.unknown_gid(gid)

    def _by_multicast(self, received: Received) -> None:
        message = received[0]
        if message.type != coap.NON or not coap.is_request(message.code):
            raise Rejected(Reason.NOT_FOR_MULTICAST)
        self._request(received)

    def _by_unicast(self, received: Received) -> None:
        message, _, source, _ = received
        if message.code == coap.EMPTY:
            self._empty(message, source)
            return
        if message.type == coap.RST or (message.type == coap.ACK and coap.is_request(message.code)):
            raise Rejected(Reason.MALFORMED, "a type that does not fit the code")
        if self._is_retransmission(received):
            return
        if not self._is_group_message(message):
            self._not_group(message, source)
        elif coap.is_response(message.code):
            self._response(received)
        elif message.option(coap.BLOCK1) is not None:
            self._outer_block(received)
        else:
            self._request(received)

    def _is_retransmission(self, received: Received) -> bool:
        """Whether this confirmable message was accepted before; if so it is acknowledged again."""
        message, datagram, source, _ = received
        if message.type != coap.CON:
            return False
        known = self._confirmed.get((source[:2], message.message_id), self._loop.time())
        if known is None or known.digest != _digest(datagram):
            return False
        if known.answer is not None and self._groups.may_send(known.group):
            self._transmit(known.answer, source)
        return True

    def _outer_block(self, received: Received) -> None:
        """A proxy has cut the request into pieces; it is processed once all are there."""
        message, datagram, source, _ = received
        if message.type != coap.CON:
            raise Rejected(Reason.MALFORMED, "an outer block that is not confirmable")
        max_size = self._max_unfragmented_size(message)
        whole = self._reassembler.feed((source[0], source[1]), message, self._loop.time(), max_size)
        if not isinstance(whole, Progress):
            options = with_option(whole.options, coap.BLOCK1, message.option(coap.BLOCK1) or b"")
            self._request((whole._replace(options=options), datagram, source, None))
            return
        block = (coap.BLOCK1, message.option(coap.BLOCK1) or b"")
        go_on = coap.Message(coap.ACK, coap.CONTINUE, message.message_id, message.token, (block,), b"")
        self._transmit(coap.encode(go_on), source)

    def _max_unfragmented_size(self, message: coap.Message) -> int:
        """Of the group that the Gid names; the largest, if several have it. `Rejected` if none is known."""
        gid = decode_prefix(object_security(message))[2] or b""
        return max(self._groups.policy(c.group).max_unfragmented_size for c in self._groups.registry.of(gid))

    def _is_group_message(self, message: coap.Message) -> bool:
        """Whether this is for the group layer. `Rejected` if it is malformed."""
        if message.option(coap.OBJECT_SECURITY) is None:
            return False
        prefix = decode_prefix(object_security(message))
        if not message.payload or prefix[0] & _FLAGS_RESERVED:
            raise Rejected(Reason.MALFORMED, "no ciphertext, or reserved bits set")
        if coap.is_request(message.code) and (prefix[1] is None or not prefix[0] & FLAG_KID):
            # no profile's request, nor RFC 8613's
            raise Rejected(Reason.MALFORMED, "request without Partial IV or kid")
        registry = self._groups.registry
        gid = prefix[2]
        if gid is not None and (registry.knows(gid) or (self._has_pairwise and self._is_of_renewal(message, gid))):
            return True
        if coap.is_response(message.code) and message.token in self._outgoing:
            return True
        profiles = {self._groups.configuration(name).profile for name in self._groups.names}
        return any(profile.is_group_message(prefix) for profile in profiles)

    @property
    def _has_pairwise(self) -> bool:
        groups = self._groups
        return any(groups.current(name).common.pairwise for name in groups.names)

    def _is_of_renewal(self, message: coap.Message, gid: bytes) -> bool:
        """Whether this request, under a Gid that was not known, is of a renewal that is known now: in pairwise mode
        it looks like one of RFC 8613."""
        return (
            coap.is_request(message.code) and self._groups.look_for_renewal() and self._groups.registry.knows(gid)
        )

    def _not_group(self, message: coap.Message, source: SocketAddress) -> None:
        plain = self.plain
        answers_us = self._is_ours(message, source)
        if plain is not None and (plain.serves or not coap.is_request(message.code)) and not answers_us:
            if message.option(coap.OBJECT_SECURITY) is not None and coap.is_request(message.code):
                self._unknown_gid(message)  # in pairwise mode it looks like one of RFC 8613
            plain.receive(message, source)
            return
        if message.option(coap.OBJECT_SECURITY) is None or not coap.is_request(message.code):
            raise Rejected(Reason.NOT_PROTECTED)
        gid = decode_prefix(object_security(message))[2]  # in pairwise mode of a former Gid, or RFC 8613's
        raise Rejected(Reason.UNKNOWN_GROUP, "no kid context" if gid is None else gid.hex())

    def _empty(self, message: coap.Message, source: SocketAddress) -> None:
        """Acknowledgements and resets cannot be protected. They stop the retransmission of the one message that
        they name, and end nothing else: a forged reset would otherwise end an observation."""
        if self._acknowledged(message, source):
            return
        if self.plain is not None:
            self.plain.receive(message, source)
        elif message.type == coap.CON and self.may_answer(source):  # a CoAP ping
            self._transmit(coap.encode(message._replace(type=coap.RST)), source)

    def _acknowledged(self, message: coap.Message, source: SocketAddress) -> bool:
        """Whether this acknowledges (or resets) a confirmable message of ours, which is then not sent again."""
        if message.type not in (coap.ACK, coap.RST):
            return False
        sent = self._confirmable.pop((source[:2], message.message_id))
        if sent is None:
            return False
        empty = aiocoap.Message(code=aiocoap.EMPTY, _mtype=aiocoap.ACK, _mid=message.message_id)
        empty.remote = sent.message.remote
        self._manager.dispatch_message(empty)
        return True

    def _is_ours(self, message: coap.Message, source: SocketAddress) -> bool:
        """Whether this acknowledges a confirmable message that the group's layers sent."""
        key = (source[:2], message.message_id)
        return message.type == coap.ACK and self._confirmable.get(key, self._loop.time()) is not None

    # ---- requests

    def _request(self, received: Received) -> None:
        message, _, _, destination = received
        now = self._loop.time()
        try:
            decrypted = decrypt_request(self._groups.registry, message, destination, now)
        except CredentialNeeded as needed:
            self._look_up_first(needed, received, self._request)
            return
        mode = self._groups.verification(decrypted)
        if mode is Verification.DEFER and self._deferred.full:
            self._counters.reached(Limit.DEFERRED)
            mode = Verification.ALWAYS
        if decrypted.pairwise:
            self._verify_request(decrypted, None, received)
        elif mode is Verification.ALWAYS and decrypted.public_key is None:
            self._look_up(decrypted, received, self._verify_request)
        elif mode is Verification.ALWAYS:
            self._verify_request(decrypted, None, received)
        else:
            verified = decrypted.waive_signature(deferred=mode is Verification.DEFER)
            outcome = self._admit(verified, decrypted, received)
            if mode is Verification.DEFER:
                self._deferred.submit(decrypted)  # before anything else can go wrong: the window has moved
            self._admitted(outcome, received)

    def _look_up_first(
        self, needed: CredentialNeeded, received: Received, again: Callable[[Received], None]
    ) -> None:
        """Look at this message again once its sender's credential has come."""

        def resume(key: PublicKey | None) -> None:
            if key is None:
                raise Rejected(Reason.NO_PUBLIC_KEY, needed.sender_id.hex())
            if not self._is_retransmission(received):  # its first copy waited for the same credential
                again(received)

        self._request_credential(needed.context, needed.sender_id, received, resume, unverified=True)

    def _look_up(
        self, decrypted: _Decrypted, received: Received, proceed: Callable[[_Decrypted, PublicKey, Received], None]
    ) -> None:
        """Go on with this message once its sender's credential has come."""

        def resume(key: PublicKey | None) -> None:
            if key is None:
                raise Rejected(Reason.NO_PUBLIC_KEY, decrypted.sender_id.hex())
            if self._is_retransmission(received):  # its first copy waited for the same credential
                return
            decrypted.context.recipient(decrypted.sender_id)  # it may have left meanwhile
            decrypted.recipient.public_key = key  # made when the key was not known
            proceed(decrypted, key, received)

        self._request_credential(decrypted.context, decrypted.sender_id, received, resume)

    def _request_credential(
        self,
        context: SecurityContext,
        sender_id: bytes,
        received: Received,
        proceed: Callable[[PublicKey | None], None],
        *,
        unverified: bool = False,
    ) -> None:
        """`unverified`: nothing of the message has been verified, not even that a member sent it."""

        def resume(key: PublicKey | None) -> None:
            if self._closed:
                return
            try:
                proceed(key)
            except Rejected as rejection:
                self._refuse(rejection, received)
            except EnvironmentFault as fault:
                log.error("not delivered: %s", fault)
            except Exception:
                log.exception("a message from %s was not processed", received[2][0])

        host, now = received[2][0], self._loop.time()
        self._lookups.request(context, sender_id, host, now, resume, unverified=unverified)

    def _verify_request(self, decrypted: DecryptedRequest, key: PublicKey | None, received: Received) -> None:
        self._admitted(self._admit(decrypted.check_signature(key), decrypted, received), received)

    def _admit(
        self, verified: AuthenticRequest | GroupRequest, request: DecryptedRequest, received: Received
    ) -> DeliveredRequest | ChallengedRequest:
        """Only if it can be served: what is refused before the window has moved may come again."""
        peer = (request.context.group, request.sender_id)
        limit = self._manager.requests.reached(peer)
        if limit is None and received[3] is not None:
            limit = self._waiting.reached(peer)
        if limit is not None:
            raise Busy(limit)
        return self._groups.admit(verified, request, self._loop.time())

    def _admitted(self, outcome: DeliveredRequest | ChallengedRequest, received: Received) -> None:
        message, datagram, source, _ = received
        now = self._loop.time()
        if message.type == coap.CON:
            peer, key = (outcome.group, outcome.sender_id), (source[:2], message.message_id)
            self._confirmed.put_for(peer, key, _Confirmed(_digest(datagram), outcome.group), now)
        by_multicast = outcome.exchange.by_multicast
        final_block = None if by_multicast else message.option(coap.BLOCK1)
        incoming = Incoming(outcome.group, outcome.exchange, self._release_time(by_multicast), final_block)
        if isinstance(outcome, ChallengedRequest):
            self._challenge(outcome, incoming, message, source)
            return
        origin = Provenance(
            outcome.group,
            outcome.gid,
            outcome.sender_id,
            outcome.sequence_number,
            outcome.signature,
            outcome.freshness,
        )
        remote = GroupRemote(
            source,
            outcome.group,
            outcome.sender_id,
            local=self._network.local_of(source, received[3]),
            provenance=origin,
            incoming=incoming,
            locally_multicast=outcome.exchange.by_multicast,
        )
        if outcome.exchange.by_multicast:
            _check_inner_block(outcome.message)
        request = from_core(_without_stray_observe(outcome.message), remote)
        self._counters.delivered_requests += 1
        self._manager.dispatch_message(request)

    def _release_time(self, by_multicast: bool) -> float:
        """When answers may leave: within Leisure for multicast requests (RFC 7252 §8.2)."""
        wait = self._random.uniform(0, self.leisure) if by_multicast and self.leisure else 0.0
        return self._loop.time() + wait

    def _challenge(
        self, challenged: ChallengedRequest, incoming: Incoming, request: coap.Message, source: SocketAddress
    ) -> None:
        """Answer with 4.03 and Repeat (Appendix D.3), or 4.01 and Echo (Group OSCORE §9), whatever No-Response
        says."""
        rules = self._groups.configuration(challenged.group).profile.rules
        answer = challenge_message(request, challenged.repeat, rules.challenge_code)
        if request.type == coap.CON:
            answer = answer._replace(type=coap.ACK, message_id=request.message_id)
        else:
            answer = answer._replace(message_id=self._manager.next_message_id())
        self._counters.challenges_sent += 1
        peer = (challenged.group, challenged.sender_id)
        self._later(incoming.release_at, peer, lambda: self._respond(answer, incoming, source))

    # ---- responses

    def _response(self, received: Received) -> None:
        message = received[0]
        outgoing = self._outgoing.get(message.token)
        if outgoing is None:
            raise Rejected(Reason.UNKNOWN_EXCHANGE)
        if is_piece(message.option(coap.BLOCK2)):
            whole = self._outer_answer(outgoing, message, received[2])
            if whole is None:
                return
            message = whole
            received = (whole, *received[1:])
        try:
            decrypted = self._decrypt_response(outgoing, message)
        except CredentialNeeded as needed:
            self._look_up_first(needed, received, self._response)
            return
        if decrypted.public_key is None:
            self._look_up(decrypted, received, self._verify_response)
        else:
            self._verify_response(decrypted, None, received)

    def _outer_answer(self, outgoing: _Outgoing, piece: coap.Message, source: SocketAddress) -> coap.Message | None:
        """A proxy has cut the answer into pieces: the whole, or None if more are asked for. Of an answer to the
        group it could not be told whose the next piece is. Nothing of a piece is authentic, so only where the
        request went is asked again: anywhere else somebody could have us send it to anybody."""
        if outgoing.to_one is None:
            raise Rejected(Reason.MALFORMED, "a piece of an answer to a group request")
        protected, asked_at = outgoing.to_one
        if source[:2] != asked_at[:2]:
            raise Rejected(Reason.UNKNOWN_EXCHANGE, "a piece of an answer from where it was not asked for")
        if outgoing.assembly is None:
            outgoing.assembly = AnswerAssembly(self._groups.policy(outgoing.group).max_unfragmented_size)
        whole = outgoing.assembly.feed(piece)
        if isinstance(whole, coap.Message):
            return whole
        if piece.type == coap.ACK:
            self._acknowledged(piece, source)
        options = with_option(protected.options, coap.BLOCK2, whole)
        ask = protected._replace(type=coap.NON, message_id=self._manager.next_message_id(), options=options)
        self._transmit(coap.encode(ask), source)
        return None

    def _decrypt_response(self, outgoing: _Outgoing, message: coap.Message) -> DecryptedResponse:
        """Under the request sent last with this token, or else under the one it refreshed."""
        registry, exchanges = self._groups.registry, outgoing.exchanges
        if len(exchanges) == 1:
            return decrypt_response(registry, exchanges[0], message)
        return first_that_fits(lambda exchange: decrypt_response(registry, exchange, message), exchanges[::-1])

    def _verify_response(self, decrypted: DecryptedResponse, key: PublicKey | None, received: Received) -> None:
        message, datagram, source, _ = received
        delivered = decrypted.check_signature(key).accept()
        if message.type == coap.ACK:  # the response itself acknowledges our request
            self._confirmable.pop((source[:2], message.message_id))
        if message.type == coap.CON:
            peer, message_key = (delivered.group, delivered.sender_id), (source[:2], message.message_id)
            confirmed = _Confirmed(_digest(datagram), delivered.group)
            self._confirmed.put_for(peer, message_key, confirmed, self._loop.time())
        outgoing = self._outgoing.get(message.token)
        if outgoing is not None:
            outgoing.assembly = None  # what a proxy may cost is counted from one authentic answer to the next
        self._answered(delivered, source)

    def _answered(self, delivered: DeliveredResponse, source: SocketAddress) -> None:
        origin = Provenance(
            delivered.group,
            delivered.gid,
            delivered.sender_id,
            delivered.sequence_number,
            delivered.signature,
            delivered.freshness,
        )
        # Who was asked alone is known to the layers above by the Endpoint ID that it had then.
        asked = delivered.sender_id if delivered.asked is None else delivered.asked
        rules = self._groups.configuration(delivered.group).profile.rules
        remote = GroupRemote(source, delivered.group, asked, provenance=origin, observe_inside=rules.inner_observe)
        response = from_core(delivered.message, remote)
        self._counters.delivered_responses += 1
        self._manager.dispatch_message(response)

    # ---- what is refused

    def _dropped(self, rejection: Rejected, source: SocketAddress) -> None:
        self._counters.reject(rejection)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("dropped from %s port %d: %s", source[0], source[1], rejection)

    def _refuse(self, rejection: Rejected, received: Received) -> None:
        """Count, and tell the peer where that is allowed: unicast, confirmable (or plain), well-formed requests."""
        message, _, source, destination = received
        self._dropped(rejection, source)
        plain = rejection.reason is Reason.NOT_PROTECTED
        if destination is not None:
            return
        if not coap.is_request(message.code):
            self._refused_response(rejection, message, source)
            return
        if message.type != coap.CON and not (plain and message.type == coap.NON):
            return
        replay = rejection.reason is Reason.REPLAY
        error = self._replay_error(message) if replay else _ERRORS.get(rejection.reason)
        if error is None or not self.may_answer(source):
            return
        code, text = error
        options: coap.Options = ((coap.MAX_AGE, b""),) if replay else ()
        confirmable = message.type == coap.CON
        kind = coap.ACK if confirmable else coap.NON
        message_id = message.message_id if confirmable else self._manager.next_message_id()
        self._counters.errors_sent += 1
        self._transmit(coap.encode(coap.Message(kind, code, message_id, message.token, options, text)), source)

    def _replay_error(self, message: coap.Message) -> tuple[int, bytes]:
        """What a replay is answered with, in the profile of the group that its Gid names."""
        gid = decode_prefix(object_security(message))[2] or b""
        return self._groups.registry.of(gid)[0].common.profile.rules.replay_error

    def _refused_response(self, rejection: Rejected, message: coap.Message, source: SocketAddress) -> None:
        """What the message layer needs all the same, or one side would retransmit in vain for minutes and the
        messages behind wait. An answer that is refused acknowledges what it names like an empty ACK, which can be
        forged as easily. A notification that was overtaken is acknowledged."""
        overtaken = rejection.reason is Reason.NOTIFICATION_ORDER
        if message.type == coap.ACK:
            self._acknowledged(message, source)
        elif message.type == coap.CON and overtaken and self.may_answer(source):
            empty = coap.Message(coap.ACK, coap.EMPTY, message.message_id, b"", (), b"")
            self._transmit(coap.encode(empty), source)

    def may_answer(self, source: SocketAddress) -> bool:
        """Whether something unprotected may be sent now to whoever this is."""
        limit = self._errors.reached(source[0], self._loop.time())
        if limit is not None:
            self._counters.reached(limit)
        return limit is None

    # ---- from aiocoap's message layer

    def send(self, message: aiocoap.Message) -> None:
        """Protect and send. A request that cannot be raises (`MisuseError`, `NetworkFault`, `ContextExpired`) to
        whoever asked for it; a response that cannot be is logged."""
        remote: GroupRemote = message.remote
        key = (remote.address[:2], message.mid)
        if message.mtype is aiocoap.CON:
            before = self._confirmable.get(key, self._loop.time())
            if before is not None and before.message is message:  # a retransmission repeats the same bytes
                if self._groups.may_send(remote.group):
                    self._transmit(before.datagram, remote.address)
                return
            if self._manager.sends_again(message):
                return  # its bytes had to make room, and no others may be sent in their place
        if message.code.is_request():
            self._send_request(message, remote)
        elif message.code.is_response():
            self._send_response(message, remote)
        else:
            self._acknowledge(coap.encode(to_core(message)), message.mid, remote.address)

    def _send_request(self, message: aiocoap.Message, remote: GroupRemote) -> None:
        if self._closed:
            raise MisuseError("the endpoint is closed")
        context = self._groups.to_send(remote.group)
        if context.sender is None:
            raise MisuseError(f"a pure listener cannot send to group {remote.group!r}")
        outgoing = self._outgoing.get(message.token)
        if outgoing is None and len(self._outgoing) >= self._limits.outgoing:
            self._counters.reached(Limit.OUTGOING)
            raise MisuseError("too many group requests are waiting for answers")
        to = None if remote.endpoint_id is None or remote.mode is Mode.GROUP else self._alone(context, remote)
        if remote.endpoint_id is not None and to is None:
            _refuse_redirectable(message)
        protected, exchange = protect_request(context, context.sender, to_core(message), to=to)
        datagram = coap.encode(protected)
        if outgoing is not None:
            exchange.follow(outgoing.exchanges[-1])
            outgoing.exchanges = [*outgoing.exchanges, exchange][-KEPT_EXCHANGES:]
        elif self._manager.awaited(message):  # not so the end of an observation
            to_one = None if remote.is_multicast else (protected, remote.address)
            self._outgoing[message.token] = _Outgoing(remote.group, [exchange], to_one)
        self._remember(message, datagram)
        if remote.awaited is not None:
            kid, partial_iv, gid = exchange.ids
            sent, deadline, roster = remote.awaited
            self._groups.pending.sent(
                PendingRequest(message.token, remote.group, gid, kid, partial_iv, sent, deadline, roster)
            )
        self._network.send(datagram, remote.address)

    def _alone(self, context: SecurityContext, remote: GroupRemote) -> RecipientContext | None:
        """Whom this request is for alone, where there is a pairwise mode (Group OSCORE, Group OSCORE for Unicast
        Requests). `MisuseError` if that is wanted and cannot be."""
        assert remote.endpoint_id is not None
        if not context.common.pairwise and remote.mode is None:
            return None
        try:
            return context.recipient(remote.endpoint_id)
        except Rejected as rejection:
            raise MisuseError(f"nothing can be sent to {remote.endpoint_id.hex()} alone: {rejection}") from None

    def resume(self, request: PendingRequest) -> None:
        """Take answers to a request that a process before this one has sent. `Rejected` if its context is gone."""
        context = self._groups.registry.current(request.group, request.gid)
        sender = context.sender
        if sender is None or sender.sender_id != request.own_id:
            raise Rejected(Reason.UNKNOWN_EXCHANGE)
        ids = (request.own_id, request.partial_iv, request.gid)
        nonce = context.common.nonce(request.own_id, request.partial_iv)
        bind = sender.bind
        exchange = outgoing_exchange(context, ids, bind(request.partial_iv), nonce, False)
        exchange.resume(request.answered)
        self._outgoing[request.token] = _Outgoing(request.group, [exchange])

    def _remember(self, message: aiocoap.Message, datagram: bytes) -> None:
        """Keep a confirmable message's bytes for its retransmissions, and for who is meant by an empty ACK."""
        if message.mtype is aiocoap.CON:
            key = (message.remote.address[:2], message.mid)
            kept = _Confirmable(message, datagram)
            self._confirmable.put_for(message.remote.peer, key, kept, self._loop.time())

    def _send_response(self, message: aiocoap.Message, remote: GroupRemote) -> None:
        incoming = remote.incoming
        if incoming is None:
            raise MisuseError("a response without a request")
        ready = to_core(message)

        def respond() -> None:
            datagram = self._respond(ready, incoming, remote.address)
            if datagram is not None:
                self._remember(message, datagram)

        self._later(incoming.release_at, remote.peer, respond)

    def _respond(self, message: coap.Message, incoming: Incoming, destination: SocketAddress) -> bytes | None:
        """Protect a response under the group's present Sender Context, at the moment it leaves. Returns the
        datagram that was sent, None if it could not be."""
        try:
            alone = self._groups.responding(incoming.group, incoming.exchange)
        except GroupcoapError as error:  # whoever asked has left meanwhile: nothing is wrong here
            log.info("group %s: response not sent: %s", incoming.group, error)
            return None
        try:
            sender = self._groups.current(incoming.group).sender
            if sender is None:
                raise MisuseError("a pure listener cannot respond")
            to = None if alone is None else (self._groups.current(incoming.group), alone)
            protected = protect_response(sender, incoming.exchange, message, to=to)
            if incoming.final_block is not None:  # a proxy has cut the request into pieces: this answers the last
                options = with_option(protected.options, coap.BLOCK1, incoming.final_block)
                protected = protected._replace(options=options)
            datagram = coap.encode(protected)
        except GroupcoapError as error:
            log.error("group %s: response not sent: %s", incoming.group, error)
            return None
        if message.type == coap.ACK:
            self._acknowledge(datagram, message.message_id, destination)
        else:
            self._transmit(datagram, destination)
        return datagram

    def _acknowledge(self, datagram: bytes, message_id: int, destination: SocketAddress) -> None:
        """Send, and keep for a retransmission of what it acknowledges."""
        known = self._confirmed.get((destination[:2], message_id), self._loop.time())
        if known is not None:
            known.answer = datagram
        self._transmit(datagram, destination)

    def _transmit(self, datagram: bytes, destination: SocketAddress) -> None:
        if self._closed:
            return
        try:
            self._network.send(datagram, destination)
        except NetworkFault as error:
            log.warning("not sent: %s", error)

    def _later(self, when: float, peer: Hashable, act: Callable[[], object]) -> None:
        """Do this for a peer at that time, or now if it has come; not if too much waits, nor after `shutdown`."""
        if when <= self._loop.time():
            act()
            return
        limit = self._waiting.reached(peer)
        if limit is not None:
            self._counters.reached(limit)
            return

        def fire() -> None:
            self._timers.discard(timer)
            self._waiting.give_back(peer)
            act()

        self._waiting.take(peer)
        timer = self._loop.call_at(when, fire)
        self._timers.add(timer)

    def forget(self, token: bytes) -> None:
        """No more responses are awaited for this token."""
        self._groups.pending.ended(token)
        self._outgoing.pop(token, None)
        self._groups.retire()

    def end_outgoing_of(self, group: str) -> None:
        """This endpoint has left the group, or joined it again: no answers to its requests there are awaited any
        more, be they of a process before this one."""
        for token in [token for token, outgoing in self._outgoing.items() if outgoing.group == group]:
            self.forget(token)
        pending = self._groups.pending
        for token in [token for token, request in pending.left_over.items() if request.group == group]:
            pending.ended(token)

    @property
    def awaits_answers(self) -> bool:
        """Whether any request of ours still waits for answers."""
        return bool(self._outgoing)

    def _in_use(self, context: SecurityContext) -> bool:
        return any(exchange.context is context for entry in self._outgoing.values() for exchange in entry.exchanges)

    async def recognize_remote(self, remote: object) -> bool:
        return isinstance(remote, GroupRemote)

    async def determine_remote(self, message: aiocoap.Message) -> None:
        """Group requests are addressed by `Multicaster`, never by URI alone: an address may stand for several
        groups."""
        return

    async def shutdown(self) -> None:
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        await self._lookups.close()
