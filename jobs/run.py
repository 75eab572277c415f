"""A run in the hands of the worker that holds its lease: what a job works with."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from db import batches, leases
from db.batches import Change
from db.engine import Database
from jobs.failures import SliceOver

log = structlog.get_logger()


@dataclass
class Run:
    """Mirrors what is committed of the run: cursor and counters move only after the transaction that wrote them."""

    claim: leases.Claim
    database: Database
    lease: timedelta
    turn_over: Callable[[], bool]
    cursor: dict[str, Any] = field(init=False)
    counters: dict[str, int] = field(init=False)
    rows_done: int = field(init=False)
    batches: int = field(init=False)
    finished: bool = field(init=False, default=False)
    renewed_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.cursor = self.claim.cursor
        self.counters = dict(self.claim.counters)
        self.rows_done = self.claim.rows_done
        self.batches = self.claim.batches
        self._place = self.claim.place
        self._claimed_at = self.renewed_at = time.monotonic()

    @property
    def id(self) -> str:
        return self.claim.id

    @property
    def running_for(self) -> timedelta:
        """Since the run was first claimed, slices and waits included."""
        return self.claim.running_for + timedelta(seconds=time.monotonic() - self._claimed_at)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A transaction that begins with the lock on the run's row: nobody can take the run over before it ends.

        Raises RunFenced when somebody has already.
        """
        async with self.database.sessions.begin() as session:
            await leases.hold(session, self.claim)
            yield session

    async def batch(self, connection: asyncpg.Connection, change: Change, *, cursor: dict[str, Any]) -> int:
        """Commit one window with the cursor behind it; return the rows that it changed."""
        begun = time.monotonic()
        done = await batches.commit(connection, self.claim, change, place=self._place, cursor=cursor, lease=self.lease)
        self._place, self.cursor, self.renewed_at = done.place, cursor, time.monotonic()
        self.rows_done += done.changed
        self.batches += 1
        for name, count in done.counted.items():
            self.counters[name] = self.counters.get(name, 0) + count
        log.debug("batch.committed", run=self.id, rows=done.changed, seconds=self.renewed_at - begun)
        return done.changed

    async def succeed(
        self,
        session: AsyncSession,
        result: dict[str, Any],
        *,
        rows: int = 0,
        batches: int = 0,
        payload: str | None = None,
    ) -> None:
        """Finish in the transaction of the change. `payload`, as JSON, replaces the stored one: its lists are done."""
        await leases.finish(
            session, self.claim, state="succeeded", result=result, rows=rows, batches=batches, payload=payload
        )
        self.rows_done += rows
        self.batches += batches
        self.finished = True

    async def rest(self, seconds: float) -> None:
        """Give way between batches, outside of any transaction. Raises SliceOver when the run's turn has ended."""
        if self.turn_over():
            raise SliceOver
        await asyncio.sleep(seconds)


def isoformat(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
