"""The groups of a device that has a Group Manager, kept current over the network: a `MembershipSource`."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from aiocoap import resource

from ..association.node import CoapNode
from ..core import coap
from ..cose.credentials import Credential, CredentialKind
from ..endpoint.network import NetworkOptions, SocketAddress
from ..errors import FileFault, GroupcoapError, MisuseError, NetworkFault, Refused, StateCopied
from ..files.atomic import remove_left_behind
from ..files.identity import IDENTITY_FILE, DeviceIdentity, generate_identity, load_identity, save_identity
from ..files.journal import Lock
from ..files.provisioned import STATE_FILE
from ..files.state import EndpointState, StateKey, StateReport
from ..keying.labels import COSE_ENCRYPT0
from ..membership import (
    GroupAddress,
    GroupConfiguration,
    GroupSuspended,
    MembershipEvent,
)
from .control import ControlResources, Outcome
from .dealings import ROOT, Dealings, ManagerMismatch, Terms
from .enrolment import ENROLMENT_FILE, load_enrolment
from .group import ManagedGroup, Surroundings
from .link import DeviceLink
from .updates import GroupState

WATCH_INTERVAL = 2.0
"""Seconds between two looks at the interface."""

log = logging.getLogger("groupcoap.member")


class ManagedMembership:
    """The groups of one device, from its Group Manager. Use it as an asynchronous context manager:

        async with ManagedMembership(directory, NetworkOptions(interface="eth0")) as membership:
            await membership.ready(30)
            with membership.open_state() as state:
                async with Endpoint(membership, state, NetworkOptions(interface="eth0", port=5683)) as endpoint:
                    …

    `directory`: of the device; it holds enrolment.json, and gets what is kept. `network`: where the device talks to
    its manager, by a socket of its own; with no port, any free one. `random`: so many random bytes. `clock`:
    seconds since 1970. `groups`: names of those that it is to be in, which the enrolment must name; None: all of
    these. `unknown_gid_interval`: seconds at least between two questions to the manager that something unverified
    has caused. `patience`: seconds that an address of the manager may be silent; None: as the association has it.

    What it opens is for one process; a device that was killed goes on where it was."""

    def __init__(
        self,
        directory: Path,
        network: NetworkOptions,
        *,
        random: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.time,
        groups: Collection[str] | None = None,
        unknown_gid_interval: float = 5.0,
        patience: float | None = None,
    ) -> None:
        self._directory = directory
        # The filter lets group requests pass only, and rekey messages are none.
        self._network = replace(network, kernel_filter=False)
        self._random = random
        self._clock = clock
        self._wanted = groups
        self._interval = unknown_gid_interval
        self._patience = patience
        self._groups: dict[str, ManagedGroup] = {}
        self._subscribers: list[Callable[[MembershipEvent], None]] = []
        self._controls: set[GroupAddress] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._opened = False

    async def __aenter__(self) -> Self:
        """Open sockets and what was kept, and begin to talk to the manager.

        `FileFault` if a file cannot be used, `StateLocked` if another process is this device, `NetworkFault` if a
        socket cannot be opened, `MisuseError` for a group that the enrolment does not name."""
        if self._opened:
            raise MisuseError("a membership is opened once")
        self._opened = True
        path = self._directory / ENROLMENT_FILE
        self._enrolment = load_enrolment(path)
        names = tuple(self._enrolment.groups) if self._wanted is None else tuple(dict.fromkeys(self._wanted))
        for name in names:
            if name not in self._enrolment.groups:
                raise MisuseError(f"{path} does not name a group {name!r}")
        async with AsyncExitStack() as stack:
            lock = Lock(path)
            stack.callback(lock.release)
            self._progress = asyncio.Event()
            await self._open(stack, names)
            self._stack = stack.pop_all()
        return self

    async def _open(self, stack: AsyncExitStack, names: Sequence[str]) -> None:
        site = resource.Site()
        site.add_resource([ROOT], ControlResources(self._is_member, self._rekeyed, self._evicted))
        self._node = CoapNode(self._network, site, on_multicast=self._on_multicast)
        await stack.enter_async_context(self._node)
        link = DeviceLink(self._node, self._enrolment, self._random, self._patience)
        around = Surroundings(
            directory=self._directory,
            dealings=Dealings(link, self._enrolment),
            identity=self._identity,
            control_uri=link.control_uri,
            tell=self._tell,
            changed=self._join_controls,
            clock=self._clock,
            random=self._random,
            chance=lambda: int.from_bytes(self._random(4), "big") / 2**32,
            points=self._enrolment.points,
            hint_interval=self._interval,
        )
        report = EndpointState.examine(self._directory / STATE_FILE)
        if isinstance(report.fault, StateCopied):  # before it disturbs a group by joining as another device
            raise StateCopied(
                report.fault.path,
                "is a copy, or older than what was there; remove it, and this device joins anew",
            )
        for name in names:
            group = ManagedGroup(name, self._enrolment.groups[name], around, self._progress)
            stack.callback(group.close)
            group.load(lambda state: _is_known(report, state))
            self._groups[name] = group
        self._join_controls()
        stack.push_async_callback(self._end_tasks)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(group.run()) for group in self._groups.values()]
        self._tasks.append(loop.create_task(self._watch()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop talking to the manager. The device stays a member of its groups."""
        await self._stack.__aexit__(kind, error, trace)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ready(self, timeout: float | None = None) -> None:
        """Wait until every group has been joined, or confirmed by the manager, at most so many seconds.

        Raises what stands in the way: `Refused` (the manager does not let the device in), `ManagerMismatch` (this
        is another manager), `FileFault`; `NetworkFault` if the manager does not answer in time. Without a timeout
        that is as soon as an attempt has failed. Groups that are kept and within their lifetime can be used all the
        same."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._progress.clear()
                    groups = self._groups.values()
                    open_ = [g for g in groups if not g.settled and (g.problem is not None or not g.left)]
                    for group in open_:
                        if group.problem is not None and (timeout is None or _is_final(group)):
                            raise group.problem
                    if not open_:
                        return
                    await self._progress.wait()
        except TimeoutError:
            problems = (group.problem for group in self._groups.values() if not group.settled)
            found = next((problem for problem in problems if problem is not None), None)
            raise found or NetworkFault("the Group Manager has not answered in time") from None

    async def leave(self, group: str) -> None:
        """Leave a group: once this returns the device is no member, and keeps none of its keys. The enrolment still
        names the group, so that a membership opened later joins it again unless it is told not to.

        `NetworkFault`, `Refused`, `Rejected` if the manager cannot be told: the device is a member still.
        `MisuseError` if it is none."""
        found = self._groups.get(group)
        if found is None or found.left:
            raise MisuseError(f"no member of group {group!r}")
        await found.leave()

    def open_state(self) -> EndpointState:
        """The run-time state of endpoints with these groups, in the device's directory; made if it is not there.
        Only for groups that were joined by this membership it is begun anew, since nothing can have been sent yet
        under what they have now. Raises as `EndpointState.open` does."""
        path = self._directory / STATE_FILE
        configurations = self.groups()
        fresh = [c for c in configurations if self._groups[c.name].fresh]
        keys = [_key(configuration) for configuration in fresh]
        if not path.exists() and len(fresh) == len(configurations):
            EndpointState.create(path, keys)
        state = EndpointState.open(path)
        for key in keys:
            if not state.knows(key.group):
                state.add_key(key.group, key.gid, key.own_id)
        return state

    # ---- MembershipSource

    def groups(self) -> Sequence[GroupConfiguration]:
        """As `MembershipSource.groups`: those that the device is a member of now."""
        found = (group.configuration for group in self._groups.values())
        return tuple(configuration for configuration in found if configuration is not None)

    def subscribe(self, receive: Callable[[MembershipEvent], None]) -> Callable[[], None]:
        """As `MembershipSource.subscribe`. Groups that are suspended are told of at once."""
        self._subscribers.append(receive)
        for group in self._groups.values():
            if group.suspended and group.configuration is not None:
                receive(GroupSuspended(group.name))
        return lambda: self._subscribers.remove(receive)

    def refresh(self) -> None:
        """As `MembershipSource.refresh`: nothing, news comes by itself."""

    async def credential(self, group: str, gid: bytes, endpoint_id: bytes) -> Credential | None:
        """As `MembershipSource.credential`: only of a current Gid."""
        found = self._groups.get(group)
        return None if found is None else await found.credential(gid, endpoint_id)

    def running_low(self, group: str, gid: bytes, own_id: bytes) -> None:
        """As `MembershipSource.running_low`: the manager is asked for another Endpoint ID."""
        if group in self._groups:
            self._groups[group].running_low(gid, own_id)

    def unknown_gid(self, gid: bytes) -> None:
        """As `MembershipSource.unknown_gid`: if it could be a later one of a group, the manager is asked."""
        for group in self._groups.values():
            group.unknown_gid(gid)

    def _tell(self, event: MembershipEvent) -> None:
        """The state is durable already: an endpoint that cannot take an event must not keep it from others."""
        for receive in tuple(self._subscribers):
            try:
                receive(event)
            except GroupcoapError as problem:
                log.error("%s was not taken: %s", type(event).__name__, problem)

    # ---- from the network

    def _is_member(self, group: str) -> bool:
        found = self._groups.get(group)
        return found is not None and found.state is not None and not found.left

    def _rekeyed(self, group: str, payload: bytes) -> Outcome:
        return self._groups[group].rekeyed(payload)

    def _evicted(self, group: str, node: str) -> bool:
        found = self._groups[group]
        if found.state is None or node != found.state.node:
            return False
        found.leave_now("the Group Manager says so")
        return True

    def _on_multicast(self, message: coap.Message, source: SocketAddress) -> None:
        path = [value for number, value in message.options if number == coap.URI_PATH]
        format_ = message.option(coap.CONTENT_FORMAT)
        if message.code != coap.POST or len(path) != 2 or path[0] != ROOT.encode():
            return
        if format_ is None or int.from_bytes(format_, "big") != COSE_ENCRYPT0:
            return
        group = self._groups.get(path[1].decode("utf-8", "replace"))
        if group is not None:
            group.envelope(message.payload)

    def _join_controls(self) -> None:
        """Listen where the groups' rekey messages come, and nowhere else."""
        states = (group.state for group in self._groups.values())
        wanted = {state.control_group for state in states if state is not None} - {None}
        for address in wanted - self._controls:
            if address is not None:
                try:
                    self._node.join(address)
                    self._controls.add(address)
                except NetworkFault as fault:  # polls find renewals too, and it is tried again
                    log.warning("rekey messages: %s", fault)
        for address in self._controls - wanted:
            self._node.leave(address)
            self._controls.remove(address)

    async def _watch(self) -> None:
        """Look after the interface and lifetimes. Bounded by the membership's life."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            for group in self._groups.values():
                group.look_at_lifetime()
            with suppress(NetworkFault):
                if self._node.refresh():
                    self._join_controls()

    # ---- the device's keys

    def _identity(self, terms: Terms, make: bool) -> DeviceIdentity | None:
        """The device's key pair for such credentials. The first that is needed is the device's identity; others
        stand beside it. If there is none, and none is to be made: None."""
        first = self._directory / IDENTITY_FILE
        other = self._directory / f"identity-{terms.signature.name}.json"
        for path in (first, other):
            if not path.exists():
                return self._new_identity(path, terms) if make else None
            identity = load_identity(path)
            if (identity.signature.number, identity.credential.kind) == (terms.signature.number, terms.kind):
                return identity
        raise FileFault(other, f"has no {terms.kind.value} credential, which a group wants; give the device one")

    def _new_identity(self, path: Path, terms: Terms) -> DeviceIdentity:
        if terms.kind is not CredentialKind.CCS:
            raise FileFault(path, f"is missing; a group wants a {terms.kind.value} credential, give the device one")
        remove_left_behind(path)
        identity = generate_identity(self._enrolment.device, terms.signature, claims=True)
        save_identity(path, identity)
        return identity


def _key(configuration: GroupConfiguration) -> StateKey:
    return StateKey(configuration.name, configuration.current.gid, configuration.current.own_id)


def _is_known(report: StateReport, state: GroupState) -> bool:
    """Whether the device's run-time state knows of this group: then what it does not know of is new."""
    named = {key.group for key in report.used} | {group for group, _ in report.forgotten}
    return report.fault is None and state.name in named


def _is_final(group: ManagedGroup) -> bool:
    """Whether waiting will not help."""
    problem = group.problem
    if group.left or isinstance(problem, ManagerMismatch | FileFault):
        return True
    return isinstance(problem, Refused) and problem.retry_after is None and problem.code < coap.SERVICE_UNAVAILABLE
