"""What somebody who only looks on can read, or at least verify, with keys from any number of places.

Every epoch is as good as the current one: what is looked at may be old. Where there is only what an external
signature checker knows, it can be said who has made a message in group mode, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from ..core import coap
from ..core.checker import SignatureChecker, request_ids
from ..core.coap import Message
from ..core.contexts import SecurityContext
from ..core.exchange import OutgoingExchange, outgoing_exchange
from ..core.option import decode_prefix
from ..core.profile import RequestIds
from ..core.registry import Registry
from ..core.requests import DecryptedRequest, decrypt_request, object_security
from ..core.responses import DecryptedResponse, decrypt_response
from ..errors import FileFault, MisuseError, Reason, Rejected
from .known import Keys, KnownEpoch, known_epochs
from .watched import PairwiseKeysNeeded, WatchedContext


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found in a message. `message`: None if it could only be verified, or there is none inside. `peer`:
    in pairwise mode, whom it is for. `refused`: why it would not be taken, most of all because its countersignature
    is not right."""

    epoch: KnownEpoch
    is_request: bool
    sender_id: bytes
    message: Message | None
    peer: bytes | None = None
    refused: Rejected | None = None

    @property
    def readable(self) -> bool:
        """Whether there were keys to read it with."""
        return self.epoch.context is not None

    @property
    def question(self) -> Question:
        """What is known of a request when its answers come."""
        observe = None if self.message is None else self.message.option(coap.OBSERVE)
        registers = observe is not None and coap.uint_value(observe) == 0
        return Question(self.epoch, self.peer, registers)


class Question(NamedTuple):
    """A request that could be opened. `peer`: whom it is for, if it is in pairwise mode. `registers`: whether
    notifications may answer it."""

    epoch: KnownEpoch
    peer: bytes | None
    registers: bool


