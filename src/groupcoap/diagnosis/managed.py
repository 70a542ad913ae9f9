"""The files of a device that has a Group Manager: its enrolment, and what it keeps of its groups."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import FileFault, MisuseError
from ..files.documents import read_document
from ..files.group import GroupFile
from ..files.identity import IDENTITY_FILE, DeviceIdentity, load_identity
from ..files.state import StateReport
from ..keying.roles import sends
from ..member.enrolment import ENROLMENT_FILE, Enrolment, load_enrolment
from ..member.keeping import FORMER_KIND, FORMER_SUFFIX, Kept, kept_path, read_kept
from ..membership import GroupConfiguration
from .files import Device
from .finding import Finding, Level, from_fault, ok, problem, warning
from .state import check_state

_AGAIN = "remove it: the device then joins its groups anew"


def read_managed(directory: Path) -> tuple[Device, list[Finding]]:
    """A device's files so far as they can be used, and what there is to be said of its enrolment and its groups."""
    path = directory / ENROLMENT_FILE
    try:
        enrolment = load_enrolment(path)
    except FileFault as fault:
        return Device(directory, (), path.lstat().st_mtime), [from_fault("files", fault)]
    where = ", ".join(str(address) for address in enrolment.addresses)
    findings = [ok("enrolment", f"{enrolment.device}, at the Group Manager {where}")]
    if not enrolment.groups:
        findings.append(
            problem("groups", "the enrolment names no group", f"groupcoap join {directory} GROUP=ROLE joins one")
        )
    files: list[GroupFile] = []
    for group in enrolment.groups:
        kept = kept_path(directory, group)
        try:
            found = read_kept(kept, group) if kept.exists() else None
            if found is not None:
                identity = _identity(directory, found)
                files.append(GroupFile(kept, found.state.configuration(identity), identity))
            findings.append(_described(group, found, enrolment, directory))
        except FileFault as fault:
            findings.append(from_fault("files", fault))
        except MisuseError as fault:
            findings.append(problem("files", f"{kept}: {fault}", _AGAIN, "rm", str(kept)))
    newest = max((file.path.stat().st_mtime for file in files), default=path.stat().st_mtime)
    return Device(directory, tuple(files), newest), findings


def _identity(directory: Path, kept: Kept) -> DeviceIdentity | None:
    """The device's keys in this group. `FileFault` if they are not there."""
    state = kept.state
    if not sends(state.roles):
        return None
    wanted = state.parameters.signature, state.material.credential_kind
    first, other = directory / IDENTITY_FILE, directory / f"identity-{state.parameters.signature.name}.json"
    for path in (first, other):
        if path.exists():
            identity = load_identity(path)
            if (identity.signature, identity.credential.kind) == wanted:
                return identity
    raise FileFault(first, "does not exist, or is for other groups; the device makes another when it joins again")


def _described(group: str, kept: Kept | None, enrolment: Enrolment, directory: Path) -> Finding:
    roles = " and ".join(sorted(role.value for role in enrolment.groups[group]))
    if kept is None:
        return warning(
            "member",
            f"{group}: {_why_not(directory, group)}; it may be {roles}",
            "it is joined when the device is started, or with",
            *("groupcoap", "join", str(directory), group),
        )
    remaining = kept.remaining(time.time())
    if not remaining:
        return problem(
            "member",
            f"{group}: its keys are not used, for the manager has not confirmed them in {kept.state.lifetime} s",
            "start the device where it reaches the manager, and see that the clock is right",
        )
    return ok("member", f"{group}: renewal {kept.state.num}, good for {remaining:.0f} s without the manager")


def _why_not(directory: Path, group: str) -> str:
    former = kept_path(directory, group)
    try:
        document = read_document(former.with_name(former.name + FORMER_SUFFIX), FORMER_KIND)
        why = document.members(("why",), ("name", "gid", "num"))["why"].text()
    except FileFault:
        return "not joined yet"
    return f"no member any more: {why}"


def check_managed_state(report: StateReport, groups: Iterable[GroupConfiguration]) -> Iterator[Finding]:
    """As `check_state`, where all can be had anew from the manager."""
    groups = list(groups)
    if not groups and not report.used:
        yield ok("state", "none yet: it begins when the device joins a group")
        return
    for finding in check_state(report, groups):
        if finding.level is Level.OK:
            yield finding
        else:
            yield replace(finding, advice="remove state.journal: the device then joins its groups anew", command="")
