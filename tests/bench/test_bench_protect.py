"""`groupcoap bench protect`: what it prints. How fast it is, is measured by running it, not here."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from groupcoap.bench.protect import GOALS, run
from groupcoap.cli.bench import bench

SHAPE = {
    "protect": {"us", "floor_us", "ratio", "message_ratio", "aiocoap_ratio"},
    "verify": {"us", "floor_us", "ratio", "message_ratio", "aiocoap_ratio"},
    "decrypt_only": {"us", "aead_calls"},
}


def check(figures: dict[str, dict[str, float]]) -> None:
    assert {name: set(values) for name, values in figures.items()} == SHAPE
    for values in figures.values():
        for figure, value in values.items():
            assert value > 0, figure


def test_figures() -> None:
    figures = run(rounds=2)
    check(figures)
    for side in ("protect", "verify"):
        # Not a matter of speed: the core does what the floor does, and more.
        assert figures[side]["ratio"] > 0.8
        assert figures[side]["us"] > figures["decrypt_only"]["us"] / 2


def test_every_goal_is_measured() -> None:
    for name, goals in GOALS.items():
        assert goals.keys() <= SHAPE[name]


def test_json_is_one_object() -> None:
    result = CliRunner().invoke(bench, ["protect", "--json", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    check(json.loads(result.output))


def test_table_shows_the_goals() -> None:
    result = CliRunner().invoke(bench, ["protect", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    for word in ("protect", "verify", "decrypt_only", "message_ratio", "aead_calls", "≤ 1.25", "≥ 3.5"):
        assert word in result.output


@pytest.mark.parametrize("rounds", ["0", "-1", "x"])
def test_rounds_must_be_a_positive_number(rounds: str) -> None:
    assert CliRunner().invoke(bench, ["protect", "--rounds", rounds]).exit_code == 2
