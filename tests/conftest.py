"""What holds for every test: Hypothesis without a clock and without chance."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

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
