from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from math import inf
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import (
    GID,
    MARK,
    example_admin,
    example_material,
    example_report,
    mutations,
    plain,
    policies,
    reports,
)

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.policy import GroupPolicy, Verification
from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.cose.credentials import Credential, CredentialKind
from groupcoap.errors import MisuseError, Reason
from groupcoap.keying.admin import Scheme
from groupcoap.keying.labels import CodePoints
from groupcoap.keying.report import KeyReport
from groupcoap.membership import GroupAddress
from support import attempt, refused


def content_of(report: KeyReport) -> dict[Any, Any]:
    content: dict[Any, Any] = cbor2.loads(report.encode())
    return content


GOOD = content_of(example_report())


@given(reports())
def test_a_report_comes_back(report: KeyReport) -> None:
    assert plain(KeyReport.parse(report.encode())) == plain(report)


@given(policies)
def test_every_policy_comes_back(policy: GroupPolicy) -> None:
    assert KeyReport.parse(replace(example_report(), policy=policy).encode()).policy == policy


def test_how_a_report_looks() -> None:
    content = content_of(example_report())
    assert content.pop(8)[6] == GID
    assert content == {
        7: 1,
        9: 5,
        10: 1,
        11: 1_800_000_000,
        12: 600,
        13: [b"credential"],
        14: [2],
        15: [b"\x01"],
        16: {0: -65539, 1: 60, 2: 2},
        17: b"\xa0",
        18: b"12345678",
        19: bytes(64),
        20: -65538,
        27: example_admin().encode(),
        28: "coap://224.0.1.187:5685/ace-group/lights",
        -65541: 2,
        -65542: ["lamp"],
        -65543: ["[ff05::fd]"],
        -65544: {0: 30, 1: 1, 2: 8, 4: "always", 5: "pairwise", 6: 4096, 7: True, 8: 2.5, 10: 1.5},
        -65546: b"incarnation",
    }


def test_a_report_in_seed_mode_names_its_profile() -> None:
    report = replace(example_report(), material=example_material(seed=True))
    content = content_of(report)
    assert content[-65547] == "multicast-oscore-04"
    assert content[8][5] == content[8][6] == GID
    assert KeyReport.parse(report.encode()).material.master_salt == b""


def test_the_managers_credential_is_bound_where_it_came() -> None:
    manager = Credential(CredentialKind.CCS, b"\xa0")
    parsed = KeyReport.parse(example_report().encode())
    assert parsed.manager_credential == parsed.material.parameters.manager_credential == manager
    without = KeyReport.parse(replace(example_report(), manager_credential=None).encode())
    assert without.manager_credential is without.material.parameters.manager_credential is None


def test_suggested_numbers_can_be_others() -> None:
    points = CodePoints(gkty=7, profile=8)
    payload = example_report().encode(points)
    assert KeyReport.parse(payload, points).num == 5
    with refused(Reason.MALFORMED):
        KeyReport.parse(payload)


def test_what_another_manager_says_is_enough() -> None:
    key = {2: MARK, 6: b"\x01", 8: 14, 9: 10, 10: -8, 11: [[1], [1, 6]]}
    report = KeyReport.parse(cbor2.dumps({7: 1, 8: key, 9: 0, 10: 1, 12: 60}))
    assert report.scheme is Scheme.POINT_TO_POINT
    assert report.policy == GroupPolicy()
    assert report.check_interval == 3600
    assert report.members is None
    assert report.addresses == ()
    assert (report.incarnation, report.roster, report.confirm_within) == (b"", 0, 0.0)
    assert report.material.parameters.profile is GROUP_OSCORE


