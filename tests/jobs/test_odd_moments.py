"""Cancels, faults and deaths at odd moments: each run ends in the state that it should."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from db import leases, steering
from db.engine import Database
from jobs.catalog import Job, jobs
from jobs.endings import Again, Finished
from jobs.fields import Payload
from jobs.life import MOST_ATTEMPTS, Life
from jobs.run import Run
from tests import people
from tests.eventually import eventually
from tests.jobs.test_sweep import dense, life_of
from tests.ledger import accept, row


async def test_an_error_at_commit_costs_an_attempt_each_time(life: Life, sql: asyncpg.Connection) -> None:
    """Control: with the attempts counted by what the worker believed to be committed, it was tried for ever."""
    await people.people(sql)
    await sql.execute(
        "CREATE FUNCTION clash() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RAISE EXCEPTION USING ERRCODE = ''40001''; END'; "
        "CREATE CONSTRAINT TRIGGER clash AFTER INSERT ON task DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION clash()"
    )
    await accept(life, "create-batch", "run", project_id=1, created_by_id=2, tasks=[{"title": "one"}])
    for expected in (2, 3, 4):
        assert isinstance(await life.serve("run"), Again)
        standing = await row(life, "run")
        assert (standing.attempt, standing.batches, standing.rows_done) == (expected, 0, 0)
        await sql.execute("UPDATE lowtide.run SET not_before = now()")


async def test_a_cancel_wins_over_a_statement_that_is_cancelled(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql, rows=2)
    await sql.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN OLD; END'; "
        "CREATE TRIGGER dawdle BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="full")
    serving = asyncio.create_task(life.serve("run"))
    asleep = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    await eventually(lambda: sql.fetchval(f"SELECT count(*) {asleep}"))
    async with database.sessions.begin() as session:
        assert await steering.cancel(session, "run")
    await sql.execute(f"SELECT pg_cancel_backend(pid) {asleep}")
    assert isinstance(await serving, Finished)
    assert (await row(life, "run")).state == "cancelled"


async def test_a_run_that_kills_its_workers_is_given_up(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await accept(life, "purge-old-deleted", "run")
    await sql.execute(
        "UPDATE lowtide.run SET state = 'running', attempt = $1, started_at = now(), "
        "lease_until = now() - interval '1 s'",
        MOST_ATTEMPTS,
    )
    assert isinstance(await life.serve("run"), Finished)
    ended = await row(life, "run")
    assert ended.error is not None
    assert (ended.state, ended.error["type"]) == ("failed", "GivenUp")
    assert f"has died {MOST_ATTEMPTS} times in a row" in ended.error["message"]


class Nothing(Payload):
    pass


def _life_with(database: Database, perform: object) -> Life:
    """With one job more, whose work is given."""
    known = jobs() | {"given": Job(Nothing, perform)}  # type: ignore[arg-type]  # an async function of a run
    return Life(database, known, worker="test", lease=timedelta(seconds=1))


async def test_a_cancel_between_the_claim_and_the_transaction_is_heard(
    database: Database, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE done (n int)")

    async def perform(run: Run, payload: Nothing) -> dict[str, object]:
        async with database.sessions.begin() as session:
            await steering.cancel(session, run.id)
        async with run.transaction():
            await sql.execute("INSERT INTO done VALUES (1)")
        return {}

    life = _life_with(database, perform)
    await accept(life, "given", "run")
    assert isinstance(await life.serve("run"), Finished)
    assert ((await row(life, "run")).state, await sql.fetchval("SELECT count(*) FROM done")) == ("cancelled", 0)


async def test_work_without_batches_hears_a_cancel_with_the_heartbeat(
    database: Database, sql: asyncpg.Connection
) -> None:
    """A dry run that counts for long, say."""

    async def perform(run: Run, payload: Nothing) -> dict[str, object]:
        await asyncio.sleep(60)
        return {}

    life = _life_with(database, perform)
    await accept(life, "given", "run")
    serving = asyncio.create_task(life.serve("run"))
    await eventually(lambda: sql.fetchval("SELECT state = 'running' FROM lowtide.run"))
    async with database.sessions.begin() as session:
        await steering.cancel(session, "run")
    assert isinstance(await asyncio.wait_for(serving, 5), Finished)
    assert (await row(life, "run")).state == "cancelled"


async def test_the_heartbeat_goes_on_after_a_fault(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: a renewal that was cancelled ended it, and the lease with it."""
    renewed = 0
    renew = leases.renew

    async def failing_once(*args: object, **options: object) -> object:
        nonlocal renewed
        renewed += 1
        if renewed == 1:
            raise asyncpg.QueryCanceledError("canceling statement due to user request")
        return await renew(*args, **options)  # type: ignore[arg-type]  # handed on as they are

    async def perform(run: Run, payload: Nothing) -> dict[str, object]:
        until = "SELECT clock_timestamp() > $1"
        started = await sql.fetchval("SELECT clock_timestamp() + interval '1.5 s'")
        await eventually(lambda: sql.fetchval(until, started))
        assert await sql.fetchval("SELECT lease_until > clock_timestamp() FROM lowtide.run")
        return {}

    monkeypatch.setattr("jobs.heartbeat.leases.renew", failing_once)
    life = _life_with(database, perform)
    await accept(life, "given", "run")
    await life.serve("run")
    ended = await row(life, "run")
    assert (ended.state, ended.attempt, renewed > 1) == ("succeeded", 1, True), ended.error
