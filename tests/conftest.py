"""What holds for every test: Hypothesis without a clock and without chance. And both wire profiles, for the tests
of the core that hold for both, and for whole files of the endpoints' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import suites
from hypothesis import HealthCheck, Phase, settings
from suites import Suite

from groupcoap.core.profile import Profile
from support import PROFILES, groups_of

settings.register_profile(
    "groupcoap", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    # for tools/: fewer examples, and none made smaller, since only the verdict counts
    "quick",
    settings.get_profile("groupcoap"),
    max_examples=40,
    phases=(Phase.explicit, Phase.generate),
    database=None,
)
settings.load_profile("groupcoap")


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.name, scope="module")
def profile(request: pytest.FixtureRequest) -> Iterator[Profile]:
    """What uses this runs once for each profile, and groups that are made without naming one are of it."""
    with groups_of(request.param) as profile:
        yield profile


@pytest.fixture(params=suites.SUITES, ids=lambda suite: suite.name)
def each_profile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """What every `World` of the test is protected with."""
    chosen: Suite = request.param
    monkeypatch.setattr(suites, "default", chosen)
    return chosen
