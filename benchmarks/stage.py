"""Where it happens: an embedded PostgreSQL, a seeded template, and a fresh clone of it for each measurement."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from db import engine, migrate, seed
from db.engine import Database
from worker.embedded import Postgres

# Nothing but the contenders may work while they are measured; and a commit costs what it costs on a disk that is
# not asked to flush: fsync is off on both sides, as the throwaway server of the tests has it.
SETTINGS = {"autovacuum": "off", "max_wal_size": "16GB", "checkpoint_timeout": "1h"}
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Stage:
    """A seeded template."""

    postgres: Postgres
    template: str

    @asynccontextmanager
    async def clone(self) -> AsyncIterator[Database]:
        """The seeded tables in a database of their own, flushed, gone afterwards."""
        name = f"clone_{next(_numbers)}"
        await _execute(self.postgres, f"CREATE DATABASE {name} TEMPLATE {self.template} STRATEGY FILE_COPY")
        database = engine.connect(self.postgres.url_of(name))
        async with database.autocommit() as connection:  # a copy has the statistics, and not when they were made
            await connection.execute("ANALYZE")
        await _execute(self.postgres, "CHECKPOINT")
        try:
            yield database
        finally:
            await database.close()
            await _execute(self.postgres, f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def server() -> AsyncIterator[Postgres]:
    async with Postgres(settings=SETTINGS) as postgres:
        yield postgres


@asynccontextmanager
async def seeded(
    postgres: Postgres,
    *,
    tasks: int,
    describe_every: int = 1,
    deleted_every: int = 2,
    older_every: int | None = None,
    more: str = "",
) -> AsyncIterator[Stage]:
    """A template with `tasks` tasks, as `seed.fill` has it, and all indexes of the migration; gone afterwards.

    `more` is SQL for what else is wanted.
    """
    name = f"seeded_{next(_numbers)}"
    await _execute(postgres, f"CREATE DATABASE {name}")
    database = engine.connect(postgres.url_of(name))
    await migrate.migrate(database.engine, with_tasks=True)
    async with database.autocommit() as connection:
        await connection.execute("SET statement_timeout = 0")
        await seed.fill(
            connection,
            tasks=tasks,
            describe_every=describe_every,
            deleted_every=deleted_every,
            older_every=older_every,
        )
        await connection.execute("CREATE TABLE public.nothing (gone_at timestamptz)")  # to warm up with
        await connection.execute(more or "SELECT")
    await database.close()
    try:
        yield Stage(postgres, name)
    finally:
        await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(postgres: Postgres, statement: str) -> None:
    connection = await asyncpg.connect(postgres.url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
