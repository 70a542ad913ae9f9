from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from groupcoap.endpoint.limits import RateLimit, RecentTable


def test_an_entry_is_there_until_its_time_is_over() -> None:
    table: RecentTable[str, int] = RecentTable(4, 10.0)
    table.put("a", 1, 100.0)
    assert table.get("a", 110.0) == 1
    assert table.get("a", 110.1) is None
    assert len(table) == 0


def test_the_oldest_goes_first() -> None:
    table: RecentTable[str, int] = RecentTable(2, 10.0)
    for at, key in enumerate("abc"):
        table.put(key, at, float(at))
    assert [table.get(key, 2.0) for key in "abc"] == [None, 1, 2]


def test_putting_again_makes_it_young() -> None:
    table: RecentTable[str, int] = RecentTable(2, 10.0)
    for at, key in enumerate("abac"):
        table.put(key, at, float(at))
    assert [table.get(key, 3.0) for key in "abc"] == [2, None, 3]
    assert table.get("a", 12.0) == 2


def test_looking_does_not_make_it_young() -> None:
    table: RecentTable[str, int] = RecentTable(2, 10.0)
    table.put("a", 1, 0.0)
    table.get("a", 9.0)
    assert table.get("a", 11.0) is None


def test_taking_out() -> None:
    table: RecentTable[str, int] = RecentTable(2, 10.0)
    table.put("a", 1, 0.0)
    assert table.pop("a") == 1
    assert table.pop("a") is None
    assert table.get("a", 0.0) is None


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 5)), max_size=100), st.integers(1, 8))
def test_never_more_than_its_size(puts: list[tuple[int, float]], size: int) -> None:
    table: RecentTable[int, float] = RecentTable(size, 3.0)
    now = 0.0
    for key, step in puts:
        now += step
        table.put(key, now, now)
        assert len(table) <= size
        assert table.get(key, now) == now


def test_a_burst_and_then_the_rate() -> None:
    limit = RateLimit(rate=2, burst=3)
    assert [limit.allow(50.0) for _ in range(5)] == [True, True, True, False, False]
    assert not limit.allow(50.4)
    assert limit.allow(50.5)
    assert not limit.allow(50.6)


def test_a_long_rest_allows_one_burst_and_no_more() -> None:
    limit = RateLimit(rate=2, burst=3)
    limit.allow(0.0)
    assert sum(limit.allow(1000.0) for _ in range(10)) == 3


@given(
    st.floats(0.5, 50),
    st.integers(1, 20),
    st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_never_above_rate_and_burst(rate: float, burst: int, steps: list[float]) -> None:
    limit = RateLimit(rate, burst)
    now, allowed = 0.0, 0
    for step in steps:
        now += step
        allowed += limit.allow(now)
    assert allowed <= burst + now * rate + 1e-6
