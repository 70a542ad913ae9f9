from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import MARK, admin_keys, example_admin, mutations, plain

from groupcoap.cose.algorithms import DEFAULT_AEAD
from groupcoap.errors import MisuseError, Reason
from groupcoap.keying.admin import AdminKeys, Scheme, make_kid
from support import attempt, refused

KID = bytes.fromhex("746167210000000100000003")
GOOD: dict[Any, Any] = {0: 1, 1: 10, 2: bytes(range(13)), 3: [[KID, MARK, 1, 3]], 4: 2}


def test_numbers_of_the_schemes() -> None:
    assert [scheme.value for scheme in Scheme] == [0, -65537, -65538]


def test_a_kid_is_tag_node_and_generation() -> None:
    assert make_kid(b"tag!", 1, 3) == KID


@pytest.mark.parametrize(
    ("tag", "node", "generation"),
    [
        (b"tag", 1, 0),
        (b"tag!!", 1, 0),
        (b"tag!", 0, 0),
        (b"tag!", 1 << 32, 0),
        (b"tag!", 1, -1),
        (b"tag!", 1, 1 << 32),
    ],
)
def test_parts_that_make_no_kid(tag: bytes, node: int, generation: int) -> None:
    with pytest.raises(MisuseError):
        make_kid(tag, node, generation)


def test_the_bytes_of_administrative_keys() -> None:
    assert example_admin().encode() == cbor2.dumps(GOOD)


@given(admin_keys())
def test_administrative_keys_come_back(keys: AdminKeys) -> None:
    assert plain(AdminKeys.parse(keys.encode())) == plain(keys)


@pytest.mark.parametrize(
    "change",
    [
        {0: None},
        {0: 2},
        {0: True},
        {1: None},
        {1: 99},
        {1: "A128GCM"},
        {1: -65534},
        {2: None},
        {2: bytes(12)},
        {2: bytes(14)},
        {3: None},
        {3: {}},
        {3: [[KID, MARK, 1]]},
        {3: [[b"", MARK, 1, 3]]},
        {3: [[bytes(65), MARK, 1, 3]]},
        {3: [[KID, MARK[:-1], 1, 3]]},
        {3: [[KID, "key", 1, 3]]},
        {3: [[KID, MARK, 0, 3]]},
        {3: [[KID, MARK, 1 << 32, 3]]},
        {3: [[KID, MARK, 1, -1]]},
        {3: [[KID, MARK, 1, 3], [b"other", MARK, 1, 4]]},
        {3: [[KID, MARK, 1, 3], [KID, MARK, 2, 3]]},
        {4: 1},
        {4: 257},
        {4: "2"},
    ],
)
def test_a_malformed_part_is_rejected(change: dict[int, Any]) -> None:
    content = {key: value for key, value in (GOOD | change).items() if value is not None}
    with refused(Reason.MALFORMED):
        AdminKeys.parse(cbor2.dumps(content))


def test_what_a_later_version_adds_beside_is_ignored() -> None:
    assert plain(AdminKeys.parse(cbor2.dumps(GOOD | {9: "new"}))) == plain(example_admin())


@given(st.binary(max_size=100) | mutations(example_admin().encode()))
def test_nothing_else_is_raised(data: bytes) -> None:
    outcome = attempt(lambda: AdminKeys.parse(data))
    assert outcome is Reason.MALFORMED or isinstance(outcome, AdminKeys)


def test_keys_do_not_show() -> None:
    assert MARK.hex() not in repr(example_admin())
    assert repr(MARK)[2:-1] not in repr(example_admin())


def test_the_algorithm_is_the_same_object() -> None:
    assert AdminKeys.parse(example_admin().encode()).aead is DEFAULT_AEAD
