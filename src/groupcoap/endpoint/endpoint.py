"""An endpoint: a device's sockets, groups and aiocoap stack. Multicasters and listeners are made from it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

import aiocoap
from aiocoap import interfaces

from ..core.synchronization import Entropy
from ..errors import MisuseError, NetworkFault
from ..files.keylog import KeyLog
from ..files.state import RuntimeState
from ..membership import GroupAddress, GroupConfiguration, MembershipSource
from .counters import Counters
from .deferred import DeferredChecks, Report, log_report
from .groups import RUNNING_LOW, Groups, ListenerPolicy
from .interface import GroupMessageInterface
from .layers import GroupMessageManager, GroupTokenManager
from .limits import DEFAULT_LIMITS, Limits
from .network import Network, NetworkOptions, SocketAddress
from .plain import open_plain
from .sites import GroupSites
from .sparing import sparing_logger

DEFAULT_LEISURE = 5.0  # RFC 7252 §8.2, seconds
REJOIN_INTERVAL = 2.0
OBSERVATION_LIFETIME = 300.0

log = logging.getLogger("groupcoap.endpoint")


class Endpoint:
    """One device on the network, in one or several groups. Use it as an asynchronous context manager:

        async with Endpoint(membership, state, NetworkOptions(interface="lo")) as endpoint:
            listener = Listener(endpoint, site)
            multicaster = Multicaster(endpoint, "room")

    `source`: where groups come from. `state`: durable sequence numbers and windows, open while the endpoint is.
    `policy`: where this listener differs from its groups. `plain_site`: served, with the same socket, to plain CoAP
    and RFC 8613; None: such requests get 4.01. `leisure`: seconds within which answers to multicast leave.
    `observation_lifetime`: seconds until an observation that is not refreshed expires at this listener.
    `report`: gets the results of deferred signature checks. `key_log`: a file to which the keys of all groups are
    added, so that captures can be decoded; None, unless somebody is looking for a fault. `limits`: how much
    peers may take up. `running_low`: with fewer sequence numbers left `source` is told."""

    def __init__(
        self,
        source: MembershipSource,
        state: RuntimeState,
        network: NetworkOptions,
        *,
        policy: ListenerPolicy | None = None,
        plain_site: interfaces.Resource | None = None,
        plain: bool = False,
        leisure: float = DEFAULT_LEISURE,
        observation_lifetime: float = OBSERVATION_LIFETIME,
        report: Report = log_report,
        key_log: Path | None = None,
        limits: Limits = DEFAULT_LIMITS,
        running_low: int = RUNNING_LOW,
        entropy: Entropy = os.urandom,
    ) -> None:
        if not (leisure >= 0 and observation_lifetime > 0):
            raise MisuseError("leisure and observation_lifetime are times in seconds")
        self.counters = Counters()
        self.leisure = leisure
        self._source = source
        self._state = state
        self._options = network
        self._policy = policy or ListenerPolicy()
        self._plain_site = plain_site
        self._plain = plain or plain_site is not None
        self._observation_lifetime = observation_lifetime
        self._report = report
        self._key_log = key_log
        self.limits = limits
        self._running_low = running_low
        self._entropy = entropy
        self.departures: set[Callable[[str, frozenset[bytes]], None]] = set()
        """Called with (group, Endpoint IDs) when members have left."""
        self.joinings: dict[Callable[[str], None], None] = {}
        """Called, in this order, with a group that this endpoint has become a member of."""
        self.commands: Counter[str] = Counter()
        """How many requests that change something were sent to each group."""
        self.renewals: set[Callable[[str], None]] = set()
        """Called with a group's name when a renewal of it has been installed."""
        self.leavings: set[Callable[[str], None]] = set()
        """Called with a group that this endpoint is no member of any more."""
        self.endings: set[Callable[[str], None]] = set()
        """Called with a group in which no exchange goes on that this endpoint has begun: it has left it, or joined
        it again (Group OSCORE §5.1)."""
        self.closings: set[Callable[[], None]] = set()
        """Called before the endpoint closes."""
        self._rejoining: asyncio.Task[None] | None = None
        self._opened = False

    async def __aenter__(self) -> Endpoint:
        """Open sockets and groups. `NetworkFault`, `StateLost`, `MisuseError` if that cannot be, `FileFault` if the
        key log cannot be opened."""
        if self._opened:
            raise MisuseError("an endpoint is opened once")
        self._opened = True
        key_log = None if self._key_log is None else KeyLog(self._key_log)
        self.groups = Groups(
            self._source,
            self._state,
            self._policy,
            self._entropy,
            self._departed,
            key_log,
            self.limits,
            self._running_low,
        )
        self.network = Network(self._options, self._receive, self.limits, self.counters.reached)
        try:
            for version in self._versions():
                self.network.open_unicast(version)
        except Exception:
            self.network.close()
            self.groups.close()
            raise
        self._build_stack()
        self.groups.changed = self._group_changed
        self.groups.rejoined = self._end_exchanges
        self.groups.renewed = self._renewed
        self._rejoining = asyncio.get_running_loop().create_task(self._rejoin())
        return self

    def _versions(self) -> set[int]:
        if self._options.bind is not None:
            return {self._options.bind.version}
        names = self.groups.names
        return {a.host.version for name in names for a in self.groups.configuration(name).addresses}

    def _build_stack(self) -> None:
        self.sites = GroupSites()
        self.context = aiocoap.Context(serversite=self.sites, loggername=sparing_logger("groupcoap.coap").name)
        reached = self.counters.reached
        self.tokens = GroupTokenManager(
            self.context, self.limits, reached, self._forget, self._observation_lifetime
        )
        self.messages = GroupMessageManager(self.tokens, self.groups.can_respond)
        self.deferred = DeferredChecks(self._report, self.limits)
        self.interface = GroupMessageInterface(
            self.messages,
            self.network,
            self.groups,
            self.counters,
            self.deferred,
            leisure=self.leisure,
            limits=self.limits,
        )
        self.fetches = asyncio.Semaphore(self.limits.fetches)
        self.messages.message_interface = self.interface
        self.tokens.token_interface = self.messages
        self.context.request_interfaces.append(self.tokens)
        self.plain_context: aiocoap.Context | None = None
        if self._plain:
            self.plain_context, self.interface.plain = open_plain(
                self._plain_site, self.network, self.messages, self.tokens, self.interface.may_answer
            )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the multicast addresses, stop all timers and tasks, close the sockets."""
        if self._rejoining is not None:
            self._rejoining.cancel()
            await asyncio.gather(self._rejoining, return_exceptions=True)
        for close in tuple(self.closings):
            close()
        await self.context.shutdown()
        if self.plain_context is not None:
            await self.plain_context.shutdown()
        await self.deferred.close()
        self.network.close()
        self.groups.close()

    def _receive(self, datagram: bytes, source: SocketAddress, destination: bytes | None) -> None:
        self.interface.receive(datagram, source, destination)

    def _forget(self, token: bytes) -> None:
        self.interface.forget(token)

    def _departed(self, group: str, endpoint_ids: frozenset[bytes]) -> None:
        if endpoint_ids:
            self.tokens.end_incoming_of(group, endpoint_ids)
            for departed in tuple(self.departures):
                departed(group, endpoint_ids)

    def _group_changed(self, group: str, before: GroupConfiguration | None, why: str | None) -> None:
        """This endpoint has joined or left a group at run time, or the group has other addresses."""
        if why is not None:
            self.tokens.end_incoming_of(group)
            for leave in tuple(self.leavings):
                leave(group)
            self._end_exchanges(group)
        elif before is None:
            for join in tuple(self.joinings):
                join(group)
        if before is not None:
            self.leave(before.addresses)
        self._join_served()

    def _renewed(self, group: str) -> None:
        for renewed in tuple(self.renewals):
            renewed(group)

    def _end_exchanges(self, group: str) -> None:
        for end in tuple(self.endings):
            end(group)
        self.interface.end_outgoing_of(group)

    def _join_served(self) -> None:
        """Join what served groups need and could not be joined so far."""
        for address in self._served_addresses():
            try:
                self.network.join(address)
            except NetworkFault as fault:
                log.warning("not listening there yet: %s", fault)

    def _served_addresses(self) -> list[GroupAddress]:
        return self.addresses([name for name in self.sites.groups if name in self.groups.names])

    async def _rejoin(self) -> None:
        """Watch for the interface going away and coming back, and for renewals. Bounded by the endpoint's life."""
        up = True
        while True:
            await asyncio.sleep(REJOIN_INTERVAL)
            self._source.refresh()
            was_up, up = up, self.network.refresh()
            if up != was_up:
                state = "back" if up else "gone"
                log.warning("interface %s is %s", self.network.interface, state)
            if up:
                self._join_served()

    # ---- what is done with it

    def addresses(self, groups: Sequence[str]) -> list[GroupAddress]:
        """The multicast addresses of these groups, each once."""
        found = [address for name in groups for address in self.groups.configuration(name).addresses]
        return list(dict.fromkeys(found))

    def leave(self, addresses: Iterable[GroupAddress]) -> None:
        """Leave those of these multicast addresses that no served group needs."""
        self.network.leave(set(addresses) - set(self._served_addresses()))
