"""The associations of a manager with its devices: those that are established, and those that are half open.

An association is half open until it has verified a request; only then it replaces the device's former one. Whoever
has heard a handle can open halves, so these are bounded and the oldest goes: of the same device first, then of the
same host, then of all. What is established cannot be touched that way.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Final

from aiocoap.oscore import COSE_KID, COSE_KID_CONTEXT

from ..core import coap
from ..endpoint.limits import RateLimit, RecentTable
from ..endpoint.sparing import sparing_logger
from ..errors import GroupcoapError, MisuseError, Refused
from ..secret import Secret
from .context import MAX_NUMBERS, RESERVATION, AssociationContext, master_salt
from .setup import CHALLENGE, NONCE, AssociateRequest, AssociateResponse

TOO_MANY_REQUESTS: Final = 0x9D  # RFC 8516

_JUMP: Final = 4
"""Bytes of the step that numbers make when an association is taken up: of 5 bytes that there are, so that a hundred
starts find room; a device that starts sets up another anyway."""
_ID: Final = 4
"""Bytes of a Recipient ID. Random: a device whose association was forgotten will hardly name another's."""
_ATTEMPTS: Final = 64
_HOSTS: Final = 4096
"""Hosts whose rate is remembered, the latest; the rate of all together holds for the others too."""
_REMEMBERED: Final = 60.0

log = sparing_logger("groupcoap.associations")


@dataclass(frozen=True, slots=True)
class AssociationLimits:
    """Bounds of what has not been verified. `MisuseError` if one is not positive."""

    half_open: int = 4096
    """Half-open associations in all: the oldest goes."""
    half_open_per_host: int = 16
    half_open_per_device: int = 8
    lifetime: float = 30.0
    """Seconds that an association may be half open."""
    rate: float = 500.0
    """Set-ups per second, as many as in two seconds at once: further ones are answered 4.29."""
    rate_per_host: float = 20.0

    def __post_init__(self) -> None:
        counts = self.half_open, self.half_open_per_host, self.half_open_per_device
        if min(counts) < 1 or min(self.lifetime, self.rate, self.rate_per_host) <= 0:
            raise MisuseError("limits of associations are above 0")


DEFAULT_ASSOCIATION_LIMITS: Final = AssociationLimits()


@dataclass(frozen=True, slots=True)
class AssociationRecord:
    """An association as the manager keeps it, without its secret.

    `device`: its name. `own_id`: the manager's Recipient ID (ID2). `peer_id`: the device's (ID1). `salt`: the
    Master Salt. `challenge`: N_S. `reserved`: Sender Sequence Numbers below this may have been used. `address`:
    the host that asked for it. `established`: when it had verified its first request, seconds since the
    epoch."""

    device: str
    own_id: bytes
    peer_id: bytes
    salt: bytes
    challenge: bytes
    reserved: int
    address: str | None
    established: float


class _Live:
    """A record with its context."""

    __slots__ = ("context", "record", "reserving")

    def __init__(self, record: AssociationRecord, context: AssociationContext) -> None:
        self.record = record
        self.context = context
        self.reserving: asyncio.Task[None] | None = None


class _HalfOpen:
    """Half-open associations, oldest first."""

    def __init__(self, limits: AssociationLimits) -> None:
        self._limits = limits
        self._all: OrderedDict[bytes, tuple[float, _Live]] = OrderedDict()
        self._of: dict[Hashable, dict[bytes, None]] = {}  # by host and by device

    @staticmethod
    def _owners(live: _Live) -> tuple[Hashable, Hashable]:
        return ("device", live.record.device), ("host", live.record.address)

    def put(self, live: _Live, now: float) -> list[_Live]:
        """Add one: those that have to go for it."""
        gone = []
        bounds = self._limits.half_open_per_device, self._limits.half_open_per_host
        for owner, most in zip(self._owners(live), bounds, strict=True):
            own = self._of.get(owner, {})
            if len(own) >= most:
                gone.append(self.pop(next(iter(own))))
        if len(self._all) >= self._limits.half_open:
            gone.append(self.pop(next(iter(self._all))))
        self._all[live.record.own_id] = (now + self._limits.lifetime, live)
        for owner in self._owners(live):
            self._of.setdefault(owner, {})[live.record.own_id] = None
        return gone

    def pop(self, own_id: bytes) -> _Live:
        live = self._all.pop(own_id)[1]
        for owner in self._owners(live):
            own = self._of[owner]
            del own[own_id]
            if not own:
                del self._of[owner]
        return live

    def of_device(self, device: str) -> list[bytes]:
        return list(self._of.get(("device", device), ()))

    def expired(self, now: float) -> list[_Live]:
        """Take out those that are too old."""
        gone = []
        while self._all:
            own_id, (deadline, _) = next(iter(self._all.items()))
            if deadline > now:
                break
            gone.append(self.pop(own_id))
        return gone

    def __contains__(self, own_id: bytes) -> bool:
        return own_id in self._all

    def __len__(self) -> int:
        return len(self._all)


