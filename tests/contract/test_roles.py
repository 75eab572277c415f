"""The two roles of docs/roles.sql can do what they are for, and nothing else: tried by logging in as them."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio

from db import engine
from jobs.catalog import jobs
from jobs.life import Life
from tests import people
from tests.ledger import run

ROLES = (Path(__file__).parents[2] / "docs" / "roles.sql").read_text()


@pytest_asyncio.fixture
async def roles(sql: asyncpg.Connection) -> AsyncIterator[None]:
    """The two, and a login for each. Roles belong to the server: they go with the test."""
    await sql.execute(ROLES)
    await sql.execute(ROLES)  # again, as after a later migration
    await sql.execute("CREATE ROLE service LOGIN PASSWORD 'secret' IN ROLE lowtide_enqueuer")
    await sql.execute("CREATE ROLE night LOGIN PASSWORD 'secret' IN ROLE lowtide_worker")
    yield
    for role in ("service", "night", "lowtide_enqueuer", "lowtide_worker"):
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def as_role(url: str, role: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:secret@{parts.netloc.rpartition('@')[2]}"))


async def test_the_enqueuer_enqueues_and_can_do_nothing_else(
    roles: None, database_url: str, sql: asyncpg.Connection
) -> None:
    service = await asyncpg.connect(as_role(database_url, "service"))
    try:
        await service.execute("SELECT lowtide.enqueue('mark-completed', '{\"task_ids\": [1]}', 'order-77')")
        for forbidden in (
            "SELECT * FROM lowtide.run",
            "UPDATE lowtide.run SET state = 'paused'",
            "DELETE FROM lowtide.run",
            "INSERT INTO lowtide.run (id, job, requested_by) VALUES ('x', 'y', 'z')",
            "SELECT lowtide.accept('mark-completed', '{}', 'x', now(), true, 'actor:1')",
            "SELECT lowtide.batch('x', 1, '(0,1)', 'DELETE FROM public.task', '{}', '{}', '{}', '1 s')",
            "SELECT * FROM public.task",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute(forbidden)
    finally:
        await service.close()
    assert await sql.fetchval("SELECT requested_by FROM lowtide.run") == "role:service"


async def test_the_worker_does_all_four_jobs_and_owns_nothing(
    roles: None, database_url: str, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    database = engine.connect(as_role(database_url, "night"))
    life = Life(database, jobs(), worker="test", lease=timedelta(seconds=2))
    try:
        created = await run(
            life, "create-batch", "create", project_id=1, created_by_id=2, tasks=[{"title": "one"}, {"title": "two"}]
        )
        assert created.state == "succeeded", created.error
        first = (created.result or {})["ids"][0][0]
        payloads: dict[str, dict[str, object]] = {
            "mark-completed": {"task_ids": [first], "requested_by": 1},
            "archive-project": {"project_id": 1, "requested_by": 1},
            "purge-old-deleted": {},
        }
        for job, payload in payloads.items():
            ended = await run(life, job, job, **payload)
            assert ended.state == "succeeded", ended.error
            assert "unknown" not in (ended.result or {})
        async with database.autocommit() as connection:
            for forbidden in ("DROP TABLE task", "DELETE FROM worker", "TRUNCATE task", "CREATE TABLE lowtide.mine ()"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(forbidden)
    finally:
        await database.close()
