"""The dispatcher: what the ledger owes a doorbell gets one, once."""

from datetime import timedelta

import asyncpg
import pytest
from arq.connections import ArqRedis

from db import runs
from jobs.life import Finished, Life
from worker.dispatch import Dispatcher
from worker.doorbells import Doorbells

QUEUE = "arq:queue"


@pytest.fixture
def dispatcher(life: Life, redis: ArqRedis) -> Dispatcher:
    return Dispatcher(life.database, Doorbells(redis, QUEUE), jobs=list(life.jobs), policies=())


async def test_a_run_from_sql_gets_one_doorbell_however_often_it_is_looked_at(
    dispatcher: Dispatcher, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'r')")

    assert [await dispatcher.tick() for _ in range(3)] == [1, 0, 0]
    assert await redis.zcard(QUEUE) == 1


async def test_runs_that_are_not_due_or_not_ours_or_over_get_none(
    dispatcher: Dispatcher, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'later', now() + interval '1 hour')")
    await sql.execute("SELECT lowtide.enqueue('other', '{}', 'unknown')")
    for state in ("paused", "cancelled", "succeeded", "failed"):
        await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', $1)", state)
        await sql.execute(
            "UPDATE lowtide.run SET state = $1, finished_at = CASE WHEN $1 <> 'paused' THEN now() END WHERE id = $1",
            state,
        )
    assert await dispatcher.tick() == 0


async def test_a_run_whose_lease_ended_is_taken_over_and_its_former_holder_is_fenced(
    dispatcher: Dispatcher, life: Life, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{\"dry_run\": true}', 'r')")
    async with life.database.sessions.begin() as session:
        dead = await runs.claim(session, "r", jobs=list(life.jobs), lease=timedelta(seconds=0.3), worker="dead")
    assert dead is not None
    assert await dispatcher.tick() == 0, "its lease has not ended yet"
    await sql.execute("UPDATE lowtide.run SET lease_until = now()")

    assert await dispatcher.tick() == 1
    ending = await life.serve("r")

    assert isinstance(ending, Finished)
    assert await sql.fetchval("SELECT attempt FROM lowtide.run") == 2
    async with life.database.sessions() as session:
        with pytest.raises(runs.RunFenced):
            await runs.renew(session, dead, lease=timedelta(seconds=30))
