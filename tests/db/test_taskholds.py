"""A held task stays, whoever would remove it."""

import asyncpg
import pytest

from db import holds
from db.engine import Database
from db.refusals import Conflict
from db.taskservice import unit_of_work
from tests import people
from tests.people import OWNER


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
