"""Synchronization with a multicaster's sequence numbers (draft §6, Appendix D; multicast-oscore-04 §9), and the
same as challenge–response of Group OSCORE (its §9), where Repeat is called Echo.

What a listener does with a verified request, by state of the sender and method:

    method              not synchronized                                synchronized
    best effort         deliver, synchronized                           window decides
    baseline            reject; window starts there, synchronized       window decides
    challenge–response  4.03 with Repeat; the echo starts the window    window decides; a gap may undo it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import NamedTuple

from ..errors import MisuseError, Reason, Rejected
from . import coap
from .coap import Message
from .window import ReplayWindow

MAX_CHALLENGES = 32
"""Challenges of one sender that may be open at once; a further one takes the place of the oldest. With the default
times there are never more, so that every value stays valid until its own time ends."""

Entropy = Callable[[int], bytes]
"""`os.urandom`, or a test's own. Asked once for every challenge: if it raises `Rejected`, there is none, and its
sender is no more pending than before."""

_NOT_COMPARED = frozenset(
    (coap.REPEAT, coap.URI_HOST, coap.URI_PORT, coap.PROXY_URI, coap.PROXY_SCHEME, coap.OBJECT_SECURITY)
)


class Method(Enum):
    """How a listener synchronizes; the value is the name used in files and vectors."""

    BEST_EFFORT = "best-effort"
    BASELINE = "baseline"
    CHALLENGE_RESPONSE = "challenge-response"


@dataclass(frozen=True, slots=True)
class SynchronizationPolicy:
    """The group's choice, which a listener may override. Times in seconds.

    `challenge_lifetime`: how long an echo is waited for. `rechallenge_after`: when, while a challenge is open,
    a newer request gets another one. `repeat_length`: bytes of a Repeat value, 8 to 40. `max_gap`: a larger
    step of sequence numbers ends synchronization (challenge–response only); None: no step does."""

    method: Method = Method.CHALLENGE_RESPONSE
    challenge_lifetime: float = 30.0
    rechallenge_after: float = 1.0
    repeat_length: int = 8
    max_gap: int | None = None

    def __post_init__(self) -> None:
        if not 8 <= self.repeat_length <= 40:
            raise MisuseError("a Repeat value has 8 to 40 bytes")
        if self.challenge_lifetime <= 0 or self.rechallenge_after < 0:
            raise MisuseError("times of the synchronization policy must be positive")
        if self.max_gap is not None and self.max_gap < 1:
            raise MisuseError("max_gap must be positive")


class Freshness(Enum):
    """What is known of the time of a delivered message."""

    UNSYNCHRONIZED = "unsynchronized"
    """Not a repetition of anything seen here, but it may have been recorded before."""
    ORDERED = "ordered"
    """Its place among this sender's messages is certain, and it is newer than where synchronization began."""
    FRESH = "fresh"
    """Made after this listener asked (an echoed Repeat value)."""
    BOUND = "bound"
    """An answer made after, and to, our own request."""


_ORDERED = Freshness.ORDERED  # a member looked up in its Enum costs as much as a function call
_UNSYNCHRONIZED = Freshness.UNSYNCHRONIZED


class Challenge(NamedTuple):
    """A Repeat value that was sent: for which request, and until when an echo counts."""

    repeat: bytes
    number: int
    digest: bytes
    deadline: float


def request_digest(message: Message) -> bytes:
    """What makes an echo the retransmission of an original request: code, options less Repeat and less those
    that only route it, payload."""
    options = tuple(option for option in message.options if option[0] not in _NOT_COMPARED)
    head = bytes((message.code,)) + coap.encode_options(options)
    return sha256(len(head).to_bytes(4, "big") + head + message.payload).digest()


class EchoRule(NamedTuple):
    """What becomes of an echo. `others`: codes of requests that are delivered even if they are not the one that was
    challenged. `known_only`: a value that is not known is refused; otherwise (Group OSCORE §9) it makes a request
    fresh that cannot be older than its keys, not many seconds after a renewal `established` them (monotonic; None:
    not known when), and is challenged anew else."""

    others: frozenset[int] = frozenset()
    known_only: bool = True
    established: float | None = None


ORIGINAL_ONLY = EchoRule()
"""That of multicast-oscore-04 §9."""


