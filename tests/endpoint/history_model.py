"""What must become of every message in a history, by multicast-oscore-04 §7 to §10 alone, or by Group OSCORE §5 to
§9 (`Rules` is where they differ).

Nothing here knows the implementation: no bytes, no contexts, no windows. The page leaves a few things open (whether
a record counts that was being written when the process died; whether a signature that need not be verified is). So
what a node holds of a sender is a set of possible states: what it does rules some of them out, and if none is left,
a promise is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf

WIDTH = 32
GET, FETCH = 1, 5  # what may come by unicast without a Repeat value


class Promise(Enum):
    """What no history may break."""

    NONCES = "no (key, nonce) pair twice"
    ONCE = "no request delivered twice"
    MEMBERS = "nothing from outside or from who has left delivered, and everything as it was sent"
    ARRIVAL = "every authentic in-window message delivered once synchronized"
    REQUEST_NONCE = "the nonce of a request used for its first answer only, and only where that is safe"
    SYNCHRONIZATION = "nothing delivered or challenged but as the method says"
    ANSWERS = "an answer taken once, by the request that it is for"
    SILENCE = "an endpoint that has lost its state stays silent"


class Broken(AssertionError):
    """A promise is broken."""

    def __init__(self, promise: Promise, detail: str) -> None:
        super().__init__(f"{promise.value}: {detail}")
        self.promise = promise


class Outcome(Enum):
    """What a node did with a message."""

    DELIVERED = "delivered"
    CHALLENGED = "challenged"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Content:
    """What the application at the other end must find: the payload names the request or answer."""

    code: int
    resource: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Rules:
    """In what the pages differ. `original_echo`: only an echo that repeats the challenged request is delivered, and
    a Repeat value that nobody sent is refused; otherwise any is, and such a value is challenged anew, or good
    enough while the keys are young. `long_exchanges`: a group request may be answered several times.
    `inner_observe`: nothing depends on Observe outside."""

    original_echo: bool = True
    long_exchanges: bool = False
    inner_observe: bool = False


DRAFT = Rules()
GROUP_OSCORE = Rules(original_echo=False, long_exchanges=True, inner_observe=True)

RequestId = tuple[bytes, bytes, int]
"""Gid, kid, sequence number"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was made. `name`: which wish of the application it serves; an echo has that of the original.
    `genuine`: signed with the key that this kid has under this Gid. `alone`: whom it is for in pairwise mode."""

    gid: bytes
    kid: bytes
    number: int
    content: Content
    repeat: bytes | None
    name: int
    genuine: bool
    alone: bytes | None = None

    @property
    def identity(self) -> RequestId:
        return self.gid, self.kid, self.number


@dataclass(frozen=True, slots=True)
class Answered:
    """A response as it was made. `number` is None where it has the nonce of the request `to` which it was made.
    `alone`: for the requester, in pairwise mode. `notification`: Observe is in it."""

    gid: bytes
    kid: bytes
    number: int | None
    to: RequestId
    content: Content
    genuine: bool
    alone: bool = False
    notification: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """A datagram as it arrives: its outside, which nothing protects, and who made its inside (None: nobody did).
    `address`: the multicast address it was sent to is the group's; None: it came by unicast."""

    inside: Asked | Answered | None
    is_request: bool
    fitting_type: bool
    address: bool | None
    observe: bytes | None
    token: bytes


# ---- a sender of requests, as one listener knows it


@dataclass(frozen=True, slots=True)
class Policy:
    """A listener's, after what it overrides. `waives`: whether the signature of a request for this resource need
    not be verified."""

    method: str
    lifetime: float
    rechallenge_after: float
    max_gap: int | None
    waives: Callable[[bytes], bool]
    rules: Rules = DRAFT


@dataclass(frozen=True, slots=True)
class Challenge:
    """A Repeat value that was sent, and for what."""

    repeat: bytes
    number: int
    compared: tuple[Content, bytes | None]
    made: float


