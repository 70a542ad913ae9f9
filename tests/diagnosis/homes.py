"""Devices' directories for the tests of the diagnosis, and what is said of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from namespaces import Link

from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.profile import Profile
from groupcoap.cose.algorithms import key_agreement_for
from groupcoap.diagnosis import Finding, Level, diagnose
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.files.provisioning import DevicePlan, GroupPlan, provision
from groupcoap.membership import GroupAddress, Role

IPV4 = GroupAddress(ip_address("224.0.1.187"), 5699)
IPV6 = GroupAddress(ip_address("ff05::fd"), 5699)


def make_home(directory: Path, *addresses: GroupAddress, profile: Profile = MULTICAST_OSCORE_04) -> Path:
    """A group `hall` of a switch and a lamp; returns the lamp's directory. With a pairwise mode where there is
    one."""
    devices = [
        DevicePlan("switch", frozenset({Role.MULTICASTER})),
        DevicePlan("lamp", frozenset({Role.LISTENER})),
    ]
    directory.mkdir(exist_ok=True)
    plan = GroupPlan("hall", addresses or (IPV4,), profile=profile)
    if profile.rules.pairwise:
        plan = replace(plan, key_agreement=key_agreement_for(plan.kdf))
    provision(directory / "home", plan, devices)
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
