"""The Group Manager as a server: decisions are made durable, then their effects leave.

Everything happens on one event loop. A command's decisions and its call of `persist` have no `await` between them,
so the writes of commands stand in the database in the order of the decisions."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import aiocoap
from aiocoap.oscore import ContextUnavailable

from ..association.context import AssociationContext
from ..association.node import CoapNode
from ..association.registry import (
    DEFAULT_ASSOCIATION_LIMITS,
    AssociationLimits,
    AssociationRecord,
    Associations,
)
from ..core import coap
from ..core.coap import Message
from ..endpoint.limits import DEFAULT_LIMITS, Limits
from ..errors import EnvironmentFault, MisuseError, NetworkFault, Refused, Rejected, StoreFault
from ..files.documents import Json
from ..membership import GroupAddress
from ..secret import Secret
from .control import ControlServer
from .decisions import Answer, GroupManager
from .delivery import PATIENCE, Delivery
from .home import ManagerConfiguration
from .joins import Candidate
from .metrics import Counts
from .operations import Operations
from .resources import manager_site
from .state import Member, Renewal
from .store.commit import GroupCommit
from .store.store import Store
from .store.writes import Delete, Insert, Update, Write

TICK = 0.5
"""Seconds between two looks at what is due."""

WINDOWS = 10
"""How many of a group's windows for joins a batch is kept open while more devices keep coming."""

ERASE_AFTER = 2.0
"""Seconds after which superseded secrets are erased, at least."""

JOIN_WAIT = 3.0
"""Seconds that newcomers wait at most for the present members to confirm: one who sleeps must not keep them out."""

log = logging.getLogger("groupcoap.manager")


