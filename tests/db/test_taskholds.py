"""A held task stays, whoever would remove it."""

from collections.abc import Sequence
from typing import Literal

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from db import held, holds
from db.engine import Database
from db.refusals import Conflict
from db.taskservice import unit_of_work
from tests import people
from tests.people import OWNER

IsolationLevel = Literal["REPEATABLE READ", "SERIALIZABLE"]


async def test_neither_a_purge_nor_a_removal_takes_a_held_task(database: Database, sql: asyncpg.Connection) -> None:
    """Control: without the condition both took it."""
    await people.people(sql)
    await people.many(sql, 10, deleted_every=1)
    async with database.sessions.begin() as session:
        await holds.add(session, table="public.task", column="id", value="7", reason="a test", until=None, by="test")

    async with unit_of_work(database.sessions) as tasks:
        assert await tasks.purge_deleted(days=30, actor=OWNER) == 9
    async with unit_of_work(database.sessions) as tasks:
        with pytest.raises(Conflict, match="task 7 is under a hold"):
            await tasks.delete_for_good(7, actor=OWNER)
    assert await sql.fetchval("SELECT array_agg(id) FROM task") == [7]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_snapshot_that_may_not_see_a_hold_removes_nothing(
    database: Database, sql: asyncpg.Connection, level: IsolationLevel
) -> None:
    """Control: it removed a task whose hold was committed already."""
    await people.people(sql)
    await people.many(sql, 10, deleted_every=1)
    engine = database.engine.execution_options(isolation_level=level)
    async with unit_of_work(async_sessionmaker(engine)) as tasks:
        for removing in (tasks.delete_for_good(7, actor=OWNER), tasks.purge_deleted(days=30, actor=OWNER)):
            with pytest.raises(Conflict, match="READ COMMITTED"):
                await removing
        with pytest.raises(Conflict, match="READ COMMITTED"):
            await tasks.archive_project(1, actor=OWNER)
    assert await sql.fetchval("SELECT count(*) FROM task") == 10


async def test_a_hold_on_a_column_with_a_colon_in_its_name(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 10, deleted_every=1)
    await sql.execute('ALTER TABLE task ADD "legal :case" text; UPDATE task SET "legal :case" = $$7$$ WHERE id = 7')
    async with database.sessions.begin() as session:
        await holds.add(
            session, table="public.task", column="legal :case", value="7", reason="a test", until=None, by="test"
        )
    async with unit_of_work(database.sessions) as tasks:
        assert await tasks.purge_deleted(days=30, actor=OWNER) == 9
        with pytest.raises(Conflict, match="under a hold"):
            await tasks.delete_for_good(7, actor=OWNER)


async def test_until_a_removal_is_committed_no_hold_is_placed(database: Database, sql: asyncpg.Connection) -> None:
    """Else one could be placed on a task that is gone by then. Control: without under_holds nothing keeps it out."""
    await people.people(sql)
    await people.many(sql, 2, deleted_every=1)
    key = "SELECT pg_try_advisory_xact_lock(lowtide.hold_key('public.task'::regclass))"
    async with unit_of_work(database.sessions) as tasks:
        await tasks.delete_for_good(1, actor=OWNER)
        assert await sql.fetchval(key) is False
    assert await sql.fetchval(key) is True


async def test_a_hold_on_another_column_that_comes_meanwhile_is_a_conflict(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement was made without that column: it would take the held task."""
    await people.people(sql)
    await people.many(sql, 2, deleted_every=1)
    look = held.columns

    async def looked(connection: asyncpg.Connection, relations: Sequence[str]) -> held.Held:
        found = await look(connection, relations)
        async with database.sessions.begin() as session:
            at = {"table": "public.task", "column": "title", "value": "task 1"}
            await holds.add(session, **at, reason="a test", until=None, by="test")
        return found

    monkeypatch.setattr(held, "columns", looked)
    async with unit_of_work(database.sessions) as tasks:
        with pytest.raises(Conflict, match="holds on tasks are being placed at this moment"):
            await tasks.delete_for_good(1, actor=OWNER)
        assert (await tasks.get(1, include_deleted=True)).title == "task 1"  # the transaction goes on
