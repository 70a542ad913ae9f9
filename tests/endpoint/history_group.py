"""The group of a history: its epochs, and its members' devices with their processes over real state files."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
from history_air import Air, Wish
from history_model import DRAFT as DRAFT_RULES
from history_model import GROUP_OSCORE as GROUP_OSCORE_RULES
from history_model import Asked, Incoming, NodeModel, Policy, Promise
from suites import DRAFT, Suite
from world import Source

from groupcoap.core.coap import Message
from groupcoap.core.contexts import CommonContext, SecurityContext
from groupcoap.core.exchange import IncomingExchange, OutgoingExchange, outgoing_exchange
from groupcoap.core.policy import GroupPolicy, Verification
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.cose.keys import PrivateKey
from groupcoap.endpoint.groups import Groups, ListenerPolicy
from groupcoap.endpoint.limits import Limits
from groupcoap.errors import StateLost
from groupcoap.files import journal, state
from groupcoap.files.pending import PendingRequest
from groupcoap.files.state import EndpointState, StateKey
from groupcoap.membership import (
    CredentialLearned,
    Epoch,
    EpochInstalled,
    GroupAddress,
    GroupConfiguration,
    Member,
    MemberLeft,
    Role,
)
from groupcoap.secret import Secret
from support import private_key

GROUP = "room"
ADDRESS = IPv4Address("224.0.1.187")

SWITCH, REMOTE, LAMP, FAN, LOCK, GAUGE = "switch", "remote", "lamp", "fan", "lock", "gauge"
IDS: dict[str, bytes | None] = {
    SWITCH: b"\x01",
    REMOTE: b"",  # the shortest there is
    LAMP: b"\x00",
    FAN: b"\x00\x01",  # the switch's, but for its length
    LOCK: b"\x7f" * 7,  # the longest there is
    GAUGE: None,  # a pure listener
}
PLACES = tuple(IDS)
PLACE_OF = {kid: place for place, kid in IDS.items() if kid is not None}
MULTICASTERS = (SWITCH, REMOTE)
STRANGER = b"\x55"  # nobody's Endpoint ID

LIGHT, DOOR, VENT = b"light", b"door", b"vent"
RESOURCES = (LIGHT, DOOR, VENT)
WAIVED = {LIGHT: Verification.SKIP, VENT: Verification.DEFER}

# No sum of the clock's steps, which are multiples of 1/4, meets one of these.
CHALLENGE_LIFETIME = 30.1
RECHALLENGE_AFTER = 1.1
GRACE = 20.3

NEVER = 1e12  # in seconds of the machine's clock, which is not the history's

WITHOUT_RATES = Limits(challenge_rate=1e6, challenge_rate_per_peer=1e6)  # rates have tests of their own

Result = TypeVar("Result")


class Death(BaseException):
    """A process has died in the middle of writing to its state file. `durable`: whether the record is there; None:
    all of it but its newline."""

    def __init__(self, durable: bool | None) -> None:
        super().__init__()
        self.durable = durable


class Storage:
    """The operating system as the journal sees it: it can stop a process within a write, and does not wait for the
    disk, for no power fails here. `cut`: bytes of the next record that still reach the file."""

    def __init__(self) -> None:
        self.cut: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.cut is None:
            return os.write(descriptor, data)
        os.write(descriptor, data[: self.cut])
        left = len(data) - self.cut
        raise Death(None if left == 1 else left < 1)

    def fdatasync(self, descriptor: int) -> None:
        """Nothing is waited for."""


def make_ids_fit(monkeypatch: pytest.MonkeyPatch, suite: Suite) -> None:
    """The longest Endpoint ID that there is is shorter where nonces are."""
    longest = suite.common_context(bytes(12), Secret(b"any"), b"").max_id_length
    before = IDS[LOCK]
    assert before is not None
    if len(before) > longest:
        monkeypatch.setitem(IDS, LOCK, before[:longest])
        monkeypatch.setitem(PLACE_OF, before[:longest], LOCK)


def virtual_storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    """What every history needs. Reservations and journals are small, so that their ends are met."""
    storage = Storage()
    monkeypatch.setattr(journal, "os", storage)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(state, "BLOCK", 5)
    monkeypatch.setattr(state, "COMPACT_AT", 1500)
    return storage


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def within(self, call: Callable[[], Result]) -> Result:
        """Call this as the loop would, and then whatever is due."""

        async def inside() -> Result:
            result = call()
            await asyncio.sleep(0)
            return result

        return self.run_until_complete(inside())


@dataclass(frozen=True)
class Setup:
    """What a history begins with. `methods`: the group's, the fan's, the lock's. `verification`: of lamp, fan and
    lock; None: by resource. `overlooked`: see `NodeModel`. `suite`: what the group is protected with."""

    methods: tuple[Method, Method, Method] = (Method.CHALLENGE_RESPONSE, Method.BASELINE, Method.BEST_EFFORT)
    verification: tuple[Verification | None, ...] = (Verification.ALWAYS,) * 3
    max_gap: int | None = None
    overlooked: tuple[Promise, ...] = ()
    suite: Suite = DRAFT


@dataclass(frozen=True)
class GroupEpoch:
    """The group as its manager has it. `keys`: the members' private keys by place, a pure listener's too, which has
    no use for it. `left`: Endpoint IDs of those who left with this renewal. `follows`: the Gid shows that this is
    the next epoch."""

    index: int
    gid: bytes
    keys: dict[str, PrivateKey]
    left: frozenset[bytes]
    grace: float
    follows: bool
    suite: Suite

    @property
    def salt(self) -> bytes:
        """The Master Salt, where there is one."""
        return sha256(b"salt of " + self.gid).digest()[:8] if self.suite.bound else b""

    @property
    def common(self) -> CommonContext:
        return self._common(Secret(sha256(b"secret of " + self.gid).digest()))

    @property
    def guessed(self) -> CommonContext:
        """What somebody outside makes of it, who knows all but the Master Secret."""
        return self._common(Secret(b"a guess"))

    def _common(self, secret: Secret) -> CommonContext:
        return self.suite.common_context(self.gid, secret, self.salt)

    def owner(self, kid: bytes) -> PrivateKey | None:
        """The key of who has this Endpoint ID."""
        return next((key for place, key in self.keys.items() if IDS[place] == kid), None)

    def owns(self, kid: bytes, key: PrivateKey) -> bool:
        """Whether this is the key of who has this Endpoint ID."""
        return any(IDS[place] == kid and owner is key for place, owner in self.keys.items())

    def members(self, unknown: str | None = None) -> tuple[Member, ...]:
        """Those with an Endpoint ID, less one."""
        return tuple(
            Member(kid, place, frozenset({Role.LISTENER}), self.suite.credential(key.public_key))
            for place, key in self.keys.items()
            if (kid := IDS[place]) is not None and place != unknown
        )


@dataclass
class Pending:
    """A request that a node may answer, or, with a `repeat` value, must challenge."""

    exchange: IncomingExchange
    asked: Asked
    request: Message
    model: Incoming
    repeat: bytes | None


@dataclass(frozen=True)
class Doubt:
    """A 4.03 that a multicaster has got from a listener."""

    wish: Wish
    repeat: bytes
    place: str


@dataclass
class Process:
    """What is gone when a node dies."""

    state: EndpointState
    groups: Groups
    pending: list[Pending] = field(default_factory=list)
    outgoing: dict[bytes, list[OutgoingExchange]] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    answers: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)

    def uses(self, context: SecurityContext) -> bool:
        """As in `GroupMessageInterface`: whether a pending exchange needs this."""
        return any(exchange.context is context for exchanges in self.outgoing.values() for exchange in exchanges)


@dataclass
class Node:
    """A place in the group with the device that is in it now. `at`: the epoch whose Security Context the last
    process had; `before`: the one that it had before; `stored`: the one that its membership source starts with.
    `cut`: see `Storage`."""

    place: str
    key: PrivateKey
    path: Path
    listener_policy: ListenerPolicy
    model: NodeModel
    at: int
    stored: int
    source: Source = field(default_factory=lambda: Source([]))
    before: int | None = None
    told: dict[int, GroupConfiguration] = field(default_factory=dict)
    process: Process | None = None
    is_member: bool = True
    has_state: bool = True
    cut: int | None = None

    @property
    def kid(self) -> bytes | None:
        return IDS[self.place]


@dataclass(frozen=True)
class Former:
    """A member that has left, with all that it has learned: its key, and the epochs until then."""

    place: str
    key: PrivateKey
    epochs: tuple[GroupEpoch, ...]


class Group:
    """What becomes of the group and its devices. What was `reached` is counted, so that a test can tell whether its
    histories were worth it."""

    def __init__(self, directory: Path, storage: Storage, setup: Setup | None = None) -> None:
        self.setup = setup or Setup()
        self.suite = self.setup.suite
        self.air = Air(clear_signatures=not self.suite.bound)
        self.reached: Counter[str] = Counter()
        self.loop = VirtualLoop()
        self.formers: list[Former] = []
        self.evicted: set[str] = set()
        self._directory = directory
        self._storage = storage
        self._devices = count(1)
        self._entropy = count(1)
        self._prefix = 0
        self.epochs = [
            GroupEpoch(
                0, self._gid(0), {place: self._new_key() for place in IDS}, frozenset(), 0.0, True, self.suite
            )
        ]
        self.nodes: dict[str, Node] = {}
        try:
            for place in PLACES:
                self._fill(place)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """No more of this."""
        for node in self.nodes.values():
            self._bury(node)
        self.loop.close()

    # ---- devices

    def _gid(self, number: int) -> bytes:
        return sha256(b"prefix %d" % self._prefix).digest()[:8] + number.to_bytes(4, "big")

    def _new_key(self) -> PrivateKey:
        key: PrivateKey = private_key(b"device %d" % next(self._devices))
        return key

    def _fill(self, place: str) -> None:
        """A new device comes into this place and starts."""
        epoch = self.epochs[-1]
        path = self._directory / f"{next(self._devices)}.journal"
        EndpointState.create(path, [StateKey(GROUP, epoch.gid, IDS[place])])
        policy = self._listener_policy(place)
        model = NodeModel(self._policy(place, policy), self.setup.overlooked)
        node = Node(place, epoch.keys[place], path, policy, model, epoch.index, epoch.index)
        self._tell(node, epoch, epoch.left, None)
        self.nodes[place] = node
        self.start(node)

    def _listener_policy(self, place: str) -> ListenerPolicy:
        if place not in (LAMP, FAN, LOCK):
            return ListenerPolicy()
        which = (LAMP, FAN, LOCK).index(place)
        own = None if place == LAMP else self._synchronization(self.setup.methods[which])
        return ListenerPolicy(own, self.setup.verification[which] or _by_resource)

    def _synchronization(self, method: Method) -> SynchronizationPolicy:
        return SynchronizationPolicy(
            method, CHALLENGE_LIFETIME, RECHALLENGE_AFTER, repeat_length=8, max_gap=self.setup.max_gap
        )

    def _policy(self, place: str, policy: ListenerPolicy) -> Policy:
        """The same, for the model."""
        method = self.setup.methods[0] if policy.synchronization is None else policy.synchronization.method
        if IDS[place] is None and method is Method.CHALLENGE_RESPONSE:
            method = Method.BASELINE  # it has nothing to protect a 4.03 with (§9)
        verification = policy.verification

        def waives(resource: bytes) -> bool:
            if self.suite.bound:  # every signature is verified first (Group OSCORE §7.2)
                return False
            if callable(verification):
                return resource in WAIVED
            return verification not in (None, Verification.ALWAYS)

        rules = GROUP_OSCORE_RULES if self.suite.bound else DRAFT_RULES
        return Policy(method.value, CHALLENGE_LIFETIME, RECHALLENGE_AFTER, self.setup.max_gap, waives, rules)

    def _tell(
        self, node: Node, epoch: GroupEpoch, departed: frozenset[bytes], unknown: str | None
    ) -> GroupConfiguration:
        """The group as this node is told of it. The Endpoint ID of one that has left may be another's by now."""
        own = node.kid
        members = epoch.members(unknown)
        gone = departed - {member.endpoint_id for member in members}
        private = None if own is None else node.key
        credential = None if private is None else self.suite.credential(private.public_key)
        secret = epoch.common.master_secret
        configuration = GroupConfiguration(
            GROUP,
            addresses=(GroupAddress(ADDRESS),),
            roles=frozenset({Role.PURE_LISTENER if own is None else Role.LISTENER}),
            epochs=(Epoch(epoch.gid, secret, own, private, members, gone, epoch.salt, credential),),
            policy=GroupPolicy(self._synchronization(self.setup.methods[0]), grace=epoch.grace),
            **self.suite.of_configuration,
        )
        node.told[epoch.index] = configuration
        return configuration

    # ---- their processes

    def start(self, node: Node, *, forgetful: bool = False) -> None:
        """Start the node's process from what is stored. `forgetful`: its membership source has not stored the last
        renewal, although it had told of it."""
        if node.process is not None or not node.is_member:
            return
        index = node.stored
        if forgetful and index == node.at and node.before is not None:
            index = node.before
        try:
            opened = EndpointState.open(node.path)
        except StateLost:
            if node.has_state:
                raise
            self.reached["silent without its state"] += 1
            return
        if not node.has_state:
            node.model.broken(Promise.SILENCE, f"{node.place} has started")
        node.source = Source([node.told[index]])
        try:
            groups = self._groups(node, opened)
        except StateLost:
            drop(opened)
            if index == node.stored:
                raise
            self.reached["kept from going back to an epoch that is over"] += 1
            self.start(node)
            return
        node.process = Process(opened, groups)
        groups.in_use = node.process.uses
        self._started(node, index)

    def _groups(self, node: Node, opened: EndpointState) -> Groups:
        def entropy(length: int) -> bytes:
            return next(self._entropy).to_bytes(length, "big")

        return Groups(
            node.source, opened, node.listener_policy, entropy, lambda group, ids: None, limits=WITHOUT_RATES
        )

    def _started(self, node: Node, index: int) -> None:
        renewed = index > node.at
        if index != node.at:
            self.reached["renewed while it was down" if renewed else "gone back an epoch"] += 1
            node.before, node.at, node.stored = (node.at if renewed else None), index, index
        epoch = node.told[index].current
        known = [member.endpoint_id for member in epoch.members]
        node.model.restart(epoch.gid, epoch.own_id, known, epoch.departed, renewed=renewed)
        self._take_up_exchanges(node)

    def _take_up_exchanges(self, node: Node) -> None:
        """As `Multicaster.left_over` and `GroupMessageInterface.resume`: go on collecting the answers to what the
        process before has asked."""
        process = node.process
        assert process is not None
        remembered = process.groups.pending
        context = process.groups.current(GROUP)
        for token, request in tuple(remembered.left_over.items()):
            del remembered.left_over[token]
            if context.gid != request.gid or context.sender is None:
                remembered.ended(token)
                continue
            exchange = outgoing_exchange(
                context,
                (request.own_id, request.partial_iv, request.gid),
                context.sender.bind(request.partial_iv),
                context.common.nonce(request.own_id, request.partial_iv),
                False,
            )
            exchange.resume(request.answered)
            process.outgoing[token] = [exchange]
            self.reached["an exchange taken up again"] += 1

    def remember(self, node: Node, token: bytes, exchange: OutgoingExchange) -> None:
        """As `GroupMessageInterface` when a request to the group leaves."""
        assert node.process is not None
        kid, partial_iv, gid = exchange.ids
        request = PendingRequest(token, GROUP, gid, kid, partial_iv, 0.0, NEVER, frozenset())
        node.process.groups.pending.sent(request)

    def stop(self, node: Node) -> None:
        """A clean stop."""
        if node.process is not None:
            node.process.groups.close()
            node.process.state.close()
            node.process = None
            node.cut = None

    def kill(self, node: Node) -> None:
        """The process ends where it stands."""
        if node.process is not None:
            self.reached["killed"] += 1
        self._bury(node)

    def _bury(self, node: Node) -> None:
        if node.process is not None:
            node.process.groups.close()  # a dead process's timers do not fire; nothing is written by this
            drop(node.process.state)
            node.process = None
            node.cut = None

    def lose_state(self, node: Node) -> None:
        """The process ends, and somebody deletes its state file."""
        self.kill(node)
        if node.is_member and node.has_state:
            node.path.unlink()
            node.has_state = False
            node.model.lose_everything()

    def tear(self, node: Node, kept: int) -> None:
        """Within its next write to the journal the process will die; so many bytes of the record will remain."""
        if node.process is not None:
            node.cut = kept

    @contextmanager
    def alive(self, node: Node) -> Iterator[None]:
        """What the node does in here it does until it dies, which `Death` says."""
        self._storage.cut = node.cut
        try:
            yield
        except Death:
            self.reached["died within a write"] += 1
            self._storage.cut = None
            self._bury(node)
            raise
        finally:
            self._storage.cut = None

    def wait(self, seconds: float) -> None:
        """Time passes; timers fire."""
        self.loop.now += seconds
        self.loop.within(lambda: None)

    # ---- the group

    def renew(
        self,
        leaver: str | None = None,
        *,
        returning: bool = False,
        grace: float = 0.0,
        fresh_prefix: bool = False,
    ) -> None:
        """A new Security Context for the group; its members do not know of it yet. With `returning` every empty
        place is filled by a device that has never been in the group, under the Endpoint ID of the one before."""
        last = self.epochs[-1]
        leaving = self.evicted | {place for place in last.keys if place == leaver}
        for place in leaving:
            self._send_away(place)
        self.evicted = set()
        keys = {place: key for place, key in last.keys.items() if place not in leaving}
        newcomers = [place for place in PLACES if place not in keys] if returning else []
        keys |= {place: self._new_key() for place in newcomers}
        self._prefix += fresh_prefix
        number = 0 if fresh_prefix else int.from_bytes(last.gid[8:], "big") + 1
        self.epochs.append(
            GroupEpoch(last.index + 1, self._gid(number), keys, _ids(leaving), grace, not fresh_prefix, self.suite)
        )
        for place in newcomers:
            self._fill(place)
            self.reached["an Endpoint ID given to another device"] += 1

    def _send_away(self, place: str) -> None:
        node = self.nodes[place]
        if node.is_member:
            self._bury(node)
            node.is_member = False
            known = tuple(epoch for epoch in self.epochs if epoch.keys.get(place) is node.key)
            self.formers.append(Former(place, node.key, known))

    def evict(self, place: str) -> None:
        """This member has left, and the group is renewed only later."""
        if len(self.evicted) < 2 and self.nodes[place].is_member:
            self._send_away(place)
            self.evicted.add(place)

    def tell_who_left(self, node: Node) -> None:
        """This node is told who has left without a renewal."""
        gid, ids = self.epochs[-1].gid, _ids(self.evicted)
        if node.process is None or not ids or node.at != self.epochs[-1].index:
            return
        told = node.told[node.at].current
        members = tuple(member for member in told.members if member.endpoint_id not in ids)
        self._amend(node, replace(told, members=members, departed=told.departed | ids))
        self.loop.within(lambda: node.source.tell(MemberLeft(GROUP, gid, ids)))
        node.model.members_left(ids)

    def learn(self, node: Node) -> None:
        """The node is told the credentials that it was not told before."""
        epoch = self.epochs[node.at]
        for member in epoch.members():
            told, kid = node.told[node.at].current, member.endpoint_id
            heard_of = {known.endpoint_id for known in told.members} | told.departed
            if node.process is None or kid in heard_of or PLACE_OF[kid] in self.evicted:
                continue
            self._amend(node, replace(told, members=(*told.members, member)))
            self.loop.within(partial(node.source.tell, CredentialLearned(GROUP, epoch.gid, member)))
            node.model.contexts[epoch.gid].known.add(kid)
            self.reached["a credential learned late"] += 1

    def _amend(self, node: Node, epoch: Epoch) -> None:
        """The node's membership source knows more about its present epoch."""
        amended = replace(node.told[node.at], epochs=(epoch,))
        node.told[node.at] = node.source.configurations[0] = amended

    def install(self, node: Node, *, newest: bool = True, unknown: str | None = None) -> None:
        """The node is told of the next epoch or of the newest, at once, or when it starts if it does not run.
        `unknown`: a member whose credential it is not told."""
        known, latest = (node.stored if node.has_state else max(node.told)), max(node.told)
        later = [epoch for epoch in self.epochs if epoch.index > known and epoch.index >= latest]
        if not later or not node.is_member:
            return
        epoch = later[-1] if newest else later[0]
        if epoch.keys.get(node.place) is not node.key:
            return
        gone = frozenset(kid for e in self.epochs[node.at + 1 : epoch.index + 1] for kid in e.left)
        if unknown is not None and IDS[unknown] in gone:
            unknown = None
        configuration = self._tell(node, epoch, gone, unknown)
        node.stored = epoch.index
        if not node.has_state:
            self._provision_again(node, epoch)
        elif node.process is not None:
            with suppress(Death):
                self._announce(node, epoch, configuration, gone)

    def _provision_again(self, node: Node, epoch: GroupEpoch) -> None:
        """A node that has lost its state gets a new one, with a new Gid and no Gid that it may have used."""
        used = [(GROUP, self.epochs[index].gid) for index in node.told if index != epoch.index]
        EndpointState.create(node.path, [StateKey(GROUP, epoch.gid, node.kid)], forgotten=used, replace=True)
        node.has_state = True
        node.at, node.before = epoch.index, None
        self.reached["back with a new Gid after its state was lost"] += 1

    def _announce(
        self, node: Node, epoch: GroupEpoch, configuration: GroupConfiguration, gone: frozenset[bytes]
    ) -> None:
        process = node.process
        assert process is not None
        node.source.configurations[0] = configuration
        with self.alive(node):
            self.loop.within(lambda: node.source.tell(EpochInstalled(configuration)))
        skipped = epoch.index != node.at + 1
        self.reached["a renewal skipped" if skipped else "a renewal installed"] += 1
        self.reached["a renewal with an answer pending"] += bool(process.pending)
        installed = configuration.current
        node.model.install(
            epoch.gid,
            installed.own_id,
            [member.endpoint_id for member in installed.members],
            gone,
            grace=epoch.grace,
            now=self.loop.now,
            follows=False if skipped else None if not epoch.follows else True,
        )
        node.before, node.at = node.at, epoch.index


def drop(opened: EndpointState) -> None:
    """Let go of a state as the operating system does when the process dies: descriptors are closed, and the lock
    goes with them; no record says that it has stopped."""
    opened._journal.close()
    opened._pending.close()
    opened._lock.release()


def _ids(places: set[str]) -> frozenset[bytes]:
    return frozenset(kid for place in places if (kid := IDS[place]) is not None)


def _by_resource(code: int, path: tuple[bytes, ...]) -> Verification:
    return WAIVED.get(path[0] if path else b"", Verification.ALWAYS)
