"""What a flood may cost: the limits of an endpoint, and the tables, places and rates that keep to them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Final, Generic, TypeVar

from ..core.contexts import DEFAULT_RECIPIENTS
from ..core.reassembly import Bound
from ..errors import Limit, MisuseError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

Reached = Callable[[Limit], object]
"""Is told that a limit was reached: `Counters.reached`, or a function that raises."""


def uncounted(limit: Limit) -> None:
    """For those who have no counters."""


EXCHANGE_LIFETIME: Final = 247.0
"""Seconds for which a confirmable message may come once more (RFC 7252 §4.8.2)."""

_MAX: Final = (1 << 31) - 1
_RATES: Final = ("_rate", "_rate_per_peer")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of its memory, time and bandwidth an endpoint gives to its peers. `MisuseError` for a value that is
    not positive. The unit is a number of things where nothing else is said; rates are per second, and as much as
    in two seconds may come at once.

    A *peer* is a member of a group, told apart by its Endpoint ID and not by its address. Where nothing is
    authentic (outer blocks, error replies, look-ups, and everything plain) it is the host that a datagram seems to
    come from.

    What members hold is never given up for somebody who is not authenticated. A member's excess is refused before
    its replay window moves. What only saves work goes oldest first, and so does all that is not authenticated."""

    recipients: int = DEFAULT_RECIPIENTS
    """Senders of requests whose replay window a Security Context keeps: a further one is refused, since a window
    that is given up could not be made again. Also listeners whose answers were verified: there the oldest goes."""
    requests: int = 1024
    """Requests that resources are serving: a further one is refused. On the plain side, where observations count as
    well, the oldest ends."""
    requests_per_peer: int = 128
    responses: int = 2048
    """Responses that wait for their moment within Leisure: further requests by multicast are refused."""
    responses_per_peer: int = 256
    observations: int = 1024
    """Observations by members: a further one is served once, without Observe."""
    observations_per_peer: int = 32
    confirmable: int = 256
    """Confirmable messages that peers have not acknowledged: further responses and notifications are sent
    non-confirmable."""
    confirmable_per_peer: int = 8
    remembered: int = 1024
    """Confirmable messages that are remembered, to tell and to answer a copy of one: the oldest goes."""
    remembered_per_peer: int = 128

    body: int = 1 << 20
    """Bytes of a request's or an answer's body that is put together from blocks."""
    bodies: int = 16
    """Requests whose bodies are being put together from blocks: a further one is answered 5.03. On the plain side
    the oldest goes."""
    bodies_per_peer: int = 2
    transfers: int = 256
    """Answers that are kept to be fetched block by block: the oldest goes."""
    transfers_per_peer: int = 16
    assemblies: int = 64
    """Protected requests being put together that a proxy has cut into outer blocks: the oldest goes. How large one
    may be is the policy of the group that it names (`max_unfragmented_size`)."""
    assemblies_per_peer: int = 8

    outgoing: int = 4096
    """Requests of our own to groups that wait for answers: a further one raises `MisuseError`."""
    fetches: int = 256
    """Answers that are being fetched block by block: a further one waits."""
    unread: int = 64
    """Notifications of one listener that the application has not read: the oldest goes."""
    deferred: int = 1024
    """Checks of countersignatures that are put off: further requests are checked at once."""

    lookups: int = 64
    """Credentials that are being looked up: messages of further senders are refused."""
    waiting_per_lookup: int = 8
    """Messages that wait for the same credential: further ones are refused."""
    not_found: int = 256
    """Senders that are remembered as unknown: the oldest goes."""
    lookup_rate: float = 100.0
    """Look-ups begun per second: messages of further senders are refused."""
    lookup_rate_per_peer: float = 5.0
    challenge_rate: float = 50.0
    """4.03s sent per second: a further request is refused, and the next of its sender may be challenged."""
    challenge_rate_per_peer: float = 2.0
    error_rate: float = 50.0
    """Unprotected errors and resets sent per second: a further one is not sent."""
    error_rate_per_peer: float = 10.0

    send_queue: int = 1024
    """Datagrams that wait for the kernel, for each socket: the oldest goes."""
    receive_buffer: int = 1 << 20
    """Bytes of each socket's receive buffer, of which the kernel may give less, and of datagrams that have been
    read and wait to be processed: the oldest of the host that has sent the most go."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = type(value) is int and 1 <= value <= _MAX
            if not whole and not (field.name.endswith(_RATES) and type(value) is float and 0 < value <= _MAX):
                raise MisuseError(_wrong(field.name, value))

    def count(self, limit: Limit) -> int:
        """The value of a limit that is a number of things."""
        value: int = getattr(self, limit.value)
        return value

    def bound(self, limit: Limit) -> Bound:
        """The same, as the core takes it."""
        return Bound(limit, self.count(limit))

    def rate(self, limit: Limit) -> float:
        """The value of a limit that is a rate, per second."""
        value: float = getattr(self, limit.value)
        return value


def _wrong(name: str, value: object) -> str:
    kind = "number per second above 0" if name.endswith(_RATES) else "whole number of at least 1"
    return f"limit {name} is a {kind}, up to {_MAX}, not {value!r}"


DEFAULT_LIMITS: Final = Limits()
NAMES: Final = tuple(field.name for field in fields(Limits))
"""Of all limits."""


def parse_limits(texts: Iterable[str]) -> Limits:
    """Limits from `NAME=VALUE` each; the others as they are by default. `MisuseError` if one is none."""
    values: dict[str, Any] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in NAMES:
            raise MisuseError(f"{text!r} is not NAME=VALUE with one of the limits {', '.join(NAMES)}")
        whole = not name.endswith(_RATES)
        try:
            values[name] = int(number) if whole else float(number)
        except ValueError:
            raise MisuseError(_wrong(name, number)) from None
    return Limits(**values)


class RecentTable(Generic[Key, Value]):
    """A table that keeps at most `size` entries for at most `lifetime` seconds; the oldest goes first."""

    def __init__(self, size: int, lifetime: float) -> None:
        self._size = size
        self._lifetime = lifetime
        self._entries: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def get(self, key: Key, now: float) -> Value | None:
        """The entry, unless it is too old."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0] + self._lifetime < now:
            self.pop(key)
            return None
        return found[1]

    def put(self, key: Key, value: Value, now: float) -> None:
        self._entries.pop(key, None)
        self._entries[key] = (now, value)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def pop(self, key: Key) -> Value | None:
        """Take the entry out, however old it is."""
        found = self._entries.pop(key, None)
        return None if found is None else found[1]

    def __len__(self) -> int:
        return len(self._entries)


