"""create-batch against a bare COPY and against SQLModel's add_all."""

import time
from collections.abc import Iterator
from typing import Any

import asyncpg

from benchmarks.contenders import Outcome
from benchmarks.rounds import Measured, alternate
from benchmarks.runs import run, seconds
from benchmarks.stage import Stage
from db import tasks
from db.engine import Database
from db.models import Task

OURS, COPY, ADD_ALL = "create-batch", "bare COPY", "SQLModel add_all"
PROJECT, ACTOR = 3, 2


def new_tasks(count: int) -> list[dict[str, str]]:
    """Titles of 20 characters, descriptions of 80."""
    return [{"title": f"Benchmark {n:010d}", "description": f"{n:010d} " * 7 + "xyz"} for n in range(count)]


def payload(count: int) -> dict[str, Any]:
    return {"project_id": PROJECT, "created_by_id": ACTOR, "tasks": new_tasks(count)}


async def measure(stage: Stage, *, count: int, add_all_count: int, rounds: int) -> Measured:
    async def ours(database: Database) -> Outcome:
        finished = await run(database, OURS, **payload(count))
        return Outcome(count, seconds(finished))

    async def copy(database: Database) -> Outcome:
        given = new_tasks(count)
        async with database.autocommit() as connection:
            begun = time.perf_counter()
            await _copy(connection, given)
            return Outcome(count, time.perf_counter() - begun)

    async def add_all(database: Database) -> Outcome:
        given = new_tasks(add_all_count)
        async with database.sessions() as session:
            begun = time.perf_counter()
            session.add_all([_model(task) for task in given])
            await session.commit()
            return Outcome(add_all_count, time.perf_counter() - begun)

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