class _AnyEpoch(Registry):
    """To an onlooker a response may come under any Gid of its group. `chosen`: the one that is tried for a response
    that does not say."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: SecurityContext | None = None

    def current(self, group: str, gid: bytes | None = None) -> SecurityContext:
        for context in self.contexts(group):
            if context is self.chosen if gid is None else context.gid == gid:
                return context
        raise Rejected(Reason.UNKNOWN_GROUP, group if gid is None else gid.hex())


class Onlooker:
    """Keys, merged: see `onlooker`."""

    def __init__(self, epochs: Iterable[KnownEpoch]) -> None:
        self._registry = _AnyEpoch()
        self._by_gid: dict[bytes, list[KnownEpoch]] = {}
        for epoch in epochs:
            if epoch.context is not None:
                self._install(epoch, epoch.context)
            self._by_gid.setdefault(epoch.gid, []).append(epoch)
        for context in self._contexts():
            context.accepts_requests = context.current = True

    def _install(self, epoch: KnownEpoch, context: WatchedContext) -> None:
        try:
            self._registry.install(context, sorted({address.packed for address in epoch.addresses}))
        except MisuseError as error:
            raise FileFault(epoch.path, f"group {epoch.group}: {error}; leave one out") from None

    def _contexts(self) -> Iterator[WatchedContext]:
        return (epoch.context for epoch in self.epochs if epoch.context is not None)

    @property
    def epochs(self) -> list[KnownEpoch]:
        """All that is known."""
        return [epoch for epochs in self._by_gid.values() for epoch in epochs]

    def locate(self, gid: bytes | None) -> list[KnownEpoch]:
        """The epochs with this Gid: several where groups of several managers collide."""
        return self._by_gid.get(gid, []) if gid is not None else []

    def epoch_of(self, context: SecurityContext) -> KnownEpoch:
        """The epoch that a Security Context of these belongs to."""
        return next(epoch for epoch in self._by_gid[context.gid] if epoch.context is context)

    # ---- requests

    def open_request(self, message: Message, destination: bytes | None) -> Opened:
        """Look into a request that was sent to this packed multicast address, None for unicast. `Rejected` if a
        listener would refuse it before it looked at the countersignature, `PairwiseKeysNeeded` if it is between
        others, in pairwise mode."""
        found = self.locate(decode_prefix(object_security(message))[2])
        checkers = [(e, e.checker) for e in found if e.context is None and e.checker is not None]
        attempts = [partial(_check_request, message, destination, epoch, checker) for epoch, checker in checkers]
        if len(checkers) < len(found) or not found:
            attempts.insert(0, partial(self._read_request, message, destination))
        return _best(attempts)

    def _read_request(self, message: Message, destination: bytes | None) -> Opened:
        for context in self._contexts():
            context.requester = None
        return self._opened(decrypt_request(self._registry, message, destination, 0.0))

    def _opened(self, decrypted: DecryptedRequest | DecryptedResponse) -> Opened:
        context = decrypted.context
        assert isinstance(context, WatchedContext)  # there are no others
        refused, inside = None, None
        try:
            decrypted.check_signature()
        except Rejected as rejection:
            refused = rejection
        try:
            # A person may look at what has been decrypted, whatever the signature says; programs may not.
            inside = decrypted.for_onlooker()
        except Rejected as rejection:
            refused = refused or rejection
        peer = context.peer if decrypted.pairwise else None
        is_request = isinstance(decrypted, DecryptedRequest)
        return Opened(self.epoch_of(context), is_request, decrypted.sender_id, inside, peer, refused)

    # ---- responses

    def open_response(self, message: Message, request: Message, asked: Question | None = None) -> Opened:
        """Look into a response to this request, likewise. `asked`: what is known of that; None if it could not be
        opened, and its Gid has to say what it was under."""
        prefix = decode_prefix(object_security(request))
        _, partial_iv, gid, _ = prefix
        if not coap.is_request(request.code) or gid is None or partial_iv is None:
            raise Rejected(Reason.MALFORMED, "what is given as the request is no group request")
        epoch = self._asked_under(gid) if asked is None else asked.epoch
        under = self._answered_under(message, epoch)
        return _best(partial(self._open_response, message, request, epoch, asked, each) for each in under)

    def _asked_under(self, gid: bytes) -> KnownEpoch:
        found = self.locate(gid)
        if not found:
            raise Rejected(Reason.UNKNOWN_GROUP, gid.hex())
        return next((epoch for epoch in found if epoch.context is not None), found[0])

    def _answered_under(self, message: Message, asked_under: KnownEpoch) -> list[KnownEpoch]:
        """What a response may be under: it need not say so."""
        _, partial_iv, gid, _ = decode_prefix(object_security(message))
        if gid not in (None, asked_under.gid):
            found = [epoch for epoch in self.locate(gid) if epoch.group == asked_under.group]
            if not found:
                raise Rejected(Reason.UNKNOWN_GROUP, (gid or b"").hex())
            return found
        if gid is not None or partial_iv is None or asked_under.profile.rules.gid_if_renewed:
            return [asked_under]
        others = (epoch for epoch in self.epochs if epoch.group == asked_under.group and epoch is not asked_under)
        return [asked_under, *others]

    def _open_response(
        self, message: Message, request: Message, asked_under: KnownEpoch, asked: Question | None, epoch: KnownEpoch
    ) -> Opened:
        if asked_under.context is None or epoch.context is None:
            return _check_response(message, request, epoch)
        exchange = _exchange(request, asked_under.context, asked)
        responders = self._responders(message, request, asked_under.context, exchange)
        return _best(partial(self._read_response, message, exchange, epoch.context, peer) for peer in responders)

    @staticmethod
    def _responders(
        message: Message, request: Message, context: WatchedContext, exchange: OutgoingExchange
    ) -> Iterable[bytes | None]:
        """Who has been asked alone, by its Endpoint ID at that time: anybody, if only the two know. None where the
        answer says who it is from."""
        profile, common = context.common.profile, context.common
        if exchange.peer is not None:
            return [exchange.peer]
        kid, _, pairwise = profile.split_response_option(common, decode_prefix(object_security(message)))
        asked_alone = profile.split_request_option(common, decode_prefix(object_security(request)))[2]
        if kid is not None or not asked_alone:
            return [None]
        if pairwise:
            raise PairwiseKeysNeeded(context, exchange.ids.kid, None)
        return [member for member in context.members if member != exchange.ids.kid]

    def _read_response(
        self, message: Message, exchange: OutgoingExchange, context: WatchedContext, peer: bytes | None
    ) -> Opened:
        asked_under = exchange.context
        context.requester = asked_under.same_member(exchange.ids.kid, context)
        exchange.peer = peer
        # What is no longer current makes the core ask the registry what is.
        self._registry.chosen, asked_under.current = context, context is asked_under
        try:
            opened = self._opened(decrypt_response(self._registry, exchange, message))
        finally:
            asked_under.current = True
        notification = opened.message is not None and opened.message.option(coap.OBSERVE) is not None
        if opened.refused is None and notification and not exchange.observe:
            return replace(opened, refused=Rejected(Reason.NOT_OBSERVED))
        return opened


def _best(attempts: Iterable[Callable[[], Opened]]) -> Opened:
    """The first that comes to something authentic; else the first that could be decrypted at all. `Rejected` as the
    first of them, if there is none."""
    opened: Opened | None = None
    refused: Rejected | None = None
    for attempt in attempts:
        try:
            found = attempt()
        except Rejected as rejection:
            refused = refused or rejection
            continue
        if found.refused is None:
            return found
        opened = opened or found
    if opened is None:
        assert refused is not None  # there always is something to try
        raise refused
    return opened


def _exchange(request: Message, context: SecurityContext, asked: Question | None) -> OutgoingExchange:
    """What the multicaster remembered of its request. `Rejected` if it cannot be a group request."""
    common = context.common
    profile = common.profile
    prefix = decode_prefix(object_security(request))
    kid, _, _ = profile.split_request_option(common, prefix)
    _, partial_iv, gid, _ = prefix
    assert kid is not None  # as split_request_option promises, of all three
    assert partial_iv is not None
    assert gid is not None
    prepared = profile.binder(common, kid, gid)(partial_iv)
    peer, registers = None, True  # what is inside may be an observation
    if asked is not None:
        peer, registers = asked.peer, asked.registers
    elif not profile.rules.inner_observe:
        observe = request.option(coap.OBSERVE)
        registers = observe is not None and coap.uint_value(observe) == 0
    ids = RequestIds(kid, partial_iv, gid)
    return outgoing_exchange(context, ids, prepared, common.nonce(kid, partial_iv), registers, peer)


def _check_request(
    message: Message, destination: bytes | None, epoch: KnownEpoch, checker: SignatureChecker
) -> Opened:
    if destination is not None and message.type != coap.NON:
        raise Rejected(Reason.NOT_FOR_MULTICAST)
    return Opened(epoch, True, checker.check_request(message).sender_id, None)


def _check_response(message: Message, request: Message, epoch: KnownEpoch) -> Opened:
    if epoch.checker is None:  # there are keys for the answer, but not for what it answers
        raise Rejected(Reason.UNKNOWN_GROUP, epoch.gid.hex())
    return _best(_checks_of_response(message, request_ids(epoch.checker, request), epoch, epoch.checker))


def _checks_of_response(
    message: Message, ids: RequestIds, epoch: KnownEpoch, checker: SignatureChecker
) -> Iterator[Callable[[], Opened]]:
    """As of the member that it names; of anybody, where it names none."""

    def check(responder: bytes | None) -> Opened:
        return Opened(epoch, False, checker.check_response(message, ids, responder).sender_id, None)

    kid, _, pairwise = epoch.split(message, decode_prefix(object_security(message)))
    nameless = kid is None and not pairwise
    return (partial(check, member) for member in (checker.members if nameless else (None,)))


def onlooker(keys: Iterable[Keys]) -> Onlooker:
    """With the keys of all of these together: files of several devices, of several epochs, key logs, files of
    signature checkers. The same epoch may be in several; what they say is put together. `FileFault` if they
    contradict each other."""
    return Onlooker(known_epochs(keys))
