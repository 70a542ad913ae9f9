from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import L, M, mutations, names, parsed, rosters
from keying_support import refused as refusal

from groupcoap.errors import Reason
from groupcoap.keying.reading import Malformed
from groupcoap.keying.roster import (
    MAX_FILTER,
    Filter,
    GroupName,
    MemberEntry,
    encode_credentials,
    encode_filter,
    encode_gids,
    encode_names,
    parse_credentials,
    parse_filter,
    parse_gids,
    parse_names,
    put_members,
    take_members,
)
from support import attempt, refused

LAMP = MemberEntry(b"\x01", frozenset({L}), b"credential", "lamp")
SWITCH = MemberEntry(b"", frozenset({M}), b"other")
ids = st.binary(max_size=7)


@given(rosters)
def test_members_come_back(entries: tuple[MemberEntry, ...]) -> None:
    content: dict[Any, Any] = {}
    put_members(content, entries)
    assert take_members(content) == entries


def test_how_members_look() -> None:
    content: dict[int, Any] = {}
    put_members(content, [LAMP, SWITCH])
    assert content == {13: [b"credential", b"other"], 14: [4, 2], 15: [b"\x01", b""], -65542: ["lamp", ""]}
    content = {}
    put_members(content, [SWITCH])
    assert content == {13: [b"other"], 14: [2], 15: [b""]}


def test_members_that_are_not_said() -> None:
    assert take_members({9: 1}) is None
    assert take_members({13: [], 14: [], 15: []}) == ()


@pytest.mark.parametrize(
    "change",
    [
        {13: None},
        {14: None},
        {15: None},
        {13: b"credential"},
        {13: []},
        {13: [b""]},
        {13: [bytes(4097)]},
        {13: ["text"]},
        {14: [4, 4]},
        {14: ["4"]},
        {14: [0]},
        {14: [8]},
        {14: [16]},
        {14: [-2]},
        {15: [1]},
        {15: [bytes(256)]},
        {-65542: ["lamp", "lamp"]},
        {-65542: [b"lamp"]},
        {-65542: ["l" * 256]},
        {13: [b"1", b"2"], 14: [4, 4], 15: [b"\x01", b"\x01"], -65542: ["", ""]},
    ],
)
def test_members_that_do_not_fit_together(change: dict[int, Any]) -> None:
    content: dict[Any, Any] = {}
    put_members(content, [LAMP])
    content = {key: value for key, value in (content | change).items() if value is not None}
    with pytest.raises(Malformed):
        take_members(content)


def test_how_a_filter_looks() -> None:
    assert encode_filter([b"\x01"], [2, 4], False) == cbor2.dumps({4: [False, [2, 4], [b"\x01"]]})
    assert encode_filter([b"\x01"]) == cbor2.dumps({4: [True, [], [b"\x01"]]})
    assert encode_filter(None) == cbor2.dumps({4: None})


@given(st.lists(ids, max_size=4), st.lists(st.integers(1, 15), max_size=4), st.booleans())
def test_a_filter_comes_back(wanted: list[bytes], roles: list[int], inclusive: bool) -> None:
    expected = Filter(inclusive, tuple(roles), frozenset(wanted)) if wanted or roles else None
    assert parse_filter(encode_filter(wanted, roles, inclusive)) == expected


