"""The query-plan guard refuses what would read a large table from end to end, and names the index that mends it."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from db import estimates, queryplans
from db.engine import Database
from db.targets import TIMESTAMPTZ, Eligible, Target
from db.verdicts import judge
from jobs.explain import explain
from jobs.life import Life
from jobs.policies import DEFAULT, OLD_DELETED_TASKS
from jobs.purge_payload import PurgeOldDeleted
from jobs.queryplans import QueryPlanRefused, guard
from jobs.ways import statements_of
from tests import people
from tests.eventually import eventually
from tests.ledger import run

TASKS = OLD_DELETED_TASKS.target
CUTOFF = datetime.now(UTC) - timedelta(days=90)


async def _guard(database: Database, target: Target = TASKS, *, large: int = 10, small: int = 1) -> None:
    async with database.autocommit() as connection:
        eligible = Eligible(target, TIMESTAMPTZ, CUTOFF.isoformat())
        for statements in (statements_of(eligible, "blocks"), statements_of(eligible, "index")):
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

    with pytest.raises(QueryPlanRefused, match=r"index public\.broken was never finished") as caught:
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


async def test_an_index_that_is_being_built_is_waited_for_and_not_dropped(
    database: Database, database_url: str, sql: asyncpg.Connection
) -> None:
    """The advice to drop it would throw away the work that the last refusal asked for."""
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)
    await sql.execute("DROP INDEX task_deleted_at")
    builder = await asyncpg.connect(database_url)
    writing = sql.transaction()
    await writing.start()
    await sql.execute("UPDATE task SET title = 'open' WHERE id = 1")
    building = asyncio.create_task(builder.execute(TASKS.wanted_index))
    await eventually(lambda: _is_building(database))

    with pytest.raises(QueryPlanRefused, match="is being built") as caught:
        await _guard(database)
    await writing.rollback()
    await building
    await builder.close()

    assert "DROP" not in str(caught.value)
    assert caught.value.detail is not None
    assert caught.value.detail["index"] is None
    await _guard(database)


async def _is_building(database: Database) -> bool:
    async with database.autocommit() as connection:
        found: bool = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = 'task'::regclass AND NOT indisvalid)"
        )
    return found


async def test_where_an_index_is_there_and_finds_too_much_the_condition_joins_it(
    database: Database, sql: asyncpg.Connection
) -> None:
    """An index on the column alone would be created in vain: it is there, and PostgreSQL reads the table anyway."""
    await sql.execute("CREATE TABLE big (gone timestamptz, kind int, body text)")
    await sql.execute(
        "INSERT INTO big SELECT now() - make_interval(days => 100 + n * 7919 % 90), n * 7919 % 50, repeat('x', 900) "
        "FROM generate_series(1, 10000) n"
    )
    target = Target("public", "big", "gone", "kind = 3")
    await sql.execute(target.wanted_index)
    await sql.execute("ANALYZE big")
    with pytest.raises(QueryPlanRefused, match="big_gone_idx is there") as caught:
        await _guard(database, target)

    assert caught.value.detail is not None
    assert caught.value.detail["index"] != target.wanted_index
    await sql.execute(caught.value.detail["index"])
    await _guard(database, target)


FOREIGN = 'CREATE INDEX CONCURRENTLY ON public.note ("task_id");'


@pytest.mark.parametrize(
    ("index", "serves"),
    [
        ("CREATE INDEX ON note (task_id, other)", True),
        ("CREATE INDEX ON note (task_id) WHERE task_id IS NOT NULL", True),
        ("CREATE INDEX ON note USING hash (task_id)", True),
        ("CREATE INDEX ON note (task_id) WHERE other IS NOT NULL", False),
        ("CREATE INDEX ON note (task_id) WHERE task_id > 10", False),
        ("CREATE INDEX ON note USING brin (task_id)", False),
        ("CREATE INDEX ON note (other, task_id)", False),
    ],
)
async def test_only_an_index_that_finds_every_referencing_row_serves(
    database: Database, sql: asyncpg.Connection, index: str, *, serves: bool
) -> None:
    await _notes(sql)
    await sql.execute(index)
    if serves:
        await _guard(database, large=100)
        return
    with pytest.raises(QueryPlanRefused) as caught:
        await _guard(database, large=100)
    assert caught.value.detail is not None
    assert caught.value.detail["index"] == FOREIGN


async def test_an_included_column_is_not_one_of_the_first(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE pair (a int, b int, gone timestamptz, PRIMARY KEY (a, b))")
    await sql.execute("CREATE TABLE note (a int, b int, body text, FOREIGN KEY (a, b) REFERENCES pair)")
    await sql.execute("INSERT INTO note SELECT NULL, n, repeat('x', 200) FROM generate_series(1, 1000) n")
    await sql.execute("CREATE INDEX ON note (a) INCLUDE (b)")
    with pytest.raises(QueryPlanRefused, match="its foreign key a, b"):
        await _guard(database, Target("public", "pair", "gone"))

    await sql.execute("CREATE INDEX ON note (b, a)")
    await _guard(database, Target("public", "pair", "gone"))


async def test_an_unfinished_index_on_a_foreign_key_is_told(database: Database, sql: asyncpg.Connection) -> None:
    await _notes(sql)
    await sql.execute("INSERT INTO note (task_id) VALUES (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON note (task_id)")

    with pytest.raises(QueryPlanRefused, match=r"index public\.broken was never finished") as caught:
        await _guard(database, large=100)
    assert caught.value.detail is not None
    for statement in caught.value.detail["index"].rstrip(";").split("; "):
        await sql.execute(statement)
    await _guard(database, large=100)


async def _notes(sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    await sql.execute("CREATE TABLE note (task_id bigint REFERENCES task (id), other int, body text)")
    await sql.execute("INSERT INTO note SELECT n, NULL, repeat('x', 200) FROM generate_series(1, 1000) n")


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
    await sql.execute("CREATE TABLE note (task_id bigint REFERENCES task (id) ON DELETE CASCADE, body text)")
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


async def test_a_row_for_each_loop_is_what_was_expected(database: Database, sql: asyncpg.Connection) -> None:
    """EXPLAIN tells estimates and rows of one loop: 5,000 loops of one row each are no stale statistics."""
    await people.people(sql)
    await people.many(sql, 20_000)
    async with database.tuned(enable_hashjoin="off", enable_mergejoin="off", enable_memoize="off") as connection:
        given = queryplans.Stated(
            "read", "SELECT count(t.title) FROM generate_series(1, 5000) n JOIN public.task t ON t.id = n"
        )
        ran = await queryplans.explain_and_run(connection, given)
        assert ran is not None
        verdict = await judge(connection, ran)
    assert not [reason for reason in verdict.reasons if "ANALYZE" in reason]


async def test_a_read_that_takes_too_long_is_stopped_and_bad(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queryplans, "LONGEST_READ_MS", 150)
    async with database.autocommit() as connection:
        given = queryplans.Stated("read", "SELECT pg_sleep(60)")
        ran = await queryplans.explain_and_run(connection, given)
        assert ran is not None
        verdict = await judge(connection, ran)
    assert (verdict.word, verdict.reasons) == ("bad", ["took longer than 150 ms, and was stopped"])


async def test_explaining_changes_nothing(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    size = "SELECT pg_relation_size('task'), (SELECT last_value FROM task_id_seq), (SELECT count(*) FROM task)"
    before = await sql.fetchrow(size)

    async with database.autocommit() as connection:
        explained, refusal = await explain(connection, PurgeOldDeleted(), policies=DEFAULT)
        held = await sql.fetchval("SELECT count(*) FROM pg_locks WHERE pid = $1", connection.get_server_pid())

    assert (refusal, held) == (None, 0)
    assert [each.statement.name for each in explained] == ["window", "window past locks", "count of what is left"]
    assert [each.verdict.word for each in explained] == ["good"] * 3
    assert await sql.fetchrow(size) == before
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 0


async def test_a_foreign_key_below_a_cascade_is_looked_at_too(database: Database, sql: asyncpg.Connection) -> None:
    """Rows that go along with the table's own are looked up in what refers to them."""
    await sql.execute("CREATE TABLE b (id int PRIMARY KEY, task_id bigint REFERENCES task ON DELETE CASCADE)")
    await sql.execute("CREATE INDEX ON b (task_id)")
    await sql.execute("CREATE TABLE c (b_id int REFERENCES b, filler text)")
    await sql.execute("INSERT INTO c SELECT NULL, repeat('x', 100) FROM generate_series(1, 1000)")
    with pytest.raises(QueryPlanRefused, match=r"for each deleted row of b, public.c .* \(c_b_id_fkey\)"):
        await _guard(database)
    await sql.execute("CREATE INDEX ON c (b_id)")
    await _guard(database)


async def test_a_dry_run_says_that_the_purge_would_be_refused(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    fine = await run(life, "purge-old-deleted", "fine", dry_run=True)
    await sql.execute("CREATE TABLE note (task_id bigint REFERENCES task, filler text)")
    await sql.execute("INSERT INTO note SELECT NULL, repeat('x', 1000) FROM generate_series(1, 2000)")
    refused = await run(life, "purge-old-deleted", "refused", dry_run=True)

    assert fine.result is not None
    assert refused.result is not None
    assert ("refused" in fine.result, refused.result["eligible"]) == (False, 500)
    assert FOREIGN in refused.result["refused"]
