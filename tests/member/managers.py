"""A Group Manager's decisions without a network or database, and members that are fed by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from suites import DRAFT, GROUP_OSCORE, Suite

from groupcoap.core.policy import GroupPolicy
from groupcoap.cose.credentials import CredentialKind
from groupcoap.errors import Refused
from groupcoap.files.identity import DeviceIdentity, generate_identity
from groupcoap.keying.admin import Scheme
from groupcoap.keying.joining import KeyReport
from groupcoap.keying.rekeying import RekeyMessage
from groupcoap.keying.roles import sends
from groupcoap.manager.decisions import GroupManager, first_writes
from groupcoap.manager.joins import Candidate
from groupcoap.manager.settings import GroupSettings, RekeyPolicy
from groupcoap.manager.state import Group, Renewal
from groupcoap.manager.store.schema import SHAPES
from groupcoap.manager.store.store import Snapshot
from groupcoap.manager.store.writes import Insert
from groupcoap.member import updates
from groupcoap.member.dealings import JoinAttempt
from groupcoap.member.updates import CatchUp, GroupState, Ignore, Install, Refresh, Rejoin
from groupcoap.membership import GroupAddress, Role

__all__ = ["DRAFT", "GROUP_OSCORE", "Suite"]

MULTICASTER = frozenset({Role.MULTICASTER})
LISTENER = frozenset({Role.LISTENER})
PURE = frozenset({Role.PURE_LISTENER})
CHALLENGE = b"N_S-N_S-"
NAME = "room"


def snapshot() -> Snapshot:
    """Of the database of a new manager."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in SHAPES}
    for write in first_writes("manager", os.urandom, 0.0):
        assert isinstance(write, Insert)
        tables[write.table].append(dict(write.row))
    return Snapshot(tables)


def settings(
    manager: GroupManager,
    scheme: Scheme = Scheme.LKH,
    suite: Suite = DRAFT,
    port: int = 5683,
    control_port: int = 5685,
    name: str = NAME,
    **rekey: Any,
) -> GroupSettings:
    """Of a group of this manager."""
    credential = manager.keys[suite.parameters.signature.number].credential
    return GroupSettings(
        name,
        (GroupAddress(IPv4Address("224.0.1.187"), port),),
        replace(suite.parameters, manager_credential=credential),
        GroupAddress(IPv4Address("224.0.1.187"), control_port),
        credential_kind=CredentialKind.CCS,
        policy=GroupPolicy(grace=2.0),
        rekey=RekeyPolicy(scheme, **rekey),
    )


class Device:
    """A member that decides as the real one, and keeps its state here."""

    def __init__(self, desk: Desk, name: str, roles: frozenset[Role]) -> None:
        self.desk = desk
        self.name = name
        self.roles = roles
        self.identity: DeviceIdentity | None = None
        if sends(roles):
            signature = desk.group.settings.parameters.signature
            self.identity = generate_identity(name, signature, claims=True)
        self._state: GroupState | None = None

    @property
    def state(self) -> GroupState:
        assert self._state is not None
        return self._state

    @state.setter
    def state(self, state: GroupState) -> None:
        self._state = state

    def join(self) -> Renewal | None:
        """Join by a batch of one."""
        attempt = JoinAttempt(NAME, self.roles, None, None, os.urandom)
        attempt.identity = self.identity
        candidate = self.desk.manager.check_join(self.name, NAME, attempt(CHALLENGE), CHALLENGE)
        assert isinstance(candidate, Candidate)
        admission = self.desk.manager.admit(NAME, [candidate])
        (answer,) = admission.answers
        assert not isinstance(answer, Refused)
        report = self.desk.manager.report(
            self.desk.group, answer.member, with_members=self.roles != PURE, prove_with=attempt.nonce
        )
        parsed = KeyReport.parse(report.encode())
        assert parsed.manager_credential is not None
        self._state = updates.joined(
            NAME, answer.member.node, self.roles, parsed, parsed.manager_credential, self._state
        )
        return admission.renewal

    def hear(self, renewal: Renewal) -> list[updates.Decision]:
        """What this member makes of the multicasts, in the order in which they are sent; installs what is new."""
        decisions = []
        for envelope in renewal.multicasts:
            decision = updates.take_envelope(self.state, envelope)
            decisions.append(decision)
            if isinstance(decision, Install):
                self.state = decision.state
        return decisions

    def told(self) -> updates.Decision:
        """What it makes of the current renewal by unicast."""
        group, manager = self.desk.group, self.desk.manager
        message = manager.message_for(group, group.by_device[self.name])
        parsed = RekeyMessage.parse(message.encode(), seed=group.settings.seed)
        decision = updates.take_message(self.state, parsed)
        if isinstance(decision, Install):
            self.state = decision.state
            if decision.missing and self.roles != PURE:
                self.state = self.state.with_members(manager.credentials(self.name, NAME, None))
        return decision

    def report(self) -> KeyReport:
        member = self.desk.group.by_device[self.name]
        return KeyReport.parse(self.desk.manager.report(self.desk.group, member).encode())

    def catch_up(self) -> Install | Refresh | Ignore | Rejoin:
        """As if it had asked."""
        report = self.report()
        stale: frozenset[bytes] | None = frozenset()
        if report.num > self.state.num:
            stale = self.desk.manager.stale_ids(self.name, NAME, self.state.num)
        decision = updates.take_report(self.state, report, stale)
        if isinstance(decision, Install | Refresh):
            self.state = decision.state
        return decision

    def is_current(self) -> bool:
        """Whether it has exactly what the manager thinks it has."""
        group = self.desk.group
        member = group.by_device[self.name]
        report = self.desk.manager.report(group, member)
        same = (self.state.gid, self.state.num, self.state.endpoint_id) == (
            group.gid,
            group.num,
            member.endpoint_id,
        )
        secret = self.state.material.master_secret.reveal() == group.master_secret.reveal()
        return same and secret and path_of(self.state.admin) == path_of(report.admin)


def path_of(admin: Any) -> list[tuple[bytes, bytes]] | None:
    """The keys, leaf to root."""
    return None if admin is None else [(key.kid, key.key.reveal()) for key in admin.keys]


class Desk:
    """A manager with one group, "room"."""

    def __init__(self, scheme: Scheme = Scheme.LKH, suite: Suite = DRAFT, **rekey: Any) -> None:
        self.time = 1000.0
        self.manager = GroupManager(snapshot(), lambda: self.time, os.urandom)
        self.manager.create_group(settings(self.manager, scheme, suite, **rekey), "test")

    @property
    def group(self) -> Group:
        return self.manager.group(NAME)

    def device(self, name: str, roles: frozenset[Role] = LISTENER) -> Device:
        self.manager.enroll(name, {NAME: roles}, "test")
        return Device(self, name, roles)

    def members(self, roles: Mapping[str, frozenset[Role]]) -> dict[str, Device]:
        """These devices, one joining after the other; all others hear of it."""
        found: dict[str, Device] = {}
        for name, wanted in roles.items():
            device = self.device(name, wanted)
            renewal = device.join()
            if renewal is not None:
                for other in found.values():
                    if not any(isinstance(d, Install) for d in other.hear(renewal)):
                        other.told()
            found[name] = device
        return found


def installs(decisions: list[updates.Decision]) -> list[Install]:
    return [decision for decision in decisions if isinstance(decision, Install)]


def asks(decisions: list[updates.Decision]) -> list[CatchUp]:
    return [decision for decision in decisions if isinstance(decision, CatchUp)]