@dataclass(frozen=True, slots=True)
class Sender:
    """`floor`: this number and all below it are replays. `seen`: those above it that were accepted."""

    synchronized: bool = False
    seen: frozenset[int] = frozenset()
    floor: int = -1
    challenges: tuple[Challenge, ...] = ()

    @property
    def highest(self) -> int:
        return max(self.seen, default=self.floor)

    def is_new(self, number: int) -> bool:
        return number > self.floor and number not in self.seen and number > self.highest - WIDTH

    def accepting(self, number: int) -> Sender:
        highest = max(self.highest, number)
        seen = frozenset(n for n in (*self.seen, number) if n > highest - WIDTH)  # all else is too old in any case
        return replace(self, synchronized=True, seen=seen)

    def starting_at(self, number: int) -> Sender:
        return replace(self, synchronized=True, seen=frozenset(), floor=number)

    def is_far(self, policy: Policy, number: int) -> bool:
        gap = policy.max_gap
        return (
            gap is not None
            and self.synchronized
            and policy.method == "challenge-response"
            and number - self.highest > gap
        )

    def after(
        self, policy: Policy, arrival: Arrival, now: float, repeat: bytes, established: float | None
    ) -> tuple[Outcome, Sender]:
        """What an authentic request with a new number leads to (§9). `repeat`: the value of the 4.03, if one was
        sent. `established`: when a renewal brought the keys, if that is known."""
        asked = arrival.inside
        assert isinstance(asked, Asked)
        if asked.repeat is not None and not policy.rules.original_echo:
            return self._after_any_echo(policy, arrival, asked, now, repeat, established)
        if asked.repeat is not None:
            return self._after_echo(policy, arrival, asked, now)
        if self.synchronized and not self.is_far(policy, asked.number):
            return Outcome.DELIVERED, self.accepting(asked.number)
        if policy.method == "best-effort":
            return Outcome.DELIVERED, self.accepting(asked.number)
        if policy.method == "baseline":
            return Outcome.DROPPED, self.starting_at(asked.number)
        return replace(self, synchronized=False)._challenge(policy, arrival, asked, now, repeat)

    def _challenge(
        self, policy: Policy, arrival: Arrival, asked: Asked, now: float, repeat: bytes
    ) -> tuple[Outcome, Sender]:
        valid = tuple(c for c in self.challenges if now <= c.made + policy.lifetime)
        if valid and (
            asked.number <= max(c.number for c in valid) or now - valid[-1].made < policy.rechallenge_after
        ):
            return Outcome.DROPPED, self
        challenge = Challenge(repeat, asked.number, (asked.content, arrival.observe), now)
        return Outcome.CHALLENGED, replace(self, challenges=(*valid, challenge))

    def _after_echo(self, policy: Policy, arrival: Arrival, asked: Asked, now: float) -> tuple[Outcome, Sender]:
        for challenge in self.challenges:
            if challenge.repeat == asked.repeat and now <= challenge.made + policy.lifetime:
                break
        else:
            return Outcome.DROPPED, self
        if self.synchronized:
            after = self.accepting(asked.number)
        elif asked.number > self.highest:
            after = self.starting_at(asked.number)
        else:
            return Outcome.DROPPED, self  # after a gap: a window never moves back
        after = replace(after, challenges=tuple(c for c in self.challenges if c is not challenge))
        original = challenge.compared == (asked.content, arrival.observe)
        return (Outcome.DELIVERED if original else Outcome.DROPPED), after

    def _after_any_echo(
        self,
        policy: Policy,
        arrival: Arrival,
        asked: Asked,
        now: float,
        repeat: bytes,
        established: float | None,
    ) -> tuple[Outcome, Sender]:
        """Of Group OSCORE §9."""
        valid = tuple(c for c in self.challenges if now <= c.made + policy.lifetime)
        known = next((c for c in valid if c.repeat == asked.repeat), None)
        # Only in pairwise mode does it say whom it is for: another's would be as young.
        recent = established is not None and now - established < policy.lifetime
        young = recent and not valid and asked.alone is not None
        if known is None and not young:
            return self._challenge(policy, arrival, asked, now, repeat)
        if self.synchronized:
            after = self.accepting(asked.number)
        elif asked.number > self.highest:
            after = self.starting_at(asked.number)
        else:
            return Outcome.DROPPED, self
        return Outcome.DELIVERED, replace(after, challenges=tuple(c for c in self.challenges if c is not known))

    def restarted(self) -> set[Sender]:
        """What may have been stored of this. Challenges never are; numbers that were accepted always are."""
        kept = replace(self, challenges=())
        if self.highest < 0:  # synchronized or not, nothing was ever accepted: it may synchronize again
            return {kept, NEVER_HEARD}
        return {kept, replace(kept, synchronized=True)}


