from __future__ import annotations

from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import GID, MARK, L, admin_keys, example_admin, mutations, plain, rosters, uints

from groupcoap.errors import Reason
from groupcoap.keying.labels import DEFAULT_CODE_POINTS, CodePoints
from groupcoap.keying.rekeying import RekeyMessage
from groupcoap.keying.roster import MemberEntry
from groupcoap.secret import Secret
from support import attempt, refused

EXAMPLE = RekeyMessage(
    gid=GID,
    master_secret=Secret(MARK),
    master_salt=b"salt",
    num=6,
    expires_in=600,
    expires_at=None,
    stale=frozenset({b"\x03", b"\x01", b""}),
    joined=(MemberEntry(b"\x04", frozenset({L}), b"credential"),),
    admin=example_admin(),
    roster=3,
    seed=False,
)
GOOD: dict[Any, Any] = cbor2.loads(EXAMPLE.encode())


@st.composite
def messages(draw: st.DrawFn) -> RekeyMessage:
    seed = draw(st.booleans())
    return RekeyMessage(
        gid=draw(st.binary(min_size=9 if seed else 1, max_size=20)),
        master_secret=Secret(draw(st.binary(min_size=16, max_size=40))),
        master_salt=b"" if seed else draw(st.binary(max_size=16)),
        num=draw(uints),
        expires_in=draw(uints),
        expires_at=draw(st.none() | uints),
        stale=draw(st.frozensets(st.binary(max_size=7), max_size=5)),
        joined=draw(st.none() | rosters),
        admin=draw(st.none() | admin_keys()),
        roster=draw(uints),
        seed=seed,
    )


@given(messages())
def test_a_message_comes_back(message: RekeyMessage) -> None:
    assert plain(RekeyMessage.parse(message.encode(), seed=message.seed)) == plain(message)


def test_how_a_message_looks() -> None:
    content = cbor2.loads(EXAMPLE.encode())
    assert content == {
        7: 1,
        8: {2: MARK, 5: b"salt", 6: GID},
        9: 6,
        10: 1,
        12: 600,
        13: [b"credential"],
        14: [4],
        15: [b"\x04"],
        27: example_admin().encode(),
        34: [b"", b"\x01", b"\x03"],
        -65541: 3,
    }


def test_a_salt_that_is_not_there_is_empty() -> None:
    message = replace(EXAMPLE, master_salt=b"")
    assert 5 not in cbor2.loads(message.encode())[8]
    assert RekeyMessage.parse(message.encode()).master_salt == b""


def test_in_seed_mode_the_gid_is_the_salt_on_the_wire() -> None:
    message = replace(EXAMPLE, master_salt=b"", seed=True)
    assert cbor2.loads(message.encode())[8] == {2: MARK, 5: GID, 6: GID}
    assert RekeyMessage.parse(message.encode(), seed=True).master_salt == b""


def test_one_of_the_other_mode_is_malformed() -> None:
    with refused(Reason.MALFORMED):
        RekeyMessage.parse(EXAMPLE.encode(), seed=True)


def test_suggested_numbers_can_be_others() -> None:
    points = CodePoints(stale_node_ids=134)
    payload = EXAMPLE.encode(points)
    assert 134 in cbor2.loads(payload)
    assert RekeyMessage.parse(payload, points).stale == EXAMPLE.stale
    with refused(Reason.MALFORMED):
        RekeyMessage.parse(payload, DEFAULT_CODE_POINTS)


@pytest.mark.parametrize(
    "change",
    [
        {7: None},
        {7: 0},
        {8: None},
        {8: []},
        {8: {6: GID}},
        {8: {2: MARK}},
        {8: {2: MARK[:-1], 6: GID}},
        {8: {2: MARK, 6: b""}},
        {8: {2: MARK, 6: GID, 5: bytes(256)}},
        {9: None},
        {9: -1},
        {9: "6"},
        {10: 2},
        {10: None},
        {11: -1},
        {12: None},
        {12: 1.5},
        {13: None},
        {14: []},
        {15: [b"\x04", b"\x05"]},
        {27: []},
        {27: b"\xa0"},
        {34: None},
        {34: b"\x03"},
        {34: [3]},
        {34: [bytes(256)]},
        {-65541: -1},
    ],
)
def test_a_malformed_part_is_rejected(change: dict[Any, Any]) -> None:
    content = {key: value for key, value in (GOOD | change).items() if value is not None}
    with refused(Reason.MALFORMED):
        RekeyMessage.parse(cbor2.dumps(content))


def test_unknown_fields_are_ignored() -> None:
    assert plain(RekeyMessage.parse(cbor2.dumps(GOOD | {99: 1}))) == plain(EXAMPLE)


@given(st.binary(max_size=100) | mutations(EXAMPLE.encode()), st.booleans())
def test_nothing_else_is_raised(payload: bytes, seed: bool) -> None:
    outcome = attempt(lambda: RekeyMessage.parse(payload, seed=seed))
    assert outcome is Reason.MALFORMED or isinstance(outcome, RekeyMessage)


def test_secrets_do_not_show() -> None:
    shown = repr(EXAMPLE) + repr(RekeyMessage.parse(EXAMPLE.encode()))
    assert MARK.hex() not in shown
    assert repr(MARK)[2:-1] not in shown
