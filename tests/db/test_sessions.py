"""Sessions that are not lowtide's own: sqlmodel's, another engine's, another search_path's."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from db import taskchanges, taskreads
from db.models import Task
from db.schemas import TaskCreate, TaskUpdate
from db.taskservice import TaskService, unit_of_work
from tests import people
from tests.people import CREATOR, OWNER, PROJECT


@pytest_asyncio.fixture
async def engine(database_url: str, sql: asyncpg.Connection) -> AsyncIterator[AsyncEngine]:
    """As any service makes it."""
    await people.people(sql)
    made = create_async_engine(make_url(database_url).set(drivername="postgresql+asyncpg"))
    yield made
    await made.dispose()


OPERATIONS: list[Callable[[TaskService], Awaitable[Any]]] = [
    lambda tasks: tasks.page(),
    lambda tasks: tasks.page_after(),
    lambda tasks: tasks.search("task"),
    lambda tasks: tasks.details(),
    lambda tasks: tasks.update(1, TaskUpdate(title="u"), actor=OWNER),
    lambda tasks: tasks.create_many([TaskCreate(project_id=PROJECT, title="t")], actor=OWNER),
    lambda tasks: tasks.mark_completed([1], actor=OWNER),
    lambda tasks: tasks.explain(taskreads.newest(limit=1)),
    lambda tasks: tasks.explain(taskchanges.archived(PROJECT)),
    lambda tasks: tasks.delete(1, actor=OWNER),
    lambda tasks: tasks.deleted(days=1),
    lambda tasks: tasks.restore(1, actor=OWNER),
    lambda tasks: tasks.delete_older(days=1, actor=OWNER, project_id=PROJECT),
    lambda tasks: tasks.purge_deleted(days=1, actor=OWNER),
    lambda tasks: tasks.archive_project(PROJECT, actor=OWNER),
    lambda tasks: tasks.delete_for_good(1, actor=OWNER),
]


@pytest.mark.parametrize("kind", [AsyncSession, SQLModelSession])
async def test_every_operation_works_without_a_warning(engine: AsyncEngine, kind: type[AsyncSession]) -> None:
    """sqlmodel's session deprecates its own `execute`; warnings are errors in these tests."""
    async with unit_of_work(async_sessionmaker(engine, class_=kind)) as service:
        assert (await service.create(TaskCreate(project_id=PROJECT, title="A task"), actor=CREATOR)).id == 1
        for operation in OPERATIONS:
            await operation(service)


async def test_the_deprecation_is_there(engine: AsyncEngine) -> None:
    """The control of the test above."""
    async with SQLModelSession(engine) as session:
        with pytest.deprecated_call():
            await session.execute(text("SELECT 1"))  # type: ignore[deprecated, unused-ignore]  # what is shown


async def test_the_tables_of_schema_public_are_meant_whatever_the_search_path(
    engine: AsyncEngine, sql: asyncpg.Connection
) -> None:
    """As they are by the jobs. The other table would take the row, and nobody would ever purge it."""
    await sql.execute("CREATE SCHEMA own; CREATE TABLE own.task (LIKE public.task INCLUDING ALL)")
    async with unit_of_work(async_sessionmaker(engine)) as service:
        await service.session.execute(text("SET LOCAL search_path = own"))
        made = await service.create(TaskCreate(project_id=PROJECT, title="A task"), actor=CREATOR)
        assert (await service.get(made.id)).title == "A task"
        assert await service.session.get(Task, made.id) is not None
    assert await sql.fetchval("SELECT count(*) FROM public.task") == 1


async def test_in_autocommit_each_statement_is_a_transaction_and_an_explained_one_is_taken_back(
    engine: AsyncEngine, sql: asyncpg.Connection
) -> None:
    numbers = await people.tasks(sql)
    async with AsyncSession(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        service = TaskService(session)
        await service.explain(taskchanges.gone(numbers.open, actor=OWNER))
        assert (await service.get(numbers.open)).status == "pending"
    assert await people.statuses(sql, [numbers.open]) == ["pending"]
