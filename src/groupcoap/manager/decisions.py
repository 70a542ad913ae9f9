"""The Group Manager's decisions: commands in, new state and writes out.

Nothing here waits, sends or reads a clock. Who calls must make the writes (`take_writes`) durable before any effect
of a command leaves; if that fails, memory is ahead of the disk, and the manager has to stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from ..core import coap
from ..cose.credentials import Credential, CredentialKind, claims_set
from ..cose.keys import SIGNATURE_ALGORITHMS
from ..errors import MisuseError, Refused
from ..keying.admin import Scheme
from ..keying.joining import Filter, Held, KeyReport, MemberEntry, control_group_uri
from ..keying.labels import DEFAULT_CODE_POINTS, CodePoints
from ..keying.material import KeyMaterial
from ..keying.proof import manager_proof_input, prove
from ..keying.refusals import GroupError
from ..keying.rekeying import RekeyMessage
from ..keying.roles import check_combination, roles_of, tperm
from ..membership import Role
from ..secret import Secret
from .joins import Candidate, check_active, check_credential, check_join, check_proof
from .rekey.scheme import make_keyring
from .renewals import (
    Change,
    Means,
    Random,
    admin_keys,
    begin_anew,
    change_quietly,
    is_untouched,
    make_stale,
    new_secret,
    rekey_message,
    renew,
    take_prefix,
)
from .settings import MAX_NAME, GroupSettings, changed, check_name, needs_renewal
from .state import Device, Group, GroupStatus, ManagerKey, Member, Renewal, Row, key_row, load_group
from .store.store import Snapshot
from .store.writes import Delete, Insert, Update, Write

ANSWERS_KEPT = 247.0
"""Seconds for which a repeated join request is answered as before (EXCHANGE_LIFETIME, RFC 7252 §4.8.2)."""

REFUSALS_AUDITED = 1.0
"""Seconds between two entries about refusals of one device."""

CLOCK_SET_BACK = 60.0
"""Seconds by which a group may have been renewed in the future: if it is more, the clock was set back, and nobody
knows when the next renewal would come."""

MAX_JOINED = 32
"""Newcomers that a rekey message by unicast introduces; of more, members ask for those they need."""

MAX_SPREAD = 10.0
CONFIRMATIONS_PER_SECOND = 100.0
"""How many confirmations a manager wants to get in a second: members spread theirs accordingly."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a joiner is told: where it stands (`node`) and whether it is there for the first time."""

    member: Member
    created: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """What came of a batch of joins: an answer or a refusal for each, and the renewal that it took, None: none."""

    answers: tuple[Answer | Refused, ...]
    renewal: Renewal | None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a device has to know: see `member.enrolment`."""

    device: Device
    credentials: tuple[Credential, ...]


@dataclass(frozen=True, slots=True)
class _Answered:
    group: str
    node: str
    created: bool
    expires: float


def first_writes(name: str, random: Random, now: float) -> list[Write]:
    """What makes an empty database one of a new manager: its incarnation and its keys."""
    check_name(name, "manager")
    writes: list[Write] = [
        Insert("manager", {"id": 1, "incarnation": random(8), "name": name, "created": now, "settings": "{}"})
    ]
    for algorithm in SIGNATURE_ALGORITHMS.values():
        key = algorithm.generate()
        credential = claims_set(key.public_key, algorithm, name)
        writes.append(Insert("manager_keys", ManagerKey(algorithm, key, credential).row()))
    return writes


def new_incarnation(snapshot: Snapshot, random: Random, now: float) -> list[Write]:
    """What a manager that was restored from a backup begins with (docs/group-manager.md §7): nobody is a member and
    there are no associations, for both may have changed since; all groups have new prefixes and keys. Devices and
    their rights are as they were."""
    writes: list[Write] = [Update("manager", {"id": 1}, {"incarnation": random(8)})]
    for row in snapshot.rows("associations"):
        writes.append(Delete("associations", {"device": row["device"]}))
    for row in snapshot.rows("answers"):
        writes.append(Delete("answers", {"device": row["device"], "digest": row["digest"]}))
    taken = {row["prefix"] for row in snapshot.rows("prefixes")}
    number = max((row["seq"] for row in snapshot.rows("audit")), default=0)
    for row in snapshot.rows("groups"):
        number += 1
        writes += _anew(row, taken, random, now)
        detail = json.dumps({"members": sum(m["grp"] == row["grp"] for m in snapshot.rows("members"))})
        writes.append(Insert("audit", _audit_row(number, now, "operator", "restored", row["grp"], None, detail)))
    return writes


def _anew(row: Row, taken: set[bytes], random: Random, now: float) -> list[Write]:
    name = row["grp"]
    settings = GroupSettings.from_json(row["settings"], Path("backup"))
    prefix = random(settings.prefix_size)
    while prefix in taken:
        prefix = random(settings.prefix_size)
    taken.add(prefix)
    tables = ("members", "stale", "ghosts", "keys", "renewals")
    values = {
        "tag": random(4),
        "prefix": prefix,
        "epoch": 0,
        "num": row["num"] + 1,
        "gid": prefix + bytes(settings.epoch_size),
        "master_secret": new_secret(settings, random).reveal(),
        "base_iv": random(settings.wrapping.nonce_length),
        "renewed": now,
        "alarm": None,
        "state": GroupStatus.ACTIVE.value if row["state"] == GroupStatus.STOPPED.value else row["state"],
    }
    keyring = make_keyring(
        settings.rekey.scheme, settings.rekey.arity, values["tag"], settings.wrapping.key_length, (), random
    )
    return [
        *(Delete(table, {"grp": name}) for table in tables),
        *(Insert("keys", key_row(name, record)) for record in keyring.records()),
        Insert("prefixes", {"prefix": prefix, "grp": name}),
        Update("groups", {"grp": name}, values),
    ]


def _by_group(rows: Iterable[Row]) -> dict[str, Sequence[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["grp"], []).append(row)
    return {**found}


def _audit_row(
    seq: int, now: float, actor: str, event: str, group: str | None, device: str | None, detail: str
) -> Row:
    return {
        "seq": seq,
        "time": now,
        "actor": actor,
        "event": event,
        "grp": group,
        "device": device,
        "detail": detail,
    }


class GroupManager:
    """One manager with its groups. `clock`: seconds since 1970; `random`: as `os.urandom`."""

    def __init__(
        self,
        snapshot: Snapshot,
        clock: Callable[[], float],
        random: Random,
        points: CodePoints = DEFAULT_CODE_POINTS,
        place: Path = Path("database"),
    ) -> None:
        self._clock = clock
        self._random = random
        self.points = points
        row = snapshot.rows("manager")[0]
        self.name: str = row["name"]
        self.incarnation: bytes = row["incarnation"]
        self.keys = {key.algorithm.number: key for key in map(ManagerKey.of, snapshot.rows("manager_keys"))}
        self.devices: dict[str, Device] = {}
        self.by_handle: dict[bytes, Device] = {}
        self.groups: dict[str, Group] = {}
        prefixes = {row["prefix"] for row in snapshot.rows("prefixes")}
        tags = {row["tag"] for row in snapshot.rows("groups")}
        self._means = Means(self.keys, prefixes, tags, random, points)
        self._answered: dict[tuple[str, bytes], _Answered] = {}
        self.alarms: list[tuple[str, str]] = []
        """(group, alarm): what has stopped groups, for the log; who writes it takes it away."""
        self._refused: dict[str, tuple[float, int]] = {}
        """{device: (when a refusal of it was last written down, how many there were since)}."""
        self._audited = max((row["seq"] for row in snapshot.rows("audit")), default=0)
        self._change = Change()
        self._load(snapshot, place)

    def _load(self, snapshot: Snapshot, place: Path) -> None:
        for row in snapshot.rows("devices"):
            secret = Secret(row["secret"])
            device = Device(
                row["device"], row["handle"], secret, row["enrolled"], row["withdrawn"], row["note"] or ""
            )
            self._know(device)
        for row in snapshot.rows("rights"):
            self.devices[row["device"]].rights[row["grp"]] = roles_of(row["roles"])
        for row in snapshot.rows("credentials"):
            credential = Credential(CredentialKind(row["kind"]), row["data"])
            self.devices[row["device"]].credentials[row["signature"], credential.kind] = credential
        members, keys, stale, ghosts = (
            _by_group(snapshot.rows(table)) for table in ("members", "keys", "stale", "ghosts")
        )
        for row in snapshot.rows("groups"):
            name = row["grp"]
            self.groups[name] = load_group(
                row, members.get(name, ()), keys.get(name, ()), stale.get(name, ()), ghosts.get(name, ()), place
            )
        for row in snapshot.rows("renewals"):
            self.groups[row["grp"]].renewal = Renewal.of(row)
        for row in snapshot.rows("answers"):
            answered = _Answered(row["grp"], row["node"], bool(row["created"]), row["expires"])
            self._answered[row["device"], row["digest"]] = answered

    def _know(self, device: Device) -> None:
        self.devices[device.name] = device
        self.by_handle[device.handle] = device

    def take_writes(self) -> list[Write]:
        """What was decided since the last call, in the order of the decisions."""
        writes, self._change.writes = self._change.writes, []
        return writes

    # ---- the operator

    def create_group(self, settings: GroupSettings, actor: str) -> Group:
        """A new group with nobody in it, at epoch 0. `MisuseError` if there is one of this name."""
        if settings.name in self.groups:
            raise MisuseError(f"there already is a group {settings.name!r}")
        means, random = self._means, self._random
        rekey, tag = settings.rekey, means.new_tag()
        now = self._clock()
        group = Group(
            settings=settings,
            status=GroupStatus.ACTIVE,
            tag=tag,
            prefix=b"",
            epoch=0,
            num=0,
            gid=b"",
            master_secret=new_secret(settings, random),
            base_iv=random(settings.wrapping.nonce_length),
            renewed=now,
            keyring=make_keyring(rekey.scheme, rekey.arity, tag, settings.wrapping.key_length, (), random),
        )
        take_prefix(group, means, self._change)
        group.gid = group.prefix + bytes(settings.epoch_size)
        self.groups[settings.name] = group
        self._change.insert("groups", group.row())
        for record in group.keyring.records():
            self._change.insert("keys", key_row(group.name, record))
        self._audit(actor, "group created", group.name)
        return group

    def change_group(self, name: str, changes: Mapping[str, Any], actor: str) -> Renewal | None:
        """Change a group's settings; where members have to know, that is a renewal. `MisuseError` if it cannot be
        so."""
        group = self.group(name)
        settings = changed(group.settings, changes)
        before, after = group.settings.parameters, settings.parameters
        fixed = before.profile is after.profile and before.signature == after.signature
        if group.members and not (fixed and settings.credential_kind is group.settings.credential_kind):
            raise MisuseError("profile, signature algorithm and kind of credential stay while there are members")
        if settings.max_members < len(group.members):
            raise MisuseError(f"{len(group.members)} are members already")
        if any(len(endpoint_id) > settings.max_id_length for endpoint_id in group.by_id):
            raise MisuseError("there are Endpoint IDs that are too long for these algorithms")
        renewing = needs_renewal(group.settings, settings)
        if renewing and group.status is GroupStatus.STOPPED:
            raise MisuseError(f"group {name!r} is stopped: {group.alarm}")
        self._audit(actor, "group changed", name, detail={"fields": sorted(changes)})
        if renewing:
            return self._renew(group, reason="settings changed", settings=settings)
        group.settings = settings
        self._change.update("groups", {"grp": name}, {"settings": settings.to_json()})
        return None

    def set_active(self, name: str, active: bool, actor: str) -> list[Member]:
        """Serve a group, or do not. One that was stopped with an alarm begins anew, as after a restore, for numbers
        that this manager would give out next may be in use. Returns who was a member and is none any more."""
        group, former = self.group(name), []
        if group.status is GroupStatus.STOPPED:
            former = begin_anew(group, self._means, self._change, self._clock())
        self._set_status(group, GroupStatus.ACTIVE if active else GroupStatus.INACTIVE, None)
        detail = {"former": len(former)} if former else {}
        self._audit(actor, "group activated" if active else "group deactivated", name, detail=detail)
        return former

    def _set_status(self, group: Group, status: GroupStatus, alarm: str | None) -> None:
        group.status, group.alarm = status, alarm
        self._change.update("groups", {"grp": group.name}, {"state": status.value, "alarm": alarm})

    def delete_group(self, name: str, actor: str) -> list[Member]:
        """Delete a group that is not active. Returns who was a member. `MisuseError` if it is active."""
        group = self.group(name)
        if group.status is GroupStatus.ACTIVE:
            raise MisuseError(f"group {name!r} is active; deactivate it first")
        del self.groups[name]
        for key in [key for key, answered in self._answered.items() if answered.group == name]:
            self._forget_answer(key)
        for table in ("groups", "members", "stale", "ghosts", "keys", "renewals", "rights"):
            self._change.delete(table, {"grp": name})
        for device in self.devices.values():
            device.rights.pop(name, None)
        self._audit(actor, "group deleted", name)
        return list(group.members.values())

    def enroll(self, name: str, rights: Mapping[str, frozenset[Role]], actor: str, note: str = "") -> Enrolment:
        """A new device that may join these groups in these roles. `MisuseError` if there is one of this name, or no
        such group, or roles that nobody can have."""
        self.check_enrolment(name, rights)
        device = Device(name, self._new_handle(), Secret(self._random(16)), self._clock(), note=note)
        self._know(device)
        self._change.insert("devices", device.row())
        for group, roles in rights.items():
            self._set_right(device, group, roles)
        self._audit(actor, "enrolled", device=name, detail={group: tperm(roles) for group, roles in rights.items()})
        return Enrolment(device, tuple(key.credential for key in self.keys.values()))

    def enroll_again(self, name: str, actor: str) -> Enrolment:
        """A new handle and secret for a device whose enrolment file was lost, or seen by others: the former one is
        of no use any more. Rights, and memberships, stay."""
        device = self.device(name)
        del self.by_handle[device.handle]
        device.handle, device.secret = self._new_handle(), Secret(self._random(16))
        self._know(device)
        values = {"handle": device.handle, "secret": device.secret.reveal()}
        self._change.update("devices", {"device": name}, values)
        self._change.delete("associations", {"device": name})
        self._audit(actor, "enrolled again", device=name)
        return Enrolment(device, tuple(key.credential for key in self.keys.values()))

    def check_enrolment(self, name: str, rights: Mapping[str, frozenset[Role]]) -> None:
        """`MisuseError` if this device cannot be enrolled with these rights."""
        check_name(name, "device")
        if name in self.devices:
            raise MisuseError(f"there already is a device {name!r}; a new file for it: enroll {name} --again")
        for group, roles in rights.items():
            self._check_right(group, roles)

    def _new_handle(self) -> bytes:
        while True:
            handle = self._random(8)
            if handle not in self.by_handle:
                return handle

    def _check_right(self, group: str, roles: frozenset[Role]) -> None:
        """Rights may hold roles that exclude each other; each by itself must be possible in the group."""
        if not roles:
            raise MisuseError("a right names at least one role")
        for role in roles:
            check_combination(frozenset({role}), self.group(group).settings.seed)

    def _set_right(self, device: Device, group: str, roles: frozenset[Role]) -> None:
        self._change.delete("rights", {"device": device.name, "grp": group})
        self._change.insert("rights", {"device": device.name, "grp": group, "roles": tperm(roles)})
        device.rights[group] = roles

    def grant(self, name: str, group: str, roles: frozenset[Role], actor: str) -> Renewal | None:
        """Let a device join a group in these roles, instead of those it might have had. Who was withdrawn is back.
        A member in a role that it has no right to any more is none from now on, and may join again: that is a
        renewal."""
        device = self.device(name)
        self._check_right(group, roles)
        self._set_right(device, group, roles)
        if device.withdrawn is not None:
            device.withdrawn = None
            self._change.update("devices", {"device": name}, {"withdrawn": None})
        self._audit(actor, "granted", group, name, {"roles": tperm(roles)})
        member = self.groups[group].by_device.get(name)
        if member is None or member.roles <= roles:
            return None
        return self.remove(self.groups[group], member, f"{name} has other roles")

    def evict(self, group_name: str, name: str, actor: str, why: str = "") -> Renewal | None:
        """Take a device out of a group, and its right to come back. None if it was no member. `MisuseError` if
        there is nothing to take."""
        group, device = self.group(group_name), self.device(name)
        member = group.by_device.get(name)
        if member is None and group_name not in device.rights:
            raise MisuseError(f"{name!r} is neither a member of {group_name!r} nor has it a right to join")
        device.rights.pop(group_name, None)
        self._change.delete("rights", {"device": name, "grp": group_name})
        self._audit(actor, "evicted", group_name, name, {"why": why} if why else {})
        return None if member is None else self.remove(group, member, f"{name} evicted")

    def withdraw(self, name: str, actor: str) -> list[Renewal]:
        """Take a device out of everything: its host is compromised, or gone. It cannot set up an association any
        more."""
        device = self.device(name)
        device.withdrawn = self._clock()
        self._change.update("devices", {"device": name}, {"withdrawn": device.withdrawn})
        self._change.delete("associations", {"device": name})
        groups = {*device.rights, *(group.name for group in self.groups.values() if name in group.by_device)}
        renewals = [self.evict(group, name, actor) for group in sorted(groups)]
        self._audit(actor, "withdrawn", device=name)
        return [renewal for renewal in renewals if renewal is not None]

    def rekey(self, name: str, actor: str, reason: str = "by hand") -> Renewal:
        """Renew a group's Security Context because somebody wants it, or it is time."""
        group = self.group(name)
        if group.status is not GroupStatus.ACTIVE:
            why = "" if group.alarm is None else f": {group.alarm}"
            raise MisuseError(f"group {name!r} is {group.status.value}{why}")
        self._audit(actor, "rekey", name, detail={"reason": reason})
        return self._renew(group, reason=reason)

    def _renew(
        self,
        group: Group,
        *,
        reason: str,
        joiners: Sequence[Member] = (),
        leavers: Sequence[Member] = (),
        settings: GroupSettings | None = None,
    ) -> Renewal:
        now = self._clock()
        renewal = renew(
            group,
            self._means,
            self._change,
            joiners=joiners,
            leavers=leavers,
            reason=reason,
            now=now,
            settings=settings,
        )
        detail = {"num": renewal.num, "gid": renewal.gid.hex(), "reason": reason, "members": len(group.members)}
        self._audit("manager", "renewed", group.name, detail=detail)
        return renewal

    # ---- what is there

    def now(self) -> float:
        """Seconds since 1970, by the manager's clock."""
        return self._clock()

    def group(self, name: str) -> Group:
        """`MisuseError` if there is none."""
        try:
            return self.groups[name]
        except KeyError:
            raise MisuseError(f"there is no group {name!r}; there is {', '.join(self.groups) or 'none'}") from None

    def device(self, name: str) -> Device:
        """`MisuseError` if there is none."""
        try:
            return self.devices[name]
        except KeyError:
            raise MisuseError(f"no device {name!r} is enrolled") from None

    def manager_key(self, group: Group) -> ManagerKey:
        """The manager's key for this group's countersignature algorithm."""
        return self.keys[group.settings.parameters.signature.number]

    def due(self, now: float, served: float = inf) -> list[str]:
        """Groups whose period is over. `served`: seconds that the manager has been there for members to say what
        they hold, which they do once in a check interval."""
        return [
            group.name
            for group in self.groups.values()
            if group.status is GroupStatus.ACTIVE
            and group.settings.rekey.period is not None
            and not -CLOCK_SET_BACK < now - group.renewed < group.settings.rekey.period
            and served >= min(group.settings.rekey.period, group.settings.rekey.check_interval)
        ]

    def behind(self, group: Group) -> list[Member]:
        """Members that have not confirmed the current renewal."""
        return [member for member in group.members.values() if member.confirmed_num < group.num]

    def unfinished(self) -> list[Renewal]:
        """Renewals that somebody has still to be told of, after a restart say."""
        return [
            group.renewal
            for group in self.groups.values()
            if group.renewal is not None and group.renewal.finished is None
        ]

    # ---- devices: what they may ask

    def authorized(self, device_name: str, group_name: str) -> tuple[Device, Group]:
        """A device that has a right in a group, or is a member. `Refused` 4.03 otherwise, whether there is such a
        group or not: who has no right learns nothing."""
        device, group = self.devices.get(device_name), self.groups.get(group_name)
        if device is None or device.withdrawn is not None:
            raise Refused(coap.UNAUTHORIZED, "not enrolled")
        if group is None or (group_name not in device.rights and device_name not in group.by_device):
            raise Refused(coap.FORBIDDEN, "no right in this group")
        return device, group

    def member(self, device_name: str, group_name: str, node: str | None = None) -> tuple[Group, Member]:
        """The caller as a member; of this very node, if one is named. `Refused` 4.03 if it is none, or it is not
        its own."""
        _, group = self.authorized(device_name, group_name)
        member = group.by_device.get(device_name)
        if member is None:
            raise Refused(coap.FORBIDDEN, "only for members", GroupError.ONLY_FOR_MEMBERS)
        if node is not None and member.node != node:
            raise Refused(coap.FORBIDDEN, "another member's, or a former one")
        return group, member

    def check_join(self, device_name: str, group_name: str, payload: bytes, challenge: bytes) -> Candidate | Answer:
        """A join request: what to do next with it, or what it was answered before if it comes again. `Refused`
        leaves nothing but an audit entry."""
        try:
            device, group = self.authorized(device_name, group_name)
            candidate = check_join(device, group, payload, challenge)
            self._check_held(group, device_name, candidate.request.held)
        except Refused as refused:
            self._audit_refusal(device_name, group_name, refused)
            raise
        answered = self._answered.get((device_name, candidate.digest))
        member = None if answered is None else group.members.get(answered.node)
        if answered is not None and member is not None and member.device == device_name:
            return Answer(member, answered.created)
        return candidate

    def _audit_refusal(self, device: str, group: str, refused: Refused) -> None:
        """Not more than one entry for a device in `REFUSALS_AUDITED`: it could ask again and again."""
        now = self._clock()
        since, others = self._refused.get(device, (-REFUSALS_AUDITED, 0))
        if 0 <= now - since < REFUSALS_AUDITED:
            self._refused[device] = since, others + 1
            return
        self._refused[device] = now, 0
        detail = {"why": str(refused), **({"others before": others} if others else {})}
        self._audit("device", "join refused", group[:MAX_NAME], device, detail)

    def _check_held(self, group: Group, device: str, held: Held | None) -> None:
        """A member that has a later epoch than this manager knows: the manager's state is older than what was
        already used, and numbers would be given out twice. That group stops.

        Only members are believed, as far as the manager knows any: everybody else has a right to join at most, and
        has read the prefix on the air."""
        if held is None or held.gid[: -group.settings.epoch_size] != group.prefix or held.gid <= group.gid:
            return
        if group.members and device not in group.by_device:
            return
        if group.status is GroupStatus.STOPPED:
            check_active(group)
        alarm = (
            f"{device} has renewal {held.num}, later than {group.num} here: this database is older than it was; "
            f"restore a backup (manager restore), or begin anew (group activate {group.name})"
        )
        self._set_status(group, GroupStatus.STOPPED, alarm)
        self.alarms.append((group.name, alarm))
        self._audit("manager", "alarm", group.name, device, {"alarm": alarm})
        raise Refused(coap.SERVICE_UNAVAILABLE, "the group is not active", GroupError.GROUP_NOT_ACTIVE)

    def admit(self, group_name: str, candidates: Sequence[Candidate]) -> Admission:
        """Make these candidates members, by one renewal where the group wants one. Of several of one device the
        last counts. What does not fit any more is refused."""
        group = self.group(group_name)
        results: dict[int, Answer | Refused] = {}
        chosen = self._choose(group, candidates, results)
        leavers = [group.by_device[c.device.name] for c in chosen.values() if c.device.name in group.by_device]
        created = {i: c.device.name not in group.by_device for i, c in chosen.items()}
        joiners = {i: self._new_member(group, candidate) for i, candidate in chosen.items()}
        renewal = None
        if joiners:
            renewal = self._take_in(group, list(joiners.values()), leavers)
        for index, member in joiners.items():
            self._remember(group, candidates[index], member, created[index])
            results[index] = Answer(member, created[index])
        return Admission(tuple(results[index] for index in range(len(candidates))), renewal)

    def _choose(
        self, group: Group, candidates: Sequence[Candidate], results: dict[int, Answer | Refused]
    ) -> dict[int, Candidate]:
        """Those that become members. Each was good by itself; together they may be too many, or share a key."""
        chosen: dict[int, Candidate] = {}
        latest = {candidate.device.name: index for index, candidate in enumerate(candidates)}
        keys: dict[bytes, str] = {}
        room = group.settings.max_members - len(group.members)
        ids = group.ids_left(group.settings.rekey.on_join)
        for index, candidate in enumerate(candidates):
            name = candidate.device.name
            key = None if candidate.credential is None else group.public_key(candidate.credential)
            if latest[name] != index:
                results[index] = Refused(coap.SERVICE_UNAVAILABLE, "superseded by a later join")
            elif not candidate.request.roles <= candidate.device.rights.get(group.name, frozenset()):
                results[index] = Refused(coap.FORBIDDEN, "no right to these roles")
            elif group.status is not GroupStatus.ACTIVE:
                results[index] = Refused(
                    coap.SERVICE_UNAVAILABLE, "the group is not active", GroupError.GROUP_NOT_ACTIVE
                )
            elif key is not None and {keys.setdefault(key, name), group.keys.get(key, name)} != {name}:
                results[index] = Refused(
                    coap.BAD_REQUEST, "another member has this key", GroupError.INCOMPATIBLE_CREDENTIAL
                )
            elif name not in group.by_device and room <= 0:
                results[index] = Refused(coap.SERVICE_UNAVAILABLE, "the group is full")
            elif key is not None and ids <= 0:
                results[index] = Refused(
                    coap.SERVICE_UNAVAILABLE, "no Endpoint ID is left", GroupError.NO_ENDPOINT_ID
                )
            else:
                room -= name not in group.by_device
                ids -= key is not None
                chosen[index] = candidate
        return chosen

    def _new_member(self, group: Group, candidate: Candidate) -> Member:
        request = candidate.request
        node = f"n{group.sequence}"
        group.sequence += 1
        return Member(
            node=node,
            device=candidate.device.name,
            endpoint_id=None,
            roles=request.roles,
            credential=candidate.credential,
            scope=request.scope,
            nonce=request.nonce,
            joined=self._clock(),
            joined_num=group.num,
            confirmed_num=-1,
            control=request.control_uri,
        )

    def _take_in(self, group: Group, joiners: Sequence[Member], leavers: Sequence[Member]) -> Renewal | None:
        names = ", ".join(member.device for member in joiners[:3]) + (", …" if len(joiners) > 3 else "")
        if group.settings.rekey.on_join and not is_untouched(group, joiners):
            return self._renew(group, joiners=joiners, leavers=leavers, reason=f"{names} joined")
        change_quietly(group, self._means, self._change, joiners=joiners, leavers=leavers)
        return None

    def _remember(self, group: Group, candidate: Candidate, member: Member, created: bool) -> None:
        device, now = candidate.device, self._clock()
        if candidate.proved and candidate.credential is not None:
            self._store_credential(group, device, candidate.credential)
        expires = now + ANSWERS_KEPT
        self._answered[device.name, candidate.digest] = _Answered(group.name, member.node, created, expires)
        row = {"device": device.name, "digest": candidate.digest, "grp": group.name, "node": member.node}
        self._change.delete("answers", {"device": device.name, "digest": candidate.digest})
        self._change.insert("answers", {**row, "created": int(created), "expires": expires})
        identity = "" if member.endpoint_id is None else member.endpoint_id.hex()
        detail = {"node": member.node, "roles": tperm(member.roles), "endpoint_id": identity, "num": group.num}
        self._audit("device", "joined" if created else "joined again", group.name, device.name, detail)

    def _store_credential(self, group: Group, device: Device, credential: Credential) -> None:
        key = group.settings.parameters.signature.number, credential.kind
        if device.credentials.get(key) == credential:
            return
        device.credentials[key] = credential
        pk = {"device": device.name, "signature": key[0], "kind": credential.kind.value}
        self._change.delete("credentials", pk)
        self._change.insert("credentials", {**pk, "data": credential.data, "proved": self._clock()})

    def leave(self, device_name: str, group_name: str, node: str) -> Renewal | None:
        """A member leaves of its own accord; it may come back."""
        group, member = self.member(device_name, group_name, node)
        self._audit("device", "left", group_name, device_name)
        if group.settings.rekey.on_leave:
            return self.remove(group, member, f"{device_name} left")
        change_quietly(group, self._means, self._change, leavers=[member])
        self._finish(group)
        return None

    def remove(self, group: Group, member: Member, reason: str) -> Renewal | None:
        """Take somebody out, with a renewal, unless the group was stopped: then numbers might be given out
        twice."""
        if group.status is not GroupStatus.STOPPED:
            return self._renew(group, leavers=[member], reason=reason)
        change_quietly(group, self._means, self._change, leavers=[member])
        return None

    def renew_id(self, device_name: str, group_name: str, node: str) -> Member:
        """Another Endpoint ID for a member that runs out of sequence numbers (KGO §9.2): the old one is stale, and
        nobody's within this Gid."""
        group, member = self.member(device_name, group_name, node)
        check_active(group)
        if member.endpoint_id is None:
            raise Refused(coap.BAD_REQUEST, "a pure listener has no Endpoint ID", GroupError.INCONSISTENT_ROLES)
        before = member.endpoint_id
        endpoint_id = group.free_id()
        if endpoint_id is None:
            raise Refused(coap.SERVICE_UNAVAILABLE, "no Endpoint ID is left", GroupError.NO_ENDPOINT_ID)
        make_stale(group, before, self._change)
        del group.by_id[before]
        member.endpoint_id = endpoint_id
        group.by_id[endpoint_id] = member
        key = {"grp": group_name, "node": node}
        self._change.update("members", key, {"endpoint_id": endpoint_id})
        detail = {"before": before.hex(), "after": endpoint_id.hex()}
        self._audit("device", "endpoint id renewed", group_name, device_name, detail)
        return member

    def replace_credential(
        self,
        device_name: str,
        group_name: str,
        node: str,
        data: bytes,
        proof: bytes,
        nonce: bytes,
        challenge: bytes,
    ) -> None:
        """Another credential for a member, with a proof over the scope of its latest join (KGO §9.4)."""
        group, member = self.member(device_name, group_name, node)
        device = self.devices[device_name]
        check_active(group)
        if member.credential is None:
            raise Refused(coap.BAD_REQUEST, "a pure listener has no credential", GroupError.INCONSISTENT_ROLES)
        credential = Credential(group.settings.credential_kind, data)
        key = check_credential(group, device, credential)
        check_proof(key, proof, member.scope, challenge, nonce)
        group.keys.pop(group.public_key(member.credential), None)
        group.keys[key.data] = device_name
        member.credential = credential
        values = {"credential_kind": credential.kind.value, "credential": data}
        self._change.update("members", {"grp": group_name, "node": node}, values)
        self._store_credential(group, device, credential)
        self._audit("device", "credential replaced", group_name, device_name)

    def confirm(
        self, device_name: str, group_name: str, node: str, num: int, gid: bytes, control: str | None = None
    ) -> bool:
        """A member says what it has installed, and where rekey messages reach it now (None: as before). Whether
        that is the current renewal."""
        group, member = self.member(device_name, group_name, node)
        self._check_held(group, device_name, Held(gid, num))
        if control is not None and control != member.control:
            member.control = control
            self._change.update("members", {"grp": group_name, "node": node}, {"control": control})
        if gid != group.gid or num != group.num:
            return False
        self.confirmed(group, member, num)
        return True

    def confirmed(self, group: Group, member: Member, num: int) -> None:
        """It is certain that this member has installed this renewal."""
        if member.confirmed_num < num:
            member.confirmed_num, member.confirmed_at = num, self._clock()
            group.confirmed += num == group.num
            values = {"confirmed_num": num, "confirmed_at": member.confirmed_at}
            self._change.update("members", {"grp": group.name, "node": member.node}, values)
            self._finish(group)

    def _finish(self, group: Group) -> None:
        """Once everybody has it, the messages of a renewal are not needed any more."""
        renewal = group.renewal
        if renewal is None or renewal.finished is not None or group.confirmed < len(group.members):
            return
        renewal.finished, renewal.multicasts = self._clock(), ()
        row = renewal.row()
        values = {"finished": row["finished"], "multicasts": row["multicasts"]}
        self._change.update("renewals", {"grp": group.name, "num": renewal.num}, values)

    def stale_ids(self, device_name: str, group_name: str, num: int) -> frozenset[bytes] | None:
        """Endpoint IDs that ceased to be active since this num; None: too long ago to say, drop them all (KGO
        §9.7)."""
        group, _ = self.member(device_name, group_name)
        if num >= group.num or num < 0:
            raise Refused(coap.BAD_REQUEST, "not an earlier version of the keying material")
        kept = range(max(0, group.num - group.settings.stale_sets + 1), group.num + 1)
        if num not in kept:
            return None
        return frozenset().union(*(group.stale.get(version, ()) for version in range(num, group.num + 1)))

    def credentials(self, device_name: str, group_name: str, wanted: Filter | None) -> list[MemberEntry]:
        """Credentials of members, for a member: those its roles need, or those that a filter names."""
        group, member = self.member(device_name, group_name)
        if wanted is None:
            return list(group.relevant_to(member))
        others = group.by_id.values()
        fitting = {roles: wanted.fits(tperm(roles)) for roles in {other.roles for other in others}}
        entries = (other.entry() for other in others)
        return [entry for entry in entries if wanted.selects(fitting[entry.roles], entry.endpoint_id)]

    def names(self, device_name: str, gids: Iterable[bytes]) -> list[tuple[bytes, str]]:
        """The groups with these current Gids, of those that this device has to do with."""
        found = {group.gid: group for group in self.groups.values()}
        device = self.devices.get(device_name)
        return [
            (gid, found[gid].name)
            for gid in gids
            if gid in found
            and device is not None
            and (found[gid].name in device.rights or device_name in found[gid].by_device)
        ]

    # ---- what members are told

    def report(
        self,
        group: Group,
        member: Member,
        *,
        with_id: bool = True,
        with_members: bool = False,
        prove_with: bytes | None = None,
    ) -> KeyReport:
        """All that this member has to know of the group now. `prove_with`: its N_C, to prove the manager's key to
        it."""
        settings, now = group.settings, self._clock()
        key = self.manager_key(group)
        nonce = b"" if prove_with is None else self._random(8)
        proof = b"" if prove_with is None else prove(key.private_key, manager_proof_input(prove_with, nonce))
        material = KeyMaterial(
            parameters=settings.parameters,
            gid=group.gid,
            master_secret=group.master_secret,
            master_salt=b"",
            credential_kind=settings.credential_kind,
            endpoint_id=member.endpoint_id if with_id else None,
        )
        scheme = group.keyring.scheme
        return KeyReport(
            material=material,
            num=group.num,
            expires_in=settings.expires_in,
            expires_at=int(now) + settings.expires_in,
            scheme=scheme,
            admin=admin_keys(group, member),
            control_group=(
                None if scheme is Scheme.POINT_TO_POINT else control_group_uri(group.name, settings.control)
            ),
            policy=settings.policy_for(member.device),
            check_interval=max(1, int(settings.rekey.check_interval)),
            addresses=settings.addresses,
            incarnation=self.incarnation,
            roster=group.roster,
            confirm_within=self.spread(group),
            members=group.relevant_to(member) if with_members else None,
            manager_credential=key.credential,
            manager_nonce=nonce,
            manager_proof=proof,
        )

    def message_for(self, group: Group, member: Member) -> RekeyMessage:
        """The current renewal as this member gets it by unicast: with all of its management keys."""
        renewal = group.renewal
        reload = renewal is not None and renewal.reload  # then members ask, also who has left
        stale: frozenset[bytes] = frozenset() if reload else frozenset(group.stale.get(group.num - 1, ()))
        new = () if renewal is None else [group.members[node] for node in renewal.joined if node in group.members]
        joined = group.relevant_to(member, new)
        return rekey_message(
            group,
            stale=stale,
            admin=admin_keys(group, member),
            joined=joined if 0 < len(joined) <= MAX_JOINED else None,
            now=self._clock(),
            reload=reload,
        )

    def spread(self, group: Group) -> float:
        """Seconds over which members spread their confirmations, so that the manager is not swamped."""
        return min(MAX_SPREAD, max(0.2, len(group.members) / CONFIRMATIONS_PER_SECOND))

    # ---- housekeeping

    def purge(self) -> None:
        """Forget answers that nobody can ask for again."""
        now = self._clock()
        for key in [key for key, answered in self._answered.items() if answered.expires < now]:
            self._forget_answer(key)

    def _forget_answer(self, key: tuple[str, bytes]) -> None:
        del self._answered[key]
        self._change.delete("answers", {"device": key[0], "digest": key[1]})

    def _audit(
        self,
        actor: str,
        event: str,
        group: str | None = None,
        device: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        self._audited += 1
        text = json.dumps(dict(detail or {}))
        self._change.insert("audit", _audit_row(self._audited, self._clock(), actor, event, group, device, text))

    def audit(self, actor: str, event: str, **where: Any) -> None:
        """An entry of its own, for what the shell does."""
        self._audit(actor, event, **where)
