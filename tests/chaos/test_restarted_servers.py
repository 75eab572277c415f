"""Servers that go away in the middle of a run: it goes on, and its counters equal what is really gone."""

from typing import Any

import asyncpg
from arq.connections import ArqRedis

from db import engine, migrate
from tests import people
from tests.chaos.stagehands import slow_deletes
from tests.eventually import eventually
from worker import doorbells
from worker.embedded import Companion, Postgres, Valkey

ROWS = 2000


async def _prepare(postgres: Postgres, valkey: Valkey) -> ArqRedis:
    database = engine.connect(postgres.url)
    await migrate.migrate(database.engine, with_tasks=True)
    await database.close()
    sql = await asyncpg.connect(postgres.url)
    await people.people(sql)
    await people.many(sql, ROWS, deleted_every=2)
    await slow_deletes(sql)
    await sql.close()
    return doorbells.connect(valkey.url, queue="arq:queue")


async def test_postgresql_restarted_as_by_a_crash(valkey: Valkey, redis: ArqRedis) -> None:
    """`synchronous_commit = off` may lose the last batches, rows and cursor together: then they are done again."""
    async with Postgres() as postgres:
        await (await _prepare(postgres, valkey)).aclose(close_connection_pool=True)
        async with Companion(database_url=postgres.url, redis_url=valkey.url, lease="1", tick="0.2"):
            await redis.enqueue_job("purge-old-deleted", _job_id="r")
            await eventually(lambda: _ask(postgres, "SELECT batches > 5 FROM lowtide.run"))
            await postgres.stop(immediate=True)
            await postgres.start()
            done = await _ask(postgres, "SELECT rows_done FROM lowtide.run")
            assert done < ROWS / 2, "it was stopped too late to show anything"
            await eventually(lambda: _ask(postgres, "SELECT finished_at IS NOT NULL FROM lowtide.run"), within_s=30)

        assert await _ask(postgres, "SELECT state FROM lowtide.run") == "succeeded"
        assert await _ask(postgres, "SELECT rows_done FROM lowtide.run") == ROWS / 2
        assert await _ask(postgres, "SELECT count(*) FROM task WHERE deleted_at IS NOT NULL") == 0


async def test_valkey_killed_and_restarted_empty(database_url: str, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, ROWS, deleted_every=2)
    await slow_deletes(sql)
    async with Valkey() as valkey:
        redis = doorbells.connect(valkey.url, queue="arq:queue")
        worker = Companion(database_url=database_url, redis_url=valkey.url, lease="1", slice="0.1", tick="0.2")
        async with worker:
            await redis.enqueue_job("purge-old-deleted", _job_id="r")
            await eventually(lambda: sql.fetchval("SELECT batches > 3 FROM lowtide.run"))
            await valkey.stop(immediate=True)
            await valkey.start()
            await eventually(lambda: sql.fetchval("SELECT finished_at IS NOT NULL FROM lowtide.run"), within_s=30)
            await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'next')")
            await eventually(lambda: sql.fetchval("SELECT bool_and(finished_at IS NOT NULL) FROM lowtide.run"))
            assert not worker.exited.is_set()
        await redis.aclose(close_connection_pool=True)
    assert await sql.fetchval("SELECT rows_done FROM lowtide.run WHERE id = 'r'") == ROWS / 2
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run WHERE state = 'succeeded'") == 2


async def _ask(postgres: Postgres, question: str) -> Any:
    connection = await asyncpg.connect(postgres.url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()
