"""Renewing static groups: a new Gid and Master Secret for all who stay (draft §2.1, multicast-oscore-04 §8).

Endpoints that are running take up the new group file by themselves. Whoever has no trustworthy run-time state gets
a new one, which knows the new Gids only.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.profile import Profile
from ..errors import FileFault, MisuseError, StateLocked, StateLost
from ..membership import Epoch, GroupConfiguration, Member, Role
from ..secret import Secret
from .atomic import describe, remove_left_behind
from .group import EVICTED_SUFFIX, GROUP_SUFFIX, read_group, save_group
from .provisioned import STATE_FILE, group_paths, state_keys
from .provisioning import MASTER_SECRET_LENGTH, PREFIX_LENGTH, new_master_salt
from .state import EndpointState


@dataclass(frozen=True, slots=True)
class RenewedDevice:
    """A device that stays in at least one of the groups. `groups`: those, renewed. `running`: its endpoint takes
    the renewal up by itself. `lost`: why its run-time state could not be trusted, None if it could. `without`:
    groups that it can take part in only when they are renewed too."""

    name: str
    directory: Path
    groups: tuple[str, ...]
    running: bool
    lost: str | None
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RenewedGroup:
    """A group that was renewed. `before`: its Gid until then. `evicted`: names of those who have left."""

    name: str
    before: bytes
    gid: bytes
    evicted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renewal:
    """What was renewed."""

    groups: tuple[RenewedGroup, ...]
    devices: tuple[RenewedDevice, ...]


@dataclass(frozen=True, slots=True)
class _File:
    """A group file of a device; `renewed`: what is to be written to it, None if nothing is."""

    device: str
    path: Path
    configuration: GroupConfiguration
    renewed: GroupConfiguration | None = None


def groups_in(directory: Path) -> tuple[str, ...]:
    """The names of the groups whose files the devices in this directory have. `FileFault` if there are none, or one
    cannot be used."""
    return tuple(sorted({file.configuration.name for file in _files(directory)}))


def profiles_of(directory: Path, devices: Collection[str]) -> frozenset[Profile]:
    """The profiles of the groups that these devices in `directory` are in. `FileFault` if a group file cannot be
    used."""
    paths = (path for device in devices for path in sorted((directory / device).glob(f"*{GROUP_SUFFIX}")))
    return frozenset(read_group(path).configuration.profile for path in paths)


def renew(directory: Path, groups: Collection[str], *, evict: Collection[str] = ()) -> Renewal:
    """Give all devices of these groups in `directory` new Security Contexts, without those named in `evict`: their
    group files are put aside (`EVICTED_SUFFIX`).

    It can be done again after an interruption: who has a new file already gets a newer one. `MisuseError` if a
    device to be evicted is not a member, or nobody would be left to send or to listen; `FileFault` if a member's
    files are missing here, cannot be used or cannot be written; `StateLocked` if a device whose state cannot be
    trusted is running."""
    with _alone(directory):
        return _renew(directory, groups, evict)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Two renewals at once would mix their keys. `StateLocked` if there is another one."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise FileFault(directory, f"cannot be used ({describe(error)}); give the directory of provision") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StateLocked(f"{directory}: is being renewed by another process; wait for it") from None
    finally:
        os.close(descriptor)


def _renew(directory: Path, groups: Collection[str], evict: Collection[str]) -> Renewal:
    files = _files(directory)
    planned: list[_File] = []
    renewed = []
    evictable: set[str] = set()
    for group in groups:
        of_group = [file for file in files if file.configuration.name == group]
        if not of_group:
            known = ", ".join(groups_in(directory))
            raise FileFault(directory, f"nobody in it is in a group {group!r}; there is {known}")
        result, to_write = _plan(directory, of_group, evict)
        evictable |= {file.device for file in of_group} | _once_members(directory, of_group)
        renewed.append(result)
        planned += to_write
    for name in evict:
        if name not in evictable:
            raise MisuseError(f"{name!r} is no member of what is renewed; there is {', '.join(sorted(evictable))}")
    names = {file.device for file in planned}
    untouched = [file for file in files if file.path not in {file.path for file in planned}]
    # Listeners first: whoever sends under a new Gid shall be understood.
    order = sorted(names, key=lambda name: (_sends(name, planned), name))
    for name in order:  # before the first file is written
        _check_state(directory / name / STATE_FILE)
    for file in untouched:
        if file.device in evict and file.configuration.name in groups:
            _put_aside(file.path)
    devices = [
        _write(
            directory / name,
            [file for file in planned if file.device == name],
            [file for file in untouched if file.device == name],
        )
        for name in order
    ]
    return Renewal(tuple(renewed), tuple(sorted(devices, key=lambda device: device.name)))


def _once_members(directory: Path, files: Sequence[_File]) -> set[str]:
    """Names that some device still knows a member by, or whose files were put aside: a renewal that was interrupted
    may have evicted them already."""
    known = {member.name for file in files for member in file.configuration.current.members}
    return known | {path.parent.name for path in directory.glob(f"*/*{GROUP_SUFFIX}{EVICTED_SUFFIX}")}


def _check_state(path: Path) -> None:
    """Only state that is lost is made anew: what is wrong with it otherwise can be put right."""
    report = EndpointState.examine(path)
    if report.fault is not None and report.holder is not None:
        raise StateLocked(f"{report.fault}; and {report.holder} is using it: stop that first")
    if report.fault is not None and not isinstance(report.fault, StateLost):
        raise report.fault


def _put_aside(path: Path) -> None:
    try:
        os.replace(path, f"{path}{EVICTED_SUFFIX}")
    except OSError as error:
        raise FileFault(path, f"cannot be put aside ({describe(error)})") from None


def _sends(name: str, files: Sequence[_File]) -> bool:
    return any(Role.MULTICASTER in file.configuration.roles for file in files if file.device == name)


def _files(directory: Path) -> list[_File]:
    try:
        places = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
        holders = [place for place in places if any(name.endswith(GROUP_SUFFIX) for name in os.listdir(place))]
    except OSError as error:
        raise FileFault(directory, f"cannot be used ({describe(error)}); give the directory of provision") from None
    if not holders:
        raise FileFault(directory, "has no devices in it; give the directory that provision has made")
    return [
        _File(place.name, path, read_group(path).configuration) for place in holders for path in group_paths(place)
    ]


def _plan(directory: Path, files: Sequence[_File], evict: Collection[str]) -> tuple[RenewedGroup, list[_File]]:
    newest = max((file.configuration for file in files), key=lambda found: found.current.gid)
    files = [file for file in files if file.configuration.current.own_id not in newest.current.departed]
    staying = [file for file in files if file.device not in evict]
    _refuse_twins(staying)
    leaving = _leaving(directory, newest.current, files, staying, evict)
    _check_roles(newest.name, [file.configuration.roles for file in staying])
    members = tuple(member for member in newest.current.members if member not in leaving)
    departed = newest.current.departed | {member.endpoint_id for member in leaving}
    gid = _next_gid(newest.current.gid)
    secret = Secret(os.urandom(MASTER_SECRET_LENGTH))
    salt = new_master_salt(newest.profile)

    def renewed(file: _File) -> _File:
        own = file.configuration.current
        epoch = Epoch(gid, secret, own.own_id, own.private_key, members, departed, salt, own.credential)
        return replace(file, renewed=replace(newest, roles=file.configuration.roles, epochs=(epoch,)))

    left = {file.device for file in files} - {file.device for file in staying}
    evicted = tuple(sorted(left | {member.name for member in leaving}))
    return RenewedGroup(newest.name, newest.current.gid, gid, evicted), [renewed(file) for file in staying]


def _refuse_twins(files: Sequence[_File]) -> None:
    """A device and a copy of it would both begin at number 0 under the same keys."""
    seen: dict[bytes, Path] = {}
    for file in files:
        own_id = file.configuration.current.own_id
        if own_id is None:  # a pure listener's file may be in several places: it uses no numbers
            continue
        if own_id in seen:
            twin = f"has the same Endpoint ID as {seen[own_id]}, and sequence numbers would repeat"
            raise FileFault(file.path, f"{twin}; remove the one that is a copy")
        seen[own_id] = file.path


def _leaving(
    directory: Path, current: Epoch, files: Sequence[_File], staying: Sequence[_File], evict: Collection[str]
) -> list[Member]:
    """The members that are evicted, by the name of their directory or by that which the others know them by."""
    here = {file.configuration.current.own_id for file in staying}
    gone = {file.configuration.current.own_id for file in files} - here
    leaving = [member for member in current.members if member.endpoint_id not in here]
    for member in leaving:
        if member.endpoint_id not in gone and member.name not in evict:
            missing = f"the files of {member.name} are not in it; bring them, or --evict {member.name!r}"
            raise FileFault(directory, missing)
    return leaving


def _check_roles(group: str, roles: Sequence[frozenset[Role]]) -> None:
    all_roles = frozenset[Role]().union(*roles)
    if Role.MULTICASTER not in all_roles or not all_roles & {Role.LISTENER, Role.PURE_LISTENER}:
        raise MisuseError(f"nobody would be left in {group} to send, or nobody to listen; evict fewer")


def _next_gid(gid: bytes) -> bytes:
    """The next Group Epoch; an epoch never wraps, so its last value is followed by a new Group Prefix."""
    length = len(gid) - PREFIX_LENGTH
    epoch = int.from_bytes(gid[PREFIX_LENGTH:], "big") + 1
    if epoch >= (1 << 8 * length) - 1:
        return os.urandom(PREFIX_LENGTH) + bytes(length)
    return gid[:PREFIX_LENGTH] + epoch.to_bytes(length, "big")


def _write(directory: Path, files: Sequence[_File], untouched: Sequence[_File]) -> RenewedDevice:
    """One device. The state first: state without a group does no harm, a group without state would not start."""
    path = directory / STATE_FILE
    report = EndpointState.examine(path)
    running = report.holder is not None
    without: tuple[str, ...] = ()
    if not running and (report.fault is not None or report.never_used):
        _begin_again(path, files, untouched)
        without = tuple(file.configuration.name for file in untouched)
    elif not running:
        running = not _add(path, files)
    for file in files:
        remove_left_behind(file.path)
        save_group(file.path, _new(file), overwrite=True)
    return RenewedDevice(
        directory.name,
        directory,
        tuple(file.configuration.name for file in files),
        running,
        None if report.fault is None else report.fault.problem,
        without,
    )


def _new(file: _File) -> GroupConfiguration:
    assert file.renewed is not None  # as `_plan` made it
    return file.renewed


def _begin_again(path: Path, files: Sequence[_File], untouched: Sequence[_File]) -> None:
    """A new state, under which no Gid of before can be used. That goes for state that was never used here, too: a
    copy of it may have been carried to the device and used there."""
    keys = [key for file in files for key in state_keys(_new(file))]
    old = [(key.group, key.gid) for file in (*files, *untouched) for key in state_keys(file.configuration)]
    EndpointState.create(path, keys, forgotten=old, replace=True)


def _add(path: Path, files: Sequence[_File]) -> bool:
    """Prepare a state for the renewal. False if its endpoint has been started meanwhile: then that does it."""
    try:
        with EndpointState.open(path) as state:
            for file in files:
                for key in state_keys(_new(file)):
                    state.add_key(key.group, key.gid, key.own_id)
                for key in state_keys(file.configuration):
                    state.forget(key.group, key.gid)
    except StateLocked:
        return False
    return True
