"""What renewals cost: the tables of RFC 2627 §5.4 and of groups of the draft's size, and the shape of the tree."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
from rekey_members import LENGTH, TAG, Group, counting

from groupcoap.keying.admin import Scheme
from groupcoap.manager.rekey.draft import Draft
from groupcoap.manager.rekey.lkh import Lkh
from groupcoap.manager.rekey.scheme import make_keyring


def names(count: int, prefix: str = "m") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def lkh(count: int, arity: int) -> Lkh:
    keyring = make_keyring(Scheme.LKH, arity, TAG, LENGTH, names(count), counting())
    assert isinstance(keyring, Lkh)
    return keyring


def draft(keyring: Lkh, joined: list[str], left: list[str]) -> Draft:
    return keyring.draft(joined, left, counting())


def places(keyring: Lkh) -> list[str]:
    """The members from left to right, which is how a fresh tree places them."""
    return list(keyring.members)


# users, arity, stored keys, one key per encryption, several keys per message
RFC_2627_TABLE_1 = [
    (8, 2, 4, 5, 3),
    (9, 3, 3, 5, 4),
    (16, 2, 5, 7, 4),
    (2048, 2, 12, 21, 11),
    (2187, 3, 8, 20, 14),
    (131072, 2, 18, 33, 17),
    (177147, 3, 12, 32, 22),
]


@pytest.mark.parametrize(("users", "arity", "stored", "single", "several"), RFC_2627_TABLE_1)
def test_table_1_of_rfc_2627(users: int, arity: int, stored: int, single: int, several: int) -> None:
    keyring = lkh(users, arity)
    leaver = f"m{users * 2 // 3}"
    assert len(keyring.path(leaver)) == stored
    plan = keyring.plan([], [leaver], counting())
    assert not plan.unicasts
    assert (plan.encryptions, len(plan.wraps)) == (single, several)
    assert sum(wrap.readers for wrap in plan.wraps) == users - 1
    # the work is that of a path, whatever the size: renewed nodes, and the one that moves up where arity is 2
    assert len(plan.puts) + len(plan.removes) <= 2 * stored


# n: for arity 2, 3, 4: worst and average encryptions, worst and average messages
SEED_SIZES = {
    5: ((5, 3.8, 3, None), (4, 3.6, 3, None), (5, 3.8, 4, None)),
    10: ((7, 5.8, 4, 3.4), (7, 5.4, 5, 4.2), (6, 5.6, 5, 4.6)),
    16: ((7, 7, 4, 4), (7, 6.75, 5, 4.9), (7, 7, 6, 6)),
    32: ((9, 9, 5, 5), (10, 8.6, 7, 6.3), (9, 9, 7, 7)),
    50: ((11, 10.4, 6, 5.7), (10, 9.8, 7, 6.9), (11, 10.2, 9, 8.2)),
    64: ((11, 11, 6, 6), (11, 10.5, 8, 7.5), (11, 11, 9, 9)),
    100: ((13, 12.4, 7, 6.7), (13, 11.8, 9, 8.4), (13, 12.4, 10, 9.7)),
}


@pytest.mark.parametrize(("count", "arity"), list(product(SEED_SIZES, (2, 3, 4))))
def test_one_leave_in_groups_of_the_size_of_the_draft(count: int, arity: int) -> None:
    keyring = lkh(count, arity)
    drafts = [draft(keyring, [], [name]) for name in keyring.members]
    encryptions = [found.encryptions for found in drafts]
    messages = [len(found.wraps(TAG)) for found in drafts]
    worst, average, most, usual = SEED_SIZES[count][arity - 2]
    assert max(encryptions) == worst
    assert max(messages) == most
    assert sum(encryptions) / count == pytest.approx(average, abs=0.051)
    if usual is not None:
        assert sum(messages) / count == pytest.approx(usual, abs=0.051)
    for name in keyring.members:
        plan = keyring.plan([], [name], counting())
        cost = draft(keyring, [], [name]).encryptions
        assert plan.unicasts == (cost > count - 1)
        assert plan.encryptions == min(cost, count - 1)


# wrapped keys over all messages, for the worst leaf; where a node is spliced out it needs no key: one less
@pytest.mark.parametrize(
    ("count", "arity", "table", "spliced"),
    [(16, 2, 10, 1), (64, 2, 21, 1), (64, 4, 18, 0), (100, 2, 28, 1), (100, 4, 22, 1)],
)
def test_wrapped_keys(count: int, arity: int, table: int, spliced: int) -> None:
    keyring = lkh(count, arity)
    drafts = [draft(keyring, [], [name]) for name in keyring.members]
    assert max(sum(len(wrap.keys) for wrap in found.wraps(TAG)) for found in drafts) == table - spliced


@pytest.mark.parametrize(("height", "arity"), [(h, d) for d in (2, 3, 4) for h in range(1, 7) if d**h <= 4096])
def test_patterns_in_full_trees(height: int, arity: int) -> None:
    count = arity**height
    keyring = lkh(count, arity)
    order = places(keyring)
    for k in range(height):  # a whole subtree
        found = draft(keyring, [], order[: arity**k])
        assert found.encryptions == arity * (height - k) - 1
        assert len(found.wraps(TAG)) == (arity - 1) * (height - k)
    for j in range(height):  # one in each subtree at depth j
        spread = order[:: arity ** (height - j)]
        assert len(spread) == arity**j
        expected = arity * (arity**j - 1) // (arity - 1) + arity**j * (arity * (height - j) - 1)
        assert draft(keyring, [], spread).encryptions == expected


@pytest.mark.parametrize(
    ("count", "leavers", "expected", "unicasts"), [(64, 8, 54, 56), (16, 2, 12, 14), (16, 4, 18, 12)]
)
def test_spread_leavers(count: int, leavers: int, expected: int, unicasts: int) -> None:
    keyring = lkh(count, 2)
    left = places(keyring)[:: count // leavers]
    assert draft(keyring, [], left).encryptions == expected
    plan = keyring.plan([], left, counting())
    assert (plan.unicasts, plan.encryptions) == (expected > unicasts, min(expected, unicasts))
    assert bool(plan.wraps) != plan.unicasts


def test_unicasts_only_where_they_are_less() -> None:
    keyring = lkh(5, 2)
    costs = {name: draft(keyring, [], [name]).encryptions for name in keyring.members}
    assert sorted(costs.values()) == [3, 3, 3, 5, 5]
    for name, cost in costs.items():
        plan = keyring.plan([], [name], counting())
        assert plan.unicasts == (cost == 5)
        assert plan.puts  # the same new keys either way


@pytest.mark.parametrize("arity", [2, 3, 4])
@pytest.mark.parametrize("count", [5, 8, 9, 10, 16, 27, 50, 64, 100])
def test_one_join(arity: int, count: int) -> None:
    keyring = lkh(count, arity)
    depths = [len(keyring.path(name)) - 1 for name in keyring.members]
    plan = keyring.plan(["x"], [], counting())
    split = any(put.parent is not None and put.member not in (None, "x") for put in plan.puts)
    keyring.apply(plan)
    height = len(keyring.path("x")) - 1
    assert plan.encryptions == height  # h in a free place; k + 1 where a leaf at depth k is split
    assert height <= min(depths) + 1
    if split:
        assert height == min(depths) + 1  # a shallowest leaf
    assert not plan.unicasts
    assert sum(wrap.readers for wrap in plan.wraps) == count
    if arity == 2:
        assert len(plan.wraps) == height  # as many as under each node's own old key
    assert len(plan.wraps) <= 1 + (arity - 1) * (height - 1)


def test_a_join_into_a_place_at_the_root_is_one_message() -> None:
    keyring = lkh(2, 3)
    plan = keyring.plan(["x"], [], counting())
    (wrap,) = plan.wraps
    assert (wrap.under.node, [key.node for key in wrap.keys], wrap.readers) == (1, [1], 2)
    assert plan.encryptions == 1


@pytest.mark.parametrize("arity", [2, 3, 4])
def test_joiners_take_the_places_of_leavers(arity: int) -> None:
    keyring = lkh(64, arity)
    for leavers in (1, 3, 8):
        left = places(keyring)[:: 64 // leavers][:leavers]
        alone = draft(keyring, [], left)
        for joiners in range(1, leavers + 1):
            both = draft(keyring, names(joiners, "n"), left)
            assert both.encryptions == alone.encryptions  # joiners cost nothing there


@pytest.mark.parametrize("arity", [2, 3])
def test_a_subtree_of_leavers_makes_room_for_as_many(arity: int) -> None:
    keyring = lkh(arity**4, arity)
    left = places(keyring)[: arity**2]
    found = draft(keyring, names(arity**2, "n"), left)
    assert found.encryptions == arity * 2 - 1
    keyring.apply(keyring.plan(names(arity**2, "n"), left, counting()))
    assert {len(keyring.path(name)) for name in keyring.members} == {5}


def test_many_joiners_at_once_come_as_one_subtree() -> None:
    group = Group(Scheme.LKH, 2, names(64))
    plan = group.change(names(16, "n"))
    assert plan.encryptions <= 4
    assert len(plan.wraps) <= 4
    plan = group.change(names(80, "o"))  # more than there are: beside the whole tree
    assert (plan.encryptions, len(plan.wraps)) == (2, 1)
    assert [key.node for key in plan.wraps[0].keys][-1] == plan.wraps[0].under.node == 1
    assert max(len(group.keyring.path(name)) - 1 for name in group.paths) <= 9
    group.check_secrecy()


@pytest.mark.parametrize("arity", [2, 3, 4, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 100, 1000])
def test_fresh_trees_are_near_equal(arity: int, count: int) -> None:
    keyring = lkh(count, arity)
    depths = {len(keyring.path(name)) - 1 for name in keyring.members}
    if depths:
        height = max(1, math.ceil(round(math.log(count, arity), 9)))
        assert depths <= {height, height - 1}
    if count and count == arity ** round(math.log(count, arity)):
        assert len(list(keyring.records())) == count + max(1, (count - 1) // (arity - 1))


@pytest.mark.parametrize("arity", [2, 3])
def test_depth_stays_logarithmic_whatever_leavers_do(arity: int) -> None:
    """Of the longest path, leavers keep as little as keeps it as long; joiners come as many as then are there."""
    keyring = lkh(64, arity)
    random = counting()
    largest = 64
    for turn in range(25):
        paths = {name: [key.node for key in keyring.path(name)] for name in keyring.members}
        deepest = max(paths, key=lambda name: len(paths[name]))
        keep = {deepest}
        for below, node in pairwise(paths[deepest]):
            keep.add(next(name for name in paths if node in paths[name] and below not in paths[name]))
        keyring.apply(keyring.plan([], sorted(keyring.members - keep), random))
        keyring.apply(keyring.plan(names(len(keep), f"t{turn}-"), [], random))
        largest = max(largest, len(keyring.members))
        depth = max(len(keyring.path(name)) - 1 for name in keyring.members)
        assert depth <= 2 * math.log2(largest) + 2
    assert largest <= 64


def test_the_root_takes_over_from_a_single_child_when_that_changes_anyway() -> None:
    group = Group(Scheme.LKH, 2, names(8))
    half = names(8)[:4]
    plan = group.change([], half)
    (wrap,) = plan.wraps  # the other half still has a key of its own
    assert ([key.node for key in wrap.keys], wrap.readers) == ([1], 4)
    assert {len(path) for path in group.paths.values()} == {4}
    group.change([], ["m4"])
    assert sorted(len(path) for path in group.paths.values()) == [2, 3, 3]
    group.check_secrecy()


def test_a_joiner_comes_beside_the_single_child_of_the_root() -> None:
    group = Group(Scheme.LKH, 2, names(8))
    group.change([], names(8)[:4])
    plan = group.change(["x"])
    assert (plan.encryptions, len(plan.wraps), len(group.paths["x"])) == (1, 1, 2)


def test_a_leave_touches_a_path_and_no_more() -> None:
    keyring = lkh(100_000, 2)
    random = counting()
    for number in range(0, 100_000, 9_999):
        name = f"m{number}"
        height = len(keyring.path(name))
        plan = keyring.plan([], [name], random)
        assert len(plan.puts) <= height
        assert len(plan.removes) == 2
        keyring.apply(plan)
        plan = keyring.plan([f"n{number}"], [], random)
        assert len(plan.puts) <= height + 3
        keyring.apply(plan)
    assert len(keyring.members) == 100_000


def test_costs_of_the_other_schemes() -> None:
    def costs(scheme: Scheme, joined: list[str], left: list[str]) -> tuple[bool, int, int]:
        plan = make_keyring(scheme, 2, TAG, LENGTH, names(10), counting()).plan(joined, left, counting())
        return plan.unicasts, plan.encryptions, len(plan.wraps)

    for scheme in (Scheme.POINT_TO_POINT, Scheme.GKMP):
        assert costs(scheme, [], ["m1"]) == (True, 9, 0)
        assert costs(scheme, ["x", "y"], ["m1", "m2"]) == (True, 8, 0)
        assert costs(scheme, [], names(10)) == (False, 0, 0)
    assert costs(Scheme.POINT_TO_POINT, ["x"], []) == costs(Scheme.POINT_TO_POINT, [], []) == (True, 10, 0)
    assert costs(Scheme.GKMP, ["x"], []) == costs(Scheme.GKMP, [], []) == (False, 1, 1)
    assert costs(Scheme.LKH, [], []) == (False, 1, 1)
