"""A table that changes while a purge is at work on it: the run ends, exact to the row, and says what to do."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
import pytest_asyncio

from db import engine, steering
from db.engine import Database
from db.targets import Target
from jobs.catalog import jobs
from jobs.endings import Again
from jobs.inspection import inspect
from jobs.life import Life
from jobs.policies import Policy
from tests.eventually import eventually
from tests.jobs.test_sweep import _slow_trigger as slow_trigger
from tests.jobs.test_sweep import dense
from tests.ledger import accept, row, serve_to_the_end

ROWS = 4000  # every second one is eligible
POLICY = Policy("t", Target("public", "t", "gone_at"), timedelta(days=90), max_share=1.0, vacuum_share=None)
# A change, and what mends it.
CHANGES = {
    "the column is dropped": (
        "ALTER TABLE t RENAME gone_at TO kept; ALTER TABLE t ADD gone_at int; ALTER TABLE t DROP COLUMN gone_at",
        "ALTER TABLE t RENAME kept TO gone_at",
        'column "gone_at" does not exist',
    ),
    "the table is renamed": (
        "ALTER TABLE t RENAME TO elsewhere",
        "ALTER TABLE elsewhere RENAME TO t",
        'relation "public.t" does not exist',
    ),
    "the column gets another type": (
        "ALTER TABLE t ALTER gone_at TYPE text USING gone_at::text",
        "ALTER TABLE t ALTER gone_at TYPE timestamptz USING gone_at::timestamptz",
        "operator does not exist: text < timestamp with time zone",
    ),
    "the schema is renamed": (
        "ALTER SCHEMA public RENAME TO elsewhere",
        "ALTER SCHEMA elsewhere RENAME TO public",
        'relation "public.t" does not exist',
    ),
}


@pytest_asyncio.fixture
async def keeper(database_url: str, sql: asyncpg.Connection) -> AsyncIterator[Database]:
    """Of a role that has the rights a purge needs, and no more."""
    await sql.execute("CREATE ROLE keeper LOGIN; GRANT USAGE ON SCHEMA lowtide TO keeper")
    await sql.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lowtide TO keeper")
    await sql.execute("GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO keeper")
    database = engine.connect(database_url.replace("postgres@", "keeper@"))
    try:
        yield database
    finally:
        await database.close()
        await sql.execute("DROP OWNED BY keeper; DROP ROLE keeper")


def life_of(database: Database) -> Life:
    return Life(database, jobs((POLICY,)), worker="test", lease=timedelta(seconds=2))


async def _ended_by(life: Life, sql: asyncpg.Connection, change: str) -> dict[str, str]:
    """The error of a run under which the table changed when some of its rows were gone."""
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle")
    serving = asyncio.create_task(serve_to_the_end(life, "run"))
    await eventually(lambda: sql.fetchval("SELECT rows_done > 100 FROM lowtide.run WHERE id = 'run'"))
    await sql.execute(change)
    await serving
    ended = await row(life, "run")
    assert ended.state == "failed"
    assert ended.error is not None
    return ended.error


@pytest.mark.parametrize("change", CHANGES)
async def test_a_table_that_changes_ends_the_run_with_what_to_do(
    database: Database, sql: asyncpg.Connection, change: str
) -> None:
    await dense(sql, rows=ROWS)
    await slow_trigger(sql, "0.001")
    breaks, mends, told = CHANGES[change]
    life = life_of(database)

    error = await _ended_by(life, sql, breaks)

    await sql.execute(mends)
    gone = ROWS - await sql.fetchval("SELECT count(*) FROM public.t")
    ended = await row(life, "run")
    assert 100 < gone < ROWS // 2
    assert ended.rows_done == gone
    assert error["type"] == "TableChanged"
    assert error["message"].startswith(f"{told}: public.t is not as the run found it")
    assert f"{gone:,} rows are gone, and counted" in error["message"]
    assert "`lowtide retry run` goes on where it stopped" in error["message"]
    assert await sql.fetchval("SELECT detail ->> 'purged' FROM lowtide.audit WHERE event = 'end'") == str(gone)

    async with database.sessions.begin() as session:
        await steering.retry(session, "run", from_start=False)
    await serve_to_the_end(life, "run")
    ended = await row(life, "run")
    assert (ended.state, ended.rows_done) == ("succeeded", ROWS // 2)
    assert await sql.fetchval("SELECT count(*) FROM t") == ROWS // 2


async def test_a_column_that_is_gone_when_a_slice_begins_is_told_in_the_same_way(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Control: it was an UnfitColumn, without how many rows were gone."""
    await dense(sql, rows=ROWS)
    await slow_trigger(sql, "0.001")
    slices = Life(
        database, jobs((POLICY,)), worker="t", lease=timedelta(seconds=2), slice_length=timedelta(seconds=0.3)
    )
    await accept(slices, "purge-old-deleted", "run", policy="t", pace="full")
    while isinstance(await slices.serve("run"), Again):
        if (await row(slices, "run")).rows_done:
            await sql.execute("ALTER TABLE t DROP COLUMN IF EXISTS gone_at")
    ended = await row(slices, "run")
    assert ended.error is not None
    assert ended.error["type"] == "TableChanged"
    assert f"{ended.rows_done:,} rows are gone, and counted" in ended.error["message"]


