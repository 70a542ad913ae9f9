"""Groups from files: a device's directory, and the membership source that reads nothing else."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..cose.credentials import Credential
from ..errors import FileFault, GroupcoapError
from ..membership import CredentialLearned, EpochInstalled, GroupConfiguration, MembershipEvent
from .atomic import describe
from .group import EVICTED_SUFFIX, GROUP_SUFFIX, GroupFile, load_group, read_group
from .identity import IDENTITY_FILE, DeviceIdentity, load_identity
from .state import StateKey

STATE_FILE = "state.journal"
"""The name of the run-time state's file in a device's directory."""

ENROLMENT_FILE = "enrolment.json"
"""The name of the file that a device with a Group Manager has."""

LOOK_INTERVAL = 0.25
"""Seconds between two looks at the files, at least."""

log = logging.getLogger("groupcoap.membership")


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """The files of one device. `identity` is None where all its groups have it as pure listener. `groups` are in
    the order of their files' names, which are `paths`; `state` is the path of the run-time state, which may not
    exist."""

    directory: Path
    identity: DeviceIdentity | None
    groups: tuple[GroupConfiguration, ...]
    paths: tuple[Path, ...]
    state: Path

    @property
    def name(self) -> str:
        """What people call the device: the identity's name, or the directory's."""
        return self.identity.name if self.identity is not None else self.directory.resolve().name

    @property
    def membership(self) -> ProvisionedMembership:
        """These groups, as endpoints take them."""
        return ProvisionedMembership(self.groups, self.paths)

    def only(self, group: str) -> MemberFiles:
        """The same with this group alone."""
        at = [configuration.name for configuration in self.groups].index(group)
        return replace(self, groups=(self.groups[at],), paths=(self.paths[at],))


def load_member(path: Path) -> MemberFiles:
    """The files of a device. `path`: its directory, for all its groups, or one group file, for that one alone.
    `FileFault` if any of them is missing or cannot be used."""
    if os.path.isdir(path):
        directory, paths = path, group_paths(path)
    else:
        directory, paths = path.parent, [path]
    files = [read_group(group) for group in paths]
    _refuse_same_names(files)
    identity = next((file.identity for file in files if file.identity is not None), None)
    if identity is None and os.path.exists(directory / IDENTITY_FILE):
        identity = load_identity(directory / IDENTITY_FILE)
    groups = tuple(file.configuration for file in files)
    return MemberFiles(directory, identity, groups, tuple(paths), directory / STATE_FILE)


def state_keys(configuration: GroupConfiguration) -> tuple[StateKey, ...]:
    """The keys under which an endpoint with this group keeps run-time state: one for each epoch."""
    return tuple(StateKey(configuration.name, epoch.gid, epoch.own_id) for epoch in configuration.epochs)


class ProvisionedMembership:
    """A `MembershipSource` of groups in files, and of what becomes of these files: a file that holds a new Gid is a
    renewal. `paths`: the file of each group, if they are to be looked at again. `FileFault` never comes out of it:
    the files have been read before, and one that cannot be read later changes nothing."""

    __slots__ = ("_groups", "_looked", "_paths", "_seen", "_subscribers")

    def __init__(self, groups: Iterable[GroupConfiguration], paths: Sequence[Path] = ()) -> None:
        self._groups = list(groups)
        self._paths = tuple(paths)
        # They are read again once: they may have changed since they were read.
        self._seen: list[tuple[int, ...] | None] = [None] * len(self._paths)
        self._looked = time.monotonic()
        self._subscribers: list[Callable[[MembershipEvent], None]] = []

    @classmethod
    def load(cls, *paths: Path) -> ProvisionedMembership:
        """From these group files. `FileFault` if one cannot be used."""
        return cls([load_group(path) for path in paths], paths)

    def groups(self) -> Sequence[GroupConfiguration]:
        """The groups as their files said when they were read last."""
        return tuple(self._groups)

    def subscribe(self, receive: Callable[[MembershipEvent], None]) -> Callable[[], None]:
        """As `MembershipSource.subscribe`."""
        self._subscribers.append(receive)
        return lambda: self._subscribers.remove(receive)

    def refresh(self) -> None:
        """As `MembershipSource.refresh`: read the files that look different."""
        now = time.monotonic()
        if now - self._looked < LOOK_INTERVAL:
            return
        self._looked = now
        for index, path in enumerate(self._paths):
            appearance = _appearance(path)
            if appearance != self._seen[index]:
                self._seen[index] = appearance
                self._read_again(index, path)

    def _read_again(self, index: int, path: Path) -> None:
        known = self._groups[index]
        try:
            found = load_group(path)
            if found.name != known.name:
                raise FileFault(
                    path, f"is of another group now; restart for that, {known.name!r} goes on as it was"
                )
            for event in _changes(known, found):
                for receive in tuple(self._subscribers):
                    receive(event)
        except GroupcoapError as error:
            if os.path.exists(f"{path}{EVICTED_SUFFIX}"):
                log.error("group %s: this device was evicted; nobody listens to it any more", known.name)
            else:
                log.error("group %s goes on as it was: %s", known.name, error)
        else:
            self._groups[index] = found

    async def credential(self, group: str, gid: bytes, endpoint_id: bytes) -> Credential | None:
        """The credential of this member, None if the files do not name it."""
        for configuration in self._groups:
            if configuration.name != group:
                continue
            for epoch in configuration.epochs:
                if epoch.gid == gid:
                    return next((m.credential for m in epoch.members if m.endpoint_id == endpoint_id), None)
        return None

    def running_low(self, group: str, gid: bytes, own_id: bytes) -> None:
        """Said in the log: only who provisions the group can renew it."""
        log.warning(
            "group %s: few sequence numbers are left to %s under Gid %s; renew the group with provision --renew",
            group,
            own_id.hex(),
            gid.hex(),
        )

    def unknown_gid(self, gid: bytes) -> None:
        """Nothing: `refresh` finds what there is to be found."""


def _appearance(path: Path) -> tuple[int, ...]:
    """What changes when a file does, or its owner and mode; empty if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_ino, status.st_ctime_ns, status.st_size


