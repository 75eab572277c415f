"""mark-completed against one bare UPDATE of the same tasks."""

import time

from benchmarks.contenders import Outcome
from benchmarks.rounds import Measured, alternate
from benchmarks.runs import run, seconds
from benchmarks.stage import Stage
from db.engine import Database

OURS, BARE, OURS_MOST = "mark-completed", "bare UPDATE", "mark-completed, most ids"
BARE_UPDATE = "UPDATE public.task SET status = 'completed', updated_at = now() WHERE id = ANY($1)"


async def measure(stage: Stage, *, count: int, most: int, rounds: int) -> Measured:
    """Ids are every other one, from the first: the seeded tasks that are not deleted, of all projects."""

    async def ours(database: Database) -> Outcome:
        return await _ours(database, count)

    async def ours_most(database: Database) -> Outcome:
        return await _ours(database, most)

    async def bare(database: Database) -> Outcome:
        async with database.autocommit() as connection:
            await connection.execute("SET lock_timeout = 0")
            begun = time.perf_counter()
            await connection.execute(BARE_UPDATE, _ids(count))
            return Outcome(count, time.perf_counter() - begun)

    return await alternate(stage, {OURS: ours, BARE: bare, OURS_MOST: ours_most}, rounds=rounds)


async def _ours(database: Database, count: int) -> Outcome:
    async with database.autocommit() as connection:
        # One actor who may act on all of them.
        await connection.execute("UPDATE public.project SET owner_id = 3")
    finished = await run(database, "mark-completed", task_ids=_ids(count), requested_by=3)
    if finished.rows_done != count:
        raise RuntimeError(f"{finished.rows_done} of {count} tasks were completed")
    return Outcome(count, seconds(finished))


def _ids(count: int) -> list[int]:
    return list(range(1, 2 * count, 2))
