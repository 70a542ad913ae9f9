"""Firewall rules, read to find those that would drop a datagram.

This is a reader, not the kernel: where a rule asks for what it does not know (connection tracking, sets, sources),
it is passed over, unless it speaks of this very port or destination. So it finds what to look at; what arrives is
shown by trying (`reception`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import ip_address, ip_network

from ..endpoint.network import Address

INCOMING = frozenset({"prerouting", "input"})
OUTGOING = frozenset({"output", "postrouting"})
_MAX_DEPTH = 16
"""Chains that jump into each other; Linux allows as many."""


class Verdict(Enum):
    """What a rule does with what it matches."""

    ACCEPT = "accept"
    DROP = "drop"
    JUMP = "jump"
    GOTO = "goto"
    RETURN = "return"
    NOTHING = "nothing"


class Fit(Enum):
    """Whether something matches, so far as this reader understands it."""

    NO = 0
    MAYBE = 1
    YES = 2


class About(Enum):
    """What a condition asks for."""

    PROTOCOL = "protocol"
    EXACTLY_THIS = "a port, a destination or a type of message"
    ANYTHING_ELSE = "anything else"


@dataclass(frozen=True, slots=True)
class Datagram:
    """What may be dropped: by which hooks it passes, over which interface, to which address; `port` is None where
    the protocol has none."""

    hooks: frozenset[str]
    interface: str
    protocol: str
    destination: Address
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that a rule asks for."""

    about: About
    test: Callable[[Datagram], bool] | None
    """None: not understood."""
    negated: bool = False

    def __invert__(self) -> Condition:
        return replace(self, negated=not self.negated)

    def fit(self, datagram: Datagram) -> Fit:
        """Whether it is so for this datagram."""
        if self.test is None:
            return Fit.MAYBE
        return Fit.YES if self.test(datagram) != self.negated else Fit.NO


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: all conditions must hold. `target`: the chain that a jump leads to."""

    text: str
    conditions: tuple[Condition, ...]
    verdict: Verdict
    target: str = ""

    def applies(self, datagram: Datagram) -> bool:
        """Whether to take it that the rule matches. One that only may match is believed if it is about just such
        datagrams, or leads to rules that are about their protocol."""
        fit = min((condition.fit(datagram).value for condition in self.conditions), default=Fit.YES.value)
        if fit != Fit.MAYBE.value:
            return fit == Fit.YES.value
        about = {condition.about for condition in self.conditions}
        jumps = self.verdict in (Verdict.JUMP, Verdict.GOTO)
        return About.EXACTLY_THIS in about or (jumps and About.PROTOCOL in about)


@dataclass(slots=True)
class Chain:
    """Rules in their order. `hook`: where the kernel begins with them; empty: by jumps only. `drops`: what reaches
    its end."""

    name: str
    hook: str = ""
    drops: bool = False
    rules: list[Rule] = field(default_factory=list)


@dataclass(slots=True)
class Table:
    """Chains that can lead to each other, of one IP version (0: both)."""

    name: str
    version: int
    chains: dict[str, Chain] = field(default_factory=dict)


def culprits(tables: Iterable[Table], datagram: Datagram) -> list[str]:
    """The rules and policies that would drop this datagram, in words."""
    found = []
    for table in tables:
        if table.version not in (0, datagram.destination.version):
            continue
        for chain in table.chains.values():
            if chain.hook in datagram.hooks:
                dropped = _walk(table, chain, datagram, 0)
                if dropped is None and chain.drops:
                    dropped = "policy drop"
                if dropped:
                    found.append(f"{table.name} {chain.name}: {dropped}")
    return found


def _walk(table: Table, chain: Chain, datagram: Datagram, depth: int) -> str | None:
    """The text of the rule that drops the datagram, empty if it is accepted; None if this chain lets it go on."""
    for rule in chain.rules:
        if not rule.applies(datagram):
            continue
        if rule.verdict is Verdict.DROP:
            return rule.text
        if rule.verdict is Verdict.ACCEPT:
            return ""
        if rule.target in table.chains and depth < _MAX_DEPTH:
            end = _walk(table, table.chains[rule.target], datagram, depth + 1)
            if end is not None:
                return end and f"{rule.target}: {end}"
        if rule.verdict in (Verdict.RETURN, Verdict.GOTO):
            return None
    return None


# ---- conditions

_SYNONYMS = {"ipv6-icmp": "icmpv6", "58": "icmpv6", "17": "udp", "2": "igmp"}


def protocol_in(names: Iterable[object]) -> Condition:
    """The protocol above IP is one of these."""
    wanted = {_SYNONYMS.get(str(name), str(name)) for name in names}
    return Condition(About.PROTOCOL, lambda datagram: datagram.protocol in wanted)


def port_in(ranges: Iterable[tuple[int, int]]) -> Condition:
    """The destination port is in one of these ranges, ends included."""
    wanted = tuple(ranges)

    def test(datagram: Datagram) -> bool:
        return datagram.port is not None and any(low <= datagram.port <= high for low, high in wanted)

    return Condition(About.EXACTLY_THIS, test)


def destined_to(networks: Iterable[str]) -> Condition:
    """The destination is in one of these networks or ranges (`a-b`). `ValueError` if one is neither."""
    wanted = []
    for text in networks:
        first, dash, last = text.partition("-")
        network = ip_network(first, strict=False)
        wanted.append((network[0], ip_address(last) if dash else network[-1]))

    def test(datagram: Datagram) -> bool:
        number, version = int(datagram.destination), datagram.destination.version
        return any(low.version == version and int(low) <= number <= int(high) for low, high in wanted)

    return Condition(About.EXACTLY_THIS, test)


def to_multicast() -> Condition:
    """The destination is a multicast address."""
    return Condition(About.EXACTLY_THIS, lambda datagram: datagram.destination.is_multicast)


def by_interface(names: Iterable[object], hooks: frozenset[str]) -> Condition:
    """It comes in (hooks `INCOMING`) or goes out (`OUTGOING`) by one of these; `eth+` and `eth*` stand for all that
    begin so."""
    patterns = [str(name) for name in names]

    def test(datagram: Datagram) -> bool:
        return datagram.hooks == hooks and any(_matches(pattern, datagram.interface) for pattern in patterns)

    return Condition(About.ANYTHING_ELSE, test)


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith(("+", "*")) else name == pattern


def of_version(version: int) -> Condition:
    """It is of this IP version."""
    return Condition(About.ANYTHING_ELSE, lambda datagram: datagram.destination.version == version)


def not_understood(about: About = About.ANYTHING_ELSE) -> Condition:
    """Something that this reader cannot tell."""
    return Condition(about, None)