def at(*path: Any) -> Callable[[dict[Any, Any], Any], None]:
    """What puts a value at this place of a report."""

    def put(content: dict[Any, Any], value: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        if value is None:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return put


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (at(7), None),
        (at(7), 2),
        (at(7), True),
        (at(7), "1"),
        (at(8), None),
        (at(8), []),
        (at(8, 2), b"short"),
        (at(9), None),
        (at(9), -1),
        (at(9), True),
        (at(10), None),
        (at(10), 0),
        (at(11), -1),
        (at(11), 1.5),
        (at(12), None),
        (at(12), "60"),
        (at(13), None),
        (at(14), [8]),
        (at(16), []),
        (at(16, 0), 1),
        (at(16, 0), "baseline"),
        (at(16, 1), -1),
        (at(16, 2), 1.5),
        (at(17), b""),
        (at(17), bytes(4097)),
        (at(18), bytes(65)),
        (at(19), "proof"),
        (at(20), -65539),
        (at(20), "lkh"),
        (at(27), {}),
        (at(27), b""),
        (at(28), b"uri"),
        (at(28), "coap://192.0.2.1:5685/ace-group/lights"),
        (at(-65541), -1),
        (at(-65542), []),
        (at(-65543), "224.0.1.187"),
        (at(-65543), ["192.0.2.1"]),
        (at(-65543), [1]),
        (at(-65543), ["224.0.1.187", "224.0.1.187"]),
        (at(-65544), []),
        (at(-65544, 0), 0),
        (at(-65544, 0), -1),
        (at(-65544, 0), inf),
        (at(-65544, 1), "1"),
        (at(-65544, 2), 7),
        (at(-65544, 2), 41),
        (at(-65544, 3), 0),
        (at(-65544, 4), "never"),
        (at(-65544, 4), 1),
        (at(-65544, 5), "both"),
        (at(-65544, 6), 63),
        (at(-65544, 7), 1),
        (at(-65544, 8), -0.5),
        (at(-65544, 10), True),
        (at(-65546), "text"),
        (at(-65546), bytes(65)),
        (at(-65547), "oscore"),
        (at(-65547), 1),
        (at(-65547), "multicast-oscore-04"),
    ],
)
def test_a_malformed_part_is_rejected(place: Callable[[dict[Any, Any], Any], None], value: Any) -> None:
    content = content_of(example_report())
    place(content, value)
    with refused(Reason.MALFORMED):
        KeyReport.parse(cbor2.dumps(content))


def test_unknown_fields_are_ignored() -> None:
    extra = {99: cbor2.CBORTag(0, "2026-01-01"), -65544: GOOD[-65544] | {9: -65537, 77: []}}
    assert plain(KeyReport.parse(cbor2.dumps(GOOD | extra))) == plain(KeyReport.parse(cbor2.dumps(GOOD)))


@given(st.binary(max_size=100) | mutations(example_report().encode()))
def test_nothing_else_is_raised(payload: bytes) -> None:
    outcome = attempt(lambda: KeyReport.parse(payload))
    assert outcome is Reason.MALFORMED or isinstance(outcome, KeyReport)


@pytest.mark.parametrize(
    "change",
    [
        {"confirm_within": inf},
        {"confirm_within": -1.0},
        {"check_interval": -1},
        {"policy": GroupPolicy(grace=inf)},
        {"policy": GroupPolicy(grace=float("nan"))},
        {"policy": GroupPolicy(SynchronizationPolicy(max_gap=1 << 64))},
        {"policy": GroupPolicy(max_unfragmented_size=1 << 64)},
        {"manager_credential": Credential(CredentialKind.X509, b"der")},
    ],
)
def test_what_has_no_encoding_is_the_callers_mistake(change: dict[str, Any]) -> None:
    with pytest.raises(MisuseError):
        replace(example_report(), **change).encode()


@pytest.mark.parametrize("grace", [0.0, 5.0, 0.1, 2.0**53, 1e300])
def test_an_exact_grace_is_said_apart_only_where_it_must_be(grace: float) -> None:
    report = replace(example_report(), policy=GroupPolicy(grace=grace, verification=Verification.SKIP))
    content = content_of(report)
    assert (10 in content[-65544]) == (grace not in (0.0, 5.0))
    assert content[16][2] >= min(grace, (1 << 64) - 1)
    assert KeyReport.parse(report.encode()).policy.grace == grace


def test_addresses_keep_their_order() -> None:
    hosts = [GroupAddress(ip_address("ff05::fd"), 5685), GroupAddress(ip_address("224.0.1.187"))]
    report = replace(example_report(), addresses=tuple(hosts))
    assert list(KeyReport.parse(report.encode()).addresses) == hosts


def test_secrets_do_not_show() -> None:
    shown = repr(example_report()) + repr(KeyReport.parse(example_report().encode()))
    assert MARK.hex() not in shown
    assert repr(MARK)[2:-1] not in shown
