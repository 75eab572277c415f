"""Valkey and PostgreSQL killed, stopped, flushed and restarted: no accepted run is lost, no worker dies."""

import os
import signal
import time
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import pytest_asyncio
from redis.exceptions import RedisError

from db import engine, migrate
from tests.chaos.scale import LEASE_S, chance, times
from tests.chaos.stagehands import Act, at_work, pause, set_up, two_workers, worker
from tests.eventually import eventually
from worker import doorbells
from worker.embedded import Postgres, Valkey


@pytest_asyncio.fixture
async def own_valkey() -> AsyncIterator[Valkey]:
    async with Valkey() as server:
        yield server


@pytest_asyncio.fixture
async def own_postgres() -> AsyncIterator[Postgres]:
    async with Postgres(settings={"autovacuum": "off"}) as server:
        database = engine.connect(server.url)
        await migrate.migrate(database.engine, with_tasks=True)
        await database.close()
        yield server


async def _start_latency_s(sql: asyncpg.Connection, own_valkey: Valkey, number: int) -> float | None:
    """From enqueueing through the queue to the claim; None while the queue can't be reached."""
    redis = doorbells.connect(own_valkey.url, queue="arq:queue")
    run_id = f"probe-{number}-{time.monotonic_ns()}"
    try:
        before = await sql.fetchval("SELECT clock_timestamp()")
        await redis.enqueue_job("purge-old-deleted", dry_run=True, _job_id=run_id)
    except (RedisError, OSError):
        return None
    finally:
        await redis.aclose(close_connection_pool=True)
    started = await eventually(lambda: sql.fetchval("SELECT started_at FROM lowtide.run WHERE id = $1", run_id))
    return float((started - before).total_seconds())


async def test_valkey_killed_flushed_or_frozen(database_url: str, own_valkey: Valkey, sql: asyncpg.Connection) -> None:
    """Control: with a dispatcher that never rings, runs whose message is gone never end."""
    drawn = chance("valkey")
    await set_up(sql)
    async with two_workers(database_url, own_valkey.url) as workers:
        for number in times(3, 20):
            act = Act(number)
            await act.enqueue(sql)
            await pause(drawn.uniform(0, 0.5))
            match drawn.choice(["kill", "flush", "freeze"]):
                case "kill":
                    await own_valkey.stop(immediate=True)
                    await pause(drawn.uniform(0, 1))
                    await own_valkey.start()
                case "flush":
                    redis = doorbells.connect(own_valkey.url, queue="arq:queue")
                    await redis.flushall()
                    await redis.aclose(close_connection_pool=True)
                case "freeze":
                    os.kill(own_valkey.pid, signal.SIGSTOP)
                    await pause(drawn.uniform(0, 3))
                    os.kill(own_valkey.pid, signal.SIGCONT)
            await act.ended(sql)
            await act.check(sql)
            assert not any(each.exited.is_set() for each in workers)
            deadline = time.monotonic() + 10
            while (latency := await _start_latency_s(sql, own_valkey, number)) is None or latency > 0.1:
                assert time.monotonic() < deadline, f"a run started {latency} s after it was enqueued"


async def test_postgresql_restarted_cut_off_or_refusing(own_postgres: Postgres, own_valkey: Valkey) -> None:
    """`synchronous_commit = off`: a crash may lose the last batches, rows and cursor together."""
    drawn = chance("postgresql")
    sql = await asyncpg.connect(own_postgres.url)
    await set_up(sql)
    async with two_workers(own_postgres.url, own_valkey.url) as workers:
        for number in times(3, 20):
            act = Act(number)
            await act.enqueue(sql)
            await pause(drawn.uniform(0, 0.6))
            match drawn.choice(["crash", "terminate", "refuse"]):
                case "terminate":
                    await sql.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                    )
                case fault:
                    await own_postgres.stop(immediate=fault == "crash")
                    await pause(drawn.uniform(0, 1.5))
                    await own_postgres.start()
                    await sql.close()
                    sql = await asyncpg.connect(own_postgres.url)
            await act.ended(sql, within_s=60)
            await act.check(sql)
            assert not any(each.exited.is_set() for each in workers)
    await sql.close()


async def test_a_worker_that_sleeps_past_its_lease_commits_nothing_any_more(
    database_url: str, own_valkey: Valkey, sql: asyncpg.Connection
) -> None:
    """SIGSTOP in the middle; another takes over; SIGCONT.

    In the middle of a purge: one that is stopped within the transaction of a create-batch keeps its row locked until
    PostgreSQL's statement_timeout, five minutes.

    Control: with neither token nor state in `lowtide.batch`, one round in four shows a further batch of the first.
    """
    drawn = chance("sleep")
    await set_up(sql)
    sleeper = worker(database_url, own_valkey.url)
    async with sleeper:
        for number in times(2, 10):
            act = Act(number)
            await act.enqueue(sql)
            await at_work(sql, act.id_of("purge"))
            await eventually(partial(_is_alone, sql, act))
            await pause(drawn.uniform(0, 0.1))
            os.kill(sleeper.pid, signal.SIGSTOP)
            async with worker(database_url, own_valkey.url):
                await act.ended(sql, within_s=LEASE_S + 20)
                standing = await sql.fetch("SELECT id, lease_token, batches, rows_done FROM lowtide.run ORDER BY id")
                os.kill(sleeper.pid, signal.SIGCONT)
                await act.check(sql)
            probe = f"probe-{number}"
            await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{\"dry_run\": true}', $1)", probe)
            ended = "SELECT finished_at IS NOT NULL FROM lowtide.run WHERE id = $1"
            await eventually(partial(sql.fetchval, ended, probe))
            await act.check(sql)
            after = await sql.fetch(
                "SELECT id, lease_token, batches, rows_done FROM lowtide.run WHERE id <> $1 ORDER BY id", probe
            )
            assert after == standing
            await sql.execute("DELETE FROM lowtide.run WHERE id = $1", probe)


async def _is_alone(sql: asyncpg.Connection, act: Act) -> bool:
    """Only the purge has not ended."""
    left = await sql.fetch("SELECT id FROM lowtide.run WHERE id = ANY($1) AND finished_at IS NULL", act.ids)
    return [row["id"] for row in left] == [act.id_of("purge")]


async def test_backends_that_freeze_in_the_middle(own_postgres: Postgres, own_valkey: Valkey) -> None:
    """What they hold stays locked, and what they were about to commit decides when they wake up."""
    drawn = chance("frozen")
    sql = await asyncpg.connect(own_postgres.url)
    await set_up(sql)
    async with two_workers(own_postgres.url, own_valkey.url) as workers:
        for number in times(2, 10):
            act = Act(number)
            await act.enqueue(sql)
            await pause(drawn.uniform(0.05, 0.5))
            pids = await sql.fetch(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            for row in pids:
                os.kill(row["pid"], signal.SIGSTOP)
            await pause(drawn.uniform(0, LEASE_S * 2))
            for row in pids:
                os.kill(row["pid"], signal.SIGCONT)
            await act.ended(sql, within_s=60)
            await act.check(sql)
            assert not any(each.exited.is_set() for each in workers)
    await sql.close()
