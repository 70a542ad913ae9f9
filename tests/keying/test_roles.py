from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import L, M, P, parsed, refused

from groupcoap.errors import MisuseError
from groupcoap.keying.roles import check_combination, roles_of, sends, tperm
from groupcoap.membership import Role

ALL = [frozenset(some) for size in range(4) for some in combinations(Role, size)]
SEED = [frozenset(s) for s in ({M}, {L}, {P}, {M, L}, {M, P})]


@pytest.mark.parametrize(
    ("roles", "number"), [({M}, 2), ({L}, 4), ({M, L}, 6), ({P}, 8), ({M, P}, 10), ({L, P}, 12), ({M, L, P}, 14)]
)
def test_bits_of_the_roles(roles: set[Role], number: int) -> None:
    assert tperm(frozenset(roles)) == number
    assert roles_of(number) == roles


@given(st.integers(-20, 40))
def test_any_number_is_roles_or_refused(number: int) -> None:
    roles = parsed(lambda: roles_of(number))
    assert (roles is not None) == (number in range(2, 16, 2))
    assert roles is None or tperm(roles) == number


@pytest.mark.parametrize("number", [0, 1, 3, 16, 18, 32, -2, 1 << 70])
def test_verifiers_admins_and_nobody_are_refused(number: int) -> None:
    refused(lambda: roles_of(number))


def test_nobody_has_no_number() -> None:
    with pytest.raises(MisuseError):
        tperm(frozenset())


@pytest.mark.parametrize("roles", ALL)
@pytest.mark.parametrize("seed", [True, False])
def test_the_five_combinations_of_the_draft_and_the_four_of_the_standard(
    roles: frozenset[Role], seed: bool
) -> None:
    legal = SEED if seed else [some for some in SEED if some != {M, P}]
    if roles in legal:
        check_combination(roles, seed)
    else:
        refused(lambda: check_combination(roles, seed))


def test_only_a_pure_listener_sends_nothing() -> None:
    assert [sends(roles) for roles in SEED] == [True, True, False, True, True]
