"""Devices' directories for the tests of the diagnosis, and what is said of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from namespaces import Link

from groupcoap.diagnosis import Finding, Level, diagnose
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.files.provisioning import DevicePlan, GroupPlan, provision
from groupcoap.membership import GroupAddress, Role

IPV4 = GroupAddress(ip_address("224.0.1.187"), 5699)
IPV6 = GroupAddress(ip_address("ff05::fd"), 5699)


def make_home(directory: Path, *addresses: GroupAddress) -> Path:
    """A group `hall` of a switch and a lamp; returns the lamp's directory."""
    devices = [
        DevicePlan("switch", frozenset({Role.MULTICASTER})),
        DevicePlan("lamp", frozenset({Role.LISTENER})),
    ]
    directory.mkdir(exist_ok=True)
    provision(directory / "home", GroupPlan("hall", addresses or (IPV4,)), devices)
    return directory / "home" / "lamp"


async def diagnosis(path: Path, options: NetworkOptions) -> list[Finding]:
    """All findings."""
    return [finding async for finding in diagnose(path, options)]


async def diagnosed(link: Link, path: Path, options: NetworkOptions) -> list[Finding]:
    """The same, in a namespace."""
    return await diagnosis(path, options)


def of(check: str, findings: Iterable[Finding]) -> Finding:
    """The one finding of this check."""
    (finding,) = (finding for finding in findings if finding.check == check)
    return finding


def troubles(findings: Iterable[Finding]) -> list[str]:
    """The checks that found problems."""
    return [finding.check for finding in findings if finding.level is Level.PROBLEM]


def obey(finding: Finding, *before: str) -> None:
    """Run the command that was advised, behind the words of another one."""
    assert finding.command
    subprocess.run([*before, "sh", "-c", finding.command], check=True, capture_output=True)