def _changes(known: GroupConfiguration, found: GroupConfiguration) -> list[MembershipEvent]:
    """What has happened between these two."""
    if found.current.gid != known.current.gid:
        return [EpochInstalled(found)]
    before = {member.endpoint_id for member in known.current.members}
    return [
        CredentialLearned(found.name, found.current.gid, member)
        for member in found.current.members
        if member.endpoint_id not in before
    ]


def group_paths(directory: Path) -> list[Path]:
    """The group files in a device's directory, in the order of their names. `FileFault` if there are none."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.name.endswith(GROUP_SUFFIX))
    except OSError as error:
        raise FileFault(directory, f"cannot be read ({describe(error)}); check the path and its mode") from None
    if not paths:
        raise FileFault(directory, _why_no_group(directory))
    return paths


def _why_no_group(directory: Path) -> str:
    evicted = sorted(directory.glob(f"*{GROUP_SUFFIX}{EVICTED_SUFFIX}"))
    if evicted:
        group = evicted[0].name.removesuffix(f"{GROUP_SUFFIX}{EVICTED_SUFFIX}")
        return f"was evicted from {group}, and has no other group; make it a member of a new group to use it again"
    devices = sorted({path.parent.name for path in directory.glob(f"*/*{GROUP_SUFFIX}")})
    if devices:
        return f"holds devices and is none itself; give one of {', '.join(devices[:5])}"
    if os.path.lexists(directory / ENROLMENT_FILE):
        return "is of a device with a Group Manager, which this is not for; give a provisioned one"
    return f"has no *{GROUP_SUFFIX} in it; provision the device first, or enroll it at a Group Manager"


def _refuse_same_names(files: Sequence[GroupFile]) -> None:
    seen: dict[str, Path] = {}
    for file in files:
        name = file.configuration.name
        if name in seen:
            raise FileFault(file.path, f"name: is the group of {seen[name].name} too; remove one of the two")
        seen[name] = file.path
