"""A Group Manager without a network: its database in memory, a clock that stands, and devices that keep everything
they ever received.

A device installs as a real one does (`member.updates`), and beside that it is an attacker: all keys that it ever
got, together with every multicast that was ever on the air, are what `World.closure` begins with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeVar

from groupcoap.core.policy import profile_by_name
from groupcoap.cose.algorithms import aead_algorithm, key_agreement
from groupcoap.cose.credentials import Credential, claims_set
from groupcoap.cose.keys import DEFAULT_SIGNATURE, PrivateKey
from groupcoap.errors import MisuseError, Refused
from groupcoap.keying.admin import AdminKey
from groupcoap.keying.envelope import parse_envelope
from groupcoap.keying.joining import Held, JoinRequest, KeyReport
from groupcoap.keying.proof import client_proof_input, manager_proof_input, prove, verifies
from groupcoap.keying.rekeying import RekeyMessage
from groupcoap.manager.decisions import Admission, Answer, GroupManager, first_writes, new_incarnation
from groupcoap.manager.joins import Candidate
from groupcoap.manager.settings import GroupSettings, RekeyPolicy, control_for
from groupcoap.manager.state import Group, GroupStatus, Member, Renewal
from groupcoap.manager.store.schema import SHAPES, shape_of
from groupcoap.manager.store.store import Snapshot
from groupcoap.manager.store.writes import Delete, Insert, Row, Update, Write
from groupcoap.member.updates import (
    Decision,
    GroupState,
    Ignore,
    Install,
    Refresh,
    Rejoin,
    joined,
    take_envelope,
    take_message,
    take_report,
)
from groupcoap.membership import GroupAddress, Role, SecurityParameters
from groupcoap.secret import Secret

T = TypeVar("T")

MULTICASTER = frozenset({Role.MULTICASTER})
LISTENER = frozenset({Role.LISTENER})
PURE = frozenset({Role.PURE_LISTENER})
BOTH = MULTICASTER | LISTENER
SENDING_PURE = MULTICASTER | PURE
EVERY_ROLE = frozenset(Role)

SEED_PROFILE, STANDARD_PROFILE = "multicast-oscore-04", "group-oscore"
NONE: frozenset[str] = frozenset()


class MemoryStore:
    """The manager's tables as the database keeps them, and as strict."""

    def __init__(self, tables: Mapping[str, Mapping[Any, Row]] | None = None) -> None:
        self.tables: dict[str, dict[Any, Row]] = {
            name: dict(tables[name]) if tables is not None else {} for name in SHAPES
        }

    def copy(self) -> MemoryStore:
        return MemoryStore(self.tables)

    def commit(self, writes: Sequence[Write]) -> None:
        for write in writes:
            shape, rows = shape_of(write.table), self.tables[write.table]
            if isinstance(write, Insert):
                shape.check(write.row)
                row = {**dict.fromkeys(shape.columns), **write.row}
                assert shape.pk_of(row) not in rows, f"inserted twice into {write.table}"
                rows[shape.pk_of(row)] = row
                self._check_row(write.table, row)
            elif isinstance(write, Update):
                shape.check(write.values)
                assert shape.pk_of(write.key) in rows, f"updated but not there: {write.table}"
                row = {**rows[shape.pk_of(write.key)], **write.values}
                rows[shape.pk_of(write.key)] = row
                self._check_row(write.table, row)
            else:
                assert isinstance(write, Delete)
                assert write.key
                for pk in [pk for pk, row in rows.items() if write.key.items() <= row.items()]:
                    del rows[pk]

    def _check_row(self, table: str, row: Row) -> None:
        shape = shape_of(table)
        for column in shape.table.columns:
            sealed = column.name in shape.sealed
            assert column.nullable or sealed or row[column.name] is not None, f"{table}.{column.name} is null"
        for name in shape.unique:
            assert sum(other[name] == row[name] for other in self.tables[table].values()) == 1

    def load(self) -> Snapshot:
        return Snapshot({name: [dict(rows[pk]) for pk in sorted(rows)] for name, rows in self.tables.items()})


