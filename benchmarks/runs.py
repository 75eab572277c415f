"""A run of ours as it is measured: accepted beforehand, then served from its claim to its end."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from db import runs
from db.engine import Database
from db.models import Run
from db.targets import Target
from jobs.catalog import jobs
from jobs.endings import Again
from jobs.life import Life
from jobs.policies import OLD_DELETED_TASKS, Policy

# What is measured is the purge. VACUUM after it takes its time on purpose, and one big DELETE has none.
WITHOUT_VACUUM = (replace(OLD_DELETED_TASKS, vacuum_share=None),)
# Of the stage's empty table.
NOTHING = (Policy("nothing", Target("public", "nothing", "gone_at"), timedelta(days=90), vacuum_share=None),)


async def warm_up(database: Database) -> None:
    """Let this process be one that has served a purge before, as a worker has that lives for weeks."""
    await run(database, "purge-old-deleted", policies=NOTHING, run_id="warm-up", policy="nothing")


async def run(
    database: Database,
    job: str,
    *,
    policies: tuple[Policy, ...] = WITHOUT_VACUUM,
    run_id: str = "bench",
    **payload: Any,
) -> Run:
    """Serve it in this process, slice after slice; return the ledger's row. Raises when it did not succeed."""
    async with database.sessions.begin() as session:
        await runs.accept(session, job=job, payload=json.dumps(payload), run_id=run_id, requested_by="benchmark")
    life = Life(database, jobs(policies), worker="benchmark")
    while isinstance(ending := await life.serve(run_id), Again):  # noqa: ASYNC110 - the ending says how long
        await asyncio.sleep(ending.after.total_seconds())
    async with database.sessions.begin() as session:
        finished = await runs.get(session, run_id)
    if finished is None or finished.state != "succeeded":
        raise RuntimeError(f"{job} did not succeed: {finished and finished.error}")
    return finished


def seconds(run: Run) -> float:
    """From `started_at` to `finished_at`, by the database's clock: claim, validation and ledger included."""
    if run.started_at is None or run.finished_at is None:
        raise RuntimeError("the run has not ended")
    return (run.finished_at - run.started_at).total_seconds()