class _Rates:
    """How often set-ups are asked for."""

    def __init__(self, limits: AssociationLimits) -> None:
        self._limits = limits
        self._all = self._limit(limits.rate)
        self._of_host: RecentTable[str, RateLimit] = RecentTable(_HOSTS, _REMEMBERED)

    @staticmethod
    def _limit(rate: float) -> RateLimit:
        return RateLimit(rate, max(1, round(2 * rate)))

    def admit(self, host: str, now: float) -> None:
        """Count one more. `Refused` (4.29) if it is one too many."""
        own = self._of_host.get(host, now)
        if own is None:
            own = self._limit(self._limits.rate_per_host)
            self._of_host.put(host, own, now)
        if not own.allow(now) or not self._all.allow(now):
            raise Refused(TOO_MANY_REQUESTS, "too many set-ups", retry_after=2.0)


class Associations:
    """All associations of a manager. To be used on one event loop.

    `lookup`: who has this handle, (device's name, secret); None: nobody has, or not any more. `random`: so many
    random bytes. `on_established`: an association has verified its first request and is to be kept; the
    device's former one is gone. `on_reserve(device, reserved)`: make it durable that numbers below `reserved`
    may have been used, and never lower it; when this returns, they are used. `clock`: seconds since the epoch,
    for records; all `now` are of a clock that is never set, in seconds."""

    def __init__(
        self,
        lookup: Callable[[bytes], tuple[str, Secret] | None],
        random: Callable[[int], bytes],
        limits: AssociationLimits = DEFAULT_ASSOCIATION_LIMITS,
        *,
        on_established: Callable[[AssociationRecord], None],
        on_reserve: Callable[[str, int], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lookup = lookup
        self._random = random
        self._on_established = on_established
        self._on_reserve = on_reserve
        self._clock = clock
        self._rates = _Rates(limits)
        self._half_open = _HalfOpen(limits)
        self._established: dict[str, _Live] = {}
        self._by_id: dict[bytes, _Live] = {}

    # ---- setting up

    def associate(self, request: AssociateRequest, host: str, now: float) -> AssociateResponse:
        """Open half an association for a request that came from `host`. `Refused`: 4.01 unknown or withdrawn
        handle, 4.29 too many of them (all in all, or from this host)."""
        self.expire(now)
        self._rates.admit(host, now)
        found = self._lookup(request.handle)
        if found is None:
            raise Refused(coap.UNAUTHORIZED, "unknown handle")
        device, secret = found
        response = AssociateResponse(
            self._random(NONCE), self._new_id(request.recipient_id), self._random(CHALLENGE)
        )
        salt = master_salt(request.handle, request.nonce, response.nonce)
        record = AssociationRecord(
            device, response.recipient_id, request.recipient_id, salt, response.challenge, RESERVATION, host, 0.0
        )
        live = self._live(record, secret, next_number=0, fresh=True)
        live.context.on_verified = functools.partial(self._establish, live)
        for gone in self._half_open.put(live, now):
            del self._by_id[gone.record.own_id]
        self._by_id[record.own_id] = live
        return response

    def _new_id(self, peer_id: bytes) -> bytes:
        for _ in range(_ATTEMPTS):
            own_id = self._random(_ID)
            if own_id not in self._by_id and own_id != peer_id:
                return own_id
        raise Refused(coap.SERVICE_UNAVAILABLE, "no free Recipient ID", retry_after=2.0)

    def _live(self, record: AssociationRecord, secret: Secret, *, next_number: int, fresh: bool) -> _Live:
        context = AssociationContext(
            record.device,
            secret,
            record.salt,
            record.peer_id,
            record.own_id,
            next_number=next_number,
            bound=record.reserved,
            fresh=fresh,
        )
        live = _Live(record, context)
        context.on_low = functools.partial(self._reserve, live)
        return live

    def _establish(self, live: _Live) -> None:
        """A half-open association has verified a request."""
        own_id, device = live.record.own_id, live.record.device
        if own_id not in self._half_open:
            return  # it had to go in the meantime
        self._half_open.pop(own_id)
        former = self._established.get(device)
        if former is not None:
            self._forget(former)
        live.record = replace(live.record, established=self._clock())
        self._established[device] = live
        self._on_established(live.record)

    def restore(self, record: AssociationRecord, secret: Secret) -> None:
        """Take up an association of a process before this one. None of its numbers is used again: before it sends,
        it asks for a new reservation. `MisuseError` if there is one of that device, or with that Recipient ID.

        It goes on a random way further up: should this record be older than what was used, since somebody has put
        an old database back, then another process went on from it by another way."""
        if record.device in self._established or record.own_id in self._by_id:
            raise MisuseError(f"device {record.device!r} has an association already, or its Recipient ID is taken")
        number = record.reserved + int.from_bytes(self._random(_JUMP), "big")
        if number >= MAX_NUMBERS:
            return  # the device will set up another
        live = self._live(replace(record, reserved=number), secret, next_number=number, fresh=False)
        self._established[record.device] = self._by_id[record.own_id] = live

    # ---- numbers

    def _reserve(self, live: _Live) -> None:
        """Have further numbers made durable, unless that is under way."""
        if live.reserving is None and self._established.get(live.record.device) is live:
            live.reserving = asyncio.get_running_loop().create_task(self._make_durable(live))

    async def _make_durable(self, live: _Live) -> None:
        device, reserved = live.record.device, live.context.bound + RESERVATION
        try:
            await self._on_reserve(device, reserved)
        except GroupcoapError as problem:  # the next number taken asks again
            log.warning("device %s: no sequence numbers reserved: %s", device, problem)
            return
        except Exception:  # of whatever kind: what is not durable is not used
            log.exception("device %s: no sequence numbers reserved", device)
            return
        finally:
            live.reserving = None
        if self._established.get(device) is live:
            live.record = replace(live.record, reserved=reserved)
            live.context.extend(reserved)

    # ---- finding

    def find_oscore(self, unprotected: dict[int, Any]) -> AssociationContext:
        """The context for a request with these unprotected COSE parameters. `KeyError` if there is none."""
        if COSE_KID_CONTEXT in unprotected:
            raise KeyError("associations have no ID Context")
        return self._by_id[unprotected[COSE_KID]].context

    def context(self, device: str) -> AssociationContext | None:
        """Of the device's established association."""
        live = self._established.get(device)
        return None if live is None else live.context

    def record(self, device: str) -> AssociationRecord | None:
        """Of the device's established association."""
        live = self._established.get(device)
        return None if live is None else live.record

    def challenge(self, device: str) -> bytes:
        """N_S of the device's established association. `Refused` (4.01) if there is none."""
        live = self._established.get(device)
        if live is None:
            raise Refused(coap.UNAUTHORIZED, "no association")
        return live.record.challenge

    # ---- ending

    def drop(self, device: str) -> None:
        """Forget all associations of this device: its next request is answered 4.01, not protected."""
        for own_id in self._half_open.of_device(device):
            self._half_open.pop(own_id)
            del self._by_id[own_id]
        live = self._established.get(device)
        if live is not None:
            self._forget(live)

    def _forget(self, live: _Live) -> None:
        del self._established[live.record.device]
        del self._by_id[live.record.own_id]

    def expire(self, now: float) -> None:
        """Forget what has been half open for too long."""
        for gone in self._half_open.expired(now):
            del self._by_id[gone.record.own_id]

    @property
    def half_open(self) -> int:
        """How many are half open."""
        return len(self._half_open)

    def __len__(self) -> int:
        """How many are established."""
        return len(self._established)

    async def close(self) -> None:
        """End what is under way."""
        tasks = [live.reserving for live in self._established.values() if live.reserving is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def device_of(request: Any) -> str:
    """Who has sent a request that a resource has got: the peer of its association. `Refused` (4.01) if it was not
    protected."""
    context = getattr(request.remote, "security_context", None)
    if not isinstance(context, AssociationContext):
        raise Refused(coap.UNAUTHORIZED, "only over an association")
    return context.peer
