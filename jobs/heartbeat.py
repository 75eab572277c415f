"""Keeping a run's lease while its job works, and noticing when it is lost."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import structlog

from db import leases
from db.faults import RunFenced, server_message, sqlstate
from jobs.background import alongside
from jobs.failures import LOCKED, Steered
from jobs.run import Run

log = structlog.get_logger()

# Between two tries, where renewing fails.
AGAIN_S = 0.2


@contextlib.asynccontextmanager
async def heartbeat(run: Run) -> AsyncIterator[None]:
    """Renew the lease meanwhile. When it has passed to another, or an operator has asked for the run to stop, what runs
    inside is cancelled: RunFenced, Steered."""
    working = asyncio.current_task()
    heard: RunFenced | Steered | None = None

    async def beat() -> None:
        nonlocal heard
        try:
            await _renew(run)
        except (RunFenced, Steered) as exc:
            heard = exc
            if working is not None:
                working.cancel()

    async with alongside(beat()):
        try:
            yield
        except asyncio.CancelledError:
            if heard is None:
                raise
            if working is not None:
                working.uncancel()
            raise heard from None


async def _renew(run: Run) -> None:
    """Each batch renews the lease by itself; this does it where none has for a third of the lease.

    Whatever else goes wrong is tried again: with the row locked by the job's own transaction, every other worker is
    kept out as well.
    """
    interval = run.lease.total_seconds() / 3
    while True:
        await asyncio.sleep(max(run.renewed_at + interval - time.monotonic(), AGAIN_S))
        if run.finished or time.monotonic() < run.renewed_at + interval:
            continue
        try:
            async with run.database.sessions.begin() as session:
                action = await leases.renew(session, run.claim, lease=run.lease)
        except RunFenced:
            if not run.finished:
                raise
        except Exception as exc:
            if sqlstate(exc) != LOCKED:
                log.warning("heartbeat.failed", run=run.id, error=server_message(exc))
        else:
            run.renewed_at = time.monotonic()
            if action is not None:
                raise Steered(action)
