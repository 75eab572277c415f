"""`lowtide demo`: the four jobs on a million rows, through a real queue, while somebody else uses the table."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from arq.connections import ArqRedis
from rich.table import Table

from db import engine, seed
from db import migrate as migrations
from db.engine import Database
from db.models import Run
from worker import doorbells
from worker.cli import output, reports
from worker.cli.bystander import Bystander
from worker.cli.follow import follow
from worker.embedded import Companion, Postgres, Valkey

QUEUE = "arq:queue"
NEW_TASKS = 20_000
MOST_MARKED = 20_000
MARKED, ARCHIVED, USED = 3, 5, 7  # projects; owner of an odd one is worker 2
OWNER = 2
IDLE_S = 3.0
DESCRIBE_EVERY = 10


class WrongEndState(Exception):
    """The table does not hold what the jobs should have left."""


@dataclass(frozen=True)
class Act:
    """One job, and how long others waited for their own statements meanwhile."""

    run: Run
    others_p99_s: float


def demo(
    tasks: Annotated[int, typer.Option(min=10_000, max=20_000_000, help="How many tasks to seed.")] = 1_000_000,
) -> None:
    """Start everything in a temporary folder, send all four jobs, check the end state in SQL, and clean up."""
    begun = time.monotonic()
    asyncio.run(_demo(tasks))
    output.print_lines(f"Everything is stopped and removed; {time.monotonic() - begun:.0f} s in all.")


async def _demo(tasks: int) -> None:
    async with _stage(tasks) as (database, redis):
        async with database.autocommit() as connection:
            used = await seed.live_tasks(connection, project_id=USED, most=1000)
            marked = await seed.live_tasks(connection, project_id=MARKED, most=MOST_MARKED)
            before = await seed.evidence(connection, archived_project=ARCHIVED)
            to_archive = before["not_archived"]
        async with Bystander(database, used) as bystander:
            with _step("Others use the table: 100 point reads and updates a second"):
                await asyncio.sleep(IDLE_S)
            idle_p99_s = bystander.percentile(0.99)
            acts = [await _play(database, redis, bystander, job, payload) for job, payload in _payloads(marked).items()]
        async with database.autocommit() as connection:
            after = await seed.evidence(connection, archived_project=ARCHIVED)
    _print_acts(acts, idle_p99_s)
    expected = {
        "overdue": 0,
        "live": before["live"] + NEW_TASKS,
        "completed": len(marked),
        "archived": to_archive,
        "not_archived": 0,
        "created": NEW_TASKS,
    }
    _require(expected, after)
    output.print_lines(
        f"Counted in SQL: {before['overdue']:,} overdue tasks before, {after['overdue']} now; "
        f"{after['live']:,} others untouched or as asked."
    )


@asynccontextmanager
async def _stage(tasks: int) -> AsyncIterator[tuple[Database, ArqRedis]]:
    """Servers in temporary folders, a seeded table and a worker process; all gone at the end."""
    async with Postgres() as postgres, Valkey() as valkey:
        output.say("✓ PostgreSQL and Valkey run from their wheels, in temporary folders")
        database = engine.connect(postgres.url)
        redis = doorbells.connect(valkey.url, queue=QUEUE)
        try:
            await migrations.migrate(database.engine, with_tasks=True)
            with _step(f"{tasks:,} tasks seeded, half of them soft-deleted more than 90 days ago"):
                async with database.autocommit() as connection:
                    await seed.fill(connection, tasks=tasks, describe_every=DESCRIBE_EVERY)
            # The built-in policy, whatever file lies in this folder.
            async with Companion(database_url=postgres.url, redis_url=valkey.url, queue=QUEUE, policies=""):
                output.say("✓ A worker process consumes the queue")
                yield database, redis
        finally:
            await redis.aclose(close_connection_pool=True)
            await database.close()


def _payloads(marked: list[int]) -> dict[str, dict[str, Any]]:
    created = [{"title": f"Created by the demo {number}", "priority": "high"} for number in range(NEW_TASKS)]
    return {
        "create-batch": {"project_id": MARKED, "created_by_id": OWNER, "tasks": created},
        "mark-completed": {"task_ids": marked, "requested_by": OWNER},
        "archive-project": {"project_id": ARCHIVED, "requested_by": OWNER},
        "purge-old-deleted": {},
    }


async def _play(database: Database, redis: ArqRedis, bystander: Bystander, job: str, payload: dict[str, Any]) -> Act:
    """Send the job as any service would, through the queue, and watch it in the ledger."""
    bystander.reset()
    await redis.enqueue_job(job, _job_id=f"demo-{job}", **payload)
    run = await follow(database, f"demo-{job}", appears_within_s=10)
    if run.state != "succeeded":
        raise WrongEndState(reports.outcome(run))
    many = "transaction" if run.batches == 1 else "transactions"
    output.say(f"✓ {job}: {output.rows(run.rows_done)} in {run.batches:,} {many}, {_seconds(run):.2f} s")
    for table, told in (run.result or {}).get("vacuum", {}).items():
        if told["done"]:
            output.say(f"✓ VACUUM of {table} after it: {told['seconds']:.1f} s, at a pace that leaves others alone")
    return Act(run, bystander.percentile(0.99))


def _print_acts(acts: list[Act], idle_p99_s: float) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("job")
    for column in ("rows", "transactions", "seconds", "rows/s", "others' p99"):
        table.add_column(column, justify="right")
    table.add_row("(nothing runs)", "", "", "", "", f"{idle_p99_s * 1000:.1f} ms")
    for act in acts:
        seconds = _seconds(act.run)
        table.add_row(
            act.run.job,
            f"{act.run.rows_done:,}",
            f"{act.run.batches:,}",
            f"{seconds:.2f}",
            f"{act.run.rows_done / seconds:,.0f}",
            f"{act.others_p99_s * 1000:.1f} ms",
        )
    output.print_lines("")
    output.print_table(table)
    output.print_lines("")


def _seconds(run: Run) -> float:
    """Of the job itself: VACUUM, which goes slowly on purpose, is told apart."""
    if run.finished_at is None or run.started_at is None:
        raise WrongEndState(f"run {run.id} has not finished")
    after_s = sum(told.get("seconds", 0) for told in (run.result or {}).get("vacuum", {}).values())
    return (run.finished_at - run.started_at).total_seconds() - float(after_s)


def _require(expected: dict[str, int], found: dict[str, int]) -> None:
    wrong = [f"{name}: {found[name]} instead of {count}" for name, count in expected.items() if found[name] != count]
    if wrong:
        raise WrongEndState(f"the table does not hold what the jobs should have left: {'; '.join(wrong)}")


@contextmanager
def _step(done: str) -> Iterator[None]:
    """A spinner while it lasts, a line when it is done."""
    begun = time.monotonic()
    console = output.notes()
    if console.is_terminal:
        with console.status(done):
            yield
    else:
        yield
    output.say(f"✓ {done} ({time.monotonic() - begun:.1f} s)")
