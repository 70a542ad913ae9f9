"""The names that applications import."""

from __future__ import annotations

import pytest

import groupcoap


@pytest.mark.parametrize("name", groupcoap.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(groupcoap, name) is not None


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Multicastr'"):
        _ = groupcoap.Multicastr
