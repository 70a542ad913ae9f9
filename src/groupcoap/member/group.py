"""One group of a device that has a Group Manager: joined, kept, and kept current (docs/group-manager.md §6, §7)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..core import coap
from ..cose.credentials import Credential
from ..endpoint.limits import RateLimit
from ..endpoint.sparing import sparing_logger
from ..errors import (
    EnvironmentFault,
    FileFault,
    GroupcoapError,
    MisuseError,
    NetworkFault,
    Reason,
    Refused,
    Rejected,
)
from ..files.identity import DeviceIdentity
from ..files.state import MIN_PREFIX
from ..keying.joining import Held, KeyReport, MemberEntry
from ..keying.labels import CodePoints
from ..keying.rekeying import RekeyMessage
from ..keying.roles import sends
from ..membership import (
    CredentialLearned,
    EndpointIdRenewed,
    EpochInstalled,
    GroupConfiguration,
    GroupJoined,
    GroupLeft,
    GroupResumed,
    GroupSuspended,
    MembershipEvent,
    Role,
)
from . import updates
from .control import Outcome
from .dealings import Dealings, JoinAttempt, ManagerMismatch, Terms, VerifiedRefusal
from .keeping import Kept, drop_kept, kept_path, load_kept, save_kept
from .updates import CatchUp, Decision, GroupState, Ignore, Install, Refresh, Rejoin

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds until what has failed is tried again: doubled each time, and shortened by chance."""

LONGEST_WISH: Final = 120.0
"""Seconds for which a refusal can ask to be left in peace: whoever is on the path may have made it."""

PATIENCE: Final = 3.0
"""Seconds in which a rekey message should come, once others have got theirs, before the manager is asked."""

ENVELOPES: Final = 20.0
"""Envelopes a second that are looked at: whoever is on the network can send them, and each may cost a signature."""

ATTEMPTS: Final = 4
"""Times that catching up begins anew because of a renewal meanwhile."""

_NEVER: Final = float("inf")
_NO_MEMBER: Final = (coap.FORBIDDEN, coap.NOT_FOUND)

