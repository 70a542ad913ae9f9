from __future__ import annotations

from groupcoap.bench.collect import run


def test_figures_of_a_short_run_have_their_shape() -> None:
    figures = run(rounds=2)
    assert set(figures) == {"collect"}
    collect = figures["collect"]
    assert set(collect) == {"rate", "bare_rate", "ratio"}
    assert all(value > 0 for value in collect.values())
