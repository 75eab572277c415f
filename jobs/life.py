"""The life of a run, from a doorbell to its end or back into the queue.

One claim, one slice, one of four endings. Whatever happens in between, the ledger's row says where the run stands; a
worker that dies here leaves a lease that ends, and the next claim goes on at the cursor.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import asyncpg
import structlog
from pydantic import ValidationError

from db import calls, leases, runs
from db.claims import Claim
from db.engine import Database
from db.faults import RunFenced, server_message, sqlstate
from jobs.catalog import Job
from jobs.commands import lowtide
from jobs.endings import Again, Ending, Finished, Parked, Unknown, told
from jobs.failures import (
    CANCELLED,
    LOCKED,
    GivenUp,
    Refused,
    SliceOver,
    Steered,
    TasksMissing,
    Waiting,
    as_error,
    is_passing,
    missing_tables,
)
from jobs.fields import invalid
from jobs.heartbeat import heartbeat
from jobs.hours import OutsideHours
from jobs.mark_completed import ChangedMeanwhile
from jobs.observer import NOBODY, Observer
from jobs.run import OUTSIDE_HOURS, Run

log = structlog.get_logger()

LEASE = timedelta(seconds=30)
SLICE = timedelta(seconds=60)
MOST_ATTEMPTS = 20
LONGEST_BACKOFF_S = 300.0
LONGEST_LOCK_WAIT_S = 5.0
LONGEST_LOOK_S = 30.0  # until a run that waits for PostgreSQL to be well looks again


class Life:
    """Serves runs for one worker process. `stopping` ends the open slice at the next batch."""

    def __init__(
        self,
        database: Database,
        jobs: Mapping[str, Job],
        *,
        worker: str,
        lease: timedelta = LEASE,
        slice_length: timedelta = SLICE,
        observer: Observer = NOBODY,
    ) -> None:
        self.database = database
        self.jobs = jobs
        self.worker = worker
        self.lease = lease
        self.slice_length = slice_length
        self.observer = observer
        self.stopping = asyncio.Event()

    async def serve(
        self, run_id: str, *, first: Callable[[asyncpg.Connection], Awaitable[None]] | None = None
    ) -> Ending:
        """Claim the run if it is due, and work on it for one slice.

        `first` happens before, on the same connection; what it raises is raised.
        """
        try:
            async with self.database.autocommit() as connection:
                if first is not None:
                    await first(connection)
                claim = await calls.claim(
                    connection, run_id, jobs=list(self.jobs), lease=self.lease, worker=self.worker
                )
        except Exception as exc:
            if sqlstate(exc) != LOCKED or first is not None:
                raise
            return Again(timedelta(seconds=1))  # a former holder's COMMIT is in flight, and decides
        if claim is None:
            return await self._why_not(run_id)
        return await self._hold(claim)

    async def _why_not(self, run_id: str) -> Ending:
        async with self.database.sessions.begin() as session:
            glance = await runs.glance(session, run_id)
            if glance is None:
                return Unknown()
            if glance.state in runs.FINISHED:
                return Finished(glance, here=False)
            if glance.job not in self.jobs:
                await runs.park(session, run_id, wait_reason=f"no worker here knows job {glance.job!r}")
                log.warning("run.parked", run=run_id, job=glance.job)
                return Parked()
            return Parked() if glance.state == "paused" else Again(max(glance.due_in, timedelta(0)))

    async def _hold(self, claim: Claim) -> Ending:
        begun = time.monotonic()
        slice_ends = begun + self.slice_length.total_seconds()
        run = Run(
            claim,
            self.database,
            self.lease,
            turn_over=lambda: self.stopping.is_set() or time.monotonic() >= slice_ends + run.granted_s,
            observer=self.observer,
        )
        try:
            ending = await self._work(run)
        except RunFenced:
            log.warning("run.fenced", run=run.id, job=claim.job)
            return await self._why_not(claim.id)
        if isinstance(ending, Finished):
            self.observer.run_ended(ending.glance.job, ending.glance.state)
        log.info(
            "run.slice",
            run=run.id,
            job=claim.job,
            ending=told(ending),
            rows=run.rows_done,
            batches=run.batches,
            seconds=round(time.monotonic() - begun, 3),
        )
        return ending

    async def _work(self, run: Run) -> Ending:
        try:
            run.heed()  # what the holder before was asked, and did not live to hear
            async with heartbeat(run):
                result = await self._perform(run)
            if not run.finished:
                await run.succeed_alone(result)
        except (SliceOver, Steered):
            return await self._put_back(run)
        except OutsideHours as exc:
            rested = {OUTSIDE_HOURS: round(exc.opens_in.total_seconds())}
            return await self._put_back(run, delay=exc.opens_in, wait_reason=str(exc), counted=rested)
        except Waiting as exc:
            return await self._put_back(run, delay=self._until_next_look, wait_reason=str(exc))
        except asyncio.CancelledError:
            await asyncio.shield(self._put_back(run))
            raise
        except RunFenced:
            raise
        except Exception as exc:
            return await self._after(run, exc)
        return Finished(runs.Glance(run.claim.job, "succeeded", timedelta(0), run.result, None), here=True)

    async def _perform(self, run: Run) -> dict[str, Any]:
        if run.claim.attempt > MOST_ATTEMPTS:
            raise GivenUp(run.claim.attempt - 1)
        job = self.jobs[run.claim.job]
        try:
            payload = job.payload.model_validate_json(run.claim.payload)
        except ValidationError as exc:
            raise invalid(exc) from exc
        return await job.perform(run, payload)

    async def _after(self, run: Run, error: Exception) -> Ending:
        """Decide once, for every job, what an error means for the run."""
        if sqlstate(error) == CANCELLED:
            return await self._pause(run, error)
        if sqlstate(error) == LOCKED:
            return await self._put_back(
                run, delay=_jitter(LONGEST_LOCK_WAIT_S), wait_reason="others hold locks on what the run needs"
            )
        passing = is_passing(error) or isinstance(error, ChangedMeanwhile)
        if passing and run.claim.attempt < MOST_ATTEMPTS:
            delay = _jitter(min(LONGEST_BACKOFF_S, 2.0**run.claim.attempt))
            log.warning("run.retrying", run=run.id, attempt=run.claim.attempt, error=server_message(error))
            return await self._put_back(run, delay=delay, wait_reason="retry after an error", error=error)
        if missing := missing_tables(error):
            error = TasksMissing(missing)
        if isinstance(error, Refused):
            log.warning("run.refused", run=run.id, job=run.claim.job, type=type(error).__name__, why=str(error))
        else:
            log.error("run.failed", run=run.id, job=run.claim.job, **as_error(error))
        async with self.database.sessions.begin() as session:
            await leases.finish(session, run.claim, state="failed", error=as_error(error))
        return await self._finished(run)

    @property
    def _until_next_look(self) -> timedelta:
        """A worker that stops leaves the look to the next one."""
        return timedelta(0) if self.stopping.is_set() else _jitter(LONGEST_LOOK_S)

    async def _pause(self, run: Run, error: Exception) -> Ending:
        """Somebody has cancelled a statement of ours by hand, or it was given up: nothing of it stands."""
        why = f"{server_message(error)}; {lowtide('resume', run.id)} goes on where it stopped"
        log.warning("run.paused", run=run.id, job=run.claim.job, why=why)
        async with self.database.sessions.begin() as session:
            state = await leases.pause(session, run.claim, wait_reason=why)
        return await self._finished(run) if state == "cancelled" else Parked()

    async def _put_back(
        self,
        run: Run,
        *,
        delay: timedelta = timedelta(0),
        wait_reason: str | None = None,
        error: Exception | None = None,
        counted: Mapping[str, int] | None = None,
    ) -> Ending:
        """Into the queue again, with the cursor kept.

        This UPDATE waits for a COMMIT of ours that may still be in flight, as a claim does: it raises RunFenced when
        that COMMIT has finished the run. With PostgreSQL away the lease ends by itself, and the run is taken over.
        """
        try:
            async with self.database.sessions.begin() as session:
                why = None if error is None else as_error(error)
                state = await leases.put_back(
                    session, run.claim, delay=delay, wait_reason=wait_reason, error=why, counted=counted
                )
        except Exception as exc:
            if isinstance(exc, RunFenced) or not is_passing(exc):
                raise
            log.warning("run.left", run=run.id, error=server_message(exc))
            return Again(self.lease)
        if wait_reason is not None and not run.waiting:
            self.observer.waited(wait_reason)
        if state == "cancelled":
            return await self._finished(run)
        return Parked() if state == "paused" else Again(delay)

    async def _finished(self, run: Run) -> Ending:
        async with self.database.sessions.begin() as session:
            glance = await runs.glance(session, run.id)
        return Unknown() if glance is None else Finished(glance, here=True)


def _jitter(longest_s: float) -> timedelta:
    """Full jitter: anything up to the longest, so that what failed together does not come back together.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return timedelta(seconds=random.uniform(0, longest_s))
