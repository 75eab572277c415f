"""Window sizes: near the target, fast to find it, and calm about single slow batches."""

import pytest

from jobs.pace import FULL, GENTLE, Rest, Sizer


def sizer(*, first: int = 16, largest: int = 4096) -> Sizer:
    return Sizer(target_s=0.002, first=first, largest=largest)


@pytest.mark.parametrize("unit_s", [0.00001, 0.0001, 0.001])
def test_it_finds_the_size_that_takes_the_target_time(unit_s: float) -> None:
    sized = sizer()
    for _ in range(30):
        sized.took((sized.size * unit_s, sized.size))
    assert sized.size * unit_s == pytest.approx(0.002, rel=0.1)


def test_it_grows_at_most_twofold_a_step_and_keeps_its_bounds() -> None:
    sized = sizer(largest=100)
    sizes = []
    for _ in range(5):
        sized.took((0, sized.size))
        sizes.append(sized.size)
    assert sizes == [32, 64, 100, 100, 100]
    for _ in range(50):
        sized.took((10, sized.size))
    assert sized.size == 1


def test_one_batch_that_is_a_hundred_times_as_long_costs_less_than_half_of_the_size() -> None:
    """Control: followed at once, the size falls from 200 to 2."""
    sized = sizer(first=200)
    for _ in range(10):
        sized.took((sized.size * 0.00001, sized.size))
    assert sized.size == 200
    sized.took((0.2, sized.size))
    assert sized.size > 100


def test_what_stays_slow_is_followed() -> None:
    sized = sizer(first=200)
    for _ in range(20):
        sized.took((sized.size * 0.001, sized.size))
    assert sized.size == 2


def test_a_batch_that_was_taken_back_halves_the_size_down_to_one() -> None:
    sized = sizer(first=8)
    sizes = []
    for _ in range(4):
        sized.was_too_long(0.1, sized.size)
        sizes.append(sized.size)
    assert sizes == [4, 2, 1, 1]
    sized.took((0.1, 1))
    assert sized.size == 1


def test_gentle_works_half_of_the_time_and_full_all_of_it() -> None:
    """What passed on the way is rest; a sleep that was too long shortens the next one; a stall makes no burst."""
    rest = Rest(0.0, debt_s=0.02)
    assert rest.after(0.5, 0.7, share=GENTLE.share) == pytest.approx(0.3)
    assert rest.after(0.5, 1.51, share=GENTLE.share) == pytest.approx(0.49)
    assert rest.after(0.002, 60, share=GENTLE.share) == 0
    assert rest.after(0.030, 60.030, share=GENTLE.share) == pytest.approx(0.010)
    assert Rest(0.0, debt_s=0.02).after(0.5, 0.6, share=FULL.share) == 0