log = logging.getLogger("groupcoap.member")
drops = sparing_logger("groupcoap.member.drops")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a group has of its device.

    `identity`: the device's key pair for such credentials; if there is none, a new one or, if it is not to be made,
    None. `control_uri`: where the manager
    reaches this device for a group. `tell`: endpoints of an event. `changed`: the group's control address may be
    another. `clock`: seconds since 1970. `chance`: a number from 0 up to 1, unpredictable. `random`: so many random
    bytes. `hint_interval`: seconds between two checks that something unverified has caused."""

    directory: Path
    dealings: Dealings
    identity: Callable[[Terms, bool], DeviceIdentity | None]
    control_uri: Callable[[str], str | None]
    tell: Callable[[MembershipEvent], None]
    changed: Callable[[], None]
    clock: Callable[[], float]
    random: Callable[[int], bytes]
    chance: Callable[[], float]
    points: CodePoints
    hint_interval: float


class ManagedGroup:
    """A group that the device is, or wants to be, a member of. To be used on one event loop.

    `state`: None until it is joined. `usable`: whether endpoints may use it. `settled`: whether it was joined or
    confirmed since the beginning; `fresh`: joined. `suspended`: whether it is past its lifetime. `left`: whether it
    has ceased to be this device's. `problem`: what stood in the way last. `progress` is set whenever one of these
    may have changed."""

    def __init__(self, name: str, roles: frozenset[Role], around: Surroundings, progress: asyncio.Event) -> None:
        self.name = name
        self.state: GroupState | None = None
        self.usable = False
        self.settled = False
        self.fresh = False
        self.left = False
        self.suspended = False
        self.problem: GroupcoapError | None = None
        self._roles = roles
        self._around = around
        self._progress = progress
        self._path = kept_path(around.directory, name)
        self._identity: DeviceIdentity | None = None
        self._confirmed = 0.0  # wall clock; a confirmation counts from when it was asked for
        self._rejoin_wanted = False
        self._renew_id = False
        self._missing_at = _NEVER
        self._check_at = 0.0
        self._not_before = 0.0
        self._last_check = float("-inf")
        self._wake = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self._expires = 0.0
        self._envelopes = RateLimit(ENVELOPES, int(ENVELOPES))
        self._turn = asyncio.Lock()

    # ---- beginning and end

    def load(self, state_is_known: Callable[[GroupState], bool]) -> None:
        """Take up what was kept, if anything was. `state_is_known`: whether there is run-time state for it, without
        which nothing may be sent under its keys again. `FileFault` if it cannot be used."""
        kept = load_kept(self._path, self.name)
        if kept is None:
            return
        state = kept.state
        terms = Terms(state.parameters.signature, state.material.credential_kind)
        self._identity = self._around.identity(terms, False) if sends(state.roles) else None
        self.state, self._confirmed = state, kept.confirmed
        self.usable = state_is_known(state) and (self._identity is not None) == sends(state.roles)
        self._rejoin_wanted = not self.usable or state.roles != self._roles
        self.suspended = not self._arm(kept.remaining(self._around.clock()))

    def close(self) -> None:
        """Stop the timer."""
        if self._expiry is not None:
            self._expiry.cancel()

    @property
    def configuration(self) -> GroupConfiguration | None:
        """As endpoints take it; None as long as they may not."""
        if self.state is None or not self.usable:
            return None
        return self.state.configuration(self._identity)

    async def run(self) -> None:
        """Join, and keep current; until the group is left, or cancelled."""
        failures = 0
        while not self.left:
            problem = await self._try()
            if problem is None:
                failures = 0
            elif not self.left:
                failures += 1
                self._failed(problem, failures)
            self._progress.set()
            await self._sleep()

    async def _try(self) -> GroupcoapError | None:
        """Do what is due. What went wrong, if anything did."""
        try:
            async with self._turn:
                await self._step()
        except GroupcoapError as problem:
            return problem
        except Exception:  # a mistake here: the device's other groups must not suffer from it
            log.exception("group %s", self.name)
            return EnvironmentFault(f"group {self.name}: an internal error, see the log")
        return None

    async def _sleep(self) -> None:
        if self.left:
            return
        self._wake.clear()
        others = min(self._missing_at, self._now() if self._renew_id else _NEVER)
        until = min(self._check_at, max(self._not_before, others))
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - self._now())):
                await self._wake.wait()

    async def _step(self) -> None:
        if self._now() >= self._check_at:
            await self._check()
        state = self.state
        if state is None or self.left or self._now() < self._not_before:
            return
        if self._renew_id:
            await self._get_new_id(state)
        if self._now() >= self._missing_at:
            await self._learn_missing()

    def _failed(self, problem: GroupcoapError, failures: int) -> None:
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16))
        if self.state is not None:
            pause = min(pause, max(FIRST_PAUSE, self.state.check_interval))
        pause *= 0.5 + 0.5 * self._around.chance()
        if isinstance(problem, Refused) and problem.retry_after is not None:
            pause = min(LONGEST_WISH, problem.retry_after) * (1.0 + 0.2 * self._around.chance())
        self._check_at = self._not_before = self._now() + pause
        if failures == 1 or type(problem) is not type(self.problem):
            level = logging.ERROR if isinstance(problem, ManagerMismatch | FileFault) else logging.WARNING
            log.log(level, "group %s: %s", self.name, problem)
        self.problem = problem

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # ---- being current

    async def _check(self) -> None:
        """Find out whether what is installed is current, and if not, make it so."""
        self._last_check = self._now()
        if self.state is None or self._rejoin_wanted:
            await self._join()
        elif not await self._is_current():
            await self._catch_up()
        if not self.left:
            self.settled = True
            self.problem = None
            self._schedule_poll()

    def _schedule_poll(self) -> None:
        if self.state is not None:
            interval = min(self.state.check_interval, self.state.lifetime / 3)
            self._check_at = self._now() + interval * (0.75 + 0.25 * self._around.chance())

    async def _is_current(self) -> bool:
        """Whether the manager confirms what is installed; not if it does not know this member."""
        try:
            return await self._confirm()
        except Refused as refused:
            if refused.code not in _NO_MEMBER:
                raise
            return False

    async def _confirm(self) -> bool:
        """Say what is installed. Whether the manager says that it is current."""
        for _ in range(ATTEMPTS):
            state, asked, now = self._there, self._around.clock(), self._now()
            uri = self._around.control_uri(self.name)
            current = await self._around.dealings.confirm(self.name, state.node, state.num, state.gid, uri)
            if self._there.gid == state.gid:
                if current:
                    self._was_confirmed(asked, now)
                return current
        return False

    @property
    def _there(self) -> GroupState:
        if self.state is None or self.left:
            raise MisuseError(f"no member of group {self.name!r} any more")
        return self.state

    def _was_confirmed(self, asked: float, now: float) -> None:
        """The manager has confirmed what is installed; it was asked at these times."""
        state = self._there
        save_kept(self._path, Kept(state, asked))
        self._confirmed = asked
        self._arm(state.lifetime - (self._now() - now))
        if self.suspended:
            self.suspended = False
            self._around.tell(GroupResumed(self.name))
        self.problem = None

    def _arm(self, remaining: float) -> bool:
        """Begin a lifetime. Whether there is any."""
        self.close()
        self._expires = _now_suspended_or_not() + remaining
        if remaining > 0:
            self._expiry = asyncio.get_running_loop().call_later(remaining, self._expired)
        return remaining > 0

    def look_at_lifetime(self) -> None:
        """End it if it is over: the event loop's clock, and so its timers, stand still while the machine is
        suspended."""
        if self._expiry is not None and _now_suspended_or_not() >= self._expires:
            self._expired()

    def _expired(self) -> None:
        if self.state is None or self.left or self.suspended:
            return
        self.suspended = True
        log.warning("group %s: not confirmed within its lifetime of %s s", self.name, self.state.lifetime)
        self._around.tell(GroupSuspended(self.name))
        self._hint(0.0)

    async def _catch_up(self) -> None:
        dealings = self._around.dealings
        for _ in range(ATTEMPTS):
            state, asked, now = self._there, self._around.clock(), self._now()
            try:
                report = await dealings.report(self.name, state.node)
            except Refused as refused:
                if refused.code not in _NO_MEMBER:
                    raise
                log.info("group %s: the manager does not know this member (%s)", self.name, refused)
                return await self._join()
            stale: frozenset[bytes] | None = frozenset()
            if report.incarnation == state.incarnation and report.num > state.num:
                stale = await dealings.stale(self.name, state.num)
            if self._moved(state):
                continue  # a rekey message has come meanwhile
            decision = updates.take_report(self._there, report, stale)
            if isinstance(decision, Rejoin):
                log.info("group %s: %s", self.name, decision.why)
                return await self._join()
            if isinstance(decision, Ignore):
                raise EnvironmentFault(f"group {self.name}: {decision.why}; the manager has an older database")
            if not await self._take_over(decision, state, asked, now):
                continue
            if await self._confirm():
                return None
        raise NetworkFault(f"group {self.name}: renewed again and again while catching up")

    async def _take_over(self, decision: Install | Refresh, before: GroupState, asked: float, now: float) -> bool:
        """Install what a report said. False if something else was installed meanwhile."""
        after = decision.state
        if isinstance(decision, Refresh):
            self._keep(after, self._confirmed)
            if decision.renewed_id:
                self._tell_new_id()
            return True
        if decision.missing and self._wants_members(after):
            known = [entry.endpoint_id for entry in after.members]
            num, entries = await self._around.dealings.others(self.name, after.roles, known)
            if self._moved(before) or num not in (None, after.num):
                return False
            after = after.with_members(entries)
        self._install(after, False, asked, now)
        return True

    def _moved(self, before: GroupState) -> bool:
        """Whether another renewal is installed than then."""
        return (self._there.num, self._there.gid) != (before.num, before.gid)

    @staticmethod
    def _wants_members(state: GroupState) -> bool:
        """A pure listener looks up whom it hears."""
        return state.roles != {Role.PURE_LISTENER}

    # ---- joining and leaving

    async def _join(self) -> None:
        """Join, or join again. If the manager itself forbids that to a member, the group is left."""
        around, before = self._around, self.state
        held = None if before is None else Held(before.gid, before.num)
        uri = around.control_uri(self.name)
        attempt = JoinAttempt(self.name, self._roles, held, uri, around.random)
        try:
            attempt.identity = await self._identity_to_join_with()
            asked, now = around.clock(), self._now()
            told = await around.dealings.join(self.name, attempt)
        except Refused as refused:
            if before is None or refused.code not in _NO_MEMBER:
                raise
            if not await around.dealings.is_authentic(refused, self.name, attempt):
                raise
            self.problem = refused
            self.leave_now(f"evicted by the Group Manager ({refused.title})")
            return
        state = self._joined(told.node, told.report, attempt.identity)
        self._identity = attempt.identity
        self._install(state, False, asked, now)
        self.fresh = True
        await self._confirm()

    async def _identity_to_join_with(self) -> DeviceIdentity | None:
        if not sends(self._roles):
            return None
        return self._around.identity(await self._around.dealings.terms(self.name), True)

    def _joined(self, node: str, report: KeyReport, identity: DeviceIdentity | None) -> GroupState:
        signature = report.material.parameters.signature
        manager = report.manager_credential
        if manager is None:
            raise Rejected(Reason.MALFORMED, "no credential of the manager")
        if identity is not None and identity.signature.number != signature.number:
            raise Rejected(Reason.MALFORMED, "another signature algorithm than the manager said before")
        return updates.joined(self.name, node, self._roles, report, manager, self.state)

    async def leave(self) -> None:
        """Leave the group. Raises as `Dealings` does; then the device is a member still."""
        async with self._turn:
            if self.state is None:
                raise MisuseError(f"no member of group {self.name!r}")
            try:
                await self._around.dealings.leave(self.name, self.state.node)
            except VerifiedRefusal as refused:
                if refused.code not in _NO_MEMBER:
                    raise
            self.leave_now("left")

    def leave_now(self, why: str) -> None:
        """The device is no member any more: its keys for the group are gone when endpoints are told."""
        state, self.left = self.state, True
        self.close()
        if state is not None:
            try:
                drop_kept(self._path, state, why)
            except FileFault as fault:
                log.error("group %s: its keys are still there: %s", self.name, fault)
            log.warning("group %s: no member any more: %s", self.name, why)
        self.state, told = None, self.usable
        self.usable = False
        self._around.changed()
        if told:
            self._around.tell(GroupLeft(self.name, why))
        self._wake.set()
        self._progress.set()

    # ---- installing

    def _keep(self, state: GroupState, confirmed: float) -> None:
        """Make this durable, then use it. `FileFault`, and nothing has changed, if that fails; `MisuseError` if
        endpoints could not take it."""
        if self.left:
            raise MisuseError(f"no member of group {self.name!r} any more")
        state.configuration(self._identity)
        save_kept(self._path, Kept(state, confirmed))
        self.state, self._confirmed = state, confirmed
        self._around.changed()

    def _install(
        self, state: GroupState, successive: bool, asked: float | None = None, now: float | None = None
    ) -> None:
        """A renewal, or a group that was joined. `asked`, `now`: when what is installed was asked for, which is as
        good as a confirmation; None: it came unasked and may be old, whoever made it, so the lifetime goes on."""
        before = self.state if self.usable else None
        self._keep(state, self._confirmed if asked is None else asked)
        self.usable, self._rejoin_wanted = True, False
        if now is not None:
            self.suspended = not self._arm(state.lifetime - (self._now() - now))
        configuration = state.configuration(self._identity, successive)
        log.info("group %s: renewal %s, Gid %s", self.name, state.num, state.gid.hex())
        if before is None:
            self._around.tell(GroupJoined(configuration))
        elif configuration.current.gid != before.gid:
            self._around.tell(EpochInstalled(configuration))
        elif configuration.current.own_id != before.endpoint_id:  # joined again, without a renewal
            self._around.tell(EndpointIdRenewed(configuration))
        if self.suspended:
            self._around.tell(GroupSuspended(self.name))

    def rekeyed(self, payload: bytes) -> Outcome:
        """A rekey message over the association. `Refused` (4.00) if it is none."""
        state = self._there
        try:
            message = RekeyMessage.parse(payload, self._around.points, state.seed)
        except Rejected as rejected:
            self._hint(state.confirm_within)
            raise Refused(coap.BAD_REQUEST, str(rejected)) from None
        decision = updates.take_message(state, message)
        if isinstance(decision, Install) and not self._act(decision):
            return Outcome.BEHIND
        if isinstance(decision, CatchUp):
            self._act(decision)
        done = isinstance(decision, Install) or (isinstance(decision, Ignore) and decision.present)
        reload = isinstance(decision, CatchUp) and decision.reload
        return Outcome.INSTALLED if done or reload else Outcome.BEHIND

    def envelope(self, payload: bytes) -> None:
        """An envelope by multicast. Nothing is raised."""
        state = self.state
        if state is None or self.left or not updates.concerns(state, payload):
            return
        if not self._envelopes.allow(self._now()):
            return
        decision = updates.take_envelope(state, payload, self._around.points)
        if self._act(decision) and isinstance(decision, Install):
            self._check_soon(state.confirm_within * self._around.chance())

    def _act(self, decision: Decision) -> bool:
        """Do what was decided. False if it could not be done, and will be tried otherwise."""
        if isinstance(decision, Ignore):
            drops.debug("group %s: rekey message ignored: %s", self.name, decision.why)
            return True
        if isinstance(decision, CatchUp):
            drops.info("group %s: to be asked about: %s", self.name, decision.why)
            spread = self._there.confirm_within
            if decision.reload:
                self._check_soon(spread * self._around.chance())
            else:
                self._hint(spread, PATIENCE if decision.patient else 0.0)
            return True
        try:
            self._install(decision.state, decision.successive)
        except GroupcoapError as problem:
            log.error("group %s: renewal not installed: %s", self.name, problem)
            self._hint(self._there.confirm_within)
            return False
        if decision.missing and self._wants_members(decision.state):  # so do all others: not all at once
            spread = decision.state.confirm_within * self._around.chance()
            self._missing_at = min(self._missing_at, self._now() + spread)
            self._wake.set()
        if self.suspended:
            self._check_soon(0.0)
        return True

    # ---- asking soon

    def _check_soon(self, delay: float) -> None:
        """Check in so many seconds, or earlier if that is planned."""
        at = max(self._now() + delay, self._not_before)
        if at < self._check_at:
            self._check_at = at
            self._wake.set()

    def _hint(self, spread: float, patience: float = 0.0) -> None:
        """Something that anybody may have made says that there is news: check, but not all members at once, and not
        more often than once in an interval."""
        earliest = max(0.0, self._last_check + self._around.hint_interval - self._now())
        self._check_soon(max(earliest, patience) + spread * self._around.chance())

    def unknown_gid(self, gid: bytes) -> None:
        """A message has come under a Gid that endpoints do not know."""
        state = self.state
        if state is None or self.left or len(gid) != len(state.gid):
            return
        if gid[:MIN_PREFIX] == state.gid[:MIN_PREFIX] and gid > state.gid:
            self._hint(min(state.confirm_within, self._around.hint_interval))

    # ---- Endpoint IDs and credentials

    def running_low(self, gid: bytes, own_id: bytes) -> None:
        """Few sequence numbers are left."""
        if self.state is not None and (self.state.gid, self.state.endpoint_id) == (gid, own_id):
            self._renew_id = True
            self._wake.set()

    async def _get_new_id(self, before: GroupState) -> None:
        new_id = await self._around.dealings.renew_id(self.name, before.node)
        state = self._there
        if state.endpoint_id == before.endpoint_id and new_id != state.endpoint_id:
            material = state.material
            common = state.parameters.common_context(material.gid, material.master_secret, material.master_salt)
            common.check_id(new_id)
            after = replace(state, material=replace(material, endpoint_id=new_id)).with_members(())
            self._keep(replace(after, departed=after.departed - {new_id}), self._confirmed)
            self._tell_new_id()
        self._renew_id = False

    def _tell_new_id(self) -> None:
        self._renew_id = False
        if self.usable:
            self._around.tell(EndpointIdRenewed(self._there.configuration(self._identity)))

    async def _learn_missing(self) -> None:
        """Credentials of members that a renewal counted but did not list."""
        for _ in range(ATTEMPTS):
            state = self._there
            known = [entry.endpoint_id for entry in state.members]
            num, entries = await self._around.dealings.others(self.name, state.roles, known)
            if self._there.num == state.num and num in (None, state.num):
                self._learn(entries)
                break
        self._missing_at = _NEVER

    def _learn(self, entries: tuple[MemberEntry, ...]) -> None:
        before = self._there
        after = before.with_members(entries)
        self._keep(after, self._confirmed)
        if not self.usable:
            return
        for entry in after.members:
            if not before.knows(entry.endpoint_id):
                self._around.tell(CredentialLearned(self.name, after.gid, after.member(entry)))

    async def credential(self, gid: bytes, endpoint_id: bytes) -> Credential | None:
        """As `MembershipSource.credential`."""
        state = self.state
        if state is None or self.left or gid != state.gid:
            return None
        if not state.knows(endpoint_id):
            state = await self._look_up(state, endpoint_id)
        found = [] if state is None else [e for e in state.members if e.endpoint_id == endpoint_id]
        return None if state is None or not found else state.member(found[0]).credential

    async def _look_up(self, state: GroupState, endpoint_id: bytes) -> GroupState | None:
        """The state with this member; None if there is no such member under this Gid."""
        try:
            num, entries = await self._around.dealings.find(self.name, endpoint_id)
        except (Refused, Rejected) as problem:
            self._hint(state.confirm_within)
            drops.info("group %s: credential of %s: %s", self.name, endpoint_id.hex(), problem)
            return None
        current = self.state
        if current is None or current.gid != state.gid or num not in (None, state.num):
            self._hint(state.confirm_within)
            return None
        self.state = current.with_members(entry for entry in entries if entry.endpoint_id == endpoint_id)
        return self.state


def _now_suspended_or_not() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
