"""What tests of statements share: people with projects, and a large table."""

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from db import engine, seed
from db.engine import Database
from tests import people
from tests.conftest import TEMPLATE
from worker.embedded import Postgres

# Of one project of 1,000,000 tasks: 20 have the word in the title, 20 in the description.
RARE, RARE_PROJECT = 40, 7
FEW = """
    INSERT INTO task (title, description, status, priority, project_id, created_by_id, created_at)
    SELECT CASE WHEN n % 2 = 0 THEN 'Zebra crossing no. ' || n ELSE 'Something else' END,
           CASE WHEN n % 2 = 1 THEN 'About the quagga, and a ZEBRA' END,
           'in_progress', 'high', $1, 1, now() - make_interval(days => 100 + n)
    FROM generate_series(1, $2::int) n
"""


@pytest_asyncio.fixture
async def actors(sql: asyncpg.Connection) -> None:
    """OWNER, CREATOR and STRANGER, with PROJECT and OTHER_PROJECT."""
    await people.people(sql)


@pytest_asyncio.fixture(scope="session")
async def million(postgres: Postgres) -> AsyncIterator[Database]:
    """1,000,000 tasks, half of them deleted, and a few rare ones. Tests leave it as it is."""
    server = await asyncpg.connect(postgres.url)
    await server.execute(f"CREATE DATABASE million TEMPLATE {TEMPLATE}")
    filler = await asyncpg.connect(postgres.url_of("million"))
    await seed.fill(filler, tasks=1_000_000, describe_every=50)
    await filler.execute(FEW, RARE_PROJECT, RARE)
    await filler.execute("ANALYZE task")
    await filler.close()
    opened = engine.connect(postgres.url_of("million"))
    yield opened
    await opened.close()
    await server.execute("DROP DATABASE million WITH (FORCE)")
    await server.close()