class Content(NamedTuple):
    """What somebody who holds `key` reads in an envelope."""

    key: bytes
    secret: bytes
    keys: tuple[tuple[bytes, bytes], ...]


Knowledge = tuple[dict[bytes, bytes], set[bytes]]
"""({kid: key}, Master Secrets)."""


@dataclass
class Thing:
    """A device: its private key, its state as a member, and all that it ever received. `entitled`: Master Secrets
    of the time when it was a member. `requests`: its newest join request to each group, `sent`: all, by N_C."""

    name: str
    key: PrivateKey
    challenge: bytes
    states: dict[str, GroupState] = field(default_factory=dict)
    keys: dict[bytes, bytes] = field(default_factory=dict)
    secrets: set[bytes] = field(default_factory=set)
    entitled: set[bytes] = field(default_factory=set)
    requests: dict[str, bytes] = field(default_factory=dict)
    sent: dict[bytes, JoinRequest] = field(default_factory=dict)

    @property
    def credential(self) -> Credential:
        return claims_set(self.key.public_key, DEFAULT_SIGNATURE, self.name)

    def learn(self, message: RekeyMessage | KeyReport) -> None:
        """Keep what this says, whether or not it is of any use."""
        secret = message.master_secret if isinstance(message, RekeyMessage) else message.material.master_secret
        self.secrets.add(secret.reveal())
        for key in message.admin.keys if message.admin is not None else ():
            assert self.keys.setdefault(key.kid, key.key.reveal()) == key.key.reveal()


class Broken(AssertionError):
    """A promise was not kept."""


def parameters_of(profile: str, manager: Credential) -> SecurityParameters:
    chosen = profile_by_name(profile)
    if not chosen.rules.pairwise:
        return SecurityParameters(chosen, manager_credential=manager)
    return SecurityParameters(
        chosen, group_encryption=aead_algorithm(10), key_agreement=key_agreement(-27), manager_credential=manager
    )


def picture(manager: GroupManager) -> dict[str, Any]:
    """All that a manager knows but the contents of its audit log, to be compared."""
    return {
        "name": manager.name,
        "incarnation": manager.incarnation,
        "keys": {number: key.row() for number, key in manager.keys.items()},
        "devices": {
            name: (device.row(), dict(device.rights), dict(device.credentials))
            for name, device in manager.devices.items()
        },
        "handles": {handle: device.name for handle, device in manager.by_handle.items()},
        "groups": {name: picture_of_group(group) for name, group in manager.groups.items()},
        "prefixes": set(manager._means.prefixes),
        "answered": {
            key: (found.group, found.node, found.created, found.expires) for key, found in manager._answered.items()
        },
    }


def picture_of_group(group: Group) -> dict[str, Any]:
    return {
        "row": group.row(),
        "settings": group.settings,
        "members": {node: member.row(group.name) for node, member in group.members.items()},
        "by_device": {name: member.node for name, member in group.by_device.items()},
        "by_id": {endpoint_id: member.node for endpoint_id, member in group.by_id.items()},
        "keys": dict(group.keys),
        "confirmed": group.confirmed,
        "quiet": (set(group.unplaced), set(group.ghosts)),
        "stale": {num: set(ids) for num, ids in group.stale.items() if ids},
        "records": {
            record.node: (record.parent, record.generation, record.key.reveal(), record.member)
            for record in group.keyring.records()
        },
        "placed": set(group.keyring.members),
        "scheme": group.keyring.scheme,
        "paths": {node: path_of(group, node) for node in group.keyring.members},
        "renewal": None if group.renewal is None else group.renewal.row(),
    }


def path_of(group: Group, node: str) -> tuple[tuple[bytes, bytes], ...]:
    """The management keys that this member must know now."""
    if node in group.unplaced:
        return ()
    return tuple((key.kid, key.key.reveal()) for key in group.keyring.path(node))


