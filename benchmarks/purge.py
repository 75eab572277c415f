"""purge-old-deleted, in both paces, against one big DELETE of the same rows."""

import math
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from benchmarks.rounds import Measured, alternate
from benchmarks.runs import run, seconds
from benchmarks.stage import Stage
from db.engine import Database

BIG_DELETE, FULL, GENTLE = "one big DELETE", "full", "gentle"
DELETE = "DELETE FROM public.task WHERE deleted_at < now() - interval '90 days'"


@dataclass
class Batches:
    """Seconds of every batch, by pace, heard from the log."""

    pace: str = ""
    lengths: dict[str, list[float]] = field(default_factory=dict)

    def hear(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event["event"] == "batch.committed":
            self.lengths.setdefault(self.pace, []).append(event["seconds"])
        raise structlog.DropEvent

    def percentile(self, pace: str, share: float) -> float:
        """In milliseconds, by nearest rank."""
        ranked = sorted(self.lengths[pace])
        return 1000 * ranked[math.ceil(share * len(ranked)) - 1]


async def measure(stage: Stage, *, rounds: int) -> tuple[Measured, Batches]:
    batches = Batches()
    structlog.configure(processors=[batches.hear], wrapper_class=structlog.BoundLogger)

    def ours(pace: str) -> Any:
        async def purge(database: Database) -> float:
            batches.pace = pace
            finished = await run(database, "purge-old-deleted", pace=pace)
            return finished.rows_done / seconds(finished)

        return purge

    async def big_delete(database: Database) -> float:
        async with database.autocommit() as connection:
            await connection.execute("SET statement_timeout = 0")
            begun = time.perf_counter()
            status = await connection.execute(DELETE)
            return int(status.split()[1]) / (time.perf_counter() - begun)

    contenders = {BIG_DELETE: big_delete, FULL: ours(FULL), GENTLE: ours(GENTLE)}
    measured = await alternate(stage, contenders, rounds=rounds)
    structlog.reset_defaults()
    return measured, batches
