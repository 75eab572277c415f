"""A run's second tenth against its last."""

import logging

import pytest
import structlog

from benchmarks import steadiness
from benchmarks.contenders import ours
from benchmarks.stage import seeded
from benchmarks.steadiness import Reading, compare
from worker.embedded import Postgres


def _readings(*, seconds: int, rows_s: int, later_rows_s: int) -> list[Reading]:
    """Rows move every 0.1 s, for three buffers each. The speed changes half of the way."""
    readings, rows = [Reading(0.0, 0, 100)], 0
    for number in range(1, 10 * seconds + 1):
        rows += (rows_s if number <= 5 * seconds else later_rows_s) // 10
        readings.append(Reading(number / 10, rows, 100 + 3 * rows))
    return [*readings, Reading(seconds + 1.0, rows, 100 + 3 * rows)]


@pytest.mark.parametrize(("later_rows_s", "speed"), [(1000, 1.0), (800, 0.8)])
def test_speeds_and_buffers_of_two_tenths_are_compared(later_rows_s: int, speed: float) -> None:
    numbers = compare(_readings(seconds=10, rows_s=1000, later_rows_s=later_rows_s))

    assert numbers is not None
    assert numbers["speed"] == pytest.approx(speed, rel=0.05)
    assert numbers["buffers"] == pytest.approx(1.0, rel=0.05)
    assert numbers["buffers_per_row"] == pytest.approx(3.0, rel=0.05)


def test_a_short_run_says_nothing() -> None:
    assert compare(_readings(seconds=1, rows_s=1000, later_rows_s=1000)) is None


async def test_a_real_run_is_read_from_before_its_row_exists(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steadiness, "SHORTEST_S", 0.0)
    async with seeded(postgres, tasks=200_000, describe_every=50) as stage:
        numbers = await steadiness.measure(stage)

    assert numbers is not None
    assert numbers["buffers_per_row"] > 1


async def test_a_measured_run_leaves_logging_as_it_was(postgres: Postgres) -> None:
    """With `structlog.reset_defaults()` in its place, every line of the sections after it was printed (tried)."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    configured = structlog.get_config()
    try:
        async with seeded(postgres, tasks=100, describe_every=50) as stage, stage.clone() as database:
            await ours("full")(database)
        assert structlog.get_config() == configured
    finally:
        structlog.reset_defaults()
