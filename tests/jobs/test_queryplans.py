"""The query-plan guard refuses what would read a large table from end to end, and names the index that mends it."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from db import estimates, queryplans
from db.engine import Database
from db.targets import Target
from jobs.explain import explain
from jobs.life import Life
from jobs.policies import DEFAULT, OLD_DELETED_TASKS
from jobs.purge_old_deleted import PurgeOldDeleted
from jobs.queryplans import QueryPlanRefused, guard, judge
from jobs.ways import statements_of
from tests import people
from tests.ledger import run

TASKS = OLD_DELETED_TASKS.target
CUTOFF = datetime.now(UTC) - timedelta(days=90)


async def _guard(database: Database, target: Target = TASKS, *, large: int = 10, small: int = 1) -> None:
    async with database.autocommit() as connection:
        for way in ("blocks", "lists"):
            statements = statements_of(target, way, CUTOFF)
            await guard(connection, target, statements, large_blocks=large, small_blocks=small)


async def test_the_migrated_tables_pass(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)
    await _guard(database)


async def test_without_the_index_it_refuses_with_the_statement_that_mends_it(
    database: Database, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)
    await sql.execute("DROP INDEX task_deleted_at")
    with pytest.raises(
        QueryPlanRefused, match=r"would read public.task from end to end .*Nothing was deleted"
    ) as caught:
        await _guard(database)
    assert caught.value.detail is not None
    assert caught.value.detail["index"] in str(caught.value)

    await sql.execute(caught.value.detail["index"])
    await sql.execute("ANALYZE task")
    await _guard(database)


async def test_a_small_table_needs_no_index(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    await sql.execute("DROP INDEX task_deleted_at")
    await _guard(database, large=10_000)


async def test_an_index_that_was_never_finished_does_not_count(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)
    await sql.execute("DROP INDEX task_deleted_at")
    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON task (deleted_at)")

    with pytest.raises(QueryPlanRefused, match="index broken was never finished") as caught:
        await _guard(database)
    assert caught.value.detail is not None
    for statement in caught.value.detail["index"].rstrip(";").split("; "):
        await sql.execute(statement)
    await _guard(database)


async def test_a_foreign_key_without_an_index_is_refused(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    await sql.execute('CREATE TABLE "Comment" (id int, "Task" bigint REFERENCES task (id), body text)')
    await sql.execute("INSERT INTO \"Comment\" SELECT n, n, repeat('x', 200) FROM generate_series(1, 1000) n")
    with pytest.raises(QueryPlanRefused, match="no index begins with its foreign key Task") as caught:
        await _guard(database, large=100)

    assert caught.value.detail is not None
    await sql.execute(caught.value.detail["index"])
    await _guard(database, large=100)


async def test_names_of_any_kind_are_quoted(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute(
        'CREATE SCHEMA "Old Stuff"; CREATE TABLE "Old Stuff"."The ""Table" (n int, "Gone At" timestamptz)'
    )
    await sql.execute(
        'INSERT INTO "Old Stuff"."The ""Table" SELECT n, now() - interval \'1 year\' FROM generate_series(1, 5000) n'
    )
    target = Target("Old Stuff", 'The "Table', "Gone At")
    with pytest.raises(QueryPlanRefused) as caught:
        await _guard(database, target)
    assert caught.value.detail is not None
    await sql.execute(caught.value.detail["index"])
    async with database.autocommit() as connection:
        assert (await estimates.table(connection, target)).index is not None


async def test_the_purge_is_refused_before_its_first_batch(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    await sql.execute("CREATE TABLE note (task_id bigint REFERENCES task (id), body text)")
    await sql.execute("INSERT INTO note SELECT 1, repeat('x', 7000) FROM generate_series(1, 2000)")
    await sql.execute("ALTER TABLE note ALTER body SET STORAGE PLAIN")
    await sql.execute("INSERT INTO note SELECT 1, repeat('x', 7000) FROM generate_series(1, 200)")

    ended = await run(life, "purge-old-deleted")

    assert (ended.state, ended.batches) == ("failed", 0)
    assert ended.error is not None
    assert ended.error["type"] == "QueryPlanRefused"
    assert ended.error["detail"]["index"] == 'CREATE INDEX CONCURRENTLY ON public.note ("task_id");'
    assert await sql.fetchval("SELECT count(*) FROM task") == 1000


async def test_stale_statistics_are_told(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 20_000)
    await sql.execute("UPDATE task SET priority = 'high'")
    async with database.autocommit() as connection:
        given = queryplans.Stated("read", "SELECT count(*) FROM public.task WHERE priority = 'high'")
        ran = await queryplans.explain_and_run(connection, given)
        assert ran is not None
        verdict = await judge(connection, ran)
    assert verdict.word == "fair"
    assert 'run ANALYZE "public"."task";' in verdict.reasons[0]


async def test_explaining_changes_nothing(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    size = "SELECT pg_relation_size('task'), (SELECT last_value FROM task_id_seq), (SELECT count(*) FROM task)"
    before = await sql.fetchrow(size)

    async with database.autocommit() as connection:
        explained, refusal = await explain(connection, PurgeOldDeleted(), policies=DEFAULT)

    assert refusal is None
    assert [each.statement.name for each in explained] == ["window", "list of eligible rows"]
    assert [each.verdict.word for each in explained] == ["good", "good"]
    assert await sql.fetchrow(size) == before
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 0
