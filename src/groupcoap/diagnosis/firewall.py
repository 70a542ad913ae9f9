"""The firewall's rules, where there is a tool to read them with, and multicast snooping of bridges."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from ..membership import GroupAddress
from .finding import Finding, ok, warning
from .interfaces import Interface
from .iptables import parse_iptables
from .nftables import parse_nftables
from .rules import INCOMING, OUTGOING, Datagram, Table, culprits
from .system import read_number

_PATIENCE = 10.0  # seconds for a tool to print the rules
_PATH = "/usr/sbin:/sbin:/usr/local/sbin"  # where these tools are, which is not on everybody's PATH
_IPTABLES = {"iptables-save": (4, "ip"), "ip6tables-save": (6, "ip6")}
_BY_NFT = "(nf_tables)"  # in the head of what an iptables prints whose rules nft has
_SHOWN = 3


class _Unreadable(Exception):
    """There are rules, perhaps, but they cannot be read."""


def check_firewall(interface: Interface, addresses: Collection[GroupAddress]) -> Finding:
    """Whether the rules that can be read would drop the groups' datagrams, or what keeps memberships alive. It is a
    hint: rules are many-sided, and what arrives is shown by trying."""
    try:
        tables, tools = read_rules()
    except _Unreadable as reason:
        return ok("firewall", f"its rules cannot be read ({reason}); root may, and the self-test does without")
    if not tools:
        return ok("firewall", "neither nft nor iptables is here to read rules with; see the self-test")
    found = [text for datagram in _datagrams(interface, addresses) for text in culprits(tables, datagram)]
    if not found:
        return ok("firewall", f"nothing that {' or '.join(tools)} shows drops the groups' datagrams")
    distinct = list(dict.fromkeys(found))
    more = f", and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    ports = ", ".join(str(port) for port in sorted({address.port for address in addresses}))
    return warning(
        "firewall",
        f"these may drop what the groups need: {'; '.join(distinct[:_SHOWN])}{more}",
        f"let UDP port {ports}, IGMP and MLD pass on {interface.name}",
    )


def _datagrams(interface: Interface, addresses: Collection[GroupAddress]) -> Iterator[Datagram]:
    """What has to pass: requests in both directions, and the queries by which a network finds out who listens."""
    for address in addresses:
        for hooks in (INCOMING, OUTGOING):
            yield Datagram(hooks, interface.name, "udp", address.host, address.port)
    if not interface.loopback:
        versions = {address.host.version for address in addresses}
        if 4 in versions:
            yield Datagram(INCOMING, interface.name, "igmp", IPv4Address("224.0.0.1"))
        if 6 in versions:
            yield Datagram(INCOMING, interface.name, "icmpv6", IPv6Address("ff02::1"))


def read_rules() -> tuple[list[Table], list[str]]:
    """(the rules, the tools that have shown them)"""
    tables: dict[str, Table] = {}
    tools: list[str] = []
    nft = _find("nft")
    if nft is not None:
        try:
            tables |= {table.name: table for table in parse_nftables(_output(nft, "--json", "list", "ruleset"))}
        except ValueError as problem:
            raise _Unreadable(problem) from None
        tools.append("nft")
    for name, (version, family) in _IPTABLES.items():
        program = _find(name)
        if program is None:
            continue
        text = _output(program)
        for table in parse_iptables(text, version):
            if _BY_NFT in text:
                # nft shows these too, but not what all their conditions are.
                tables.pop(f"nft {family} {table.name.split()[1]}", None)
            tables[table.name] = table
        tools.append(name)
    return list(tables.values()), tools


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_PATH)


def _output(*command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 — words of our own
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Unreadable(f"{Path(command[0]).name}: {type(error).__name__}") from None
    if done.returncode:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise _Unreadable(f"{Path(command[0]).name}: {words}")
    return done.stdout


def check_bridge(interface: Interface, root: Path = Path("/sys/class/net")) -> Finding:
    """Whether the interface is on a bridge that forgets who listens: one that looks into memberships, with nobody
    on this host to ask for them again."""
    name = interface.name
    bridge = next((path for path in (root / name, root / name / "master") if (path / "bridge").is_dir()), None)
    if bridge is None:
        return ok("bridge", f"{name} is on no bridge of this host")
    shown = bridge.resolve().name
    if not read_number(bridge / "bridge" / "multicast_snooping"):
        return ok("bridge", f"{shown} hands multicast on to everybody")
    if read_number(bridge / "bridge" / "multicast_querier"):
        return ok("bridge", f"{shown} hands multicast on to those who listen, and asks for them itself")
    return warning(
        "bridge",
        f"{shown} hands multicast on only to those who listen and does not ask for them: unless something else on "
        "this network does, it forgets them after some minutes",
        "let it ask",
        *("ip", "link", "set", shown, "type", "bridge", "mcast_querier", "1"),
    )
