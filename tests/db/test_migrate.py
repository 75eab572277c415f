"""Migrations: two branches, one lock, and other people's tables left alone."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlmodel import SQLModel

from db import engine
from db.engine import Database
from db.migrate import NewerLedger, migrate, pending
from db.tasktables import MisfitTables

LEDGER = [f"lowtide_{number:04}" for number in range(1, 9)]
TASKS = ["tasks_0001", "tasks_0002"]
ALL = [*LEDGER, *TASKS]


@pytest_asyncio.fixture
async def empty(empty_url: str) -> AsyncIterator[Database]:
    database = engine.connect(empty_url)
    yield database
    await database.close()


@pytest_asyncio.fixture
async def bare(empty_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_url)
    yield connection
    await connection.close()


async def test_without_tasks_only_schema_lowtide_is_made(empty: Database, bare: asyncpg.Connection) -> None:
    assert await migrate(empty.engine, with_tasks=False) == LEDGER

    assert await bare.fetchval("SELECT to_regclass('lowtide.run') IS NOT NULL")
    assert await bare.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    async with empty.sessions() as session:
        assert await pending(session) == ["tasks"]


async def test_again_changes_nothing_and_the_tasks_can_follow_later(empty: Database) -> None:
    await migrate(empty.engine, with_tasks=False)

    assert await migrate(empty.engine, with_tasks=False) == []
    assert await migrate(empty.engine, with_tasks=True) == TASKS
    assert await migrate(empty.engine, with_tasks=True) == []


async def test_several_at_once_apply_each_revision_once(empty_url: str) -> None:
    databases = [engine.connect(empty_url) for _ in range(5)]

    applied = await asyncio.gather(*(migrate(database.engine, with_tasks=True) for database in databases))

    assert sorted(applied) == [[], [], [], [], ALL]
    for database in databases:
        await database.close()


async def test_an_unmigrated_database_lacks_both_branches(empty: Database) -> None:
    async with empty.sessions() as session:
        assert await pending(session) == ["lowtide", "tasks"]


async def test_the_models_are_the_tables(database_url: str) -> None:
    """Columns, types, nullability and foreign keys. The ledger's private columns and the indexes are not modelled.

    Of the schema that stands first in the search_path, which the models name, alembic would leave out the name.
    """

    def compared(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"include_schemas": True, "compare_type": True})
        return [difference for difference in compare_metadata(context, SQLModel.metadata) if not _ours(difference)]

    database = engine.connect(f"{database_url}?options=-csearch_path%3Dempty")
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA empty"))
    await database.engine.dispose()
    async with database.engine.connect() as connection:
        assert await connection.run_sync(compared) == []
    await database.close()


def _ours(difference: object) -> bool:
    """What the models leave to the migrations on purpose."""
    match difference:
        case ("remove_index", _) | ("remove_table", _):
            return True
        case ("remove_column", "lowtide", "run", _):
            return True
    return False


async def test_tables_that_fit_are_kept_as_they_are(empty: Database, bare: asyncpg.Connection) -> None:
    await bare.execute("CREATE TABLE worker (id bigint PRIMARY KEY, name text, salary int)")

    await migrate(empty.engine, with_tasks=True)

    assert (
        await bare.fetchval("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'worker'::regclass AND NOT tgisinternal")
        == 0
    )
    columns = await bare.fetch("SELECT attname FROM pg_attribute WHERE attrelid = 'worker'::regclass AND attnum > 0")
    assert [row["attname"] for row in columns] == ["id", "name", "salary"]
    assert await bare.fetchval("SELECT to_regclass('task') IS NOT NULL")


async def test_tables_that_do_not_fit_are_named_and_nothing_is_changed(
    empty: Database, bare: asyncpg.Connection
) -> None:
    await bare.execute("CREATE TABLE task (id int, title text, deleted_at timestamp)")

    with pytest.raises(MisfitTables) as caught:
        await migrate(empty.engine, with_tasks=True)

    assert "public.task has no column project_id" in caught.value.faults
    assert "public.task.id is integer, not bigint" in caught.value.faults
    assert "public.task.deleted_at is timestamp without time zone, not timestamp with time zone" in caught.value.faults
    assert await bare.fetchval("SELECT to_regclass('lowtide.run')") is None


async def test_without_the_trigram_extension_the_tables_are_made_all_the_same(
    empty: Database, bare: asyncpg.Connection, empty_url: str
) -> None:
    """A role that may create tables in two schemas, and neither schemas nor extensions."""
    await bare.execute("CREATE ROLE plain LOGIN; CREATE SCHEMA lowtide AUTHORIZATION plain")
    await bare.execute("GRANT CREATE ON SCHEMA public TO plain")
    plain = engine.connect(empty_url.replace("postgres@", "plain@"))

    applied = await migrate(plain.engine, with_tasks=True)
    await plain.close()

    assert applied == ALL
    made = [row["indexname"] for row in await bare.fetch("SELECT indexname FROM pg_indexes WHERE tablename = 'task'")]
    assert "task_deleted_at" in made
    assert "task_title_trigrams" not in made


async def test_the_index_of_newest_tasks_is_made_for_our_own_table_alone(
    empty: Database, bare: asyncpg.Connection
) -> None:
    """A table that was there is never altered."""
    await migrate(empty.engine, with_tasks=True)
    indexes = "SELECT count(*) FROM pg_indexes WHERE indexname = 'task_active'"
    assert await bare.fetchval(indexes) == 1
    await bare.execute("DELETE FROM lowtide.migration WHERE version_num LIKE 'tasks%'")
    await bare.execute("DROP TRIGGER lowtide_not_into_archived ON task; DROP INDEX task_active")
    await bare.execute("DROP FUNCTION lowtide_refuse_archived_project, lowtide_keep_updated_at CASCADE")
    await bare.execute("DROP FUNCTION lowtide_refuse_move_to_archived_project CASCADE")

    assert await migrate(empty.engine, with_tasks=True) == TASKS
    assert await bare.fetchval(indexes) == 0


async def test_plain_inserts_need_only_the_named_columns(sql: asyncpg.Connection) -> None:
    await sql.execute("INSERT INTO worker (name) VALUES ('Ada')")
    await sql.execute("INSERT INTO project (name, owner_id) SELECT 'p', id FROM worker")
    row = await sql.fetchrow(
        "INSERT INTO task (title, project_id, created_by_id) SELECT 't', p.id, w.id FROM project p, worker w "
        "RETURNING status, priority, created_at IS NOT NULL AS created, deleted_at"
    )
    assert tuple(row) == ("pending", "medium", True, None)


async def test_updated_at_follows_plain_updates_and_yields_to_a_statement_that_sets_it(sql: asyncpg.Connection) -> None:
    await sql.execute("INSERT INTO worker (id, name) VALUES (1, 'Ada')")
    await sql.execute("INSERT INTO project (id, name, owner_id, updated_at) VALUES (1, 'p', 1, '2020-01-01')")

    await sql.execute("UPDATE project SET name = 'q'")
    assert await sql.fetchval("SELECT updated_at > '2026-01-01' FROM project")
    await sql.execute("UPDATE project SET name = 'r', updated_at = '2021-02-03'")
    assert str(await sql.fetchval("SELECT updated_at::date FROM project")) == "2021-02-03"


async def test_a_ledger_that_a_newer_lowtide_has_migrated_will_do(empty_url: str) -> None:
    """Workers of the version before go on in a rolling deploy; to migrate is the newer one's."""
    database = engine.connect(empty_url)
    await migrate(database.engine, with_tasks=True)
    newer = "UPDATE lowtide.migration SET version_num = 'lowtide_9999' WHERE version_num LIKE 'low%'"
    async with database.sessions.begin() as session:
        await session.execute(text(newer))
        assert await pending(session) == []
    with pytest.raises(NewerLedger, match="lowtide_9999"):
        await migrate(database.engine, with_tasks=True)
    await database.close()
