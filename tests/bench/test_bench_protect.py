"""`groupcoap bench protect`: what it prints. How fast it is, is measured by running it, not here."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from groupcoap.bench.protect import GOALS, run
from groupcoap.cli.bench import bench
from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.policy import PROFILES
from groupcoap.core.profile import Profile

SHAPE: dict[str, set[str]] = {
    "protect": {"us", "floor_us", "ratio", "message_ratio", "aiocoap_ratio"},
    "verify": {"us", "floor_us", "ratio", "message_ratio", "aiocoap_ratio"},
    "decrypt_only": {"us", "aead_calls"},
}


PAIRWISE = {"pairwise_verify": {"us", "aiocoap_ratio"}}


def shape_of(profile: Profile) -> dict[str, set[str]]:
    return SHAPE | PAIRWISE if profile.rules.pairwise else SHAPE


def check(figures: dict[str, dict[str, float]], profile: Profile = MULTICAST_OSCORE_04) -> None:
    assert {name: set(values) for name, values in figures.items()} == shape_of(profile)
    for values in figures.values():
        for figure, value in values.items():
            assert value > 0, figure


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_figures(profile: Profile) -> None:
    figures = run(2, profile)
    check(figures, profile)
    for side in ("protect", "verify"):
        # Not a matter of speed: the core does what the floor does, and more.
        assert figures[side]["ratio"] > 0.8
        assert figures[side]["us"] > figures["decrypt_only"]["us"] / 2


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_goal_is_measured(profile: Profile) -> None:
    assert GOALS.keys() == PROFILES.keys()
    for name, goals in GOALS[profile.name].items():
        assert goals.keys() <= shape_of(profile)[name]


def test_json_is_one_object() -> None:
    result = CliRunner().invoke(bench, ["protect", "--json", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    check(json.loads(result.output))
    result = CliRunner().invoke(bench, ["protect", "--profile", "group-oscore", "--json", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    check(json.loads(result.output), GROUP_OSCORE)


def test_table_shows_the_goals() -> None:
    result = CliRunner().invoke(bench, ["protect", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    for word in ("protect", "verify", "decrypt_only", "message_ratio", "aead_calls", "≤ 1.25", "≥ 3.5"):
        assert word in result.output


@pytest.mark.parametrize("rounds", ["0", "-1", "x"])
def test_rounds_must_be_a_positive_number(rounds: str) -> None:
    assert CliRunner().invoke(bench, ["protect", "--rounds", rounds]).exit_code == 2
