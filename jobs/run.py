"""A run in the hands of the worker that holds its lease: what a job works with."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from db import calls, leases
from db.batches import Batch, Done, commit
from db.claims import Claim, Wishes
from db.engine import Database
from jobs.failures import SliceOver, Steered
from jobs.observer import Observer

log = structlog.get_logger()

# Of the counters: the seconds that a run was sent to wait for its policy's hours.
OUTSIDE_HOURS = "outside_hours_s"


@dataclass
class Run:
    """Mirrors what is committed of the run: cursor and counters move only after the transaction that wrote them."""

    claim: Claim
    database: Database
    lease: timedelta
    turn_over: Callable[[], bool]
    observer: Observer
    cursor: dict[str, Any] = field(init=False)
    counters: dict[str, int] = field(init=False)
    rows_done: int = field(init=False)
    batches: int = field(init=False)
    wishes: Wishes = field(init=False)
    finished: bool = field(init=False, default=False)
    result: dict[str, Any] | None = field(init=False, default=None)  # of a finished one
    renewed_at: float = field(init=False)
    waiting: bool = field(init=False, default=False)
    # What its approval allows: a limit that an operator can't raise.
    most_rows: int | None = field(init=False, default=None)
    # Beyond the length of its slice.
    granted_s: float = field(init=False, default=0.0)
    # Asked before each round of batches; raises what keeps the run from going on.
    may_work: Callable[[], Awaitable[None]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._mirror(self.claim)
        self._claimed_at = self.renewed_at = time.monotonic()

    def _mirror(self, standing: Claim) -> None:
        self.cursor = standing.cursor
        self.counters = dict(standing.counters)
        self.rows_done = standing.rows_done
        self.batches = standing.batches
        self.wishes = standing.wishes
        self._place = standing.place

    @property
    def id(self) -> str:
        return self.claim.id

    @property
    def running_for(self) -> timedelta:
        """Since the run was first claimed, slices and waits included, but for the hours in which its policy rests."""
        rested_s = self.counters.get(OUTSIDE_HOURS, 0)
        return self.claim.running_for + timedelta(seconds=time.monotonic() - self._claimed_at - rested_s)

    @property
    def rows_left(self) -> int | None:
        """How many rows it may still change; None: as many as there are."""
        limits = [limit for limit in (self.wishes.max_rows, self.most_rows) if limit is not None]
        return max(min(limits) - self.rows_done, 0) if limits else None

    @property
    def spent(self) -> bool:
        """Whether it has done what it may do at most."""
        return self.rows_left == 0 or self.out_of_time

    @property
    def out_of_time(self) -> bool:
        longest = self.wishes.max_seconds
        return longest is not None and self.running_for.total_seconds() >= longest

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A transaction that begins with the lock on the run's row: nobody can take the run over before it ends.

        Raises RunFenced when somebody has already.
        """
        begun, rows, batches = time.monotonic(), self.rows_done, self.batches
        async with self.database.sessions.begin() as session:
            if (action := await leases.hold(session, self.claim)) is not None:
                raise Steered(action)
            yield session
        if self.batches > batches:  # and now they are committed
            self.observer.batch_committed(self.claim.job, rows=self.rows_done - rows, seconds=time.monotonic() - begun)

    async def batch(self, connection: asyncpg.Connection, batches: Sequence[Batch]) -> list[Done]:
        """Commit windows, each with the cursor behind it; fewer than given where an operator wishes something else.

        Several calls may be under way, on a connection each.
        """
        done, self._place, self.wishes = await commit(
            connection, self.claim, batches, place=self._place, wishes=self.wishes, lease=self.lease
        )
        self.renewed_at = time.monotonic()
        for batch, did in zip(batches, done, strict=False):
            self.cursor = self.cursor if batch.cursor is None else batch.cursor
            self.rows_done += did.changed
            self.batches += 1
            for name, count in did.counted.items():
                self.counters[name] = self.counters.get(name, 0) + count
            self.observer.batch_committed(self.claim.job, rows=did.changed, seconds=did.seconds)
            log.debug("batch.committed", run=self.id, rows=did.changed, seconds=did.seconds)
        self.heed()
        return done

    def heed(self) -> None:
        """Raises Steered where an operator has asked for the run to stop."""
        if self.wishes.requested_action is not None:
            raise Steered(self.wishes.requested_action)

    async def look_again(self) -> None:
        """After an error, when nobody told which batches before it stand. Raises RunFenced.

        Where none does, the cursor stays: it may be ahead of the ledger's, by a pass that has begun or a second lane.
        """
        cursor, batches, rows = self.cursor, self.batches, self.rows_done
        async with self.database.sessions.begin() as session:
            self._mirror(await leases.standing(session, self.claim))
        if self.batches == batches:
            self.cursor = cursor
        elif self.rows_done > rows:  # fewer, where a crash of PostgreSQL has lost some that were told already
            self.observer.batch_committed(self.claim.job, rows=self.rows_done - rows, seconds=None)

    async def keep(self, cursor: dict[str, Any]) -> None:
        """Commit a cursor without a batch: one before which nothing is open."""
        async with self.database.sessions.begin() as session:
            await leases.advance(session, self.claim, cursor=cursor)
        self.cursor = cursor

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
        self.result = result

    async def succeed_alone(self, result: dict[str, Any]) -> None:
        """Finish after the last change: one statement, in one round trip."""
        async with self.database.autocommit() as connection:
            await calls.succeed(connection, self.claim, result=result)
        self.finished = True
        self.result = result

    async def wait(self, wait_reason: str | None) -> None:
        """Tell onlookers why it waits, or with None that it goes on; hear what an operator wishes by now."""
        if wait_reason is not None and not self.waiting:
            self.observer.waited(wait_reason)
        self.waiting = wait_reason is not None
        await self.tell(wait_reason)

    async def tell(self, what: str | None) -> None:
        """As `wait`, of work that is no batch."""
        async with self.database.sessions.begin() as session:
            self.wishes = await leases.wait(session, self.claim, wait_reason=what, lease=self.lease)
        self.renewed_at = time.monotonic()
        self.heed()

    async def rest(self, seconds: float) -> None:
        """Give way between batches, outside of any transaction. Raises SliceOver when the run's turn has ended."""
        if self.turn_over():
            raise SliceOver
        await asyncio.sleep(seconds)


def isoformat(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