NEVER_HEARD = Sender()
CARRIED_OVER = Sender(synchronized=True)

Senders = frozenset[Sender]


# ---- a node


@dataclass(slots=True)
class Context:
    """A Security Context at a node: who it knows, who has left, how long it takes requests, when a renewal brought
    it."""

    own: bytes | None
    known: set[bytes]
    departed: set[bytes]
    generation: int
    until: float = inf
    established: float | None = None


@dataclass(slots=True)
class Exchange:
    """A request that this node has made and collects answers to. `remembered`: also by the process after this one,
    as long as its Gid is the current one; `resumed`: it is that one. `peer`: whom alone it is for."""

    request: RequestId
    observes: bool
    notified: dict[bytes, tuple[int, int]]
    remembered: bool
    peer: bytes | None = None
    resumed: bool = False
    answered: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class Incoming:
    """A request that this node may answer."""

    gid: bytes
    may_use_nonce: bool


class NodeModel:
    """What one endpoint knows and must do. `current`: the Gid under which it sends. `overlooked`: promises that may
    be broken, so that a test can see which one is broken next."""

    def __init__(self, policy: Policy, overlooked: Collection[Promise] = ()) -> None:
        self.policy = policy
        self.overlooked = overlooked
        self.current = b""
        self.contexts: dict[bytes, Context] = {}
        self.senders: dict[tuple[bytes, bytes], Senders] = {}
        self.exchanges: dict[bytes, list[Exchange]] = {}
        self.delivered: set[RequestId] = set()
        self.wishes: set[int] = set()
        self._generation = 0

    def broken(self, promise: Promise, detail: str) -> None:
        """Raise `Broken`, unless this is to be overlooked."""
        if promise not in self.overlooked:
            raise Broken(promise, detail)

    # ---- renewals, restarts, members

    def install(
        self,
        gid: bytes,
        own: bytes | None,
        known: Iterable[bytes],
        departed: Iterable[bytes],
        *,
        grace: float,
        now: float,
        follows: bool | None,
    ) -> None:
        """A renewal (§8). `follows`: this is the epoch behind the one before; None: it cannot be told from the Gids
        whether it is."""
        gone = set(departed)
        for older in self.contexts.values():
            older.until = min(older.until, now)
            older.departed |= gone
        previous = self.contexts.get(self.current)
        if previous is not None and grace and follows is True:
            previous.until = now + grace
        self._generation += 1
        known = set(known)
        if follows is not False and previous is not None:
            self._carry_over(gid, known, surely=follows is True, gone=gone)
        self.contexts[gid] = Context(own, known, gone - known, self._generation, established=now)
        self.current = gid
        if not self.policy.rules.original_echo:  # Group OSCORE §9: no Echo value outlives a renewal
            for key, states in self.senders.items():
                self.senders[key] = frozenset(replace(state, challenges=()) for state in states)

    def _carry_over(self, gid: bytes, known: set[bytes], *, surely: bool, gone: set[bytes]) -> None:
        """Who installs one renewal after the other stays synchronized: every number under the new keys is new."""
        for (old_gid, kid), states in list(self.senders.items()):
            if old_gid != self.current or kid in gone:
                continue
            carried = {CARRIED_OVER if state.synchronized else NEVER_HEARD for state in states}
            if not surely or kid not in known:
                carried.add(NEVER_HEARD)
            before = self.senders.get((gid, kid), frozenset((NEVER_HEARD,)))
            # State of this Gid may be there already: then no number that was accepted is ever new again.
            kept = {state for state in before if state.highest >= 0}
            self.senders[gid, kid] = frozenset(kept | (carried if len(kept) < len(before) else set()))

    def restart(
        self,
        gid: bytes,
        own: bytes | None,
        known: Iterable[bytes],
        departed: Iterable[bytes],
        *,
        renewed: bool,
    ) -> None:
        """The process begins again with this Gid from what was stored. `renewed`: the Gid is newer than the one it
        ended with."""
        for key, states in self.senders.items():
            self.senders[key] = frozenset(state for before in states for state in before.restarted())
        if renewed:
            self._carry_over(gid, set(known), surely=False, gone=set(departed))
        self.exchanges = {
            token: exchanges
            for token, exchanges in self.exchanges.items()
            if exchanges[-1].remembered and exchanges[-1].request[0] == gid
        }
        for exchanges in self.exchanges.values():
            exchanges[-1].resumed = True
        self._generation += 1
        known = set(known)
        self.contexts = {gid: Context(own, known, set(departed) - known, self._generation)}
        self.current = gid

    def lose_everything(self) -> None:
        """The stored state is gone. What was delivered was delivered all the same."""
        self.senders.clear()
        self.contexts.clear()
        self.exchanges.clear()
        self.current = b""

    def members_left(self, kids: Iterable[bytes]) -> None:
        """These have left, and are heard under no Gid any more."""
        for context in self.contexts.values():
            context.departed |= set(kids)
            context.known -= set(kids)

    # ---- requests

    def settle(self, arrival: Arrival, now: float, outcome: Outcome, repeat: bytes = b"") -> None:
        """The node has done this with a request. `Broken` if it must not have."""
        possible = self._possible(arrival, now, repeat)
        asked = arrival.inside
        if outcome is Outcome.DELIVERED:
            self._check_delivery(arrival)
        remaining = frozenset(state for done, state in possible if done is outcome)
        if not remaining:
            must = {done.value for done, _ in possible}
            missed = must == {Outcome.DELIVERED.value}
            promise = Promise.ARRIVAL if missed else Promise.SYNCHRONIZATION
            self.broken(promise, f"{outcome.value}, not {' or '.join(sorted(must))}: {asked}")
        elif isinstance(asked, Asked):
            self.senders[asked.gid, asked.kid] = remaining

    def settle_by_death(self, arrival: Arrival, now: float, durable: bool | None) -> None:
        """The process died while it stored what this request had changed. `durable`: whether all of that is in the
        file; None: all that counts, but not to its end."""
        asked = arrival.inside
        if isinstance(asked, Asked):
            before = self._states(asked)
            after = {state for _, state in self._possible(arrival, now, b"")}
            self.senders[asked.gid, asked.kid] = frozenset(
                before if durable is False else after if durable else before | after
            )

    def _states(self, asked: Asked) -> Senders:
        return self.senders.get((asked.gid, asked.kid), frozenset((NEVER_HEARD,)))

    def _check_delivery(self, arrival: Arrival) -> None:
        """What holds for whatever was delivered, be the states of synchronization as they may."""
        asked = arrival.inside
        if not isinstance(asked, Asked) or not self._could_speak(asked):
            self.broken(Promise.MEMBERS, f"delivered: {asked}")
            return
        # Where any echo is delivered, whoever is challenged twice may well wish the same twice.
        again = asked.name in self.wishes and (self.policy.rules.original_echo or asked.repeat is None)
        if asked.identity in self.delivered or again:
            self.broken(Promise.ONCE, f"{asked}")
        self.delivered.add(asked.identity)
        self.wishes.add(asked.name)

    def _could_speak(self, asked: Asked) -> bool:
        context = self.contexts.get(asked.gid)
        return (
            context is not None
            and asked.kid in context.known
            and asked.kid not in context.departed
            and asked.kid != context.own
            and asked.alone in (None, context.own)
            and (asked.genuine or self._may_waive(asked))
        )

    def _may_waive(self, asked: Asked) -> bool:
        """Never skipped: echoes and old contexts (§10)."""
        return self.policy.waives(asked.content.resource) and asked.repeat is None and asked.gid == self.current

    def _possible(self, arrival: Arrival, now: float, repeat: bytes) -> set[tuple[Outcome, Sender]]:
        asked = arrival.inside
        if not isinstance(asked, Asked):
            return {(Outcome.DROPPED, NEVER_HEARD)}
        states = self._states(asked)
        if not self._is_taken(arrival, asked, now):
            return {(Outcome.DROPPED, state) for state in states}
        possible = set()
        for state in states:
            if not state.is_new(asked.number):
                possible.add((Outcome.DROPPED, state))
                continue
            if not asked.genuine:
                possible.add((Outcome.DROPPED, state))
                if not self._would_waive(asked, state):
                    continue
            established = self.contexts[asked.gid].established
            possible.add(state.after(self.policy, arrival, now, repeat, established))
            if state.highest < 0 and state.is_far(self.policy, asked.number):
                # how far it is from no number at all, the page does not say
                possible.add((Outcome.DELIVERED, state.accepting(asked.number)))
        return possible

    def _would_waive(self, asked: Asked, state: Sender) -> bool:
        """Only a verified request synchronizes, or ends it (§9), but where there is nothing to synchronize with."""
        settled = state.synchronized and not state.is_far(self.policy, asked.number)
        return self._may_waive(asked) and (settled or self.policy.method == "best-effort")

    def _is_taken(self, arrival: Arrival, asked: Asked, now: float) -> bool:
        """Whether a request that comes this way goes on to the replay check (§5, §7)."""
        context = self.contexts.get(asked.gid)
        if context is None or now >= context.until or not arrival.is_request or not arrival.fitting_type:
            return False
        if not self._could_speak(asked):
            return False
        if arrival.address is None:
            alone = asked.alone is not None
            return alone or asked.repeat is not None or asked.content.code in (GET, FETCH)
        return arrival.address and asked.repeat is None

    # ---- answers

    def answered(self, incoming: Incoming, *, request_nonce: bool, notification: bool) -> None:
        """This node answers. `Broken` if it used the nonce of the request where it must not (§7)."""
        allowed = incoming.may_use_nonce and not notification and incoming.gid == self.current
        incoming.may_use_nonce = False
        if request_nonce and not allowed:
            self.broken(Promise.REQUEST_NONCE, "used where it must not be")

    def collect(self, arrival: Arrival, outcome: Outcome) -> None:
        """The node has done this with a response. `Broken` if it must not have."""
        exchange = self._fitting(arrival)
        if outcome is Outcome.DELIVERED and exchange is None:
            foreign = arrival.inside is None or not arrival.inside.genuine
            self.broken(Promise.MEMBERS if foreign else Promise.ANSWERS, f"delivered: {arrival.inside}")
        if outcome is Outcome.DROPPED and exchange is not None:
            self.broken(Promise.ARRIVAL, f"dropped: {arrival.inside}")
        if exchange is not None:
            answer = arrival.inside
            assert isinstance(answer, Answered)
            exchange.answered.add(answer.kid)
            if self._is_long(exchange) and answer.number is not None:
                exchange.notified[answer.kid] = self._place(answer)

    def _is_long(self, exchange: Exchange) -> bool:
        """Whether several answers of one listener are taken."""
        to_all = exchange.peer is None and not exchange.resumed  # what came before a restart is not known
        return exchange.observes or (self.policy.rules.long_exchanges and to_all)

    def _place(self, answer: Answered) -> tuple[int, int]:
        return self.contexts[answer.gid].generation, answer.number or 0

    def _fitting(self, arrival: Arrival) -> Exchange | None:
        """The exchange that must take this response, None if none may."""
        answer = arrival.inside
        if not isinstance(answer, Answered) or arrival.is_request or not answer.genuine:
            return None
        for exchange in self.exchanges.get(arrival.token, ()):
            if exchange.request == answer.to:
                return exchange if self._is_due(arrival, answer, exchange) else None
        return None

    def _is_due(self, arrival: Arrival, answer: Answered, exchange: Exchange) -> bool:
        gid = exchange.request[0]
        context = self.contexts.get(answer.gid)
        if answer.gid not in (gid, self.current) or context is None:
            return False
        if answer.kid not in context.known or answer.kid in context.departed:
            return False
        if exchange.peer not in (None, answer.kid):
            return False
        inner = self.policy.rules.inner_observe
        notification = answer.notification if inner else arrival.observe is not None
        if notification and not exchange.observes:
            return False
        if answer.number is None:
            return not notification and answer.kid not in exchange.answered
        if self._is_long(exchange):
            return self._place(answer) > exchange.notified.get(answer.kid, (-1, -1))
        return answer.kid not in exchange.answered
