"""The one loop that changes rows in bulk: window by window, each a batch of its own, each row read once.

A way says what the windows are (ranges of places, of keys, chunks of ids). The loop sizes them to the pace's target
time, commits each with its cursor, passes over rows that others hold, takes back what takes too long, and gives way in
between. Purge, archive and mark-completed all walk with it.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

import asyncpg

from db.batches import Batch, Change
from db.engine import set_timeouts
from db.faults import sqlstate
from jobs.failures import CANCELLED, LOCKED, Waiting
from jobs.health import Health
from jobs.pace import BY_NAME, FULL, GENTLE, LOCK_TIMEOUT_S, Pace, Rest, Sizer
from jobs.run import Run
from jobs.watch import Watch, watching

# After a batch that met a lock, so many more pass over locks from the start: each lock that is met costs a wait.
PAST_LOCKS_FOR = 64
# A window that still meets a lock after so many attempts in a row: it is the table that is locked.
MOST_LOCKS_MET = 3
# A single row can't be halved: it gets so many times the time of a batch, then it is passed over.
PATIENCE_WITH_ONE = 10
# How much of a sleep that lasted too long is made up for.
DEBT_S = 0.02
LOOK_EVERY_S = 1.0
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Window:
    """What one batch covers, and where the next one starts."""

    change: Change
    cursor: dict[str, Any]
    units: int  # its size, in the way's unit
    past_locks: Change | None = None  # the same window, passing over rows that others hold
    past_all: Change | None = None  # changes nothing and counts the row: for one that takes longer than it may


class Way(Protocol):
    """How a table is walked. Sizes are in the way's own unit, of which a row takes at least one."""

    first: int
    largest: int
    among_locks: bool  # whether rows that others hold are to be expected from the start

    async def windows(self, run: Run, size: int, *, most: int) -> list[Window]:
        """The window at the run's cursor, and those after it that are known already; empty at the end of the walk."""


async def sweep(run: Run, way: Way, *, health: Health | None = None) -> None:
    """Walk from the run's cursor to the end, at the run's pace, which may change meanwhile.

    Raises SliceOver between two batches when the run's turn has ended, Waiting when PostgreSQL is not well for long.
    """
    # Windows are read in their order, which the operating system reads ahead by itself; handing blocks to the server's
    # I/O workers (PostgreSQL 18) costs small windows more than it brings: 60 blocks 4.8 ms instead of 2.3 ms.
    async with (
        run.database.tuned(effective_io_concurrency="0") as connection,
        watching(run.database, connection) as watch,
    ):
        walk = _Walk(run, way, connection, watch, health)
        while await walk.step():
            pass