@pytest.mark.parametrize(
    ("filter_", "matched"),
    [
        (Filter(True, (2,)), ["m", "ml"]),
        (Filter(True, (6,)), ["ml"]),
        (Filter(True, (2, 4)), ["m", "l", "ml"]),
        (Filter(True, (), frozenset({b"l"})), ["l"]),
        (Filter(True, (2,), frozenset({b"l"})), ["m", "l", "ml"]),
        (Filter(False, (2,), frozenset({b"m"})), ["ml"]),
        (Filter(False, (), frozenset({b"m"})), ["l", "ml"]),
        (Filter(False, (4,)), ["l", "ml"]),
        (Filter(True, (8,), frozenset({b"unknown"})), []),
    ],
)
def test_whom_a_filter_means(filter_: Filter, matched: list[str]) -> None:
    everybody = {"m": 2, "l": 4, "ml": 6}
    assert [name for name, roles in everybody.items() if filter_.matches(roles, name.encode())] == matched


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {4: True},
        {4: [True, [2]]},
        {4: [1, [2], []]},
        {4: [True, 2, []]},
        {4: [True, [0], []]},
        {4: [True, ["2"], []]},
        {4: [True, [2], [1]]},
        {4: [True, [2], b"\x01"]},
        {4: [True, [2], [bytes(256)]]},
        {4: [True, [], []]},
        {4: [False, [], []]},
        {4: [True, [2] * (MAX_FILTER + 1), []]},
    ],
)
def test_a_malformed_filter_is_refused(content: object) -> None:
    refusal(lambda: parse_filter(cbor2.dumps(content)))


@given(st.binary(max_size=60) | mutations(encode_filter([b"\x01"], [2])))
def test_a_filter_is_parsed_or_refused(payload: bytes) -> None:
    assert isinstance(parsed(lambda: parse_filter(payload)), Filter | None)
    assert isinstance(parsed(lambda: parse_gids(payload)), tuple | None)


@given(st.integers(0, (1 << 64) - 1), rosters)
def test_credentials_come_back(num: int, entries: tuple[MemberEntry, ...]) -> None:
    payload = encode_credentials(num, entries)
    assert parse_credentials(payload) == ((num, entries) if entries else (None, ()))


def test_nothing_found_is_one_byte() -> None:
    assert encode_credentials(5, ()) == encode_names(()) == b"\x40"
    assert parse_credentials(b"\x40") == (None, ())
    assert parse_names(b"\x40") == ()


@pytest.mark.parametrize("content", [[], 0, "", None, b"\x01", {13: [], 14: [], 15: []}, {9: -1}, {9: 1, 13: []}])
def test_malformed_credentials_are_rejected(content: object) -> None:
    with refused(Reason.MALFORMED):
        parse_credentials(cbor2.dumps(content))


@given(st.binary(max_size=60) | mutations(encode_credentials(3, [LAMP, SWITCH])))
def test_credentials_raise_nothing_else(payload: bytes) -> None:
    outcome = attempt(lambda: parse_credentials(payload))
    assert outcome is Reason.MALFORMED or isinstance(outcome, tuple)


@given(st.lists(st.builds(GroupName, ids, names, names), max_size=3))
def test_names_come_back(groups: list[GroupName]) -> None:
    assert parse_names(encode_names(groups)) == tuple(groups)


@given(st.lists(ids, min_size=1, max_size=4))
def test_gids_come_back(gids: list[bytes]) -> None:
    assert parse_gids(encode_gids(gids)) == tuple(gids)


@pytest.mark.parametrize("content", [{}, [], {0: []}, {0: b"gid"}, {0: [1]}, {0: [bytes(256)]}, {0: [b""] * 5000}])
def test_malformed_questions_for_names_are_refused(content: object) -> None:
    refusal(lambda: parse_gids(cbor2.dumps(content)))


@pytest.mark.parametrize(
    "content",
    [
        [],
        {0: [b""], 1: ["a"]},
        {0: [b""], 1: ["a"], 2: []},
        {0: ["gid"], 1: ["a"], 2: ["b"]},
        {0: [b""], 1: [b"a"], 2: ["b"]},
        {0: [b""], 1: ["a"], 2: [b"b"]},
    ],
)
def test_malformed_names_are_rejected(content: object) -> None:
    with refused(Reason.MALFORMED):
        parse_names(cbor2.dumps(content))


@given(st.binary(max_size=60) | mutations(encode_names([GroupName(b"gid", "lights", "/ace-group/lights")])))
def test_names_raise_nothing_else(payload: bytes) -> None:
    outcome = attempt(lambda: parse_names(payload))
    assert outcome is Reason.MALFORMED or isinstance(outcome, tuple)
