from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.policy import GroupPolicy, Verification, profile_by_name
from groupcoap.core.synchronization import Method
from groupcoap.errors import MisuseError


def test_the_profile_is_found_by_its_name() -> None:
    assert profile_by_name("multicast-oscore-04") is MULTICAST_OSCORE_04
    assert profile_by_name("group-oscore") is GROUP_OSCORE


@pytest.mark.parametrize("name", ["", "oscore", None, []])
def test_an_unknown_profile_is_refused(name: Any) -> None:
    with pytest.raises(MisuseError, match="multicast-oscore-04"):
        profile_by_name(name)


def test_the_defaults_are_the_safe_ones() -> None:
    policy = GroupPolicy()
    assert policy.verification is Verification.ALWAYS
    assert policy.synchronization.method is Method.CHALLENGE_RESPONSE
    assert policy.grace == 0
    assert policy.max_unfragmented_size == 4096


def test_values_within_their_range_are_taken() -> None:
    policy = GroupPolicy(grace=30.0, max_unfragmented_size=64)
    assert (policy.grace, policy.max_unfragmented_size) == (30.0, 64)


def test_a_policy_is_not_changed_once_it_is_made() -> None:
    policy: Any = GroupPolicy()
    with pytest.raises(FrozenInstanceError):
        policy.verification = Verification.SKIP


@pytest.mark.parametrize("values", [{"grace": -0.1}, {"max_unfragmented_size": 63}])
def test_a_value_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(MisuseError):
        GroupPolicy(**values)
