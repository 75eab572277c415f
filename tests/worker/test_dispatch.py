"""The dispatcher: what the ledger owes a doorbell gets one, once."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from db import leases
from db.faults import RunFenced
from jobs.endings import Finished
from jobs.life import Life
from tests.eventually import eventually
from worker import doorbells, wire
from worker.dispatch import Dispatcher
from worker.doorbells import Doorbells
from worker.embedded import Valkey

QUEUE = "arq:queue"


@pytest.fixture
def dispatcher(life: Life, redis: ArqRedis) -> Dispatcher:
    return Dispatcher(life.database, Doorbells(redis, QUEUE), jobs=list(life.jobs), policies=())


async def test_a_run_from_sql_gets_one_doorbell_however_often_it_is_looked_at(
    dispatcher: Dispatcher, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'r')")

    assert [await dispatcher.tick() for _ in range(3)] == [1, 0, 0]
    assert await redis.zrange(QUEUE, 0, -1) == [b"r"]
    assert wire.decode(await redis.get("arq:job:r")) == wire.Envelope(job=wire.DOORBELL, payload="{}")


async def test_a_run_whose_transaction_is_open_gets_a_doorbell_after_its_commit(
    dispatcher: Dispatcher, sql: asyncpg.Connection
) -> None:
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'r')")
    assert await dispatcher.tick() == 0
    await transaction.commit()
    assert await dispatcher.tick() == 1


async def test_a_message_that_is_due_already_is_left_alone(
    dispatcher: Dispatcher, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'r')")
    await redis.enqueue_job("purge-old-deleted", _job_id="r")
    before = await redis.zscore(QUEUE, "r"), await redis.get("arq:job:r")

    assert await dispatcher.tick() == 0
    assert (await redis.zscore(QUEUE, "r"), await redis.get("arq:job:r")) == before


async def test_a_message_for_later_does_not_hold_back_a_run_that_is_due(
    dispatcher: Dispatcher, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await redis.enqueue_job("purge-old-deleted", _job_id="r", _defer_by=86_400)
    later = await redis.zscore(QUEUE, "r")
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'r')")

    await dispatcher.tick()
    assert await redis.zscore(QUEUE, "r") < later - 86_000_000


async def test_one_tick_rings_for_500_and_the_longest_due_come_first(
    dispatcher: Dispatcher, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "SELECT lowtide.enqueue('purge-old-deleted', '{}', 'r' || n, now() - make_interval(secs => n)) "
        "FROM generate_series(1, 501) n"
    )
    assert await dispatcher.tick() == 500
    assert await redis.zscore(QUEUE, "r501") is not None
    assert await redis.zscore(QUEUE, "r1") is None


async def test_redis_that_returns_is_rung_without_a_restart_of_ours(life: Life, sql: asyncpg.Connection) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'r')")
    async with Valkey() as valkey:
        redis = doorbells.connect(valkey.url, queue=QUEUE)
        dispatcher = Dispatcher(life.database, Doorbells(redis, QUEUE), jobs=list(life.jobs), policies=())
        await valkey.stop(immediate=True)
        with pytest.raises(RedisError):
            await dispatcher.tick()
        running = asyncio.create_task(dispatcher.run(every=timedelta(seconds=0.05)))
        await valkey.start()

        await eventually(lambda: redis.exists("arq:job:r"))
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        await redis.aclose(close_connection_pool=True)


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
        dead = await leases.claim(session, "r", jobs=list(life.jobs), lease=timedelta(seconds=0.3), worker="dead")
    assert dead is not None
    assert await dispatcher.tick() == 0, "its lease has not ended yet"
    await sql.execute("UPDATE lowtide.run SET lease_until = now()")

    assert await dispatcher.tick() == 1
    ending = await life.serve("r")

    assert isinstance(ending, Finished)
    assert await sql.fetchval("SELECT attempt FROM lowtide.run") == 2
    async with life.database.sessions() as session:
        with pytest.raises(RunFenced):
            await leases.renew(session, dead, lease=timedelta(seconds=30))


async def test_a_run_that_nobody_here_can_do_says_so(dispatcher: Dispatcher, sql: asyncpg.Connection) -> None:
    await sql.execute("SELECT lowtide.enqueue('bogus', '{}', 'x')")
    await dispatcher.tick()
    assert tuple(await sql.fetchrow("SELECT state, wait_reason FROM lowtide.run")) == (
        "queued",
        "no worker here knows job 'bogus'",
    )
