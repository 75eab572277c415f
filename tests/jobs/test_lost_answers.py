"""What PostgreSQL has done and could not tell, or tells in its own words: nothing is counted twice, nothing fails."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.engine import Database
from jobs.endings import Again
from jobs.failures import is_passing
from jobs.life import Life
from tests import people
from tests.jobs.test_sweep import dense, left, life_of
from tests.ledger import accept, row, run

SLEEP_ONCE = """COMMIT;
        IF NOT EXISTS (SELECT FROM public.slept) THEN
            INSERT INTO public.slept VALUES (1); COMMIT; PERFORM pg_sleep(3);
        END IF;"""


async def cancelled_behind_a_commit(sql: asyncpg.Connection) -> None:
    """The first call's time is up between a batch's COMMIT and the call's answer."""
    await sql.execute("CREATE TABLE slept (n int)")
    source: str = await sql.fetchval("SELECT pg_get_functiondef('lowtide.batches'::regproc)")
    assert "COMMIT;" in source
    await sql.execute(source.replace("COMMIT;", SLEEP_ONCE, 1))


async def test_a_batch_whose_answer_was_cancelled_is_counted_once(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql)
    await cancelled_behind_a_commit(sql)
    ended = await run(life_of(database), "purge-old-deleted", policy="t", pace="full")
    assert ended.result is not None
    assert (ended.result["purged"], ended.rows_done, await left(sql)) == (10_000, 10_000, 0)


async def test_a_chunk_whose_answer_was_cancelled_is_walked_once(life: Life, sql: asyncpg.Connection) -> None:
    """Control: without the look into the ledger its tasks are counted as completed already, too."""
    await people.people(sql)
    await people.many(sql, 1000)
    await cancelled_behind_a_commit(sql)
    ids = [record["id"] for record in await sql.fetch("SELECT id FROM task")]
    ended = await run(life, "mark-completed", task_ids=ids, requested_by=1, on_invalid="skip")
    assert ended.result is not None
    assert (ended.result["completed"], ended.result["already_completed"], ended.rows_done) == (1000, 0, 1000)


async def test_connections_that_die_at_any_moment_fail_nothing(database: Database, sql: asyncpg.Connection) -> None:
    """Lanes are terminated every few milliseconds, between batches too; each slice goes on a bit further."""
    await dense(sql, rows=200_000)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle")
    kill = await sql.prepare(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE query LIKE 'CALL lowtide.batches%' AND datname = current_database()"
    )
    for _ in range(6):
        serving = asyncio.create_task(life.serve("run"))
        await asyncio.sleep(0.05)
        while not serving.done():
            await kill.fetch()
            await asyncio.sleep(0.002)
        if not isinstance(await serving, Again):
            break
        await sql.execute("UPDATE lowtide.run SET not_before = now()")
    standing = await row(life, "run")
    assert standing.state in {"queued", "succeeded"}, standing.error
    assert standing.rows_done == 100_000 - await left(sql)


async def test_a_statement_whose_plan_was_for_another_table_is_tried_again(
    database: Database, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE z (a int)")
    async with database.sessions.begin() as session:
        await session.execute(text("SELECT a FROM z"))
    await sql.execute("ALTER TABLE z ALTER a TYPE bigint")
    async with database.sessions() as session:
        await session.execute(text("SELECT 1"))
        with pytest.raises(DBAPIError, match="cached statement plan is invalid") as caught:
            await session.execute(text("SELECT a FROM z"))
    assert is_passing(caught.value)


async def test_sessions_do_not_end_for_being_idle(
    database: Database, database_url: str, sql: asyncpg.Connection
) -> None:
    name = urlsplit(database_url).path.lstrip("/")
    await sql.execute(f"ALTER DATABASE {name} SET idle_session_timeout = '100ms'")
    async with database.autocommit() as connection:
        assert await connection.fetchval("SHOW idle_session_timeout") == "0"


async def test_a_run_that_got_on_starts_counting_its_attempts_anew(database: Database, sql: asyncpg.Connection) -> None:
    """So that the twentieth passing fault of a long night does not end it. Control: it failed, with rows done."""
    await dense(sql)
    await sql.execute(
        "CREATE FUNCTION clash() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF OLD.id > 15000 THEN RAISE EXCEPTION USING ERRCODE = ''40001''; END IF; RETURN OLD; END'; "
        "CREATE TRIGGER clash BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION clash()"
    )
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle")
    await sql.execute("UPDATE lowtide.run SET attempt = 18, started_at = now()")
    attempts = []
    for _ in range(2):
        assert isinstance(await life.serve("run"), Again)
        attempts.append((await row(life, "run")).attempt)
        await sql.execute("UPDATE lowtide.run SET not_before = now()")
    assert attempts == [1, 2]
