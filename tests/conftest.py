"""The servers and databases of the suite.

One PostgreSQL and one Valkey for the whole run. A test that commits gets a database of its own, cloned from a migrated
template; a test of statements gets a session that is rolled back.
"""

import itertools
import signal
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
import pytest_asyncio
from arq.connections import ArqRedis
from sqlalchemy.ext.asyncio import AsyncSession

from db import engine, migrate
from db.engine import Database
from jobs.catalog import jobs
from jobs.life import Life
from worker import doorbells
from worker.embedded import Postgres, Valkey
from worker.queue import QueueWorker
from worker.settings import Settings, load

# Whoever starts the suite in a script's background has it ignore Ctrl-C, and every command that it tries inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TEMPLATE = "migrated"
_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="session")
async def postgres() -> AsyncIterator[Postgres]:
    async with Postgres(settings={"autovacuum": "off"}) as server:
        await _execute(server, f"CREATE DATABASE {TEMPLATE}")
        database = engine.connect(server.url_of(TEMPLATE))
        await migrate.migrate(database.engine, with_tasks=True)
        await database.close()
        yield server


@pytest_asyncio.fixture(scope="session")
async def valkey() -> AsyncIterator[Valkey]:
    async with Valkey() as server:
        yield server


@pytest_asyncio.fixture
async def database_url(postgres: Postgres) -> AsyncIterator[str]:
    """A migrated database of its own, without rows; gone after the test."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield postgres.url_of(name)
    await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def empty_url(postgres: Postgres) -> AsyncIterator[str]:
    """A database without anything of ours."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres, f"CREATE DATABASE {name}")
    yield postgres.url_of(name)
    await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = engine.connect(database_url)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The test's own connection: what an onlooker with psql would use."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def session(postgres: Postgres) -> AsyncIterator[AsyncSession]:
    """For statements: rolled back at the end, in a database that all such tests share."""
    opened = engine.connect(postgres.url_of(TEMPLATE))
    async with opened.sessions() as unsaved:
        yield unsaved
        await unsaved.rollback()
    await opened.close()


@pytest_asyncio.fixture
async def redis(valkey: Valkey) -> AsyncIterator[ArqRedis]:
    """An empty Valkey, with the client that a service would use."""
    client = doorbells.connect(valkey.url, queue="arq:queue")
    await client.flushall()
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
def settings(database_url: str, valkey: Valkey, redis: ArqRedis) -> Settings:
    return load(database_url=database_url, redis_url=valkey.url, tick=0.2)


@pytest.fixture
def life(database: Database) -> Life:
    """The life of runs in this process, with leases short enough to be waited for."""
    return Life(database, jobs(), worker="test", lease=timedelta(seconds=2))


@pytest_asyncio.fixture
async def consumer(life: Life, redis: ArqRedis) -> AsyncIterator[QueueWorker]:
    """A queue worker whose polls the test makes itself."""
    worker = QueueWorker(life, redis, queue="arq:queue", parallel_runs=4)
    yield worker
    await worker.drain(within=timedelta(seconds=5))


async def _execute(server: Postgres, statement: str) -> None:
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
