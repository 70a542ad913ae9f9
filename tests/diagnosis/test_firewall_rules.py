"""Reading firewall rules. Those in rulesets/ are as the tools themselves print them."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from groupcoap.diagnosis.iptables import parse_iptables
from groupcoap.diagnosis.nftables import parse_nftables
from groupcoap.diagnosis.rules import INCOMING, OUTGOING, Datagram, culprits

RULESETS = Path(__file__).parent / "rulesets"
IPTABLES = parse_iptables((RULESETS / "house.iptables").read_text(), 4)
NFTABLES = parse_nftables((RULESETS / "house.nft.json").read_text())


def incoming(interface: str, port: int = 5699, to: str = "224.0.1.187") -> Datagram:
    return Datagram(INCOMING, interface, "udp", ip_address(to), port)


def outgoing(interface: str, port: int = 5699, to: str = "224.0.1.187") -> Datagram:
    return Datagram(OUTGOING, interface, "udp", ip_address(to), port)


def query(interface: str, protocol: str = "igmp", to: str = "224.0.0.1") -> Datagram:
    return Datagram(INCOMING, interface, protocol, ip_address(to))


REJECTS_MULTICAST = (
    "iptables filter INPUT: -i e1 -m pkttype --pkt-type multicast "
    '-m comment --comment "no, -j ACCEPT is not meant" -j REJECT --reject-with icmp-port-unreachable'
)


@pytest.mark.parametrize(
    ("datagram", "found"),
    [
        (incoming("lo"), []),
        (incoming("e0"), []),
        (incoming("e0", 1000), ["iptables filter INPUT: lan: refuse: -j DROP"]),
        (incoming("e1"), [REJECTS_MULTICAST]),
        (incoming("e1", 5800), []),  # by a jump whose condition is not understood but is about UDP
        (incoming("e2"), ["iptables filter INPUT: policy drop"]),
        (incoming("e2", to="ff05::fd"), []),  # other tables are for IPv6
        (
            incoming("bad7"),
            ["iptables raw PREROUTING: -i bad+ -p udp -j DROP", "iptables filter INPUT: policy drop"],
        ),
        (query("e0"), []),
        (query("e1"), [REJECTS_MULTICAST]),
        (outgoing("e0"), []),
        (outgoing("e1"), ["iptables filter OUTPUT: ! -o e0 -p udp -m udp --dport 5699 -j DROP"]),
        (
            outgoing("e0", 7000, "239.1.2.3"),
            ["iptables filter OUTPUT: -d 239.0.0.0/8 -p udp -m udp --dport 7000 -j DROP"],
        ),
        (outgoing("e0", 7000), []),
    ],
)
def test_what_iptables_drops(datagram: Datagram, found: list[str]) -> None:
    assert culprits(IPTABLES, datagram) == found


REJECTS_ALL = "nft inet filter input: reject"


@pytest.mark.parametrize(
    ("datagram", "found"),
    [
        (incoming("lo"), []),
        (incoming("e0"), []),
        (incoming("e0", to="ff05::fd"), []),
        (incoming("e0", 5800), []),  # a named set, which may hold it
        (
            incoming("e0", 1000),
            ["nft inet filter input: lan: ip daddr 224.0.1.180-224.0.1.190 udp dport 1000 drop"],
        ),
        (incoming("e0", 1000, "ff05::fd"), ["nft inet filter input: lan: ip6 daddr ff05::/16 udp dport 1000 drop"]),
        (incoming("e1"), ["nft inet filter input: wan: pkttype multicast drop"]),
        (incoming("e1", to="192.0.2.1"), ["nft inet filter input: wan: udp dport != 53 drop"]),
        (incoming("e1", 53, "192.0.2.1"), ["nft inet filter input: policy drop"]),  # goto does not come back
        (incoming("e2"), [REJECTS_ALL]),
        (
            incoming("e2", 7001, "ff05::fd"),
            [REJECTS_ALL, "nft ip6 only6 input: ip6 nexthdr { tcp, udp } th dport 7001 drop"],
        ),
        (query("e2"), []),
        (query("e2", "icmpv6", "ff02::1"), []),
        (outgoing("e0"), []),
        (outgoing("e1"), []),
        (outgoing("e1", to="ff05::fd"), ["nft inet filter output: oifname != e0 nfproto ipv6 udp dport 5699 drop"]),
        (outgoing("e0", 7000), ["nft inet filter output: th dport 7000 drop"]),
        (outgoing("e0", 60001), []),  # a comparison that is not understood
    ],
)
def test_what_nftables_drops(datagram: Datagram, found: list[str]) -> None:
    assert culprits(NFTABLES, datagram) == found


def chain_of(*expressions: dict[str, Any], family: str = "inet") -> str:
    """What nft prints for one incoming chain with one rule."""
    place = {"family": family, "table": "t"}
    chain = {**place, "name": "c", "hook": "input", "policy": "accept"}
    rule = {**place, "chain": "c", "expr": list(expressions)}
    return json.dumps({"nftables": [{"table": {"family": family, "name": "t"}}, {"chain": chain}, {"rule": rule}]})


@pytest.mark.parametrize(
    "match",
    [
        {"op": "==", "left": {"fib": {"result": "type", "flags": ["daddr"]}}, "right": "multicast"},
        {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 7},
        {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 1]}, "right": {"|": [1, 2]}},
        {"op": "==", "left": "anything", "right": None},
        {"op": "==", "left": {"payload": {"base": "th", "offset": 0, "len": 16}}, "right": 5},
    ],
)
def test_what_is_not_understood_is_passed_over(match: dict[str, Any]) -> None:
    assert culprits(parse_nftables(chain_of({"match": match}, {"drop": None})), incoming("e0")) == []
    assert culprits(parse_nftables(chain_of({"xt": {"type": "match"}}, {"drop": None})), incoming("e0")) == []


def test_a_rule_for_all_drops_all() -> None:
    everything = parse_nftables(chain_of({"counter": None}, {"drop": None}))
    assert culprits(everything, incoming("e0")) == ["nft inet t c: drop"]
    assert culprits(parse_nftables(chain_of({"drop": None}, family="ip6")), incoming("e0")) == []
    assert culprits(parse_nftables(chain_of({"drop": None}, family="bridge")), incoming("e0")) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"nftables": [{"table": {}}]}', '{"nftables": 7}', '{"nftables": [7]}', "[" * 99999]
)
def test_what_nft_never_prints(text: str) -> None:
    with pytest.raises(ValueError):
        parse_nftables(text)


def test_chains_that_jump_in_a_circle_end() -> None:
    text = "*filter\n:INPUT ACCEPT [0:0]\n:a - [0:0]\n-A INPUT -j a\n-A a -j a\n-A a -j DROP\nCOMMIT\n"
    assert culprits(parse_iptables(text, 4), incoming("e0")) != []


@pytest.mark.parametrize(
    "condition",
    ["-m set --match-set open dst", "-p udp --sport 7", "-f", "-m addrtype --dst-type LOCAL", "! -i e0", "-p tcp"],
)
def test_what_iptables_asks_besides_is_passed_over(condition: str) -> None:
    text = f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {condition} -j DROP\nCOMMIT\n"
    assert culprits(parse_iptables(text, 4), incoming("e0")) == []


@pytest.mark.parametrize("condition", ["-p udp -m udp --dport coap", "-d all-coap-nodes.example"])
def test_ports_and_destinations_by_name_may_be_these(condition: str) -> None:
    text = f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {condition} -j DROP\nCOMMIT\n"
    assert culprits(parse_iptables(text, 4), incoming("e0")) == [f"iptables filter INPUT: {condition} -j DROP"]


def test_what_only_logs_drops_nothing() -> None:
    text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j LOG\nCOMMIT\n"
    assert culprits(parse_iptables(text, 4), incoming("e0")) == []


def test_icmpv6_by_type_is_believed() -> None:
    text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 130 -j ACCEPT\nCOMMIT\n"
    tables = parse_iptables(text, 6)
    assert culprits(tables, query("e0", "icmpv6", "ff02::1")) == []
    assert culprits(tables, incoming("e0", to="ff05::fd")) == ["ip6tables filter INPUT: policy drop"]
