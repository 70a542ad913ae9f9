"""Exchanges: what ties answers to a request, on either side, and the rules that no nonce is used twice."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import Reason, Rejected
from .contexts import SecurityContext
from .profile import Prepared, RequestIds

_blank = object.__new__


class IncomingExchange:
    """A listener's side: a verified request that may be answered.

    Holds the right to use the request's own nonce for the response. That right exists only when the request was
    verified under conditions that make the reuse safe, and can be taken once: a second response, a notification, or
    one under a renewed context finds it gone or unfit and uses a fresh Partial IV (multicast-oscore-04 §7).
    `requester`: the public key of who sent it, by which it is known when Endpoint IDs change, None if that is not
    known. `pairwise`: the request's mode."""

    __slots__ = ("_right", "by_multicast", "gid", "kid", "pairwise", "partial_iv", "requester")

    def __init__(
        self,
        kid: bytes,
        partial_iv: bytes,
        gid: bytes,
        right: bytes | None,
        by_multicast: bool,
        requester: bytes | None = None,
        pairwise: bool = False,
    ) -> None:
        self.kid = kid
        self.partial_iv = partial_iv
        self.gid = gid
        self.by_multicast = by_multicast
        self.requester = requester
        self.pairwise = pairwise
        self._right = None if right is None else [right]

    @property
    def ids(self) -> RequestIds:
        """The request's ids, which every response is bound to."""
        return RequestIds(self.kid, self.partial_iv, self.gid)

    def take_request_nonce(self) -> bytes | None:
        """The request's nonce, of the length of its own mode, once; None if there is no right to it (any more)."""
        if not self._right:
            return None
        try:
            return self._right.pop()  # atomic: of two threads that got here one finds it empty
        except IndexError:
            return None


class OutgoingExchange:
    """A multicaster's side: a sent request, until its collection time or observation ends.

    One exchange collects from many listeners. Per listener it takes one response, or, if it is `long`, responses
    with ever higher (Gid generation, Partial IV), the first of which may do without: it is the oldest then. `long`
    are observations and, where the profile says so, what goes to a group. A listener must keep its Endpoint ID
    meanwhile (Group OSCORE §7.4). `peer`: whom a request in pairwise mode is for, None if it is for the group. Made
    by `outgoing_exchange`."""

    __slots__ = (
        "_answered",
        "_ids",
        "_ids_of",
        "_notified",
        "context",
        "long",
        "nonce",
        "observe",
        "peer",
        "prepared",
    )

    context: SecurityContext
    prepared: Prepared
    nonce: bytes
    observe: bool
    long: bool
    peer: bytes | None
    _ids: tuple[bytes, bytes, bytes]
    # None before the first answer: most of what is made for each request would otherwise be these.
    _answered: set[bytes] | None
    _notified: dict[bytes, tuple[int, int]] | None
    _ids_of: dict[bytes, bytes] | None

    @property
    def ids(self) -> RequestIds:
        """The request's ids, which every response is bound to."""
        return RequestIds(*self._ids)

    def follow(self, earlier: OutgoingExchange) -> None:
        """This request refreshes the observation that `earlier` began or refreshed: Notification Numbers go on."""
        if earlier._notified is None:
            earlier._notified = {}
        self._notified = earlier._notified

    def resume(self, answered: Iterable[bytes]) -> None:
        """Go on after these listeners' answers were taken, by a process before this one. What their numbers were is
        not known: no listener answers again."""
        self._answered = set(answered)
        self.long = self.observe

    def check(self, kid: bytes, generation: int, number: int | None, *, notification: bool) -> None:
        """Whether a response of this listener would be accepted. `Rejected` if not. Changes nothing."""
        if notification and not self.observe:
            raise Rejected(Reason.NOT_OBSERVED)
        if number is None or not self.long:
            if self._answered and kid in self._answered:
                raise Rejected(Reason.REPLAY)
        elif self._notified and (generation, number) <= self._notified.get(kid, (-1, -1)):
            raise Rejected(Reason.NOTIFICATION_ORDER)

    def accept(
        self,
        kid: bytes,
        generation: int,
        number: int | None,
        *,
        notification: bool,
        public_key: bytes | None = None,
    ) -> None:
        """Check again and update, in one step without interruption, for a response that is authentic. `public_key`:
        what it was verified with; the same must not answer under another Endpoint ID."""
        self.check(kid, generation, number, notification=notification)
        if public_key is not None:
            if self._ids_of is None:
                self._ids_of = {}
            if self._ids_of.setdefault(public_key, kid) != kid:
                raise Rejected(Reason.OTHER_RESPONDER, "its Endpoint ID has changed since its first answer")
        if self._answered is None:
            self._answered = set()
        self._answered.add(kid)
        if number is not None and self.long:
            if self._notified is None:
                self._notified = {}
            self._notified[kid] = (generation, number)


def outgoing_exchange(
    context: SecurityContext,
    ids: tuple[bytes, bytes, bytes],
    prepared: Prepared,
    nonce: bytes,
    observe: bool,
    peer: bytes | None = None,
) -> OutgoingExchange:
    """The exchange of a request with these ids (`RequestIds`, or a plain tuple of the same). A function, since it
    runs for every request and a class's call with its `__init__` takes twice as long."""
    exchange = _blank(OutgoingExchange)
    exchange.context = context
    exchange._ids = ids
    exchange.prepared = prepared
    exchange.nonce = nonce
    exchange.observe = observe
    exchange.long = observe or (peer is None and context.common.profile.rules.long_exchanges)
    exchange.peer = peer
    exchange._answered = exchange._notified = exchange._ids_of = None
    return exchange
