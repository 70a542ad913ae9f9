from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core.sequence import MAXIMUM, SequenceNumbers
from groupcoap.errors import MisuseError, SequenceNumbersExhausted


def test_numbers_start_at_zero_and_go_up_by_one() -> None:
    numbers = SequenceNumbers()
    assert [numbers.take() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_the_last_number_is_given_out_and_none_after_it() -> None:
    numbers = SequenceNumbers(MAXIMUM)
    assert numbers.take() == MAXIMUM == (1 << 40) - 1
    for _ in range(3):
        with pytest.raises(SequenceNumbersExhausted):
            numbers.take()


def test_a_state_past_the_end_gives_out_nothing() -> None:
    with pytest.raises(SequenceNumbersExhausted):
        SequenceNumbers(MAXIMUM + 1).take()


@pytest.mark.parametrize(
    ("first", "over"), [(0, False), (1, False), (MAXIMUM - 1, False), (MAXIMUM, False), (MAXIMUM + 1, True)]
)
def test_only_past_the_last_number_there_is_nothing_left(first: int, over: bool) -> None:
    assert SequenceNumbers(first).exhausted is over


def test_asking_in_vain_changes_nothing() -> None:
    numbers = SequenceNumbers(MAXIMUM)
    numbers.take()
    for _ in range(2):
        with pytest.raises(SequenceNumbersExhausted):
            numbers.take()
        assert numbers.exhausted


def test_a_negative_number_is_no_start() -> None:
    with pytest.raises(MisuseError):
        SequenceNumbers(-1)


@given(st.integers(0, 100), st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(1, 60))
def test_no_number_is_given_out_before_it_is_reserved(first: int, steps: list[int], takes: int) -> None:
    durable = first

    def reserve(start: int) -> int:
        nonlocal durable
        assert start == durable
        durable = start + steps[start % len(steps)]
        return durable

    numbers = SequenceNumbers(first, reserve)
    for expected in range(first, first + takes):
        assert numbers.take() == expected < durable


def test_after_a_crash_no_number_of_the_reserved_range_comes_again() -> None:
    ends: list[int] = []

    def reserve(start: int) -> int:
        ends.append(start + 10)
        return ends[-1]

    before = SequenceNumbers(0, reserve)
    used = [before.take() for _ in range(13)]
    after = SequenceNumbers(ends[-1], reserve)
    assert after.take() > max(used)


def test_a_reservation_that_fails_gives_out_nothing_and_repeats_nothing() -> None:
    broken = True

    def reserve(start: int) -> int:
        if broken:
            raise OSError("disk full")
        return start + 2

    numbers = SequenceNumbers(5, reserve)
    with pytest.raises(OSError, match="disk full"):
        numbers.take()
    broken = False
    later = [numbers.take() for _ in range(4)]
    assert later == sorted(set(later))
    assert min(later) >= 5


@pytest.mark.parametrize("growth", [0, -1])
def test_a_reservation_that_does_not_grow_is_refused(growth: int) -> None:
    numbers = SequenceNumbers(7, lambda start: start + growth)
    with pytest.raises(MisuseError):
        numbers.take()


def test_a_reservation_beyond_the_maximum_is_cut() -> None:
    numbers = SequenceNumbers(MAXIMUM, lambda start: start + 100)
    assert numbers.take() == MAXIMUM
    with pytest.raises(SequenceNumbersExhausted):
        numbers.take()


def test_many_threads_never_get_the_same_number() -> None:
    numbers = SequenceNumbers(0, lambda start: start + 3)
    with ThreadPoolExecutor(8) as pool:
        batches = pool.map(lambda _: [numbers.take() for _ in range(250)], range(8))
    taken = [number for batch in batches for number in batch]
    assert sorted(taken) == list(range(2000))


def test_its_text_shows_how_far_it_may_go() -> None:
    numbers = SequenceNumbers(0, lambda start: start + 64)
    numbers.take()
    assert repr(numbers) == "<SequenceNumbers reserved up to 64>"


def test_what_was_revoked_gives_no_number_without_asking() -> None:
    asked: list[int] = []

    def reserve(start: int) -> int:
        if asked:
            raise MisuseError("not any more")
        asked.append(start)
        return start + 64

    numbers = SequenceNumbers(0, reserve)
    assert numbers.take() == 0
    numbers._lock.acquire()  # as a thread that a child of fork does not have
    numbers.revoke()
    assert numbers.exhausted  # so that no answer leaves without a number either, as the parent's may
    for _ in range(3):
        with pytest.raises(MisuseError, match="not any more"):
            numbers.take()
        assert numbers.exhausted


def test_after_the_last_number_they_are_exhausted() -> None:
    numbers = SequenceNumbers(MAXIMUM - 1)
    numbers.take()
    assert not numbers.exhausted
    numbers.take()
    assert numbers.exhausted


def watched(first: int, left: int, step: int = MAXIMUM + 1) -> tuple[SequenceNumbers, list[int]]:
    """Numbers that are reserved in steps and watched, and those that were taken last when somebody was told."""
    numbers = SequenceNumbers(first, lambda start: start + step)
    told: list[int] = []
    numbers.watch(left, lambda: told.append(numbers._given))
    return numbers, told


@pytest.mark.parametrize("step", [1, 3, 7, MAXIMUM + 1])
def test_when_few_are_left_somebody_is_told_once(step: int) -> None:
    numbers, told = watched(MAXIMUM - 20, 10, step)
    for number in range(MAXIMUM - 20, MAXIMUM + 1):
        assert numbers.take() == number
        # fewer than 10 are left after the one that has just been given out
        assert told == ([MAXIMUM - 9] if MAXIMUM - number < 10 else [])
    with pytest.raises(SequenceNumbersExhausted):
        numbers.take()


def test_who_begins_with_few_is_told_at_the_first() -> None:
    numbers, told = watched(MAXIMUM - 5, 10)
    assert told == []
    numbers.take()
    numbers.take()
    assert told == [MAXIMUM - 5]


def test_watching_anew_takes_the_place_of_what_was_watched_for() -> None:
    numbers, told = watched(MAXIMUM - 20, 10)
    other: list[int] = []
    numbers.watch(15, lambda: other.append(numbers._given))
    for _ in range(20):
        numbers.take()
    assert (told, other) == ([], [MAXIMUM - 14])


def test_while_nothing_can_be_reserved_nobody_is_told() -> None:
    broken = True

    def reserve(start: int) -> int:
        if broken:
            raise OSError("disk full")
        return start + 1

    numbers = SequenceNumbers(MAXIMUM - 5, reserve)
    told: list[int] = []
    numbers.watch(10, lambda: told.append(numbers._given))
    with pytest.raises(OSError, match="disk full"):
        numbers.take()
    assert told == []
    broken = False
    assert numbers.take() == MAXIMUM - 4
    assert told == [MAXIMUM - 4]


def test_what_was_revoked_stays_so_when_it_is_watched() -> None:
    numbers = SequenceNumbers(0, lambda start: start)
    numbers.revoke()
    numbers.watch(1, lambda: None)
    assert numbers.exhausted
    with pytest.raises(MisuseError):
        numbers.take()