async def test_rights_that_are_taken_away_end_the_run_with_the_grant(keeper: Database, sql: asyncpg.Connection) -> None:
    await dense(sql, rows=ROWS)
    await slow_trigger(sql, "0.001")
    await sql.execute("GRANT SELECT, UPDATE, DELETE ON t TO keeper")
    life = life_of(keeper)

    error = await _ended_by(life, sql, "REVOKE DELETE ON t FROM keeper")

    gone = ROWS - await sql.fetchval("SELECT count(*) FROM t")
    assert 100 < gone == (await row(life, "run")).rows_done < ROWS // 2
    assert error["type"] == "RightsMissing"
    assert error["message"].startswith(f"permission denied for table t. {gone:,} rows are gone, and counted")
    assert 'GRANT DELETE ON "public"."t" TO "keeper";' in error["message"]

    await sql.execute("GRANT DELETE ON t TO keeper")
    async with keeper.sessions.begin() as session:
        await steering.retry(session, "run", from_start=False)
    await serve_to_the_end(life, "run")
    assert (await row(life, "run")).rows_done == ROWS // 2


async def test_rights_that_are_missing_on_a_child_are_told_with_their_own_grant(
    keeper: Database, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "CREATE TABLE p (id int PRIMARY KEY, gone_at timestamptz); CREATE TABLE c (up int REFERENCES p);"
        "CREATE TABLE b (up int REFERENCES p); INSERT INTO p VALUES (1, now() - interval '1 year');"
        "GRANT SELECT, UPDATE, DELETE ON p TO keeper; GRANT SELECT ON c TO keeper"
    )
    target = Target("public", "p", "gone_at")
    policy = Policy("t", target, timedelta(days=90), children={"c": "delete", "b": "block"})
    lacks = 'role "keeper" lacks UPDATE, DELETE on public.c; SELECT on public.b'
    grants = 'GRANT UPDATE, DELETE ON "public"."c" TO "keeper"; GRANT SELECT ON "public"."b" TO "keeper";'

    facts = [fact for fact in await inspect(keeper, policy) if fact.word == "fault"]
    assert [(fact.about, str(fact)) for fact in facts] == [("rights", f"{lacks}. {grants}")]
    life = Life(keeper, jobs((policy,)), worker="test", lease=timedelta(seconds=5))
    await accept(life, "purge-old-deleted", "run", policy="t")
    await serve_to_the_end(life, "run")
    error = (await row(life, "run")).error
    assert error is not None
    assert (error["type"], error["message"]) == ("RightsMissing", f"{lacks}. Nothing was deleted. {grants}")


async def test_a_table_that_is_gone_before_the_first_batch(database: Database) -> None:
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t")
    await serve_to_the_end(life, "run")
    error = (await row(life, "run")).error
    assert error is not None
    assert error["type"] == "TableChanged"
    assert "Nothing was deleted" in error["message"]
