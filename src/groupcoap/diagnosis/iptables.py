"""Rules as `iptables-save` and `ip6tables-save` print them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from .rules import (
    INCOMING,
    OUTGOING,
    About,
    Chain,
    Condition,
    Rule,
    Table,
    Verdict,
    by_interface,
    destined_to,
    not_understood,
    port_in,
    protocol_in,
    to_multicast,
)

_HOOKS = {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}
_VERDICTS = {"ACCEPT": Verdict.ACCEPT, "DROP": Verdict.DROP, "REJECT": Verdict.DROP, "RETURN": Verdict.RETURN}
_SAYS_NOTHING = {"udp", "tcp", "icmp", "icmp6", "multiport", "comment", "pkttype", "addrtype"}
"""Matches that only make options known, which are looked at one by one."""


def parse_iptables(text: str, version: int) -> list[Table]:
    """The tables in what `iptables-save` (version 4) or `ip6tables-save` (6) has printed."""
    tables: list[Table] = []
    program = "iptables" if version == 4 else "ip6tables"
    for line in text.splitlines():
        if line.startswith("*"):
            tables.append(Table(f"{program} {line[1:]}", version))
        elif line.startswith(":") and tables:
            name, policy, *_ = line[1:].split()
            hook = name.lower() if name in _HOOKS else ""
            tables[-1].chains[name] = Chain(name, hook, drops=policy == "DROP")
        elif line.startswith("-A ") and tables:
            _, chain, *words = shlex.split(line)
            tables[-1].chains.setdefault(chain, Chain(chain)).rules.append(_rule(line, words))
    return tables


def _rule(line: str, words: list[str]) -> Rule:
    conditions = []
    verdict, target = Verdict.NOTHING, ""
    options = _options(words)
    for option, values, negated in options:
        if option in ("-j", "-g"):
            target = values[0]
            otherwise = Verdict.GOTO if option == "-g" else Verdict.JUMP
            verdict = _VERDICTS.get(target, otherwise)
            break  # what follows belongs to the target
        condition = _condition(option, values)
        if condition is not None:
            conditions.append(~condition if negated else condition)
    return Rule(line.partition(" ")[2].partition(" ")[2], tuple(conditions), verdict, target)


def _options(words: list[str]) -> Iterator[tuple[str, list[str], bool]]:
    """(option, its values, whether there is a ! before it)"""
    negated = False
    at = 0
    while at < len(words):
        if words[at] == "!":
            negated = True
            at += 1
            continue
        option, values = words[at], []
        at += 1
        while at < len(words) and not words[at].startswith("-") and words[at] != "!":
            values.append(words[at])
            at += 1
        yield option, values, negated
        negated = False


def _condition(option: str, values: list[str]) -> Condition | None:
    """What an option asks for; None: nothing."""
    try:
        match option, values:
            case ("-m", [name]) if name in _SAYS_NOTHING:
                return None
            case ("--comment", _):
                return None
            case ("-p", [name]):
                return protocol_in([name])
            case ("-i", [name]):
                return by_interface([name], INCOMING)
            case ("-o", [name]):
                return by_interface([name], OUTGOING)
            case ("-d", [network]):
                return destined_to([network])
            case ("--dport" | "--dports" | "--ports", [ports]):
                return port_in(_range(part) for part in ports.split(","))
            case ("--pkt-type" | "--dst-type", [kind]) if kind.lower() == "multicast":
                return to_multicast()
            case ("--icmpv6-type" | "--icmp-type", _):
                return not_understood(About.EXACTLY_THIS)
    except ValueError:
        return not_understood(About.EXACTLY_THIS)  # a service or a network by its name
    return not_understood()


def _range(text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    return int(low), int(high) if colon else int(low)
