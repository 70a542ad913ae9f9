"""The groups of these tests: a new one for each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .peer import MIXED, SUITES, Group, Suite, make_group


def made(directory: Path, suite: Suite, *, sign_protected: bool = True) -> Group:
    """Files that need not outlive a loss of power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        return make_group(directory / "devices", suite, sign_protected=sign_protected)


@pytest.fixture(params=SUITES, ids=str)
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Group:
    """For every choice of algorithms."""
    return made(tmp_path, request.param)


@pytest.fixture(params=MIXED, ids=str)
def mixed_group(request: pytest.FixtureRequest, tmp_path: Path) -> Group:
    """With other algorithms in group mode than in pairwise mode."""
    return made(tmp_path, request.param)


@pytest.fixture
def rfc9338_group(tmp_path: Path) -> Group:
    """That countersigns by the letter of RFC 9338, which aiocoap does not."""
    return made(tmp_path, SUITES[0], sign_protected=False)


@pytest.fixture
def any_group(tmp_path: Path) -> Group:
    """Where the algorithms do not matter."""
    return made(tmp_path, SUITES[0])
