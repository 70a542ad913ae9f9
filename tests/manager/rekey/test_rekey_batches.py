"""Every promise of a plan, with members who do as they are told and leavers who put together all they ever had."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekey_members import LENGTH, TAG, Group, counting

from groupcoap.errors import MisuseError
from groupcoap.keying.admin import Scheme
from groupcoap.manager.rekey.scheme import KeyRecord, load_keyring, make_keyring
from groupcoap.secret import Secret

SCHEMES = list(Scheme)


def names(count: int, prefix: str = "m") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


BATCH = st.tuples(
    st.integers(0, 12),
    st.lists(st.integers(0, 10_000), max_size=14),
    st.booleans(),
    st.sampled_from([0.0, 0.5, 1.0]),
)


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from([*SCHEMES, Scheme.LKH, Scheme.LKH, Scheme.LKH]),
    st.integers(2, 5),
    st.integers(0, 40),
    st.lists(BATCH, max_size=10),
)
def test_any_sequence_of_batches(
    scheme: Scheme, arity: int, count: int, batches: list[tuple[int, list[int], bool, float]]
) -> None:
    group = Group(scheme, arity, names(count))
    fresh = count
    for joins, picks, again, share in batches:
        members = sorted(group.paths)
        left = list({members[pick % len(members)]: None for pick in picks}) if members else []
        left = left or members[: int(len(members) * share) if joins == 0 else 0]
        gone = sorted(set(group.ever) - set(members))
        back = gone[: int(joins * share)]  # some come back under the name they had
        joined = [*back, *names(fresh + joins - len(back))[fresh:]]
        fresh += joins
        group.change(joined, left)
        if again:
            group.reload()
    group.check_secrecy()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("arity", [2, 3, 16])
def test_from_nobody_to_many_and_back_one_by_one(scheme: Scheme, arity: int) -> None:
    group = Group(scheme, arity, [])
    for name in names(20):
        group.change([name])
        group.change()
    for name in names(20):
        group.change((), [name])
        group.reload()
    plan = group.change()
    assert (plan.wraps, plan.unicasts, plan.encryptions) == ((), False, 0)
    group.change(names(3))
    group.check_secrecy()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_everybody_is_replaced_at_once(scheme: Scheme) -> None:
    group = Group(scheme, 2, names(9))
    plan = group.change(names(11, "n"), names(9))
    assert (plan.wraps, plan.unicasts, plan.encryptions) == ((), False, 0)
    assert (plan.joined, plan.left) == (tuple(names(11, "n")), tuple(names(9)))
    group.check_secrecy()


@pytest.mark.parametrize("pair", [(a, b) for a in range(9) for b in range(a)])
def test_no_two_leavers_together_know_a_key(pair: tuple[int, int]) -> None:
    for at_once in (True, False):
        group = Group(Scheme.LKH, 2, names(9))
        left = [f"m{number}" for number in pair]
        for batch in [left] if at_once else [[left[0]], [left[1]]]:
            group.change((), batch)
        group.change(["late"])
        group.change()
        group.check_secrecy()


def test_a_kid_does_not_come_back_where_the_highest_node_was_removed() -> None:
    group = Group(Scheme.LKH, 2, names(4))
    for turn in range(6):
        group.change([f"x{turn}"])
        highest = max(group.stored)
        group.change((), [f"x{turn}"])
        assert highest not in group.stored
        group.reload()  # nothing stored shows how far the numbers went
    group.check_secrecy()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_batches_that_are_wrong(scheme: Scheme) -> None:
    keyring = make_keyring(scheme, 2, TAG, LENGTH, ["a", "b", "c"], counting())
    for joined, left in (
        [["a"], []],
        [[], ["x"]],
        [["x", "x"], []],
        [[], ["a", "a"]],
        [["a"], ["a"]],
        [["x"], ["x"]],
    ):
        with pytest.raises(MisuseError):
            keyring.plan(joined, left, counting())
    with pytest.raises(MisuseError):
        keyring.path("x")
    with pytest.raises(MisuseError):
        make_keyring(scheme, 2, TAG, LENGTH, ["a", "a"], counting())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("arity", "tag", "length"), [(1, TAG, 16), (17, TAG, 16), (2, b"", 16), (2, TAG, 15)])
def test_arguments_out_of_range(scheme: Scheme, arity: int, tag: bytes, length: int) -> None:
    with pytest.raises(MisuseError):
        make_keyring(scheme, arity, tag, length, [], counting())
    with pytest.raises(MisuseError):
        load_keyring(scheme, arity, tag, length, [], [])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_plan_is_good_once_and_for_the_state_it_was_made_from(scheme: Scheme) -> None:
    group = Group(scheme, 2, names(5))
    first = group.keyring.plan(["x"], ["m0"], group.random)
    second = group.keyring.plan(["x"], ["m1"], group.random)
    group.keyring.apply(first)
    before = list(group.keyring.records()), set(group.keyring.members)
    for plan in (first, second):
        with pytest.raises(MisuseError):
            group.keyring.apply(plan)
    assert (list(group.keyring.records()), set(group.keyring.members)) == before


@pytest.mark.parametrize("scheme", [Scheme.GKMP, Scheme.LKH])
def test_generations_end_before_a_kid_repeats(scheme: Scheme) -> None:
    records = [KeyRecord(1, None, 0xFFFFFFFE, Secret(bytes(16)), None)]
    keyring = load_keyring(scheme, 2, TAG, LENGTH, records, [])
    keyring.apply(keyring.plan([], [], counting()))
    with pytest.raises(MisuseError, match="used up"):
        keyring.plan([], [], counting())


def test_node_numbers_end() -> None:
    root = KeyRecord(1, None, 3, Secret(bytes(16)), None)
    leaf = KeyRecord(0xFFFFFFFF, 1, 3, Secret(b"a" * 16), "a")
    keyring = load_keyring(Scheme.LKH, 2, TAG, LENGTH, [root, leaf], ["a"])
    with pytest.raises(MisuseError, match="used up"):
        keyring.plan(["b"], [], counting())


@pytest.mark.parametrize("scheme", [Scheme.GKMP, Scheme.LKH])
def test_randomness_that_is_too_short(scheme: Scheme) -> None:
    with pytest.raises(MisuseError, match="random"):
        make_keyring(scheme, 2, TAG, LENGTH, ["a"], lambda length: bytes(length - 1))


def record(node: int, parent: int | None, member: str | None = None, generation: int = 1) -> KeyRecord:
    return KeyRecord(node, parent, generation, Secret(node.to_bytes(16, "big", signed=True)), member)


GOOD = [record(1, None), record(2, 1), record(3, 2, "a"), record(4, 2, "b"), record(5, 1, "c")]


@pytest.mark.parametrize(
    ("what", "records"),
    [
        ("no root", GOOD[1:]),
        ("a member is root", [record(1, None, "a")]),
        ("two roots", [*GOOD, record(6, None)]),
        ("a node twice", [*GOOD, record(5, 1, "c")]),
        ("a member twice", [*GOOD[:4], record(5, 1, "a")]),
        ("no such parent", [*GOOD[:4], record(5, 9, "c")]),
        ("one child", [*GOOD[:3], record(5, 1, "c")]),
        ("no child", [*GOOD, record(6, 2)]),
        ("too many children", [*GOOD, record(6, 2, "d"), record(7, 2, "e")]),
        ("below a leaf", [*GOOD[:4], record(5, 3, "c")]),
        ("a circle", [*GOOD, record(6, 7), record(7, 6)]),
        ("newer than the root", [*GOOD[:4], record(5, 1, "c", 2)]),
        ("not a number", [*GOOD[:4], record(-5, 1, "c")]),
        ("a longer key", [*GOOD[:4], replace(GOOD[4], key=Secret(bytes(32)))]),
        ("somebody else", [*GOOD[:4], record(5, 1, "d")]),
        ("somebody missing", [record(1, None), record(3, 1, "a"), record(4, 1, "b")]),
    ],
)
def test_stored_trees_that_are_none(what: str, records: list[KeyRecord]) -> None:
    load_keyring(Scheme.LKH, 3, TAG, LENGTH, GOOD, "abc")
    with pytest.raises(MisuseError):
        load_keyring(Scheme.LKH, 3, TAG, LENGTH, records, "abc")


def test_stored_keys_of_another_scheme() -> None:
    for scheme in (Scheme.POINT_TO_POINT, Scheme.GKMP):
        with pytest.raises(MisuseError):
            load_keyring(scheme, 3, TAG, LENGTH, GOOD, "abc")
    for records in ([], [record(2, None)], [record(1, None, "a")], [replace(GOOD[0], key=Secret(bytes(32)))]):
        with pytest.raises(MisuseError):
            load_keyring(Scheme.GKMP, 3, TAG, LENGTH, records, "abc")


def test_nothing_of_a_plan_shows_a_key() -> None:
    secret = bytes(range(65, 65 + 16))
    keyring = make_keyring(Scheme.LKH, 2, TAG, LENGTH, names(8), lambda length: secret)
    shown = repr(keyring.plan(["x"], ["m3"], lambda length: secret)) + repr(list(keyring.records()))
    assert "ABCD" not in shown
    assert secret.hex() not in shown
