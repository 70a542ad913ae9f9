from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.endpoint.limits import (
    NAMES,
    Limits,
    PeerRates,
    PeerTable,
    Places,
    RateLimit,
    RecentTable,
    parse_limits,
    uncounted,
)
from groupcoap.errors import Limit, MisuseError


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


# ---- the values


@pytest.mark.parametrize("limit", Limit)
def test_every_limit_that_is_counted_can_be_set(limit: Limit) -> None:
    if "_rate" in limit.value:
        assert Limits(**{limit.value: 7.0}).rate(limit) == 7.0  # type: ignore[arg-type]
    else:
        assert Limits(**{limit.value: 7}).count(limit) == 7


def test_what_only_bounds_a_size_or_a_memory_is_not_counted() -> None:
    assert set(NAMES) - {limit.value for limit in Limit} == {"body", "not_found"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), float("inf"), "8", True, None, 1 << 31])
def test_a_limit_is_a_positive_number_of_its_kind(name: str, value: object) -> None:
    if "_rate" in name and value == 1.5:
        assert getattr(Limits(**{name: value}), name) == value  # type: ignore[arg-type]
        return
    with pytest.raises(MisuseError, match=f"limit {name} is a (whole )?number"):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_limits_from_texts() -> None:
    assert parse_limits([]) == Limits()
    assert parse_limits(["bodies=3", "error_rate=2.5", "bodies=4"]) == Limits(bodies=4, error_rate=2.5)


@pytest.mark.parametrize(
    "text", ["", "bodies", "bodies=", "bodies=x", "bodies=0", "error_rate=0", "error_rate=nan"]
)
def test_a_text_that_is_no_limit(text: str) -> None:
    with pytest.raises(MisuseError) as caught:
        parse_limits([text])
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_limit_is_told_which_ones_there_are() -> None:
    with pytest.raises(MisuseError, match="observations_per_peer") as caught:
        parse_limits(["lamps=3"])
    assert all(name in str(caught.value) for name in NAMES)


# ---- tables, places and rates for peers


REQUESTS = Limit.REQUESTS, Limit.REQUESTS_PER_PEER
ERRORS = Limit.ERROR_RATE, Limit.ERROR_RATE_PER_PEER


def table(total: int, each: int, reached: list[Limit]) -> PeerTable[str, int]:
    limits = Limits(requests=total, requests_per_peer=each)
    return PeerTable(limits, *REQUESTS, 10.0, reached.append)


def test_a_peers_own_oldest_goes_first() -> None:
    reached: list[Limit] = []
    kept = table(4, 2, reached)
    for at, (peer, key) in enumerate([("p", "a"), ("q", "x"), ("p", "b"), ("p", "c")]):
        kept.put_for(peer, key, at, 0.0)
    assert [kept.get(key, 0.0) for key in "axbc"] == [None, 1, 2, 3]
    assert reached == [Limit.REQUESTS_PER_PEER]


def test_and_then_the_oldest_of_all() -> None:
    reached: list[Limit] = []
    kept = table(2, 2, reached)
    for peer in "pqr":
        kept.put_for(peer, peer, 0, 0.0)
    assert [kept.get(key, 0.0) for key in "pqr"] == [None, 0, 0]
    assert reached == [Limit.REQUESTS]


def test_what_was_too_old_anyway_is_not_counted() -> None:
    reached: list[Limit] = []
    kept = table(4, 1, reached)
    kept.put_for("p", "a", 0, 0.0)
    kept.put_for("p", "b", 0, 11.0)
    assert reached == []
    assert len(kept) == 1


def test_putting_again_and_taking_out_leave_room() -> None:
    reached: list[Limit] = []
    kept = table(4, 2, reached)
    for key in "abababa":
        kept.put_for("p", key, 0, 0.0)
    assert kept.pop("a") == 0
    assert kept.pop("a") is None
    kept.put_for("q", "b", 1, 0.0)  # changes hands
    for key in "cd":
        kept.put_for("p", key, 0, 0.0)
    assert reached == []
    assert (len(kept), kept.get("b", 0.0)) == (3, 1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20), st.floats(0, 5), st.booleans()), max_size=150))
def test_never_more_than_fits_of_each_and_of_all(steps: list[tuple[int, int, float, bool]]) -> None:
    kept: PeerTable[int, int] = PeerTable(Limits(requests=5, requests_per_peer=2), *REQUESTS, 3.0, uncounted)
    owner: dict[int, int] = {}
    now = 0.0
    for peer, key, step, take in steps:
        now += step
        if take:
            kept.pop(key)
            continue
        kept.put_for(peer, key, peer, now)
        owner[key] = peer
        assert kept.get(key, now) == peer
        assert len(kept) <= 5
        assert set(kept._peers) == set(kept._entries)
        assert all(0 < len(own) <= 2 for own in kept._of_peer.values())


def test_places_of_each_and_of_all() -> None:
    places = Places(Limits(requests=3, requests_per_peer=2), *REQUESTS)
    for _ in range(2):
        assert places.reached("p") is None
        places.take("p")
    assert places.reached("p") is Limit.REQUESTS_PER_PEER
    assert places.reached("q") is None
    places.take("q")
    assert places.reached("q") is Limit.REQUESTS
    places.give_back("p")
    assert (places.reached("p"), places.reached("r"), len(places)) == (None, None, 2)
    places.give_back("p")
    places.give_back("q")
    assert not places._of_peer


def test_a_rate_for_each_and_for_all() -> None:
    rates = PeerRates(Limits(error_rate=2.0, error_rate_per_peer=1.0), *ERRORS)
    assert [rates.reached("p", 0.0) for _ in range(3)] == [None, None, Limit.ERROR_RATE_PER_PEER]
    assert [rates.reached("q", 0.0) for _ in range(2)] == [None, None]
    assert rates.reached("r", 0.0) is Limit.ERROR_RATE
    assert rates.reached("p", 1.0) is None


def test_however_many_peers_there_are() -> None:
    rates = PeerRates(Limits(error_rate=2.0), *ERRORS)
    allowed = sum(rates.reached(peer, 0.0) is None for peer in range(10_000))
    assert allowed == 4
    assert len(rates._of_peer) <= 1024


def test_less_than_one_a_second_still_begins_with_one() -> None:
    rates = PeerRates(Limits(error_rate_per_peer=0.1), *ERRORS)
    assert [rates.reached("p", now) for now in (0.0, 9.0, 10.5)] == [None, Limit.ERROR_RATE_PER_PEER, None]
