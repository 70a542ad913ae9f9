"""The run-time state of a device, looked at without locking or changing it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..core.sequence import MAXIMUM
from ..files.state import StateKey, StateReport, is_older
from ..membership import GroupConfiguration
from .finding import Finding, from_fault, ok, problem, warning
from .system import file_system, process_name, read

NEARLY_USED_UP = 0.9
"""Part of all sequence numbers."""

_RENEW = "renew the group with provision --renew"
_ELSEWHERE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "lustre"}
_IN_MEMORY = {"tmpfs", "ramfs"}


def running_process(report: StateReport) -> int | None:
    """The process that runs the device; None if none does, or it has not said which it is."""
    number = re.search(r"\d+", report.holder or "")
    return int(number[0]) if number else None


def check_state(report: StateReport, groups: Iterable[GroupConfiguration]) -> Iterator[Finding]:
    """Whether an endpoint with these groups could go on from this state."""
    if report.fault is not None:
        yield from_fault("state", report.fault)
        return
    missing = list(_check_keys(report, groups))
    yield from missing
    yield from _check_numbers(report)
    if missing:
        return
    process = running_process(report)
    if report.holder is not None:
        who = report.holder if process is None else process_name(process)
        yield ok("state", f"in use by {who}: the device is running")
    elif report.never_used:
        yield ok("state", "whole, and never used yet")
    else:
        how = "" if report.stopped_cleanly else " (it did not stop by itself; what was reserved counts as used)"
        yield ok("state", f"whole, not in use{how}")


def _check_keys(report: StateReport, groups: Iterable[GroupConfiguration]) -> Iterator[Finding]:
    known = {(key.group, key.gid) for key in report.used} | set(report.forgotten)
    for group in groups:
        key = StateKey(group.name, group.current.gid, group.current.own_id)
        gids = {gid for name, gid in known if name == key.group}
        older = key not in report.used and any(is_older(key.gid, gid) for gid in gids)
        if older or (key.group, key.gid) in report.forgotten:
            found = f"Gid {key.gid.hex()} of {key.group} has had its time: sequence numbers would repeat"
            yield problem("state", found, f"give this device the group file of today, or {_RENEW}")
        elif not gids:
            yield problem("state", f"nothing is there for {key.group}: sequence numbers would repeat", _RENEW)


def _check_numbers(report: StateReport) -> Iterator[Finding]:
    for key, used in report.used.items():
        if used > MAXIMUM:
            yield problem("state", f"no sequence numbers are left in {key.group} ({key.gid.hex()})", _RENEW)
        elif used > NEARLY_USED_UP * MAXIMUM:
            part = f"{100 * used / MAXIMUM:.1f} %"
            yield warning(
                "state", f"{part} of the sequence numbers in {key.group} are used ({key.gid.hex()})", _RENEW
            )


def check_storage(directory: Path) -> Finding:
    """Whether the state can be kept in this directory so that it survives."""
    if not os.access(directory, os.W_OK):
        return problem(
            "storage",
            f"{directory} cannot be written to, so the state could not be kept",
            "run the device as the user whose it is, on a file system that can be written to",
        )
    kind = file_system(directory.resolve(), read("/proc/self/mountinfo") or "")
    if kind in _ELSEWHERE:
        return warning(
            "storage",
            f"{directory} is on {kind}: locks and fsync may not hold there, and then sequence numbers may repeat",
            "keep it on a disk of this machine",
        )
    if kind in _IN_MEMORY:
        return warning(
            "storage",
            f"{directory} is on {kind}: the state is gone with the next restart of this machine",
            "keep it on a disk",
        )
    return ok("storage", f"{directory} is on {kind or 'a file system of unknown type'}")
