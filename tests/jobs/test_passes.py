"""What is left after a pass is looked for, told, and counted under its reason."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio

from db import blocking, engine
from db.engine import Database
from jobs import passes
from tests.eventually import eventually
from tests.jobs.test_sweep import OLD, another, dense, left, life_of, purge
from tests.ledger import accept, row, run, serve_to_the_end


@pytest.mark.parametrize("pace", ["full", "gentle"])
async def test_rows_that_our_own_delete_has_moved_are_found(
    database: Database, sql: asyncpg.Connection, pace: str
) -> None:
    """A parent that goes sets its children's key to NULL, which moves them. Control: without `acts_alone`, thousands
    stay, and nothing is said to remain."""
    await sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t ON DELETE SET NULL, "
        "gone_at timestamptz, filler text)"
    )
    await sql.execute(
        f"INSERT INTO t SELECT n, CASE WHEN n <= 5000 THEN n + 15000 END, {OLD}, repeat('x', 300) "
        "FROM generate_series(20000, 1, -1) n"
    )
    await sql.execute("CREATE INDEX ON t (gone_at) WHERE gone_at IS NOT NULL; CREATE INDEX ON t (parent)")
    await sql.execute("VACUUM ANALYZE t")
    result = await purge(database, pace=pace)
    assert (result["remaining"], await left(sql)) == (False, 0)


async def test_rows_that_a_trigger_has_moved_are_found(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, n int, gone_at timestamptz, filler text)")
    await sql.execute(f"INSERT INTO t SELECT n, 0, {OLD}, repeat('x', 300) FROM generate_series(1, 20000) n")
    await sql.execute("CREATE INDEX ON t (gone_at) WHERE gone_at IS NOT NULL")
    await sql.execute(
        "CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN UPDATE t SET n = n + 1 WHERE id = OLD.id + 10000; RETURN NULL; END'; "
        "CREATE TRIGGER bump AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION bump()"
    )
    await sql.execute("VACUUM ANALYZE t")
    result = await purge(database)
    assert (result["remaining"], await left(sql)) == (False, 0)


async def test_a_limit_that_is_raised_leaves_nothing_behind_unsaid(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an operator, just before a window that the old limit had cut short."""
    await dense(sql)
    chosen = passes._choose

    async def choose(*args: object) -> object:
        choice = await chosen(*args)  # type: ignore[arg-type]  # handed on as they are
        await sql.execute("UPDATE lowtide.run SET max_rows = 1000000")
        return choice

    monkeypatch.setattr(passes, "_choose", choose)
    ended = await run(life_of(database), "purge-old-deleted", policy="t", pace="full", max_rows=100)
    assert ended.result is not None
    assert (ended.result["purged"], ended.result["remaining"], await left(sql)) == (10_000, False, 0)


async def test_rows_that_a_trigger_keeps_are_not_called_locked(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql)
    await sql.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF OLD.id % 1000 = 0 THEN RETURN NULL; END IF; RETURN OLD; END'; "
        "CREATE TRIGGER keep BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    result = await purge(database)
    assert (result["purged"], result["remaining"]) == (9980, True)
    assert result["skipped"] == {"locked": 0, "held": 0, "blocked": 0, "slow": 0}
    assert "trigger" in str(result["reason"])


async def test_rows_that_a_foreign_key_refuses_to_let_go_are_passed_over_and_counted(
    database: Database, sql: asyncpg.Connection
) -> None:
    """As when somebody points to a row at this very moment; here a trigger stands for that."""
    await dense(sql)
    await sql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE foreign_key_violation; END $$; CREATE TRIGGER refuse BEFORE DELETE ON t FOR EACH ROW "
        "WHEN (OLD.id IN (10, 12, 15000)) EXECUTE FUNCTION refuse()"
    )
    result = await purge(database)
    assert (result["purged"], result["remaining"], await left(sql)) == (9997, False, 3)
    assert result["skipped"] == {"locked": 0, "held": 0, "blocked": 3, "slow": 0}


