"""What an operator can ask for, by name, with JSON in and out: the same for a running manager and for its database
alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MisuseError
from ..files.documents import Json
from ..files.identity import credential_json
from ..membership import Role
from .decisions import Enrolment, GroupManager
from .home import ManagerConfiguration, endpoint_text
from .settings import GroupSettings
from .state import Group, Member, Renewal

OPERATOR = "operator"


@dataclass(slots=True)
class Outcome:
    """What came of it: for the operator, and what has to follow once it is durable."""

    result: Json = field(default_factory=dict)
    renewals: list[Renewal] = field(default_factory=list)
    dismissed: list[tuple[str, Member]] = field(default_factory=list)


class Operations:
    """`perform` does one of `NAMES`."""

    def __init__(self, manager: GroupManager, configuration: ManagerConfiguration, place: Path) -> None:
        self._manager = manager
        self._configuration = configuration
        self._place = place

    def perform(self, name: str, arguments: Mapping[str, Any]) -> Outcome:
        """Do it. `MisuseError`, `FileFault` if it cannot be done: then nothing has changed."""
        operation: Callable[..., Outcome] | None = getattr(self, f"do_{name}", None)
        if operation is None:
            raise MisuseError(f"{name!r} is nothing that a manager does")
        try:
            return operation(**arguments)
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise MisuseError(f"{name}: wrong arguments") from None

    # ---- groups

    def do_create_group(self, settings: str) -> Outcome:
        """`settings`: as `GroupSettings.to_json` makes them, with this manager's credential (`do_credentials`)."""
        group = self._manager.create_group(GroupSettings.from_json(settings, self._place), OPERATOR)
        return Outcome(self._group(group))

    def do_change_group(self, group: str, settings: str) -> Outcome:
        """`settings`: all of them, as they are to be."""
        before = self._manager.group(group).settings
        after = GroupSettings.from_json(settings, self._place)
        if before.name != after.name:
            raise MisuseError("the name of a group does not change")
        names = [name for name in GroupSettings.__slots__ if name not in ("name", "rekey")]
        changes = {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}
        changes |= {
            name: getattr(after.rekey, name)
            for name in type(after.rekey).__slots__
            if getattr(after.rekey, name) != getattr(before.rekey, name)
        }
        renewal = self._manager.change_group(group, changes, OPERATOR)
        return Outcome({"changed": sorted(changes)}, [] if renewal is None else [renewal])

    def do_set_active(self, group: str, active: bool) -> Outcome:
        """Who was a member of a group that begins anew is not told that it is none: it is to find out and join
        again."""
        former = self._manager.set_active(group, active, OPERATOR)
        return Outcome({"join_again": len(former)})

    def do_delete_group(self, group: str) -> Outcome:
        former = self._manager.delete_group(group, OPERATOR)
        return Outcome({"members": len(former)}, dismissed=[(group, member) for member in former])

    def do_groups(self) -> Outcome:
        return Outcome({"groups": [self._group(group) for group in self._manager.groups.values()]})

    def do_group(self, group: str) -> Outcome:
        found = self._manager.group(group)
        return Outcome({**self._group(found), "settings": found.settings.to_json()})

    def _group(self, group: Group) -> Json:
        renewal = group.renewal
        return {
            "name": group.name,
            "state": group.status.value,
            "alarm": group.alarm,
            "profile": group.settings.parameters.profile.name,
            "scheme": group.keyring.scheme.name,
            "addresses": [str(address) for address in group.settings.addresses],
            "num": group.num,
            "gid": group.gid.hex(),
            "renewed": group.renewed,
            "members": len(group.members),
            "behind": [member.device for member in self._manager.behind(group)],
            "renewal": None
            if renewal is None
            else {"reason": renewal.reason, "started": renewal.started, "finished": renewal.finished},
        }

    # ---- devices

    def do_enroll(self, devices: list[Mapping[str, Any]]) -> Outcome:
        """Each: `device`, `rights` {group: [role, …]}, `note`. All of them or none."""
        manager = self._manager
        names = [entry["device"] for entry in devices]
        taken = [name for name in names if name in manager.devices or names.count(name) > 1]
        if taken:
            raise MisuseError(
                f"there already is a device {taken[0]!r}, or it stands there twice; nobody was enrolled "
                f"(a new file for it: enroll {taken[0]} --again)"
            )
        wanted = [(entry["device"], _rights(entry["rights"]), entry.get("note", "")) for entry in devices]
        for name, rights, _ in wanted:
            manager.check_enrolment(name, rights)
        enrolled = [manager.enroll(name, rights, OPERATOR, note) for name, rights, note in wanted]
        return Outcome({"enrolments": [self._enrolment(enrolment) for enrolment in enrolled]})

    def do_credentials(self) -> Outcome:
        """What the manager itself is known by, for each signature algorithm."""
        return Outcome({"credentials": self._credentials})

    @property
    def _credentials(self) -> list[Json]:
        keys = self._manager.keys.values()
        return [{"signature": key.algorithm.number, **credential_json(key.credential)} for key in keys]

    def _enrolment(self, enrolment: Enrolment) -> Json:
        """The body of a device's enrolment file; it holds the device's secret."""
        device = enrolment.device
        return {
            "device": device.name,
            "handle": device.handle.hex(),
            "secret": device.secret.reveal().hex(),
            "manager": {
                "addresses": [endpoint_text(endpoint) for endpoint in self._configuration.reached_at],
                "credentials": self._credentials,
            },
            "groups": [
                {"name": group, "roles": [role.value for role in Role if role in _default(roles)]}
                for group, roles in device.rights.items()
            ],
        }

    def do_enroll_again(self, device: str) -> Outcome:
        return Outcome({"enrolments": [self._enrolment(self._manager.enroll_again(device, OPERATOR))]})

    def do_grant(self, device: str, group: str, roles: list[str]) -> Outcome:
        renewal = self._manager.grant(device, group, _roles(roles), OPERATOR)
        return Outcome({"joins_again": renewal is not None}, [] if renewal is None else [renewal])

    def do_devices(self) -> Outcome:
        manager = self._manager
        return Outcome(
            {
                "devices": [
                    {
                        "device": device.name,
                        "enrolled": device.enrolled,
                        "withdrawn": device.withdrawn,
                        "note": device.note,
                        "rights": {
                            group: [role.value for role in Role if role in roles]
                            for group, roles in device.rights.items()
                        },
                        "member_of": [
                            group.name for group in manager.groups.values() if device.name in group.by_device
                        ],
                    }
                    for device in manager.devices.values()
                ]
            }
        )

    def do_evict(self, group: str, device: str, why: str = "") -> Outcome:
        member = self._manager.group(group).by_device.get(device)
        renewal = self._manager.evict(group, device, OPERATOR, why)
        return Outcome(
            {"was_member": member is not None, "num": self._manager.group(group).num},
            [] if renewal is None else [renewal],
            [] if member is None else [(group, member)],
        )

    def do_withdraw(self, device: str) -> Outcome:
        manager = self._manager
        found = [
            (group.name, group.by_device[device]) for group in manager.groups.values() if device in group.by_device
        ]
        renewals = manager.withdraw(device, OPERATOR)
        return Outcome({"groups": [group for group, _ in found]}, renewals, found)

    def do_rekey(self, group: str, why: str = "by hand") -> Outcome:
        renewal = self._manager.rekey(group, OPERATOR, why)
        return Outcome({"num": renewal.num, "gid": renewal.gid.hex()}, [renewal])

    def do_members(self, group: str) -> Outcome:
        found = self._manager.group(group)
        return Outcome(
            {
                "group": group,
                "num": found.num,
                "members": [
                    {
                        "device": member.device,
                        "node": member.node,
                        "endpoint_id": None if member.endpoint_id is None else member.endpoint_id.hex(),
                        "roles": [role.value for role in Role if role in member.roles],
                        "joined": member.joined,
                        "confirmed_num": member.confirmed_num,
                        "confirmed_at": member.confirmed_at,
                        "behind": member.confirmed_num < found.num,
                        "control": member.control,
                    }
                    for member in found.members.values()
                ],
            }
        )

    def do_status(self) -> Outcome:
        manager = self._manager
        return Outcome(
            {
                "name": manager.name,
                "incarnation": manager.incarnation.hex(),
                "time": manager.now(),
                "devices": len(manager.devices),
                "groups": [self._group(group) for group in manager.groups.values()],
            }
        )


def _default(rights: frozenset[Role]) -> frozenset[Role]:
    """The roles that a device takes unless it is told otherwise: all that it may, but for one that excludes
    another."""
    return rights - {Role.PURE_LISTENER} if Role.LISTENER in rights else rights


def _roles(names: list[str]) -> frozenset[Role]:
    try:
        return frozenset(Role(name) for name in names)
    except ValueError:
        known = ", ".join(role.value for role in Role)
        raise MisuseError(f"roles are {known}") from None


def _rights(rights: Mapping[str, list[str]]) -> dict[str, frozenset[Role]]:
    return {group: _roles(roles) for group, roles in rights.items()}
