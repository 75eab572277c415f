"""The ways to delete the same rows: what people use today, and lowtide."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import func
from sqlmodel import col, select

from benchmarks.runs import WITHOUT_VACUUM, run, seconds, warm_up
from db.engine import Database
from db.models import Task
from jobs.policies import Policy

BIG_DELETE, ORM, FULL, GENTLE = "one big DELETE", "ORM, row by row", "lowtide full", "lowtide gentle"
FIRST = "lowtide full, a new process"
LIMIT_1000, LIMIT_10000 = "DELETE … LIMIT 1,000 in a loop", "DELETE … LIMIT 10,000 in a loop"
OVERDUE = "deleted_at < now() - interval '90 days'"
DELETE = f"DELETE FROM public.task WHERE {OVERDUE}"
PAGE = 1000


@dataclass
class Outcome:
    """`lengths` are the seconds of each transaction; `begun` and `ended` are of the monotonic clock."""

    rows: int
    seconds: float
    lengths: list[float] = field(default_factory=list)
    begun: float = 0.0
    ended: float = 0.0

    @property
    def speed(self) -> float:
        return self.rows / self.seconds


Contender = Callable[[Database], Awaitable[Outcome]]


async def big_delete(database: Database) -> Outcome:
    """By the faster one of its two query plans: a bitmap takes two thirds of the time of a sequential scan here, and
    PostgreSQL, which finds both equally dear, takes either."""
    async with database.tuned(statement_timeout="0", lock_timeout="0", enable_seqscan="off") as connection:
        begun = time.perf_counter()
        status = await connection.execute(DELETE)
        took = time.perf_counter() - begun
    return Outcome(int(status.split()[1]), took, [took])


def limit_loop(limit: int) -> Contender:
    """What most scripts and tools do: each statement a transaction, until nothing is left."""
    statement = f"DELETE FROM public.task WHERE id IN (SELECT id FROM public.task WHERE {OVERDUE} LIMIT {limit})"

    async def loop(database: Database) -> Outcome:
        outcome = Outcome(0, 0.0)
        async with database.tuned(statement_timeout="0", lock_timeout="0") as connection:
            while True:
                begun = time.perf_counter()
                deleted = int((await connection.execute(statement)).split()[1])
                outcome.lengths.append(time.perf_counter() - begun)
                outcome.rows += deleted
                if deleted < limit:
                    break
        outcome.seconds = sum(outcome.lengths)
        return outcome

    return loop


def orm(rows: int) -> Contender:
    """Fetch a page of models, delete each, commit."""

    async def page_by_page(database: Database) -> Outcome:
        outcome = Outcome(0, 0.0)
        while outcome.rows < rows:
            begun = time.perf_counter()
            async with database.sessions.begin() as session:
                overdue = col(Task.deleted_at) < func.now() - func.make_interval(0, 0, 0, 90)
                page = (await session.execute(select(Task).where(overdue).limit(PAGE))).scalars().all()
                for task in page:
                    await session.delete(task)
            outcome.lengths.append(time.perf_counter() - begun)
            outcome.rows += len(page)
            if not page:
                break
        outcome.seconds = sum(outcome.lengths)
        return outcome

    return page_by_page


def ours(pace: str, *, policies: tuple[Policy, ...] = WITHOUT_VACUUM, first: bool = False, **payload: Any) -> Contender:
    """A run as a worker serves it, by the ledger's clock: claim, checks and the ledger's own writing are in it.

    The worker has served another before, but for where it is the `first` of a process.
    """

    async def purge(database: Database) -> Outcome:
        if not first:
            await warm_up(database)
        lengths: list[float] = []

        def hear(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            if event["event"] == "batch.committed":
                lengths.append(event["seconds"])
            raise structlog.DropEvent

        before = structlog.get_config()
        structlog.configure(processors=[hear], wrapper_class=structlog.BoundLogger)
        try:
            finished = await run(database, "purge-old-deleted", policies=policies, pace=pace, **payload)
        finally:
            structlog.configure(**before)
        return Outcome(finished.rows_done, seconds(finished), lengths)

    return purge


def all_of_them(*, orm_rows: int) -> dict[str, Contender]:
    return {
        BIG_DELETE: big_delete,
        LIMIT_1000: limit_loop(1000),
        LIMIT_10000: limit_loop(10_000),
        ORM: orm(orm_rows),
        FULL: ours("full"),
        FIRST: ours("full", first=True),
        GENTLE: ours("gentle"),
    }
