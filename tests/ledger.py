"""Runs as the tests start them: straight into the ledger, served without a queue."""

import asyncio
import json
from typing import Any

from db import runs
from db.models import Run
from jobs.endings import Again, Ending
from jobs.life import Life


async def accept(life: Life, job: str, run_id: str, /, **payload: Any) -> None:
    async with life.database.sessions.begin() as session:
        await runs.accept(session, job=job, payload=json.dumps(payload), run_id=run_id, requested_by="test")


async def serve_to_the_end(life: Life, run_id: str) -> Ending:
    """Slice after slice, with the waits that a doorbell would make."""
    while isinstance(ending := await life.serve(run_id), Again):  # noqa: ASYNC110 - the ending says how long
        await asyncio.sleep(ending.after.total_seconds())
    return ending


async def run(life: Life, job: str, /, run_id: str = "run", **payload: Any) -> Run:
    """Accept a run, serve it to its end, and return the ledger's row."""
    await accept(life, job, run_id, **payload)
    await serve_to_the_end(life, run_id)
    return await row(life, run_id)


async def row(life: Life, run_id: str) -> Run:
    async with life.database.sessions.begin() as session:
        found = await runs.get(session, run_id)
    assert found is not None
    return found
