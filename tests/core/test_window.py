from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core.window import WIDTH, ReplayWindow

near = st.integers(0, 3 * WIDTH)
far = st.integers(0, (1 << 40) - 1)


@given(st.lists(st.one_of(near, far, st.tuples(near).map(lambda t: t[0] + (1 << 39))), max_size=60))
def test_the_window_does_as_a_set_of_seen_numbers_does(numbers: list[int]) -> None:
    window, seen = ReplayWindow(), set[int]()
    for number in numbers:
        new = number not in seen and (not seen or number > max(seen) - WIDTH)
        assert window.is_new(number) is new
        assert window.accept(number) is new
        assert not window.is_new(number)
        if new:
            seen.add(number)
        assert window.highest == max(seen)
        assert window.bits == sum(1 << (max(seen) - n) for n in seen if max(seen) - n < WIDTH)


@given(st.lists(near, max_size=40), near)
def test_looking_changes_nothing(numbers: list[int], number: int) -> None:
    window = ReplayWindow()
    for n in numbers:
        window.accept(n)
    before = (window.highest, window.bits)
    window.is_new(number)
    assert (window.highest, window.bits) == before


def test_an_empty_window_takes_any_number_and_then_lower_ones_within_its_width() -> None:
    window = ReplayWindow()
    assert window.highest == -1
    assert window.accept(100)
    assert window.accept(100 - WIDTH + 1)
    assert not window.accept(100 - WIDTH)


def test_it_is_32_wide() -> None:
    window = ReplayWindow()
    window.accept(100)
    assert not window.is_new(100 - 32)
    assert window.is_new(100 - 31)


def test_a_number_already_seen_makes_no_later_one_a_replay() -> None:
    window = ReplayWindow()
    window.accept(80)
    window.accept(100)
    for number in (90, 99):
        assert window.is_new(number)
        assert window.accept(number)


@pytest.mark.parametrize("step", [1, WIDTH - 1, WIDTH, WIDTH + 1, 1 << 39])
def test_a_step_forward_forgets_nothing_that_is_still_inside(step: int) -> None:
    window = ReplayWindow()
    window.accept(10)
    assert window.accept(10 + step)
    assert not window.is_new(10)
    assert window.bits == 1 | (1 << step if step < WIDTH else 0)


def test_a_start_makes_its_number_and_all_below_replays() -> None:
    window = ReplayWindow()
    window.start_at(50)
    assert not any(window.is_new(number) for number in range(51))
    assert window.accept(51)
    assert not any(window.is_new(number) for number in range(52))


@given(st.lists(near, min_size=1, max_size=40))
def test_a_stored_window_comes_back_the_same(numbers: list[int]) -> None:
    window = ReplayWindow()
    for number in numbers:
        window.accept(number)
    again = ReplayWindow(window.highest, window.bits)
    assert [again.is_new(n) for n in range(4 * WIDTH)] == [window.is_new(n) for n in range(4 * WIDTH)]


def test_stored_bits_beyond_the_width_are_dropped() -> None:
    assert ReplayWindow(40, 1 << WIDTH | 1).bits == 1


def test_its_text_shows_where_it_stands() -> None:
    assert repr(ReplayWindow(7, 5)) == "ReplayWindow(highest=7, bits=0x00000005)"
