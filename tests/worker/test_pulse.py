"""Alive and ready: each part by its last sign."""

import asyncio

import pytest

from worker.pulse import LOOP, OLDEST_S, POSTGRESQL, QUEUE, REDIS, Pulse


@pytest.fixture
def pulse() -> Pulse:
    """Of a worker that has started, with every part well."""
    pulse = Pulse()
    pulse.started(asyncio.Event())
    for part in OLDEST_S:
        pulse.sign(part)
    return pulse


def test_with_every_part_well_it_is_live_and_ready(pulse: Pulse) -> None:
    assert (pulse.why_not_live(), pulse.why_not_ready()) == (None, None)


def test_before_the_worker_consumes_it_is_live_and_not_ready() -> None:
    pulse = Pulse()
    assert (pulse.why_not_live(), pulse.why_not_ready()) == (None, "the worker is starting")


def test_a_worker_that_stops_is_live_and_not_ready(pulse: Pulse) -> None:
    stopping = asyncio.Event()
    pulse.started(stopping)
    assert pulse.why_not_ready() is None
    stopping.set()
    assert (pulse.why_not_live(), pulse.why_not_ready()) == (None, "the worker is stopping")


@pytest.mark.parametrize("part", [QUEUE, POSTGRESQL, REDIS])
def test_a_part_that_is_not_well_is_named_until_it_is(pulse: Pulse, part: str) -> None:
    pulse.sign(part, "is away")
    assert pulse.why_not_ready() == f"{part}: is away"
    assert pulse.why_not_live() is None, "restarting the worker would mend nothing"
    pulse.sign(part)
    assert pulse.why_not_ready() is None


def test_a_part_that_was_never_seen_is_not_ready() -> None:
    pulse = Pulse()
    pulse.started(asyncio.Event())
    said = pulse.why_not_ready()
    assert said == "queue: no sign of it yet; PostgreSQL: no sign of it yet; Redis: no sign of it yet"


@pytest.mark.parametrize("part", OLDEST_S)
def test_an_old_sign_is_no_sign(part: str) -> None:
    pulse = Pulse({**OLDEST_S, part: -1.0})
    pulse.started(asyncio.Event())
    for each in OLDEST_S:
        pulse.sign(each)
    assert pulse.why_not_ready() == f"{part}: the last sign of it is 0 s old"
    assert (pulse.why_not_live() is not None) == (part == LOOP)
