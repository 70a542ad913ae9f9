"""Asynchronous, bounded look-ups of credentials (multicast-oscore-04 §7, step 3).

Only messages that AEAD has passed ask for one, or, where AEAD takes the credential, those for which there could be
a sender. Who asks again and again for somebody unknown waits longer each time; who invents one Endpoint ID after
another uses up the rate of its own host first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..core.contexts import SecurityContext
from ..cose.credentials import Credential
from ..cose.keys import PublicKey
from ..errors import Busy, EnvironmentFault, Limit, MisuseError, Reason, Rejected
from ..membership import MembershipSource
from .limits import Limits, PeerRates, RecentTable
from .sparing import sparing_logger

TIMEOUT = 10.0
FIRST_BACKOFF = 2.0
MAX_BACKOFF = 300.0

Key = tuple[str, bytes, bytes]
Asked = tuple[Key, str | None]
"""Whose credential, and on account of which host; None: of a member, whoever it was."""
Resume = Callable[[PublicKey | None], None]

log = sparing_logger("groupcoap.lookups")


class CredentialLookups:
    """Look-ups under way, and who was not found of late."""

    def __init__(
        self, source: MembershipSource, learn: Callable[[str, bytes, bytes, Credential], PublicKey], limits: Limits
    ) -> None:
        self._limits = limits
        self._rates = PeerRates(limits, Limit.LOOKUP_RATE, Limit.LOOKUP_RATE_PER_PEER)
        self._source = source
        self._learn = learn
        self._waiting: dict[Key, list[tuple[str, Resume]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._not_found: RecentTable[Asked, tuple[float, float]] = RecentTable(limits.not_found, MAX_BACKOFF * 2)

    def request(
        self,
        context: SecurityContext,
        endpoint_id: bytes,
        host: str,
        now: float,
        resume: Resume,
        *,
        unverified: bool = False,
    ) -> None:
        """Look up a credential, for a message that seems to come from `host`, and call `resume` with its key, or
        None. `Rejected` at once if a limit is reached or this one was not found a short while ago.

        `unverified`: nothing of the message has been verified. Anybody may have invented it, so that it was not
        found counts against its host alone."""
        key = (context.group, context.gid, endpoint_id)
        asked = (key, host if unverified else None)
        waiting = self._waiting.get(key)
        if waiting is not None:
            self._make_room(waiting, host)
            waiting.append((host, resume))
            return
        refused = self._not_found.get(asked, now)
        if refused is not None and now < refused[0]:
            raise Rejected(Reason.NO_PUBLIC_KEY, f"{endpoint_id.hex()} was not found a short while ago")
        if len(self._waiting) >= self._limits.lookups:
            raise Busy(Limit.LOOKUPS)
        limit = self._rates.reached(host, now)
        if limit is not None:
            raise Busy(limit)
        self._waiting[key] = [(host, resume)]
        task = asyncio.get_running_loop().create_task(self._look_up(asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _make_room(self, waiting: list[tuple[str, Resume]], host: str) -> None:
        """If too many wait: the latest of a host with several makes room for one of a host with none. `Busy`
        else."""
        if len(waiting) < self._limits.waiting_per_lookup:
            return
        hosts = [entry[0] for entry in waiting]
        crowd = max(hosts, key=hosts.count)
        if host in hosts or hosts.count(crowd) < 2:
            raise Busy(Limit.WAITING_PER_LOOKUP)
        del waiting[len(hosts) - 1 - hosts[::-1].index(crowd)]

    async def _look_up(self, asked: Asked) -> None:
        key = group, gid, endpoint_id = asked[0]
        public_key = None
        try:
            async with asyncio.timeout(TIMEOUT):
                credential = await self._source.credential(group, gid, endpoint_id)
            if credential is not None:
                public_key = self._learn(group, gid, endpoint_id, credential)
        except (EnvironmentFault, MisuseError, TimeoutError) as error:
            log.warning("group %s: credential of %s: %s", group, endpoint_id.hex(), error or "timed out")
        finally:
            waiting = self._waiting.pop(key, [])
        now = asyncio.get_running_loop().time()
        if public_key is None:
            before = self._not_found.get(asked, now)
            backoff = min(before[1] * 2, MAX_BACKOFF) if before else FIRST_BACKOFF
            self._not_found.put(asked, (now + backoff, backoff), now)
        else:
            self._not_found.pop(asked)
        for _, resume in waiting:
            resume(public_key)

    async def close(self) -> None:
        """Give up all that are under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._waiting.clear()