class World:
    """A manager, its database, devices, and what was on the air. Everything is decided by `seed` and who calls."""

    def __init__(self, seed: int = 0) -> None:
        self.randomness = random.Random(seed)
        self.now = 1_000_000.0
        self.store = MemoryStore()
        self.store.commit(first_writes("gm", self.random, self.now))
        self.things: dict[str, Thing] = {}
        self.air: list[tuple[str, bytes]] = []
        self.readable: dict[bytes, list[Content]] = {}
        self.kids: dict[bytes, bytes] = {}
        self.used_nonces: dict[tuple[bytes, bytes], bytes] = {}
        self.secret_of: dict[bytes, bytes] = {}
        self.gid_of: dict[bytes, bytes] = {}
        self.holders: dict[bytes, dict[bytes, str]] = {}
        self.device_of: dict[tuple[str, bytes, str], str] = {}
        self.retired: dict[bytes, set[bytes]] = {}
        self.prefixes: dict[bytes, tuple[str, int]] = {}
        self.newest: dict[tuple[str, int], tuple[int, bytes]] = {}
        self.lives: dict[str, int] = {}
        self.current: dict[str, bytes] = {}
        self.previous: dict[str, bytes] = {}
        self.crash = False
        self.crashed = 0
        self.refused = 0
        self.start()

    def random(self, length: int) -> bytes:
        return self.randomness.randbytes(length)

    def clock(self) -> float:
        return self.now

    def start(self) -> None:
        """The manager as a new process: it knows what was committed."""
        self.manager = GroupManager(self.store.load(), self.clock, self.random)

    # ---- commands

    def command(self, call: Callable[[GroupManager], T]) -> T | None:
        """Let the manager decide something and commit it. None if it was killed before it could (`crash`): it never
        happened then. What raises must have changed nothing."""
        before, manager = picture(self.manager), self.manager
        try:
            result = call(manager)
        except (Refused, MisuseError):
            self._check_nothing_happened(before)
            raise
        writes = manager.take_writes()
        if self.crash:
            self.crash = False
            self.crashed += 1
            self.start()
            assert picture(self.manager) == before
            return None
        self.store.commit(writes)
        self._look()
        return result

    def _check_nothing_happened(self, before: dict[str, Any]) -> None:
        self.refused += 1
        writes = self.manager.take_writes()
        self.store.commit(writes)
        stopped = [g for g in self.manager.groups.values() if g.status is GroupStatus.STOPPED]
        for group in stopped:  # an alarm is the one thing that may come of a refusal
            if before["groups"][group.name]["row"]["state"] != GroupStatus.STOPPED.value:
                before["groups"][group.name] = picture_of_group(group)
                writes = [write for write in writes if write.table != "groups"]
        if any(write.table != "audit" for write in writes):
            raise Broken(f"a refusal that has written to {sorted({write.table for write in writes})}")
        if picture(self.manager) != before:
            raise Broken("a refusal that has changed something")

    def _look(self) -> None:
        """Take down what there is now; afterwards it can only be recognized."""
        for group in self.manager.groups.values():
            secret = group.master_secret.reveal()
            self.secret_of.setdefault(group.gid, secret)
            self.gid_of.setdefault(secret, group.gid)
            for record in group.keyring.records():
                key = record.admin(group.tag)
                if self.kids.setdefault(key.kid, key.key.reveal()) != key.key.reveal():
                    raise Broken("a kid of two keys")
            for member in group.members.values():
                self.things[member.device].entitled.add(secret)
                self.device_of[group.name, group.tag, member.node] = member.device
            self._check_ids(group)
            if self.current.get(group.name) != group.gid:
                self.previous[group.name] = self.current.get(group.name, b"")
                self.current[group.name] = group.gid

    # ---- the operator

    def settings(
        self, name: str = "room", profile: str = SEED_PROFILE, number: int = 1, **changes: Any
    ) -> GroupSettings:
        addresses = (GroupAddress(ip_address(f"224.0.1.{number}")),)
        rekey = {key: changes.pop(key) for key in list(changes) if key in RekeyPolicy.__slots__}
        manager = self.manager.keys[DEFAULT_SIGNATURE.number].credential
        return GroupSettings(
            name,
            addresses,
            parameters_of(profile, manager),
            control_for(addresses),
            rekey=RekeyPolicy(**rekey),
            **changes,
        )

    def create(self, settings: GroupSettings, epoch: int = 0) -> Group:
        """A new group; as if it had had so many renewals, of which nobody knows anything."""

        def make(manager: GroupManager) -> Group:
            group = manager.create_group(settings, "op")
            group.epoch = epoch
            group.gid = group.prefix + epoch.to_bytes(settings.epoch_size, "big")
            manager._change.update("groups", {"grp": group.name}, {"epoch": epoch, "gid": group.gid})
            return group

        self.lives[settings.name] = self.lives.get(settings.name, 0) + 1
        group = self.command(make)
        assert group is not None
        return group

    def enroll(self, name: str, *groups: str, roles: frozenset[Role] = EVERY_ROLE) -> Thing:
        key = DEFAULT_SIGNATURE.private_key(Secret(self.random(32)))
        thing = self.things[name] = Thing(name, key, self.random(8))
        self.command(lambda manager: manager.enroll(name, dict.fromkeys(groups, roles), "op"))
        return thing

    # ---- joining

    def request(self, name: str, group: str, roles: frozenset[Role], **changes: Any) -> JoinRequest:
        """A good join request, with some of its fields changed; the proof is made last, unless it is given."""
        thing = self.things[name]
        sends = roles != PURE
        state = thing.states.get(group)
        request = JoinRequest(
            group,
            roles,
            self.random(8),
            retrieve=sends,
            credential=thing.credential.data if sends else None,
            control_uri=f"coap://192.0.2.1:5683/ace-group/{group}/node",
            held=None if state is None else Held(state.gid, state.num),
        )
        request = replace(request, **{key: value for key, value in changes.items() if key != "proof"})
        if "proof" in changes:
            request = replace(request, proof=changes["proof"])
        elif request.credential:
            signed = client_proof_input(request.scope, thing.challenge, request.nonce)
            request = replace(request, proof=prove(thing.key, signed))
        thing.sent[request.nonce] = request
        return request

    def sparing(self, name: str, group: str, roles: frozenset[Role], **changes: Any) -> JoinRequest:
        """One that says no more than it has to."""
        settings, device = self.manager.groups[group].settings, self.manager.devices[name]
        known = device.credentials.get((settings.parameters.signature.number, settings.credential_kind))
        if roles == PURE or known != self.things[name].credential:
            return self.request(name, group, roles, **changes)
        if settings.seed:
            return self.request(name, group, roles, credential=None, proof=None, **changes)
        return self.request(name, group, roles, proof=b"", **changes)

    def check_join(self, name: str, group: str, request: JoinRequest | bytes) -> Candidate | Answer | None:
        payload = request if isinstance(request, bytes) else request.encode()
        thing = self.things[name]
        thing.requests[group] = payload
        return self.command(lambda manager: manager.check_join(name, group, payload, thing.challenge))

    def admit(
        self,
        group: str,
        candidates: Sequence[Candidate],
        *,
        lost: frozenset[str] = NONE,
        silent: frozenset[str] = NONE,
        unanswered: frozenset[str] = NONE,
    ) -> Admission | None:
        admission = self.command(lambda manager: manager.admit(group, candidates))
        if admission is None:
            return None
        if admission.renewal is not None:
            self.distribute(admission.renewal, lost, silent)
        for answer in admission.answers:
            if isinstance(answer, Answer) and answer.member.device not in unanswered:
                self.answer(group, answer.member)
                if answer.member.device not in silent:
                    self.confirm(answer.member.device, group)
        return admission

    def join(self, name: str, group: str = "room", roles: frozenset[Role] = LISTENER, **lost: Any) -> Member:
        """One device joins, and it must work."""
        candidate = self.check_join(name, group, self.request(name, group, roles))
        assert isinstance(candidate, Candidate)
        admission = self.admit(group, [candidate], **lost)
        assert admission is not None
        (answer,) = admission.answers
        assert isinstance(answer, Answer)
        return answer.member

    def answer(self, group: str, member: Member) -> KeyReport | None:
        """The Join Response, if this still is a member."""
        current = self.manager.groups.get(group)
        if current is None or current.members.get(member.node) is not member:
            return None
        thing = self.things[member.device]
        request = thing.sent[member.nonce]
        payload = self.manager.report(
            current, member, with_members=request.retrieve, prove_with=member.nonce
        ).encode()
        report = KeyReport.parse(payload)
        credential = current.settings.parameters.manager_credential
        assert credential is not None
        assert report.manager_credential == credential
        signed = manager_proof_input(request.nonce, report.manager_nonce)
        assert verifies(credential.public_key(DEFAULT_SIGNATURE), report.manager_proof, signed)
        thing.learn(report)
        before = thing.states.get(group)
        thing.states[group] = joined(group, member.node, member.roles, report, credential, before)
        return report

    # ---- renewals

    def distribute(
        self, renewal: Renewal | None, lost: frozenset[str] = NONE, silent: frozenset[str] = NONE
    ) -> dict[str, list[Decision]]:
        """Multicasts to everybody, unicasts to whom `Delivery` sends them at once. `lost`: devices that get
        nothing, `silent`: those whose confirmations do not arrive. Returns what each has made of what it got."""
        decisions: dict[str, list[Decision]] = {}
        if renewal is None:
            return decisions
        group = self.manager.groups[renewal.group]
        ready = {name for name in self._ready(group, renewal) if name not in lost}
        for data in renewal.multicasts:
            self._record(group, data)
        for data in self.randomness.sample(renewal.multicasts, len(renewal.multicasts)):
            for name in self.things:
                if name not in lost:
                    decisions.setdefault(name, []).extend(self.hear(name, group.name, data))
        for member in list(group.members.values()):
            present = member.joined_num < renewal.num and member.confirmed_num < renewal.num
            if present and (renewal.unicasts or member.node in renewal.direct) and member.device not in lost:
                decisions.setdefault(member.device, []).append(self.tell(member.device, group, member))
        for name, made in decisions.items():
            installed = sum(isinstance(one, Install) for one in made)
            if installed > 1 or (name in ready and not installed and not renewal.reload):
                raise Broken(f"a renewal that was installed {installed} times: {made}")
            if installed and self.things[name].states[group.name].num != group.num:
                raise Broken("another renewal than that which was sent")
            if installed and name not in silent:
                self.confirm(name, group.name)
        return decisions

    def _ready(self, group: Group, renewal: Renewal) -> list[str]:
        """Members that must be able to follow this renewal, if they get it."""
        stale = group.stale.get(renewal.num - 1, set())
        return [
            member.device
            for member in group.members.values()
            if member.joined_num < renewal.num
            and (state := self.things[member.device].states.get(group.name)) is not None
            and (state.node, state.gid) == (member.node, self.previous[group.name])
            and state.endpoint_id not in stale
        ]

    def _record(self, group: Group, data: bytes) -> None:
        self.air.append((group.name, data))
        envelope = parse_envelope(data)
        key, aead = self.kids[envelope.kid], group.settings.wrapping
        nonce = bytes(a ^ b for a, b in zip(group.base_iv, envelope.partial_iv, strict=True))
        if self.used_nonces.setdefault((key, nonce), data) != data:
            raise Broken("two messages under one key and nonce")
        admin = AdminKey(envelope.kid, Secret(key), 1, 0)
        public = self.manager.manager_key(group).private_key.public_key
        plaintext = envelope.open(admin, aead, group.base_iv, public)
        message = RekeyMessage.parse(plaintext, seed=group.settings.seed)
        assert message.admin is not None
        keys = tuple((new.kid, new.key.reveal()) for new in message.admin.keys)
        self.readable.setdefault(envelope.kid, []).append(Content(key, message.master_secret.reveal(), keys))

    def hear(self, name: str, group: str, data: bytes) -> list[Decision]:
        """A multicast arrives at a device."""
        thing = self.things[name]
        state = thing.states.get(group)
        if state is None:
            return []
        decision = take_envelope(state, data)
        if isinstance(decision, Install):
            thing.states[group] = decision.state
        return [decision]

    def tell(self, name: str, group: Group, member: Member) -> Decision:
        """The current renewal over a member's association."""
        payload = self.manager.message_for(group, member).encode()
        message = RekeyMessage.parse(payload, seed=group.settings.seed)
        thing = self.things[name]
        thing.learn(message)
        state = thing.states.get(group.name)
        if state is None or state.node != member.node:
            return Ignore("its Join Response was lost")
        decision = take_message(state, message)
        if isinstance(decision, Install):
            thing.states[group.name] = decision.state
        return decision

    def confirm(self, name: str, group: str) -> bool | None:
        """PUT …/num, if the device takes itself for a member."""
        state = self.things[name].states.get(group)
        if state is None:
            return None
        num, gid, node = state.num, state.gid, state.node
        return self.command(lambda manager: manager.confirm(name, group, node, num, gid))

    def catch_up(self, name: str, group: str) -> Install | Refresh | Ignore | Rejoin | None:
        """GET …/nodes/NODE and, if it has missed something, FETCH …/stale-sids. Who is no member finds out."""
        thing = self.things[name]
        state = thing.states.get(group)
        if state is None:
            return None
        manager = self.manager
        try:
            current, member = manager.member(name, group, state.node)
        except Refused:  # 4.01 or 4.03: it finds out
            del thing.states[group]
            return Rejoin("no member any more")
        report = KeyReport.parse(manager.report(current, member).encode())
        thing.learn(report)
        stale = None
        if report.num > state.num and report.incarnation == state.incarnation:
            stale = manager.stale_ids(name, group, state.num)
        decision = take_report(state, report, stale)
        if isinstance(decision, Install | Refresh):
            thing.states[group] = decision.state
        elif isinstance(decision, Rejoin):
            del thing.states[group]
        return decision

    # ---- the past comes back

    def restore(self, store: MemoryStore) -> None:
        """Begin anew from this backup (`groupcoap.manager` as a new incarnation)."""
        self.store = store.copy()
        self.store.commit(new_incarnation(self.store.load(), self.random, self.now))
        self.begin_lives()
        self.start()
        self._look()

    def begin_lives(self) -> None:
        """Numbers may begin anew in every group."""
        for name in self.lives:
            self.lives[name] += 1

    # ---- promises

    def closure(self, names: Iterable[str]) -> Knowledge:
        """All that follows from what these devices ever received, together with all that was on the air."""
        keys: dict[bytes, bytes] = {}
        secrets: set[bytes] = set()
        for name in names:
            keys.update(self.things[name].keys)
            secrets |= self.things[name].secrets
        growing = list(keys)
        while growing:
            kid = growing.pop()
            for content in self.readable.get(kid, ()):
                if content.key == keys[kid]:
                    secrets.add(content.secret)
                    growing += [new for new, _ in content.keys if new not in keys]
                    keys.update(content.keys)
        return keys, secrets

    def check(self) -> None:
        """Everything that must hold between two commands."""
        loaded = GroupManager(self.store.load(), self.clock, self.random)
        if picture(loaded) != picture(self.manager):
            raise Broken(f"memory is not what is stored: {difference(picture(self.manager), picture(loaded))}")
        if loaded._audited != self.manager._audited:
            raise Broken("the audit log is counted otherwise")
        self._look()
        for group in self.manager.groups.values():
            self._check_numbers(group)
            self._check_members(group)
            self._check_outsiders(group)
        for name, thing in self.things.items():
            if not self.closure([name])[1] <= thing.entitled:
                raise Broken(f"{name} can derive a Master Secret of a time when it was no member")

    def _check_numbers(self, group: Group) -> None:
        secret, life = group.master_secret.reveal(), (group.name, self.lives[group.name])
        if self.secret_of[group.gid] != secret or self.gid_of[secret] != group.gid:
            raise Broken("a Gid with two Master Secrets, or the other way round")
        if self.prefixes.setdefault(group.prefix, life) != life:
            raise Broken("a prefix that there was before")
        num, gid = self.newest.get(life, (-1, b""))
        if (gid != group.gid) != (num < group.num) or num > group.num:
            raise Broken("a Gid without a number, or the other way round")
        self.newest[life] = group.num, group.gid
        assert group.gid[: -group.settings.epoch_size] == group.prefix

    def _check_ids(self, group: Group) -> None:
        holders, retired = self.holders.setdefault(group.gid, {}), self.retired.setdefault(group.gid, set())
        active = {member.endpoint_id: member for member in group.members.values() if member.endpoint_id is not None}
        if len(active) != sum(member.endpoint_id is not None for member in group.members.values()):
            raise Broken("an Endpoint ID that two members have")
        for endpoint_id, member in active.items():
            if endpoint_id in retired or holders.setdefault(endpoint_id, member.node) != member.node:
                raise Broken("an Endpoint ID that was active before under this Gid")
            assert len(endpoint_id) <= group.settings.max_id_length
            assert (member.roles == PURE) == (member.endpoint_id is None) == (member.credential is None)
        retired |= holders.keys() - active.keys()

    def _check_members(self, group: Group) -> None:
        """Who has installed the current renewal has exactly its path, and attributes no Endpoint ID to somebody who
        never had it."""
        holders = self.holders[group.gid]
        for member in group.members.values():
            state = self.things[member.device].states.get(group.name)
            if state is None or state.node != member.node or state.gid != group.gid:
                continue
            assert state.num == group.num
            assert state.material.master_secret.reveal() == group.master_secret.reveal()
            held = () if state.admin is None else tuple((key.kid, key.key.reveal()) for key in state.admin.keys)
            if held != path_of(group, member.node):
                raise Broken(f"{member.device} has not its path: {len(held)} keys")
            for entry in state.members:
                owner = self.device_of.get((group.name, group.tag, holders.get(entry.endpoint_id, "")))
                if owner != entry.name:
                    raise Broken(f"{member.device} takes {owner} for {entry.name}")

    def outsiders(self, group: Group) -> list[str]:
        """Devices that are no members, and did not leave under the current Gid without a renewal."""
        secret = group.master_secret.reveal()
        return [
            name
            for name, thing in self.things.items()
            if name not in group.by_device and secret not in thing.entitled
        ]

    def _check_outsiders(self, group: Group) -> None:
        outsiders = self.outsiders(group)
        keys, secrets = self.closure(outsiders)
        if group.master_secret.reveal() in secrets:
            raise Broken(f"{outsiders} together can derive the Master Secret")
        current = {record.admin(group.tag).kid for record in group.keyring.records()}
        if not current.isdisjoint(keys):
            raise Broken(f"{outsiders} together can derive a current key-encryption key")
        if not secrets <= set().union(*(self.things[name].entitled for name in outsiders)):
            raise Broken(f"{outsiders} together can derive a Master Secret of a time when none was a member")
        for member in group.members.values():
            nodes = [node for node in group.keyring.members if self._owner(group, node) == member.device]
            own = {kid for node in nodes for kid, _ in path_of(group, node)}
            if not self.closure([member.device])[0].keys() & current <= own:
                raise Broken(f"{member.device} knows a key that is not on its path")

    def _owner(self, group: Group, node: str) -> str:
        return self.device_of[group.name, group.tag, node]


def difference(a: Any, b: Any, where: str = "") -> str:
    """Where two pictures differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = [
            difference(a.get(key), b.get(key), f"{where}/{key}") for key in {**a, **b} if a.get(key) != b.get(key)
        ]
        return "; ".join(found)
    return f"{where}: {a!r} / {b!r}"
