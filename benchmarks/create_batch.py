"""create-batch against a bare COPY and against SQLModel's add_all."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from benchmarks.rounds import Measured, alternate
from benchmarks.runs import run, seconds
from benchmarks.stage import Stage
from db import tasks
from db.engine import Database
from db.models import Task
from worker import doorbells
from worker.embedded import Valkey

OURS, COPY, ADD_ALL = "create-batch", "bare COPY", "SQLModel add_all"
PROJECT, ACTOR = 3, 2


def new_tasks(count: int) -> list[dict[str, str]]:
    """Titles of 20 characters, descriptions of 80."""
    return [{"title": f"Benchmark {n:010d}", "description": f"{n:010d} " * 7 + "xyz"} for n in range(count)]


async def measure(stage: Stage, *, count: int, add_all_count: int, rounds: int) -> Measured:
    async def ours(database: Database) -> float:
        finished = await run(database, OURS, project_id=PROJECT, created_by_id=ACTOR, tasks=new_tasks(count))
        return count / seconds(finished)

    async def copy(database: Database) -> float:
        given = new_tasks(count)
        async with database.autocommit() as connection:
            begun = time.perf_counter()
            await _copy(connection, given)
            return count / (time.perf_counter() - begun)

    async def add_all(database: Database) -> float:
        given = new_tasks(add_all_count)
        async with database.sessions() as session:
            begun = time.perf_counter()
            session.add_all([_model(task) for task in given])
            await session.commit()
            return add_all_count / (time.perf_counter() - begun)

    return await alternate(stage, {OURS: ours, COPY: copy, ADD_ALL: add_all}, rounds=rounds)


def _model(task: dict[str, str]) -> Task:
    return Task(title=task["title"], description=task["description"], project_id=PROJECT, created_by_id=ACTOR)


async def _copy(connection: asyncpg.Connection, given: list[dict[str, str]]) -> None:
    """The least that anybody could do: ids from the sequence, one COPY, one commit."""
    ids = await connection.fetchval(
        "SELECT array_agg(nextval('public.task_id_seq')) FROM generate_series(1, $1::int)", len(given)
    )

    def records() -> Iterator[tuple[object, ...]]:
        for number, task in zip(ids, given, strict=True):
            yield number, task["title"], task["description"], "pending", "medium", PROJECT, ACTOR

    await connection.copy_records_to_table("task", columns=tasks.COLUMNS, records=records())


async def peak_rss_mb(stage: Stage, *, count: int) -> float:
    """The most memory that a fresh worker process needs for one such batch through a real queue."""
    async with stage.clone() as database, Valkey() as valkey:
        redis = doorbells.connect(valkey.url, queue="arq:queue")
        await redis.enqueue_job(OURS, project_id=PROJECT, created_by_id=ACTOR, tasks=new_tasks(count))
        await redis.aclose(close_connection_pool=True)
        return _burst(database.address.dsn, valkey.url)


def _burst(database_url: str, redis_url: str) -> float:
    environment = os.environ | {"LOWTIDE_DATABASE_URL": database_url, "LOWTIDE_REDIS_URL": redis_url}
    code = (
        "import asyncio, resource\n"
        "from worker import process, settings, telemetry\n"
        "telemetry.configure()\n"
        "code = asyncio.run(process.work(settings.load(), burst=True))\n"
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    exit_code, kilobytes = done.stdout.split()
    if exit_code != "0":
        raise RuntimeError("the worker's run failed")
    return int(kilobytes) / 1024