class PeerTable(RecentTable[Key, Value]):
    """A `RecentTable` that also keeps only so many entries of one peer, whose own oldest then goes. `reached` is
    told when one goes before its time."""

    def __init__(self, limits: Limits, total: Limit, each: Limit, lifetime: float, reached: Reached) -> None:
        super().__init__(limits.count(total), lifetime)
        self._size_of_each = limits.count(each)
        self._limits = total, each
        self._reached = reached
        self._peers: dict[Key, Hashable] = {}
        self._of_peer: dict[Hashable, dict[Key, None]] = {}

    def put_for(self, peer: Hashable, key: Key, value: Value, now: float) -> None:
        """Put an entry that counts for this peer."""
        self.pop(key)
        own = self._of_peer.get(peer, {})
        if len(own) >= self._size_of_each:
            self._drop(next(iter(own)), self._limits[1], now)
        elif len(self) >= self._size:
            self._drop(next(iter(self._entries)), self._limits[0], now)
        self.put(key, value, now)
        self._peers[key] = peer
        self._of_peer.setdefault(peer, {})[key] = None

    def _drop(self, key: Key, limit: Limit, now: float) -> None:
        if self.get(key, now) is not None:
            self._reached(limit)
            self.pop(key)

    def pop(self, key: Key) -> Value | None:
        """Take the entry out, however old it is."""
        if key in self._peers:
            peer = self._peers.pop(key)
            own = self._of_peer[peer]
            del own[key]
            if not own:
                del self._of_peer[peer]
        return super().pop(key)


class Places:
    """Places that peers take and give back: `total` of them, and `each` for one peer."""

    def __init__(self, limits: Limits, total: Limit, each: Limit) -> None:
        self._total, self._each = limits.count(total), limits.count(each)
        self._limits = total, each
        self._taken = 0
        self._of_peer: dict[Hashable, int] = {}

    def reached(self, peer: Hashable) -> Limit | None:
        """The limit that stands against one more place for this peer."""
        if self._of_peer.get(peer, 0) >= self._each:
            return self._limits[1]
        return self._limits[0] if self._taken >= self._total else None

    def take(self, peer: Hashable) -> None:
        self._taken += 1
        self._of_peer[peer] = self._of_peer.get(peer, 0) + 1

    def give_back(self, peer: Hashable) -> None:
        self._taken -= 1
        self._of_peer[peer] -= 1
        if not self._of_peer[peer]:
            del self._of_peer[peer]

    def __len__(self) -> int:
        return self._taken


class RateLimit:
    """At most `rate` events a second on average, and `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._last: float | None = None

    def allow(self, now: float) -> bool:
        """Whether one more may happen now."""
        if self._last is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


_PEERS: Final = 1024
"""Peers whose rates are remembered; the rate of all together holds for the others too."""
_REMEMBERED: Final = 60.0


class PeerRates:
    """A rate for all peers together, and a lower one for each, so that one cannot use up what is there for all."""

    def __init__(self, limits: Limits, total: Limit, each: Limit) -> None:
        self._limits = total, each
        self._all = self._limit(limits.rate(total))
        self._rate_of_each = limits.rate(each)
        self._of_peer: RecentTable[Hashable, RateLimit] = RecentTable(_PEERS, _REMEMBERED)

    @staticmethod
    def _limit(rate: float) -> RateLimit:
        return RateLimit(rate, max(1, round(2 * rate)))

    def reached(self, peer: Hashable, now: float) -> Limit | None:
        """The limit that stands against one more by this peer now; None: it may happen, and has been counted."""
        own = self._of_peer.get(peer, now)
        if own is None:
            own = self._limit(self._rate_of_each)
            self._of_peer.put(peer, own, now)
        if not own.allow(now):
            return self._limits[1]
        return None if self._all.allow(now) else self._limits[0]
