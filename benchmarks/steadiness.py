"""Whether a gentle run stays as fast, and reads as little, from its second tenth to its last."""

import asyncio
import itertools
import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from benchmarks.contenders import ours
from benchmarks.stage import Stage
from jobs.background import alongside

EVERY_S = 0.02
# A tenth of a shorter run is a handful of readings.
SHORTEST_S = 2.0
# A backend tells what it has read once a second; with this it does so after each batch.
TELL = """
    CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_stat_force_next_flush(); RETURN NULL; END';
    CREATE TRIGGER tell AFTER DELETE ON public.task FOR EACH STATEMENT EXECUTE FUNCTION public.tell();
"""
# Buffers, hit or read, of the table and its indexes: nobody but the run uses them.
READ = """
    SELECT coalesce((SELECT rows_done FROM lowtide.run WHERE id = 'bench'), 0) AS rows,
           (SELECT (heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint
            FROM pg_statio_user_tables WHERE relid = 'public.task'::regclass) AS buffers
"""


class Reading(NamedTuple):
    at: float
    rows: int
    buffers: int


async def measure(stage: Stage) -> dict[str, float] | None:
    """None where the run was too short to say."""
    readings: list[Reading] = []
    async with stage.clone() as database:
        onlooker = await asyncpg.connect(database.address.dsn)
        try:
            await onlooker.execute(TELL)
            async with alongside(_watch(onlooker, readings)):
                await ours("gentle")(database)
            readings.append(await _read(onlooker))
        finally:
            await onlooker.close()
    return compare(readings)


def compare(readings: Sequence[Reading]) -> dict[str, float] | None:
    """The last tenth's rows per second and buffers per row, as multiples of the second tenth's."""
    if _length_s(readings) < SHORTEST_S:
        return None
    (speed, buffers), (last_speed, last_buffers) = _tenth(readings, 1), _tenth(readings, 9)
    return {"speed": last_speed / speed, "buffers": last_buffers / buffers, "buffers_per_row": last_buffers}


def _length_s(readings: Sequence[Reading]) -> float:
    at_work = [reading.at for reading in readings if 0 < reading.rows < readings[-1].rows]
    return at_work[-1] - at_work[0] if at_work else 0.0


def _tenth(readings: Sequence[Reading], number: int) -> tuple[float, float]:
    """Rows per second and buffers per row; between two readings, in a line."""
    done = readings[-1].rows
    low, high = number * done / 10, (number + 1) * done / 10
    moved = [readings[0]] + [now for before, now in itertools.pairwise(readings) if now.rows != before.rows]
    times, buffers = [(each.rows, each.at) for each in moved], [(each.rows, each.buffers) for each in moved]
    took_s, read = _at(high, times) - _at(low, times), _at(high, buffers) - _at(low, buffers)
    return (high - low) / took_s, read / (high - low)


def _at(x: float, line: Sequence[tuple[float, float]]) -> float:
    """The height of a rising line of points; beyond its last point, that point's."""
    place = bisect_left(line, (x,))
    if place in {0, len(line)}:
        return line[min(place, len(line) - 1)][1]
    (x0, y0), (x1, y1) = line[place - 1], line[place]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


async def _watch(onlooker: asyncpg.Connection, readings: list[Reading]) -> None:
    while True:
        readings.append(await _read(onlooker))
        await asyncio.sleep(EVERY_S)


async def _read(onlooker: asyncpg.Connection) -> Reading:
    row = await onlooker.fetchrow(READ)
    return Reading(time.monotonic(), row["rows"], row["buffers"])
