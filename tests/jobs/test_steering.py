"""Pause, cancel and retry: within one batch where a worker holds the run, else at once; nothing is done twice."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from db import steering
from db.engine import Database
from jobs import sweep
from jobs.endings import Again, Finished, Parked
from jobs.health import Health
from jobs.life import Life
from tests.eventually import eventually
from tests.jobs.test_sweep import _slow_trigger, another, dense, left, life_of
from tests.ledger import accept, row, serve_to_the_end

Steer = Callable[[AsyncSession, str], Awaitable[bool]]


async def steer(database: Database, action: Steer, run_id: str = "run") -> bool:
    async with database.sessions.begin() as session:
        return await action(session, run_id)


async def retry(session: AsyncSession, run_id: str) -> bool:
    return await steering.retry(session, run_id, from_start=False)


async def from_start(session: AsyncSession, run_id: str) -> bool:
    return await steering.retry(session, run_id, from_start=True)


async def at_work(
    database: Database, sql: asyncpg.Connection, pace: str = "gentle"
) -> tuple[Life, "asyncio.Task[object]"]:
    """A run in the middle of its batches."""
    await dense(sql, rows=4000)
    await _slow_trigger(sql, "0.001")
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace=pace)
    serving: asyncio.Task[object] = asyncio.create_task(life.serve("run"))
    await eventually(lambda: sql.fetchval("SELECT batches > 0 FROM lowtide.run"))
    return life, serving


@pytest.mark.parametrize("pace", ["gentle", "full"])
async def test_a_run_at_work_pauses_and_goes_on_where_it_was(
    database: Database, sql: asyncpg.Connection, pace: str
) -> None:
    life, serving = await at_work(database, sql, pace)
    assert await steer(database, steering.pause)
    assert isinstance(await serving, Parked)
    paused = await row(life, "run")
    assert (paused.state, paused.wait_reason, paused.requested_action) == ("paused", "paused by an operator", None)
    assert 0 < paused.rows_done < 2000
    assert paused.rows_done == 2000 - await left(sql)

    assert isinstance(await life.serve("run"), Parked)
    assert await steer(database, steering.resume)
    await serve_to_the_end(life, "run")
    ended = await row(life, "run")
    assert (ended.state, ended.rows_done, ended.attempt, await left(sql)) == ("succeeded", 2000, 1, 0)


@pytest.mark.parametrize("pace", ["gentle", "full"])
async def test_a_run_at_work_is_cancelled_and_what_it_did_stays(
    database: Database, sql: asyncpg.Connection, pace: str
) -> None:
    life, serving = await at_work(database, sql, pace)
    assert await steer(database, steering.cancel)
    ending = await serving
    assert isinstance(ending, Finished)
    cancelled = await row(life, "run")
    assert (cancelled.state, cancelled.error) == ("cancelled", None)
    assert cancelled.finished_at is not None
    assert 0 < cancelled.rows_done == 2000 - await left(sql) < 2000


async def test_a_cancelled_run_is_retried_from_its_cursor_or_from_the_start(
    database: Database, sql: asyncpg.Connection
) -> None:
    life, serving = await at_work(database, sql)
    await steer(database, steering.cancel)
    await serving
    cancelled = await row(life, "run")
    assert await steer(database, retry)
    assert (await row(life, "run")).rows_done == cancelled.rows_done
    assert await steer(database, steering.cancel)
    assert await steer(database, from_start)
    anew = await row(life, "run")
    assert (anew.state, anew.rows_done, anew.batches, anew.finished_at) == ("queued", 0, 0, None)
    await serve_to_the_end(life, "run")
    ended = await row(life, "run")
    assert ended.result is not None
    assert (ended.result["purged"], await left(sql)) == (2000 - cancelled.rows_done, 0)


@pytest.mark.parametrize(("action", "becomes"), [(steering.pause, "paused"), (steering.cancel, "cancelled")])
async def test_a_run_that_waits_for_postgresql_hears_it_at_the_next_look(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, action: Steer, becomes: str
) -> None:
    async def trouble(self: Health, connection: asyncpg.Connection) -> str:
        return "a standby is gone"

    monkeypatch.setattr(Health, "trouble", trouble)
    monkeypatch.setattr(sweep, "LOOK_EVERY_S", 0.05)
    await dense(sql)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle")
    serving = asyncio.create_task(life.serve("run"))
    await eventually(lambda: sql.fetchval("SELECT wait_reason FROM lowtide.run"))
    await steer(database, action)
    await asyncio.wait_for(serving, 5)
    assert (await row(life, "run")).state == becomes


@pytest.mark.parametrize(("action", "becomes"), [(steering.pause, "paused"), (steering.cancel, "cancelled")])
async def test_a_run_that_waits_for_a_lock_is_steered_at_once(
    database: Database, sql: asyncpg.Connection, action: Steer, becomes: str
) -> None:
    await dense(sql)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t")
    async with another(database) as other, other.transaction():
        await other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        assert isinstance(await life.serve("run"), Again)
        await steer(database, action)
        assert (await row(life, "run")).state == becomes


@pytest.mark.parametrize(("action", "becomes"), [(steering.pause, "paused"), (steering.cancel, "cancelled")])
async def test_a_queued_run_and_one_whose_worker_is_dead_are_steered_at_once(
    database: Database, sql: asyncpg.Connection, action: Steer, becomes: str
) -> None:
    """The dead one's token ends: a worker that was only stopped commits nothing any more."""
    await dense(sql)
    life = life_of(database)
    for run_id in ("queued", "dead"):
        await accept(life, "purge-old-deleted", run_id, policy="t")
    await sql.execute(
        "UPDATE lowtide.run SET state = 'running', lease_token = 7, lease_until = now() - interval '1 s', "
        "started_at = now() WHERE id = 'dead'"
    )
    for run_id in ("queued", "dead"):
        assert await steer(database, action, run_id)
        assert (await row(life, run_id)).state == becomes
    assert await sql.fetchval("SELECT lease_token FROM lowtide.run WHERE id = 'dead'") == 8


