"""Rules as `nft --json list ruleset` prints them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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
    of_version,
    port_in,
    protocol_in,
    to_multicast,
)

Json = dict[str, Any]

_VERSIONS = {"ip": 4, "ip6": 6, "inet": 0}
_VERDICTS = {
    "accept": Verdict.ACCEPT,
    "drop": Verdict.DROP,
    "reject": Verdict.DROP,
    "return": Verdict.RETURN,
    "jump": Verdict.JUMP,
    "goto": Verdict.GOTO,
}
_SAYS_NOTHING = {"counter", "log", "comment"}


def parse_nftables(text: str) -> list[Table]:
    """The tables in what nft has printed. `ValueError` if it is not such a text."""
    tables: dict[tuple[str, str], Table] = {}
    try:
        for entry in json.loads(text)["nftables"]:
            (kind, body), *_ = entry.items()
            if kind == "table" and body["family"] in _VERSIONS:
                name = f"nft {body['family']} {body['name']}"
                tables[body["family"], body["name"]] = Table(name, _VERSIONS[body["family"]])
            elif kind in ("chain", "rule") and (body["family"], body["table"]) in tables:
                _add(tables[body["family"], body["table"]], kind, body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not what nft prints ({type(error).__name__})") from None
    return list(tables.values())


def _add(table: Table, kind: str, body: Json) -> None:
    if kind == "chain":
        table.chains[body["name"]] = Chain(body["name"], body.get("hook", ""), body.get("policy") == "drop")
    else:
        table.chains[body["chain"]].rules.extend(_rules(body["expr"]))


def _rules(expressions: list[Json]) -> Iterator[Rule]:
    """A rule; more than one if it has a verdict map, which is a rule for each of its entries."""
    conditions: list[Condition] = []
    words: list[str] = []
    for index, expression in enumerate(expressions):
        ((kind, body),) = expression.items()
        if kind == "match":
            conditions += _match(body["op"], body["left"], body["right"])
            words.append(f"{_shown(body['left'])} {body['op']} {_shown(body['right'])}".replace(" == ", " "))
        elif kind == "vmap":
            entries = body["data"]["set"] if isinstance(body["data"], dict) else []
            for value, verdict in entries:
                match = {"match": {"op": "==", "left": body["key"], "right": value}}
                yield from _rules([*expressions[:index], match, verdict])
            return
        elif kind in _VERDICTS:
            target = body["target"] if kind in ("jump", "goto") else ""
            words.append(f"{kind} {target}".strip())
            yield Rule(" ".join(words), tuple(conditions), _VERDICTS[kind], target)
        elif kind not in _SAYS_NOTHING:
            conditions.append(not_understood())
            words.append(f"{kind} …")


def _match(operator: str, left: Json, right: Any) -> list[Condition]:
    """The conditions that one match is, all of which must hold."""
    values = right["set"] if isinstance(right, dict) and "set" in right else [right]
    ((kind, body),) = left.items() if isinstance(left, dict) and len(left) == 1 else (("", {}),)
    conditions = _conditions(kind, body, values)
    if operator == "==":
        return conditions
    *others, comparison = conditions
    return [*others, ~comparison if operator == "!=" else not_understood()]


def _conditions(kind: str, body: Json, values: list[Any]) -> list[Condition]:
    """What a field of the datagram is compared with; the last condition is the comparison itself."""
    match kind, body:
        case ("meta", {"key": "l4proto"}) | ("payload", {"protocol": "ip", "field": "protocol"}):
            return [protocol_in(values)]
        case ("payload", {"protocol": "ip6", "field": "nexthdr"}):
            return [protocol_in(values)]
        case ("meta", {"key": "iif" | "iifname"}):
            return [by_interface(values, INCOMING)]
        case ("meta", {"key": "oif" | "oifname"}):
            return [by_interface(values, OUTGOING)]
        case ("meta", {"key": "nfproto"}):
            return [of_version(4 if values == ["ipv4"] else 6)]
        case ("meta", {"key": "pkttype"}) if values == ["multicast"]:
            return [to_multicast()]
        case ("payload", {"protocol": "ip" | "ip6" as protocol, "field": "daddr"}):
            return [of_version(_VERSIONS[protocol]), _understood(destined_to, map(_network, values))]
        case ("payload", {"protocol": "ip" | "ip6" as protocol}):
            return [of_version(_VERSIONS[protocol]), not_understood()]
        case ("payload", {"protocol": "th", "field": "dport"}):
            return [_understood(port_in, map(_range, values))]
        case ("payload", {"protocol": protocol, "field": "dport"}):
            return [protocol_in([protocol]), _understood(port_in, map(_range, values))]
        case ("payload", {"protocol": protocol, "field": "type"}):
            return [protocol_in([protocol]), not_understood(About.EXACTLY_THIS)]
        case ("payload", {"protocol": protocol}):
            return [protocol_in([protocol]), not_understood()]
    return [not_understood()]


def _understood(make: Callable[[Iterable[Any]], Condition], values: Iterable[Any]) -> Condition:
    """The condition that these values are, unless they stand elsewhere (`@name` is a named set)."""
    try:
        return make(values)
    except (ValueError, TypeError, KeyError):
        return not_understood(About.EXACTLY_THIS)


def _network(value: Any) -> str:
    match value:
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [low, high]}:
            return f"{low}-{high}"
    return str(value)


def _range(value: Any) -> tuple[int, int]:
    low, high = value["range"] if isinstance(value, dict) else (value, value)
    return int(low), int(high)


def _shown(value: Any) -> str:
    """An expression as nft's own language has it, more or less."""
    match value:
        case {"payload": {"protocol": protocol, "field": field}}:
            return f"{protocol} {field}"
        case {"meta": {"key": key}} | {"ct": {"key": key}}:
            return str(key)
        case {"set": [*values]}:
            return "{ " + ", ".join(map(_shown, values)) + " }"
        case {"range": [low, high]}:
            return f"{low}-{high}"
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case dict():
            return "…"
    return str(value)
