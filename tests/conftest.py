"""What holds for every test: Hypothesis without a clock and without chance."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "groupcoap", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("groupcoap")
