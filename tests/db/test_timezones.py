"""Time zones of the client, the session and the database change no result."""

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from db import taskreads
from db.schemas import TaskCreate, TaskFilter, TaskUpdate
from db.taskservice import unit_of_work
from tests import people
from tests.people import CREATOR, OWNER, PROJECT

ZONES = [("UTC", "UTC"), ("Pacific/Kiritimati", "America/Los_Angeles"), ("America/St_Johns", "Asia/Kathmandu")]


@pytest.fixture
def client_zone(request: pytest.FixtureRequest) -> Iterator[None]:
    """This process's own zone, as its local time has it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


async def _foreign(url: str) -> AsyncEngine:
    """An engine as any service makes it: nothing of lowtide's own settings."""
    return create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))


@pytest_asyncio.fixture
async def sessions(
    request: pytest.FixtureRequest, database_url: str, sql: asyncpg.Connection
) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """Of a database in the zone of the parameter."""
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET timezone = '{request.param}'")
    await people.people(sql)
    engine = await _foreign(database_url)
    yield async_sessionmaker(engine)
    await engine.dispose()


@pytest.mark.parametrize(("sessions", "client_zone"), ZONES, indirect=True)
@pytest.mark.usefixtures("client_zone")
async def test_the_same_results_in_every_zone(
    sessions: async_sessionmaker[AsyncSession], sql: asyncpg.Connection
) -> None:
    await people.many(sql, 5)
    await sql.execute(
        "UPDATE task SET created_at = TIMESTAMPTZ '2026-03-01 00:30:00+00' + make_interval(hours => id::int)"
    )
    await sql.execute("UPDATE task SET deleted_at = now() - interval '23 hours 59 minutes' WHERE id = 1")
    await sql.execute("UPDATE task SET deleted_at = now() - interval '24 hours 1 minute' WHERE id = 2")
    half_past_four = datetime(2026, 3, 1, 4, 30, tzinfo=UTC)

    async with unit_of_work(sessions) as service:
        made = await service.create(TaskCreate(project_id=PROJECT, title="now"), actor=CREATOR)
        assert abs(made.created_at - datetime.now(UTC)) < timedelta(minutes=1)
        first = await service.page_after(limit=2)
        second = await service.page_after(limit=2, cursor=first.next_cursor)
        assert [task.id for task in first.items + second.items] == [made.id, 5, 4, 3]
        assert second.items[0].created_at == half_past_four
        assert second.items[0].created_at.utcoffset() == timedelta(0)
        before = await service.page_after(TaskFilter(created_before=half_past_four))
        assert [task.id for task in before.items] == [3]
        from_then = await service.page_after(TaskFilter(created_from=half_past_four.astimezone()))
        assert [task.id for task in from_then.items] == [made.id, 5, 4]
        assert [task.id for task in (await service.deleted(days=1)).items] == [1]
        assert await service.purge_deleted(days=1, actor=OWNER) == 1
        read = await service.get(4)
        await service.update(4, TaskUpdate(title="t"), actor=OWNER, unchanged_since=read.updated_at.astimezone())
        assert await service.delete_older(days=1, actor=OWNER) == 3


@pytest.mark.parametrize("sessions", ["America/Los_Angeles"], indirect=True)
async def test_days_are_24_hours_where_clocks_have_changed(sessions: async_sessionmaker[AsyncSession]) -> None:
    """On 8 March 2026 they went forward there: by the calendar, noon was 23 hours after the noon before.

    The control has an interval of days.
    """
    noon = datetime(2026, 3, 8, 19, tzinfo=UTC)

    async def before(cutoff: Any) -> datetime:
        async with sessions() as session:
            statement = str(cutoff.compile(compile_kwargs={"literal_binds": True})).replace(
                "now()", "CAST(:noon AS timestamptz)"
            )
            found: datetime = (await session.execute(text(f"SELECT {statement}"), {"noon": noon})).scalar_one()
            return found

    assert await before(taskreads.before(1)) == noon - timedelta(hours=24)
    assert await before(text("now() - make_interval(days => 1)")) == noon - timedelta(hours=23)
