"""A held task stays, whoever would remove it."""

from typing import Literal

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from db import holds
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
