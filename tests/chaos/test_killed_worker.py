"""A worker process that is killed at the worst moment: the run is taken over, and its effect stands once."""

import os
import signal
import time

import asyncpg
from arq.connections import ArqRedis

from tests import people
from tests.chaos.stagehands import slow_deletes
from tests.eventually import eventually
from worker.embedded import Companion, Valkey

LEASE_S = 2
TASKS = 2000
PURGED = 1000


def companion(database_url: str, valkey: Valkey) -> Companion:
    return Companion(database_url=database_url, redis_url=valkey.url, lease=str(LEASE_S), tick="0.2")


async def test_killed_between_copy_and_commit_the_tasks_exist_exactly_once(
    database_url: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    """Held in COMMIT by a deferred constraint trigger that sleeps.

    Control: with the run finished in a transaction of its own before the copy, the tasks are missing.
    """
    await people.people(sql)
    await sql.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'; "
        "CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON task DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "WHEN (NEW.title = 'task 0') EXECUTE FUNCTION dawdle()"
    )
    tasks = [{"title": f"task {n}"} for n in range(TASKS)]

    async with companion(database_url, valkey) as first:
        await redis.enqueue_job("create-batch", _job_id="killed", project_id=1, created_by_id=2, tasks=tasks)
        await eventually(lambda: _in_commit(sql))
        os.kill(first.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        await eventually(lambda: _nobody_is_in_commit(sql))  # PostgreSQL notices that its client is gone
    assert await sql.fetchval("SELECT count(*) FROM task") == 0
    await sql.execute("DROP TRIGGER dawdle ON task")

    async with companion(database_url, valkey):
        await eventually(lambda: _finished(sql, "killed"), within_s=LEASE_S + 10)
    assert time.monotonic() - killed_at < LEASE_S + 10
    row = await sql.fetchrow("SELECT state, attempt, rows_done FROM lowtide.run WHERE id = 'killed'")
    assert tuple(row) == ("succeeded", 2, TASKS)
    assert await sql.fetchval("SELECT count(*) FROM task") == TASKS
    assert await sql.fetchval("SELECT count(DISTINCT title) FROM task") == TASKS


async def test_killed_in_the_middle_of_a_purge_it_goes_on_and_counts_what_is_gone(
    database_url: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 2 * PURGED, deleted_every=2)
    await slow_deletes(sql)
    async with companion(database_url, valkey) as first:
        await redis.enqueue_job("purge-old-deleted", _job_id="killed")
        await eventually(lambda: sql.fetchval("SELECT batches > 3 FROM lowtide.run"))
        os.kill(first.pid, signal.SIGKILL)
        await first.exited.wait()
    gone = 2 * PURGED - await sql.fetchval("SELECT count(*) FROM task")
    assert await sql.fetchval("SELECT rows_done FROM lowtide.run") == gone
    assert gone < PURGED, "it was killed too late to show anything"

    async with companion(database_url, valkey):
        await eventually(lambda: _finished(sql, "killed"), within_s=LEASE_S + 10)
    row = await sql.fetchrow("SELECT state, rows_done, result FROM lowtide.run WHERE id = 'killed'")
    assert (row["state"], row["rows_done"]) == ("succeeded", PURGED)
    assert await sql.fetchval("SELECT count(*) FROM task WHERE deleted_at IS NOT NULL") == 0


async def test_asked_to_stop_it_hands_its_run_back_at_no_cost(
    database_url: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 2 * PURGED, deleted_every=2)
    await slow_deletes(sql)
    async with companion(database_url, valkey) as worker:
        await redis.enqueue_job("purge-old-deleted", _job_id="stopped")
        await eventually(lambda: sql.fetchval("SELECT batches > 3 FROM lowtide.run"))
        begun = time.monotonic()
        await worker.stop()
        assert time.monotonic() - begun < 5
        assert "worker.stopped" in worker.log.read_text()
    row = await sql.fetchrow("SELECT state, attempt FROM lowtide.run WHERE id = 'stopped'")
    assert tuple(row) == ("queued", 1)

    async with companion(database_url, valkey):
        await eventually(lambda: _finished(sql, "stopped"))
    row = await sql.fetchrow("SELECT state, attempt, rows_done FROM lowtide.run WHERE id = 'stopped'")
    assert tuple(row) == ("succeeded", 1, PURGED)


async def _in_commit(sql: asyncpg.Connection) -> bool:
    return bool(
        await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        )
    )


async def _nobody_is_in_commit(sql: asyncpg.Connection) -> bool:
    return not await _in_commit(sql)


async def _finished(sql: asyncpg.Connection, run_id: str) -> bool:
    return bool(await sql.fetchval("SELECT finished_at IS NOT NULL FROM lowtide.run WHERE id = $1", run_id))


async def test_a_second_signal_does_not_wait(
    database_url: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    """While the open batch still holds on, in a trigger that sleeps."""
    await people.people(sql)
    await people.many(sql, 10, deleted_every=2)
    await sql.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN OLD; END'; "
        "CREATE TRIGGER dawdle BEFORE UPDATE ON task FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )
    ids = [row["id"] for row in await sql.fetch("SELECT id FROM task WHERE deleted_at IS NULL")]
    async with companion(database_url, valkey) as worker:
        await redis.enqueue_job("mark-completed", _job_id="slow", task_ids=ids, requested_by=1)
        await eventually(lambda: _in_commit(sql))
        begun = time.monotonic()
        os.kill(worker.pid, signal.SIGTERM)
        await eventually(lambda: "worker.stopping" in worker.log.read_text())
        os.kill(worker.pid, signal.SIGTERM)
        await worker.exited.wait()
        assert time.monotonic() - begun < 2
