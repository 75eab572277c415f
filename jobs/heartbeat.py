"""Keeping a run's lease while its job works, and noticing when it is lost."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from db import leases
from db.faults import RunFenced
from jobs.background import alongside
from jobs.failures import is_passing
from jobs.run import Run


@contextlib.asynccontextmanager
async def heartbeat(run: Run) -> AsyncIterator[None]:
    """Renew the lease meanwhile. When it has passed to another, what runs inside is cancelled: RunFenced."""
    working = asyncio.current_task()
    fenced = False

    async def beat() -> None:
        nonlocal fenced
        try:
            await _renew_until_fenced(run)
        except RunFenced:
            fenced = True
            if working is not None:
                working.cancel()

    async with alongside(beat()):
        try:
            yield
        except asyncio.CancelledError:
            if not fenced:
                raise
            if working is not None:
                working.uncancel()
            raise RunFenced(run.id) from None


async def _renew_until_fenced(run: Run) -> None:
    """Each batch renews the lease by itself; this does it where none has for a third of the lease."""
    interval = run.lease.total_seconds() / 3
    while True:
        await asyncio.sleep(max(run.renewed_at + interval - time.monotonic(), 0.01))
        if run.finished or time.monotonic() < run.renewed_at + interval:
            continue
        try:
            async with run.database.sessions.begin() as session:
                await leases.renew(session, run.claim, lease=run.lease)
        except RunFenced:
            if not run.finished:
                raise
        except Exception as exc:
            # Locked: by the job's own transaction, which keeps every other worker out as well.
            if not is_passing(exc):
                raise
        run.renewed_at = time.monotonic()
