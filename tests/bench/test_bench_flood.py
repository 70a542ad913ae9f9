"""`groupcoap bench flood`: what it prints, and that it ends. What a flood costs, is measured by running it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from groupcoap.bench import flood
from groupcoap.cli.bench import bench

DROPS = {
    "garbage",
    "plain",
    "unknown_group",
    "forged",
    "invented_sender",
    "replay",
    "unicast_replay",
    "unknown_response",
}
DURING = {"sent_per_second", "dropped_per_second", "delivered", "served", "memory_growth_bytes"}
FLOODS = set(flood._FLOODS)


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, float]]:
    result = CliRunner().invoke(bench, ["flood", "--json", "--rounds", "2", "--seconds", "0.2"])
    assert result.exit_code == 0, result.output
    printed: dict[str, dict[str, float]] = json.loads(result.output)
    return printed


@pytest.mark.processes
def test_every_kind_of_drop_and_every_flood(figures: dict[str, dict[str, float]]) -> None:
    assert set(figures) == DROPS | DURING
    for name in DROPS:
        expected = {"us", "parse_us", "above_parse_us", "ratio"}
        assert set(figures[name]) == expected | ({"aead_us"} if name in ("forged", "invented_sender") else set())
        assert figures[name]["us"] > 0
        assert figures[name]["parse_us"] > 0
    for name in DURING:
        assert set(figures[name]) == FLOODS


@pytest.mark.processes
def test_the_floods_are_floods(figures: dict[str, dict[str, float]]) -> None:
    for name in FLOODS:
        assert figures["sent_per_second"][name] > 0
        assert 0 <= figures["served"][name] <= 1
        assert figures["served"][name] <= figures["delivered"][name] <= 1
    assert figures["dropped_per_second"]["replay"] > 0
    assert figures["dropped_per_second"]["garbage_unfiltered"] > 0


def test_every_goal_is_measured() -> None:
    for name, goals in flood.GOALS.items():
        assert name in DROPS
        assert set(goals) <= {"us", "above_parse_us"}


@pytest.mark.processes
def test_an_interrupt_ends_it_and_its_processes() -> None:
    command = [sys.executable, "-m", "groupcoap", "bench", "flood", "--rounds", "1", "--seconds", "60"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        time.sleep(3)  # in the middle of a flood, or while it begins
        program.send_signal(signal.SIGINT)
        _, error = program.communicate(timeout=20)
    finally:
        program.kill()
    assert program.returncode == 130
    assert b"Traceback" not in error


@pytest.mark.parametrize(
    "option", [("--rounds", "0"), ("--seconds", "0"), ("--seconds", "61"), ("--seconds", "nan")]
)
def test_it_is_bounded(option: tuple[str, str]) -> None:
    assert CliRunner().invoke(bench, ["flood", *option]).exit_code == 2