@dataclass(slots=True)
class _Batch:
    """Joins of one group that are gathered into one renewal."""

    opened: float
    waiting: list[tuple[Candidate, asyncio.Future[Answer]]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class ManagerServer:
    """Serves a manager's groups. Use it as an asynchronous context manager; `stopped` is set when it cannot go on,
    with the reason in `failure`. `control`: path of the operator's socket, None: there is none. `place`: the
    manager's directory, for messages."""

    def __init__(
        self,
        store: Store,
        configuration: ManagerConfiguration,
        *,
        control: Path | None = None,
        limits: Limits = DEFAULT_LIMITS,
        association_limits: AssociationLimits = DEFAULT_ASSOCIATION_LIMITS,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
        place: Path = Path("database"),
    ) -> None:
        self._store = store
        self._options = configuration.network
        self._limits = limits
        self._association_limits = association_limits
        snapshot = store.load()
        self.manager = GroupManager(snapshot, clock, random, configuration.points, place)
        self.operations = Operations(self.manager, configuration, place)
        self._control = None if control is None else ControlServer(control, self.perform)
        self._records = snapshot.rows("associations")
        self._random = random
        self.counts = Counts()
        self.stopped = asyncio.Event()
        self.failure: StoreFault | None = None
        self._batches: dict[str, _Batch] = {}
        self._admitting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._former: dict[str, AssociationContext] = {}
        self._closing = False
        self._erase = True  # the process before may have been killed before it could

    async def __aenter__(self) -> ManagerServer:
        """`NetworkFault` if the address cannot be used, `EnvironmentFault` if the operator's socket cannot be
        made."""
        self._commit = GroupCommit(self._store, on_failed=self._failed)
        self.associations = Associations(
            self._look_up,
            self._random,
            self._association_limits,
            on_established=self._established,
            on_reserve=self._reserve,
        )
        for row in self._records:
            device = self.manager.devices.get(row["device"])
            if device is not None and device.withdrawn is None:
                record = AssociationRecord(**row)
                self.associations.restore(record, device.secret)
        self.node = CoapNode(
            self._options, manager_site(self), self.associations, limits=self._limits, on_multicast=None
        )
        try:
            await self.node.__aenter__()
        except NetworkFault:
            await self._commit.close()
            raise
        if self._control is not None:
            try:
                await self._control.__aenter__()
            except EnvironmentFault:
                await self.node.__aexit__(None, None, None)
                await self._commit.close()
                raise
        self.delivery = Delivery(self.manager, self, self.persist)
        for group in self.manager.groups.values():
            if group.alarm is not None:
                log.critical("group %s is stopped: %s", group.name, group.alarm)
        for renewal in self.manager.unfinished():
            self.delivery.distribute(renewal)
        loop = asyncio.get_running_loop()
        self._housekeeping = [loop.create_task(self._tick()), loop.create_task(self._erasing())]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop serving; what is decided is durable. Newcomers that wait are told to come again."""
        self._closing = True
        if self._control is not None:
            await self._control.__aexit__(None, None, None)
        for batch in self._batches.values():
            if batch.timer is not None:
                batch.timer.cancel()
            for _, future in batch.waiting:
                _settle(future, _not_now())
        self._batches.clear()
        tasks = [*self._housekeeping, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.delivery.close()
        await asyncio.sleep(0)  # those that were told have their answers sent
        await self.node.__aexit__(kind, error, trace)
        await self.associations.close()
        with suppress(StoreFault):
            await self.persist()
        await self._commit.close()

    # ---- durability

    async def persist(self) -> None:
        """Return once all that was decided so far is durable. `StoreFault` if that cannot be: the manager stops."""
        for group, alarm in self.manager.alarms:
            log.critical("group %s stopped: %s", group, alarm)
        self.manager.alarms.clear()
        await self._commit.durable(self.manager.take_writes())

    def _failed(self, fault: StoreFault) -> None:
        log.critical("the database cannot be written; the manager stops: %s", fault)
        self.failure = fault
        self.stopped.set()

    def soon(self, work: Coroutine[None, None, None]) -> None:
        """Do this beside everything else. What fails for want of the database has stopped the manager already."""
        task = asyncio.get_running_loop().create_task(_ignoring_store_faults(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- associations

    def _look_up(self, handle: bytes) -> tuple[str, Secret] | None:
        device = self.manager.by_handle.get(handle)
        return None if device is None or device.withdrawn is not None else (device.name, device.secret)

    def _established(self, record: AssociationRecord) -> None:
        row = {name: getattr(record, name) for name in AssociationRecord.__slots__}
        writes: list[Write] = [Delete("associations", {"device": record.device}), Insert("associations", row)]
        self.soon(self._commit.durable(writes))

    async def _reserve(self, device: str, reserved: int) -> None:
        if self.associations.context(device) is None:
            raise MisuseError("the association has ended, and its row is gone")
        await self._commit.durable([Update("associations", {"device": device}, {"reserved": reserved})])

    def send_multicast(self, address: GroupAddress, message: Message) -> None:
        """As `Carrier.send_multicast`."""
        self.node.send_multicast(address, message)
        self.counts.add("rekey_multicasts")

    async def tell(self, device: str, address: tuple[str, int], message: aiocoap.Message) -> aiocoap.Message:
        """As `Carrier.tell`."""
        context: AssociationContext | None = self.associations.context(device) or self._former.get(device)
        if context is None:
            raise NetworkFault(f"there is no association with {device}")
        self.counts.add("rekey_unicasts")
        try:
            return await self.node.request(message, address, context, PATIENCE)
        except ContextUnavailable:
            raise NetworkFault(f"no sequence numbers are reserved for {device} now") from None
        except Rejected as rejection:
            raise NetworkFault(f"{device} answered what cannot be verified: {rejection}") from None

    # ---- joins

    async def join(self, device: str, group: str, payload: bytes) -> Answer:
        """A join request, from the check to the moment when its answer may leave: the renewal is durable, and who
        was a member before has it, or had the time to. `Refused` if it is."""
        self.counts.add("join_requests")
        if self._closing:
            raise _not_now()
        try:
            challenge = self.associations.challenge(device)
            checked = self.manager.check_join(device, group, payload, challenge)
        except Refused:
            self.counts.add("join_refusals")
            await self.persist()
            raise
        if isinstance(checked, Answer):
            await self.persist()
            return checked
        return await self._batched(group, checked)

    async def _batched(self, group: str, candidate: Candidate) -> Answer:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        batch = self._batches.setdefault(group, _Batch(loop.time()))
        batch.waiting.append((candidate, future))
        if group not in self._admitting:
            self._wait_for_more(group, batch)
        return await future

    def _wait_for_more(self, group: str, batch: _Batch) -> None:
        """End a batch when nobody has come for as long as the group's window; at the latest after `WINDOWS` of
        them."""
        if batch.timer is not None:
            batch.timer.cancel()
        loop = asyncio.get_running_loop()
        window = self.manager.group(group).settings.rekey.window
        delay = min(window, batch.opened + WINDOWS * window - loop.time())
        batch.timer = loop.call_later(max(0.0, delay), lambda: self.soon(self._flush(group)))

    async def _flush(self, group: str) -> None:
        """End the window of a group's joins, if it is open. While these are admitted, those who come wait for the
        next batch, however long that takes: they get the last renewal only."""
        batch = self._batches.pop(group, None)
        if batch is None:
            return
        self._admitting.add(group)
        try:
            await self._admit(group, batch)
        finally:
            self._admitting.discard(group)
            later = self._batches.get(group)
            if later is not None and group in self.manager.groups:
                self._wait_for_more(group, later)
            elif later is not None:  # the group was deleted
                for _, future in self._batches.pop(group).waiting:
                    _settle(future, _not_now())

    async def _admit(self, group: str, batch: _Batch) -> None:
        if batch.timer is not None:
            batch.timer.cancel()
        waiting = [(candidate, future) for candidate, future in batch.waiting if not future.done()]
        answers: tuple[Answer | Refused, ...] = tuple(_not_now() for _ in waiting)
        try:
            admission = self.manager.admit(group, [candidate for candidate, _ in waiting])
            await self.persist()
            if admission.renewal is not None:
                self.renewed(admission.renewal)
                await self.delivery.settled(admission.renewal, JOIN_WAIT)
            else:
                log.info("group %s: joins: %s, without new keys", group, len(waiting))
            answers = admission.answers
        except (MisuseError, StoreFault) as problem:  # the group is gone, or the database
            log.warning("group %s: %s newcomers not admitted: %s", group, len(waiting), problem)
        finally:  # whatever happens, nobody waits for ever
            for (_, future), answer in zip(waiting, answers, strict=True):
                _settle(future, answer)

    def renewed(self, renewal: Renewal) -> None:
        """A renewal is durable: bring it to the members, and erase what it has superseded."""
        self.counts.add("renewals")
        self._erase = True
        group = self.manager.groups.get(renewal.group)
        if group is None:  # deleted in the meantime
            return
        members = len(group.members)
        log.info("group %s: renewal %s (%s), %s members", group.name, renewal.num, renewal.reason, members)
        self.delivery.distribute(renewal)

    # ---- other effects

    async def perform(self, name: str, arguments: dict[str, Any]) -> Json:
        """One of the operator's commands, with its effects under way when this returns."""
        if name == "audit":
            return {"entries": await asyncio.to_thread(self._store.audit, **arguments)}
        if name == "backup":
            await asyncio.to_thread(self._store.backup, Path(arguments["path"]))
            return {}
        outcome = self.operations.perform(name, arguments)
        if name in ("withdraw", "enroll_again"):  # at once: of what is deleted nothing can be reserved any more
            self._drop(arguments["device"])
        await self.carry_out(outcome.renewals, outcome.dismissed)
        if name == "status":
            outcome.result |= {"counts": self.counts.values(), "associations": len(self.associations)}
        return outcome.result

    def _drop(self, device: str) -> None:
        """End a device's association. For a while it can still be told where it is no member any more."""
        context = self.associations.context(device)
        self.associations.drop(device)
        if context is not None:
            self._former[device] = context
            asyncio.get_running_loop().call_later(2 * PATIENCE, self._former.pop, device, None)

    async def carry_out(self, renewals: list[Renewal], dismissed: list[tuple[str, Member]]) -> None:
        """Make what was just decided durable, then tell members: renewals, and (group, former member) who is none
        any more."""
        await self.persist()
        for group, member in dismissed:
            self.delivery.dismiss(member, group)
            if group not in self.manager.groups:
                self.delivery.stop(group)
        for renewal in renewals:
            self.renewed(renewal)

    async def _tick(self) -> None:
        """What is due. Bounded by the server's life. At first nothing is: members are to say what they hold, so
        that an old database, put back by mistake, gives out no number a second time."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            try:
                await self._look(time.monotonic() - began)
            except StoreFault:
                return
            except Exception:  # whatever it is: all groups depend on the next look
                log.exception("something that was due was not done")

    async def _look(self, served: float) -> None:
        self.node.refresh()
        self.associations.expire(asyncio.get_running_loop().time())
        self.manager.purge()
        failed: set[str] = set()
        # What is due may change while one is written; one that fails must not keep the others waiting.
        while due := [name for name in self.manager.due(self.manager.now(), served) if name not in failed]:
            try:
                renewal = self.manager.rekey(due[0], "manager", "period")
            except MisuseError:
                log.exception("group %s: not renewed", due[0])
                failed.add(due[0])
                continue
            await self.persist()
            self.renewed(renewal)
        await self.persist()

    async def _erasing(self) -> None:
        """What was superseded is erased soon after; how soon depends on how long it takes. Bounded by the server's
        life."""
        pause = ERASE_AFTER
        while True:
            await asyncio.sleep(pause)
            if not self._erase:
                continue
            self._erase = False
            began = time.monotonic()
            try:
                await asyncio.to_thread(self._store.erase)
            except StoreFault as fault:
                log.warning("superseded secrets are still in the database's files: %s", fault)
                self._erase = True
            pause = max(ERASE_AFTER, 20 * (time.monotonic() - began))


async def _ignoring_store_faults(work: Coroutine[None, None, None]) -> None:
    with suppress(StoreFault):
        await work


def _not_now() -> Refused:
    return Refused(coap.SERVICE_UNAVAILABLE, "not now", retry_after=10)


def _settle(future: asyncio.Future[Answer], outcome: Answer | Refused) -> None:
    if future.done():
        return
    if isinstance(outcome, Refused):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