async def test_what_a_dead_worker_was_asked_is_heard_by_the_next(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t")
    await sql.execute(
        "UPDATE lowtide.run SET state = 'running', requested_action = 'cancel', started_at = now(), "
        "lease_until = now() - interval '1 s'"
    )
    assert isinstance(await life.serve("run"), Finished)
    assert ((await row(life, "run")).state, await left(sql)) == ("cancelled", 10_000)


async def test_what_has_ended_is_not_steered(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql, rows=10)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t")
    await serve_to_the_end(life, "run")
    for action in (steering.pause, steering.cancel, steering.resume, retry):
        assert not await steer(database, action)
        assert not await steer(database, action, "nope")


async def test_a_failed_run_goes_on_from_its_cursor(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql)
    await sql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF OLD.id > 15000 THEN RAISE EXCEPTION ''not yet''; END IF; RETURN OLD; END'; "
        "CREATE TRIGGER refuse BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle")
    await serve_to_the_end(life, "run")
    failed = await row(life, "run")
    assert (failed.state, failed.error and failed.error["message"]) == ("failed", "not yet")
    assert 0 < failed.rows_done < 10_000

    await sql.execute("DROP TRIGGER refuse ON t")
    assert await steer(database, retry)
    await serve_to_the_end(life, "run")
    ended = await row(life, "run")
    assert (ended.state, ended.rows_done, ended.error, await left(sql)) == ("succeeded", 10_000, None, 0)


async def test_a_holder_that_sleeps_past_its_lease_is_fenced_by_a_cancel(
    database: Database, sql: asyncpg.Connection
) -> None:
    await dense(sql, rows=4000)
    await _slow_trigger(sql, "0.002")
    life = life_of(database)
    life.lease = timedelta(seconds=60)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle")
    serving = asyncio.create_task(life.serve("run"))
    await eventually(lambda: sql.fetchval("SELECT batches > 0 FROM lowtide.run"))
    async with sql.transaction():
        await sql.execute("UPDATE lowtide.run SET lease_until = now() - interval '1 s'")
        await sql.execute(steering.CANCEL.text.replace(":id", "'run'"))
    await serving
    ended = await row(life, "run")
    assert (ended.state, ended.rows_done) == ("cancelled", 2000 - await left(sql))
