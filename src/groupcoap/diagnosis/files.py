"""The files of a device: whether they are there, belong together, and are nobody else's to read or change."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

from ..core.profile import Mode
from ..cose.credentials import Credential
from ..errors import FileFault, MisuseError
from ..files.group import GroupFile, read_group
from ..files.identity import IDENTITY_FILE, DeviceIdentity
from ..files.provisioned import STATE_FILE, group_paths
from ..membership import GroupAddress, GroupConfiguration, Role
from .finding import Finding, from_fault, ok, problem, warning

LISTENING = frozenset({Role.LISTENER, Role.PURE_LISTENER})


@dataclass(frozen=True, slots=True)
class Device:
    """A device's files so far as they can be used. `groups`: those whose files can be read. `newest`: when the
    newest of all its files was written, in seconds since 1970; 0 if there is none."""

    directory: Path
    groups: tuple[GroupFile, ...]
    newest: float

    @property
    def state(self) -> Path:
        """Where its run-time state is, if it has any."""
        return self.directory / STATE_FILE

    @property
    def configurations(self) -> tuple[GroupConfiguration, ...]:
        return tuple(file.configuration for file in self.groups)

    @property
    def addresses(self) -> tuple[GroupAddress, ...]:
        """The multicast addresses of all groups."""
        return tuple(dict.fromkeys(address for group in self.configurations for address in group.addresses))


def read_device(path: Path) -> tuple[Device, list[Finding]]:
    """A device's files, and what is wrong with those that cannot be used. `FileFault` if nothing is there."""
    if not os.path.exists(path):
        raise FileFault(path, "does not exist; check the path, or make it with provision")
    is_directory = os.path.isdir(path)
    faults: list[FileFault] = []
    groups: list[GroupFile] = []
    try:
        paths = group_paths(path) if is_directory else [path]
    except FileFault as fault:
        paths, faults = [], [fault]
    for group in paths:
        try:
            groups.append(read_group(group))
        except FileFault as fault:
            faults.append(fault)
    directory = path if is_directory else path.parent
    distinct = {str(fault): from_fault("files", fault) for fault in faults}  # all groups name the same identity
    return Device(directory, tuple(groups), _newest(_files_of(directory, paths))), list(distinct.values())


def _files_of(directory: Path, groups: Iterable[Path]) -> tuple[Path, ...]:
    return (directory / IDENTITY_FILE, *groups, directory / STATE_FILE)


def _newest(paths: Iterable[Path]) -> float:
    times = []
    for path in paths:
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)


def check_privacy(device: Device) -> Finding:
    """Whether the directory and the files in it are one user's alone. A file that others could read is refused by
    `read_device`."""
    directory = device.directory
    status = directory.stat()
    if stat.S_IMODE(status.st_mode) & 0o022:
        return problem(
            "directory",
            f"{directory}: others may write there, so they can put keys of their own in the place of these",
            "take that right away",
            *("chmod", "go-w", str(directory)),
        )
    for path in _files_of(directory, (file.path for file in device.groups)):
        with suppress(FileNotFoundError):
            owner = path.stat().st_uid
            if owner != status.st_uid:
                return warning(
                    "directory",
                    f"{path} belongs to {_user(owner)}, the directory to {_user(status.st_uid)}",
                    "let all of it belong to the user who runs the device",
                    *("chown", "-R", _user(status.st_uid), str(directory)),
                )
    return ok("directory", f"{directory} belongs to {_user(status.st_uid)}, and nobody else can change it")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def describe_group(file: GroupFile) -> Finding:
    """What the device is in this group."""
    group = file.configuration
    roles = " and ".join(sorted(role.value for role in group.roles))
    own = "" if group.current.own_id is None else f" {group.current.own_id.hex() or '(empty id)'}"
    addresses = ", ".join(str(address) for address in group.addresses)
    older = f", and {len(group.epochs) - 1} older" if len(group.epochs) > 1 else ""
    return ok(
        "group",
        f"{group.name} at {addresses}: {roles}{own}, members known: {len(group.current.members)}, "
        f"Gid {group.current.gid.hex()}{older}",
    )


