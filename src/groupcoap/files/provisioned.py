"""Groups from files: a device's directory, and the membership source that reads nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cose.credentials import Credential
from ..errors import FileFault
from ..membership import GroupConfiguration, MembershipEvent
from .atomic import describe
from .group import GROUP_SUFFIX, GroupFile, load_group, read_group
from .identity import IDENTITY_FILE, DeviceIdentity, load_identity
from .state import StateKey

STATE_FILE = "state.journal"
"""The name of the run-time state's file in a device's directory."""


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """The files of one device. `identity` is None where all its groups have it as pure listener. `groups` are in
    the order of their files' names; `state` is the path of the run-time state, which may not exist."""

    directory: Path
    identity: DeviceIdentity | None
    groups: tuple[GroupConfiguration, ...]
    state: Path

    @property
    def name(self) -> str:
        """What people call the device: the identity's name, or the directory's."""
        return self.identity.name if self.identity is not None else self.directory.resolve().name

    @property
    def membership(self) -> ProvisionedMembership:
        """These groups, as endpoints take them."""
        return ProvisionedMembership(self.groups)


def load_member(path: Path) -> MemberFiles:
    """The files of a device. `path`: its directory, for all its groups, or one group file, for that one alone.
    `FileFault` if any of them is missing or cannot be used."""
    if os.path.isdir(path):
        directory, paths = path, _group_paths(path)
    else:
        directory, paths = path.parent, [path]
    files = [read_group(group) for group in paths]
    _refuse_same_names(files)
    identity = next((file.identity for file in files if file.identity is not None), None)
    if identity is None and os.path.exists(directory / IDENTITY_FILE):
        identity = load_identity(directory / IDENTITY_FILE)
    return MemberFiles(directory, identity, tuple(file.configuration for file in files), directory / STATE_FILE)


def state_keys(configuration: GroupConfiguration) -> tuple[StateKey, ...]:
    """The keys under which an endpoint with this group keeps run-time state: one for each epoch."""
    return tuple(StateKey(configuration.name, epoch.gid, epoch.own_id) for epoch in configuration.epochs)


class ProvisionedMembership:
    """A `MembershipSource` of groups that do not change while the program runs. `FileFault` never comes out of
    it: the files have been read before."""

    __slots__ = ("_groups",)

    def __init__(self, groups: Iterable[GroupConfiguration]) -> None:
        self._groups = tuple(groups)

    @classmethod
    def load(cls, *paths: Path) -> ProvisionedMembership:
        """From these group files. `FileFault` if one cannot be used."""
        return cls(load_group(path) for path in paths)

    def groups(self) -> Sequence[GroupConfiguration]:
        """The groups as they were provisioned."""
        return self._groups

    def subscribe(self, receive: Callable[[MembershipEvent], None]) -> Callable[[], None]:
        """Nothing ever happens in a static group, so `receive` is never called."""
        return lambda: None

    async def credential(self, group: str, gid: bytes, endpoint_id: bytes) -> Credential | None:
        """The credential of this member, None if the files do not name it."""
        for configuration in self._groups:
            if configuration.name != group:
                continue
            for epoch in configuration.epochs:
                if epoch.gid == gid:
                    return next((m.credential for m in epoch.members if m.endpoint_id == endpoint_id), None)
        return None


def _group_paths(directory: Path) -> list[Path]:
    try:
        paths = sorted(path for path in directory.iterdir() if path.name.endswith(GROUP_SUFFIX))
    except OSError as error:
        raise FileFault(directory, f"cannot be read ({describe(error)}); check the path and its mode") from None
    if not paths:
        raise FileFault(directory, f"has no *{GROUP_SUFFIX} in it; provision the device first")
    return paths


def _refuse_same_names(files: Sequence[GroupFile]) -> None:
    seen: dict[str, Path] = {}
    for file in files:
        name = file.configuration.name
        if name in seen:
            raise FileFault(file.path, f"name: is the group of {seen[name].name} too; remove one of the two")
        seen[name] = file.path
