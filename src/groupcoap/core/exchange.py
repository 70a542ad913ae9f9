"""Exchanges: what ties answers to a request, on either side, and the rules that no nonce is used twice."""

from __future__ import annotations

from ..errors import Reason, Rejected
from .contexts import SecurityContext
from .profile import Binding, RequestIds


class IncomingExchange:
    """A listener's side: a verified request that may be answered.

    Holds the right to use the request's own nonce for the response. That right exists only when the request was
    verified under conditions that make the reuse safe, and can be taken once: a second response, a notification,
    or one under a renewed context finds it gone or unfit and uses a fresh Partial IV
    (multicast-oscore-04 §7)."""

    __slots__ = ("_right", "by_multicast", "ids")

    def __init__(self, ids: RequestIds, right: bytes | None, *, by_multicast: bool) -> None:
        self.ids = ids
        self.by_multicast = by_multicast
        self._right = [] if right is None else [right]

    def take_request_nonce(self) -> bytes | None:
        """The request's nonce, once; None if there is no right to it (any more)."""
        try:
            return self._right.pop()  # atomic
        except IndexError:
            return None

    @property
    def may_reuse_nonce(self) -> bool:
        """Whether the right is still there."""
        return bool(self._right)


class OutgoingExchange:
    """A multicaster's side: a sent request, until its collection time or observation ends.

    One exchange collects from many listeners. Per listener it takes one response, or, if it observes,
    notifications with ever higher (Gid generation, Partial IV)."""

    __slots__ = ("_answered", "_notified", "binding", "context", "nonce", "observe")

    def __init__(self, context: SecurityContext, binding: Binding, nonce: bytes, *, observe: bool) -> None:
        self.context = context
        self.binding = binding
        self.nonce = nonce
        self.observe = observe
        self._answered: set[bytes] = set()
        self._notified: dict[bytes, tuple[int, int]] = {}

    @property
    def ids(self) -> RequestIds:
        return self.binding.ids

    def check(self, kid: bytes, generation: int, number: int | None, *, notification: bool) -> None:
        """Whether a response of this listener would be accepted. `Rejected` if not. Changes nothing."""
        if notification and not self.observe:
            raise Rejected(Reason.NOT_OBSERVED)
        if number is not None and self.observe:
            if (generation, number) <= self._notified.get(kid, (-1, -1)):
                raise Rejected(Reason.NOTIFICATION_ORDER)
        elif kid in self._answered or kid in self._notified:
            raise Rejected(Reason.REPLAY)

    def accept(self, kid: bytes, generation: int, number: int | None, *, notification: bool) -> None:
        """Check again and update, in one step without interruption, for a response that is authentic."""
        self.check(kid, generation, number, notification=notification)
        if number is not None and self.observe:
            self._notified[kid] = (generation, number)
        else:
            self._answered.add(kid)
