"""Window sizes: near the target, fast to find it, and calm about single slow batches."""

import pytest

from jobs.pace import FULL, GENTLE, Sizer


def sizer(*, first: int = 16, smallest: int = 1, largest: int = 4096) -> Sizer:
    return Sizer(target_s=0.002, first=first, smallest=smallest, largest=largest)


@pytest.mark.parametrize("unit_s", [0.00001, 0.0001, 0.001])
def test_it_finds_the_size_that_takes_the_target_time(unit_s: float) -> None:
    sized = sizer()
    for _ in range(30):
        sized.took(sized.size * unit_s)
    assert sized.size * unit_s == pytest.approx(0.002, rel=0.1)


def test_it_grows_at_most_twofold_a_step_and_keeps_its_bounds() -> None:
    sized = sizer(largest=100)
    sizes = []
    for _ in range(5):
        sized.took(0)
        sizes.append(sized.size)
    assert sizes == [32, 64, 100, 100, 100]
    for _ in range(50):
        sized.took(10)
    assert sized.size == 1


def test_one_batch_that_is_a_hundred_times_as_long_costs_less_than_half_of_the_size() -> None:
    """Control: followed at once, the size falls from 200 to 2."""
    sized = sizer(first=200)
    for _ in range(10):
        sized.took(sized.size * 0.00001)
    assert sized.size == 200
    sized.took(0.2)
    assert sized.size > 100


def test_what_stays_slow_is_followed() -> None:
    sized = sizer(first=200)
    for _ in range(20):
        sized.took(sized.size * 0.001)
    assert sized.size == 2


def test_gentle_rests_as_long_as_it_works_and_full_not_at_all() -> None:
    assert (GENTLE.rest_s(0.5), FULL.rest_s(0.5)) == (0.5, 0)
