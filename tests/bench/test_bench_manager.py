"""What `bench rekey` and `bench join` print: the counts are those of RFC 2627, the ratios are measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from groupcoap.bench import join, rekey
from groupcoap.cli.bench import bench


def test_one_leave_costs_what_the_tables_say() -> None:
    figures = rekey.run((16, 64, 100))
    assert set(figures) == {"point-to-point", "gkmp", "lkh-2", "lkh-4"}
    counts = {
        name: {n: (values["encryptions"], values["messages"]) for n, values in by_size.items()}
        for name, by_size in figures.items()
    }
    for scheme in ("point-to-point", "gkmp"):
        assert counts[scheme] == {"16": (15, 15), "64": (63, 63), "100": (99, 99)}
    assert counts["lkh-2"] == {"16": (7, 4), "64": (11, 6), "100": (13, 7)}
    assert counts["lkh-4"] == {"16": (7, 6), "64": (11, 9), "100": (13, 10)}
    assert all(values["bytes"] > 0 and values["ms"] > 0 for by in figures.values() for values in by.values())


def test_a_leave_from_a_large_tree() -> None:
    trees = {name: policy for name, policy in rekey.SCHEMES.items() if name.startswith("lkh")}
    figures = rekey.run((10_000,), trees)
    counts = {name: (by["10000"]["encryptions"], by["10000"]["messages"]) for name, by in figures.items()}
    assert counts == {"lkh-2": (27, 14), "lkh-4": (26, 20)}


def test_rekey_prints_one_object_of_schemes_and_sizes() -> None:
    result = CliRunner().invoke(bench, ["rekey", "--json", "--size", "8"])
    assert result.exit_code == 0
    figures = json.loads(result.output)
    assert set(figures["lkh-2"]["8"]) == {"encryptions", "messages", "bytes", "ms"}


def test_join_prints_ratios_taken_in_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "SINGLE", 10)
    monkeypatch.setattr(join, "CONCURRENT", 20)
    monkeypatch.setattr(join, "COMMITS", 10)
    result = CliRunner().invoke(bench, ["join", "--json", "--rounds", "1"])
    assert result.exit_code == 0
    figures = json.loads(result.output)
    rates = figures["commits_per_second"], figures["single_per_second"], figures["concurrent_per_second"]
    assert all(rate > 0 for rate in rates)
    assert figures["single_ratio"] == pytest.approx(rates[1] / rates[0], rel=0.05)
    assert figures["concurrent_ratio"] == pytest.approx(rates[2] / rates[0], rel=0.05)


@pytest.mark.processes
def test_a_fleet_joins_by_one_renewal_or_two() -> None:
    command = [sys.executable, "-m", "groupcoap", "bench", "fleet", "--json", "--devices", "30"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert figures["members"] == 31
    assert 1 <= figures["renewals"] <= 2