def describe_profile(group: GroupConfiguration) -> Finding:
    """What the group's messages look like, and which modes they can be in; a policy that the modes do not allow."""
    parts = [group.profile.name]
    if not group.profile.rules.pairwise:
        parts += [group.parameters.encryption.name, group.signature.name]
        return ok("profile", f"{group.name}: {', '.join(parts)}")
    parts.append(f"group mode with {group.parameters.encryption.name} and {group.signature.name}")
    has_pairwise = group.common_context(group.current).pairwise
    if has_pairwise and group.aead is not None and group.key_agreement is not None:
        parts.append(f"pairwise mode with {group.aead.name} and {group.key_agreement.name}")
    else:
        parts.append("no pairwise mode")
    if not group.sign_protected:
        parts.append("countersignatures as in RFC 9338")
    found = f"{group.name}: {', '.join(parts)}"
    wanted = group.policy.response_mode
    if wanted is Mode.PAIRWISE and not has_pairwise:
        return warning(
            "profile",
            f"{found}, although answers are to be in it: they go out in group mode, readable by all",
            "make the group anew with provision, with a pairwise mode",
        )
    return ok("profile", found if wanted is None else f"{found}, answers in {wanted.value} mode")


def check_pairwise(files: Iterable[GroupFile]) -> Iterator[Finding]:
    """Whose credentials cannot be used in pairwise mode, in groups that have one."""
    for file in files:
        group = file.configuration
        epoch = group.current
        if file.identity is None or not group.common_context(epoch).pairwise:
            continue
        others = [member for member in epoch.members if member.endpoint_id != epoch.own_id]
        faults = {m.name: fault for m in others if (fault := _no_agreement(file.identity, m.credential))}
        for name, fault in faults.items():
            yield warning(
                "pairwise",
                f"{group.name}: {name} cannot be spoken to alone, nor speak to this device: {fault}",
                "give it another identity (groupcoap keygen), and provision the group anew",
            )
        if others and not faults:
            yield ok("pairwise", f"{group.name}: keys can be agreed on with all others ({len(others)})")


def _no_agreement(own: DeviceIdentity, other: Credential) -> str:
    """Why these two cannot agree on keys; empty if they can."""
    try:
        own.private_key.agree(other.public_key(own.signature))
    except MisuseError as error:
        return str(error)
    return ""


def check_groups(groups: Sequence[GroupConfiguration]) -> Iterator[Finding]:
    """Which groups an endpoint could not tell from each other."""
    for one, other in combinations(groups, 2):
        pair = f"{one.name} and {other.name}"
        if one.name == other.name:
            yield problem("groups", f"two files hold the group {one.name}", "remove one of them")
        elif one.current.gid == other.current.gid and _shared(one, other):
            yield problem(
                "groups",
                f"{pair} have the same Gid at the same address or with the same keys",
                "make one of them anew with provision",
            )


def _shared(one: GroupConfiguration, other: GroupConfiguration) -> bool:
    addresses = {address.packed for address in one.addresses} & {address.packed for address in other.addresses}
    return bool(addresses) or one.current.master_secret.reveal() == other.current.master_secret.reveal()


def check_credentials(files: Iterable[GroupFile], now: float) -> list[Finding]:
    """Which credentials of the current members, this device included, are out of their validity period at `now`,
    seconds since 1970; those of Group Managers too. groupcoap takes them nevertheless: it is the file that vouches
    for them."""
    named: dict[Credential, str] = {}
    for file in files:
        manager = file.configuration.manager_credential
        if manager is not None:
            named[manager] = f"the manager of {file.configuration.name}"
        if file.identity is not None:
            named[file.identity.credential] = file.identity.name
        for member in file.configuration.current.members:
            named.setdefault(member.credential, member.name)
    findings = [
        warning("credentials", f"{name}: {fault}", "give it another; groupcoap takes it, others may not")
        for credential, name in named.items()
        if (fault := _out_of_time(credential, now))
    ]
    if named and not findings:
        findings.append(ok("credentials", f"{len(named)}, none of them out of its time"))
    return findings


def _out_of_time(credential: Credential, now: float) -> str:
    try:
        begin, end = credential.validity
    except MisuseError as error:
        return str(error)
    if end is not None and not now <= end:  # a date that is no number (NaN) is never right
        return f"its credential expired on {_day(end)}"
    if begin is not None and not now >= begin:
        return f"its credential is not valid before {_day(begin)}"
    return ""


def _day(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return "a day out of all calendars"