class Synchronization:
    """The state of one sender at one listener."""

    __slots__ = ("_challenges", "_first", "_last_challenge", "synchronized")

    def __init__(self) -> None:
        self.synchronized = False
        self._challenges: list[Challenge] = []
        self._last_challenge = 0.0
        self._first = -1

    def restore(self, highest: int) -> None:
        """The window, up to this number, came back from durable state: nothing has been missed."""
        self.synchronized = True
        self._first = highest

    def forget_challenges(self) -> None:
        """No echo of a challenge before this counts any more."""
        self._challenges.clear()

    def drops_early(self, policy: SynchronizationPolicy, number: int, now: float) -> bool:
        """Whether a multicast request would be dropped whatever it contains, because a challenge is open: known
        before anything is decrypted."""
        if self.synchronized or policy.method is not Method.CHALLENGE_RESPONSE:
            return False
        return self._pending(now) and not self._may_rechallenge(policy, number, now)

    def decide(
        self,
        policy: SynchronizationPolicy,
        window: ReplayWindow,
        number: int,
        repeat: bytes | None,
        message: Message,
        now: float,
        entropy: Entropy,
        rule: EchoRule = ORIGINAL_ONLY,
    ) -> Freshness | Challenge:
        """What becomes of an authentic request: it is delivered with this freshness, or challenged. The second,
        atomic replay check is inside. `Rejected` if it is not delivered and nothing is to be sent."""
        if repeat is not None:
            if rule.known_only or self._find(repeat, now) is not None:
                return self._echo(window, number, repeat, message, now, rule)
            if self._is_young(policy, rule, now):
                self._take_fresh(window, number)
                return Freshness.FRESH
            return self._challenge(policy, window, number, message, now, entropy)
        if policy.max_gap is not None and self.too_far(policy, window, number):
            self.synchronized = False
        if self.synchronized:
            if not window.accept(number):
                raise Rejected(Reason.REPLAY)
            return _ORDERED if number > self._first else _UNSYNCHRONIZED
        if policy.method is Method.CHALLENGE_RESPONSE:
            return self._challenge(policy, window, number, message, now, entropy)
        return self._first_request(policy.method, window, number)

    def _first_request(self, method: Method, window: ReplayWindow, number: int) -> Freshness:
        if method is Method.BASELINE:
            window.start_at(number)
            self.synchronized = True
            raise Rejected(Reason.NOT_SYNCHRONIZED)
        if not window.accept(number):
            raise Rejected(Reason.REPLAY)
        self._first = number
        self.synchronized = True
        return Freshness.UNSYNCHRONIZED

    @staticmethod
    def too_far(policy: SynchronizationPolicy, window: ReplayWindow, number: int) -> bool:
        """Whether the step to this number ends synchronization."""
        gap = policy.max_gap
        return gap is not None and policy.method is Method.CHALLENGE_RESPONSE and number - window.highest > gap

    def _pending(self, now: float) -> bool:
        return any(challenge.deadline >= now for challenge in self._challenges)

    def _may_rechallenge(self, policy: SynchronizationPolicy, number: int, now: float) -> bool:
        newest = max(challenge.number for challenge in self._challenges)
        return number > newest and now - self._last_challenge >= policy.rechallenge_after

    def _challenge(
        self,
        policy: SynchronizationPolicy,
        window: ReplayWindow,
        number: int,
        message: Message,
        now: float,
        entropy: Entropy,
    ) -> Challenge:
        if not window.is_new(number):
            raise Rejected(Reason.REPLAY)
        if self._pending(now) and not self._may_rechallenge(policy, number, now):
            raise Rejected(Reason.CHALLENGE_PENDING)
        challenge = Challenge(
            entropy(policy.repeat_length), number, request_digest(message), now + policy.challenge_lifetime
        )
        still_open = [c for c in self._challenges if c.deadline >= now]
        self._challenges = [*still_open, challenge][-MAX_CHALLENGES:]
        self._last_challenge = now
        return challenge

    def _take_fresh(self, window: ReplayWindow, number: int) -> None:
        """A fresh request is taken: it starts the window of a sender who is not synchronized."""
        if not self.synchronized:
            if number <= window.highest:  # the window never moves back (it is not empty after a gap)
                raise Rejected(Reason.REPLAY)
            window.start_at(number)
            self.synchronized = True
        elif not window.accept(number):  # a second challenge, echoed after the first had synchronized
            raise Rejected(Reason.REPLAY)

    def _is_young(self, policy: SynchronizationPolicy, rule: EchoRule, now: float) -> bool:
        """Whether a request cannot be old, since its keys are not, and no other value is awaited."""
        established = rule.established
        return established is not None and now - established < policy.challenge_lifetime and not self._pending(now)

    def _find(self, repeat: bytes, now: float) -> Challenge | None:
        return next((c for c in self._challenges if c.repeat == repeat and c.deadline >= now), None)

    def _echo(
        self, window: ReplayWindow, number: int, repeat: bytes, message: Message, now: float, rule: EchoRule
    ) -> Freshness:
        challenge = self._find(repeat, now)
        if challenge is None:
            raise Rejected(Reason.REPEAT_UNKNOWN)
        self._take_fresh(window, number)
        self._challenges.remove(challenge)
        if message.code not in rule.others and request_digest(message) != challenge.digest:
            raise Rejected(Reason.NOT_THE_ORIGINAL)
        return Freshness.FRESH