class _Walk:
    def __init__(self, run: Run, way: Way, connection: asyncpg.Connection, watch: Watch, health: Health | None) -> None:
        self._run = run
        self._way = way
        self._connection = connection
        self._watch = watch
        self._health = health
        self._sizer = Sizer(target_s=_pace(run).target_s, first=way.first, largest=way.largest)
        self._rest = Rest(time.monotonic(), debt_s=DEBT_S)
        self._look_at = time.monotonic()
        self._past_locks_for = PAST_LOCKS_FOR if way.among_locks else 0
        self._at_once = 1  # grows with the windows: several of a size that does not fit yet would be for nothing
        self._patience = 1
        self._locks_met = 0
        self._timeouts: tuple[float, float] | None = None

    async def step(self) -> bool:
        """One round trip; False at the end of the walk."""
        await self._until_well()
        pace = _pace(self._run)
        windows = await self._way.windows(self._run, self._sizer.size, most=min(self._at_once, pace.batches_at_once))
        if not windows:
            return False
        await self._follow(pace)
        worked_s = await (self._commit_alone(windows[0]) if len(windows) == 1 else self._commit(windows))
        await self._run.rest(self._rest.after(worked_s, time.monotonic(), share=pace.share))
        return True

    async def _follow(self, pace: Pace) -> None:
        timeouts = pace.batch_timeout_s * self._patience, LOCK_TIMEOUT_S
        if timeouts != self._timeouts:
            self._timeouts = timeouts
            self._sizer.target_s = pace.target_s
            self._watch.target_s, self._watch.patience_s = pace.target_s, pace.patience_s
            await set_timeouts(self._connection, statement_s=timeouts[0], lock_s=timeouts[1])

    async def _commit(self, windows: list[Window]) -> float:
        """Return the seconds of work. What fails among several is tried again alone: those before it stand."""
        begun = time.monotonic()
        try:
            return await self._batch(windows, past_locks=self._past_locks_for > 0)
        except asyncpg.PostgresError as exc:
            if sqlstate(exc) != LOCKED and not self._took_too_long(exc, time.monotonic() - begun):
                raise
        self._at_once = 1
        await self._run.look_again()
        return time.monotonic() - begun

    async def _commit_alone(self, window: Window) -> float:
        past_locks = self._past_locks_for > 0 and window.past_locks is not None
        begun = time.monotonic()
        try:
            return await self._batch([window], past_locks=past_locks)
        except asyncpg.PostgresError as exc:
            took_s = time.monotonic() - begun
            if sqlstate(exc) == LOCKED and window.past_locks is not None and self._locks_met < MOST_LOCKS_MET:
                self._past_locks_for = PAST_LOCKS_FOR
                self._locks_met += 1
                return took_s + await self._commit_alone(window)
            if not self._took_too_long(exc, took_s):
                raise
            if not self._smaller(window, took_s):
                if window.past_all is None:
                    raise
                await self._batch([replace(window, change=window.past_all)], past_locks=False)
            return took_s

    async def _batch(self, windows: list[Window], *, past_locks: bool) -> float:
        changes = [window.past_locks if past_locks and window.past_locks else window.change for window in windows]
        batches = [Batch(change, window.cursor) for change, window in zip(changes, windows, strict=True)]
        self._watch.begin(len(batches))
        try:
            done = await self._run.batch(self._connection, batches)
        finally:
            await self._watch.end()
        self._sizer.took(*((did.seconds, window.units) for window, did in zip(windows, done, strict=False)))
        self._past_locks_for -= len(done)
        self._at_once, self._patience, self._locks_met = 2 * len(done), 1, 0
        return sum(did.seconds for did in done)

    def _smaller(self, window: Window, took_s: float) -> bool:
        """Halve the window; one row gets more time instead, once. False where neither is left."""
        if window.units > 1:
            self._sizer.was_too_long(took_s, window.units)
        elif self._patience < PATIENCE_WITH_ONE:
            self._patience = PATIENCE_WITH_ONE
        else:
            return False
        return True

    def _took_too_long(self, error: asyncpg.PostgresError, took_s: float) -> bool:
        """Whether we have cancelled it. Before its time is up, and with nobody waiting, it was an operator."""
        timed_out = self._timeouts is not None and took_s >= self._timeouts[0]
        return sqlstate(error) == CANCELLED and (timed_out or self._watch.gave_way)

    async def _until_well(self) -> None:
        """Wait, outside of any transaction, while PostgreSQL is in trouble; the gentle pace alone does."""
        if self._health is None or time.monotonic() < self._look_at:
            return
        begun, told = time.monotonic(), None
        while _pace(self._run) is GENTLE and (trouble := await self._trouble(self._health)) is not None:
            if trouble != told:
                await self._run.wait(trouble)
                told = trouble
            if time.monotonic() - begun >= LONGEST_WAIT_S or self._run.turn_over():
                raise Waiting(trouble)
            await asyncio.sleep(LOOK_EVERY_S)
        if told is not None:
            await self._run.wait(None)
        self._look_at = time.monotonic() + LOOK_EVERY_S

    async def _trouble(self, health: Health) -> str | None:
        async with self._run.database.autocommit() as second:
            return await health.trouble(second)


def _pace(run: Run) -> Pace:
    return FULL if run.wishes.pace is None else BY_NAME[run.wishes.pace]