async def test_a_lock_that_is_not_on_the_row_itself_keeps_that_row_alone(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Somebody holds a child that would go along. Control: taken for a lock on the table, it stopped the run."""
    await dense(sql)
    await sql.execute("CREATE TABLE c (t_id int REFERENCES t ON DELETE CASCADE); CREATE INDEX ON c (t_id)")
    await sql.execute("INSERT INTO c VALUES (10), (12)")
    async with another(database) as other, other.transaction():
        await other.execute("SELECT 1 FROM c WHERE t_id = 10 FOR UPDATE")
        result = await purge(database)
    assert (result["purged"], result["remaining"], await left(sql)) == (9999, True, 1)
    assert result["reason"] == "1 rows are locked by others"


async def test_a_locked_row_costs_one_further_pass(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql)
    async with another(database) as other, other.transaction():
        await other.execute("SELECT 1 FROM t WHERE id = 5000 FOR UPDATE")
        result = await purge(database)
    assert (result["purged"], result["passes"]) == (9999, 2)


async def test_tables_that_inherit_are_purged_too(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql)
    await sql.execute("CREATE TABLE t2 (LIKE t INCLUDING ALL) INHERITS (t); INSERT INTO t2 SELECT * FROM ONLY t")
    result = await purge(database)
    assert (result["purged"], result["remaining"], await left(sql)) == (20_000, False, 0)
    assert await sql.fetchval("SELECT count(*) FROM ONLY t2") == await sql.fetchval("SELECT count(*) FROM ONLY t")


@pytest_asyncio.fixture
async def purger(database: Database, sql: asyncpg.Connection) -> AsyncIterator[Database]:
    """A role that may read and delete, and nothing more."""
    await sql.execute("CREATE ROLE purger LOGIN PASSWORD 'secret' BYPASSRLS")
    await sql.execute(
        "GRANT USAGE ON SCHEMA lowtide TO purger; GRANT SELECT, INSERT, UPDATE ON lowtide.run TO purger; "
        "GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO purger; GRANT SELECT, DELETE ON t TO purger; "
        "GRANT SELECT ON lowtide.hold, lowtide.detaching TO purger; GRANT SELECT ON lowtide.audit TO purger"
    )
    parts = urlsplit(database.address.dsn)
    opened = engine.connect(urlunsplit(parts._replace(netloc=f"purger:secret@{parts.netloc.rpartition('@')[2]}")))
    yield opened
    await opened.close()
    await sql.execute("DROP OWNED BY purger; DROP ROLE purger")


@pytest_asyncio.fixture
async def table(sql: asyncpg.Connection) -> None:
    await dense(sql)


async def test_rights_that_only_a_lock_would_ask_for_are_asked_for_before_the_first_batch(
    table: None, purger: Database, database: Database, sql: asyncpg.Connection
) -> None:
    refused = await run(life_of(purger), "purge-old-deleted", "refused", policy="t")
    assert refused.error is not None
    assert (refused.error["type"], refused.rows_done) == ("RightsMissing", 0)
    grant = refused.error["message"].partition("GRANT ")[2]
    assert grant == 'SELECT, UPDATE, DELETE ON "public"."t" TO "purger";'

    await sql.execute(f"GRANT {grant}")
    async with another(database) as other, other.transaction():
        await other.execute("SELECT 1 FROM t WHERE id = 500 FOR UPDATE")
        life = life_of(purger)
        await accept(life, "purge-old-deleted", "granted", policy="t", pace="full")
        await serve_to_the_end(life, "granted")
    assert (await row(life, "granted")).rows_done == 9999


async def test_whoever_waits_is_seen_by_a_role_without_special_rights(
    table: None, purger: Database, database: Database
) -> None:
    """Control: pg_stat_activity shows such a role no one."""
    async with purger.autocommit() as lane, purger.autocommit() as second, another(database) as other:
        await lane.execute("BEGIN; DELETE FROM t WHERE id = 500")
        waiting = asyncio.create_task(other.execute("SELECT 1 FROM t WHERE id = 500 FOR UPDATE"))
        await eventually(lambda: blocking.waiting_for(second, lane.get_server_pid()))
        await lane.execute("ROLLBACK")
        await waiting
        assert await blocking.waiting_for(second, lane.get_server_pid()) == 0
