"""Lanes: the connections on which a sweep's batches run, several at the same time where the pace has it so."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import asyncpg

from db import upkeep
from db.batches import Batch, Done
from db.engine import Database, set_timeouts
from db.faults import sqlstate
from jobs.failures import CANCELLED
from jobs.pace import LOCK_TIMEOUT_S, Pace
from jobs.run import Run
from jobs.watch import Watch, watching
from jobs.window import Window

Committed = list[tuple[Window, Done]]


class Lane:
    """A connection in autocommit, watched while a batch is open on it."""

    def __init__(self, connection: asyncpg.Connection, watch: Watch) -> None:
        self._connection = connection
        self._watch = watch
        self._timeout_s: float | None = None
        self._took_s = 0.0

    async def commit(self, run: Run, batches: Sequence[Batch], *, pace: Pace, patience: int) -> list[Done]:
        """`patience` multiplies the time that a batch may take. Raises what `Run.batch` raises."""
        await self._follow(pace, pace.batch_timeout_s * patience)
        self._watch.begin(len(batches))
        begun = time.monotonic()
        try:
            return await run.batch(self._connection, batches)
        finally:
            self._took_s = time.monotonic() - begun
            await self._watch.end()

    async def _follow(self, pace: Pace, timeout_s: float) -> None:
        if timeout_s != self._timeout_s:
            self._watch.target_s, self._watch.patience_s = pace.target_s, pace.patience_s
            await set_timeouts(self._connection, statement_s=timeout_s, lock_s=LOCK_TIMEOUT_S)
            self._timeout_s = timeout_s

    def took_back(self, error: asyncpg.PostgresError) -> bool:
        """Whether it was us who cancelled. Before its time is up, and with nobody waiting, it was an operator."""
        timed_out = self._timeout_s is not None and self._took_s >= self._timeout_s
        return sqlstate(error) == CANCELLED and (timed_out or self._watch.gave_way)


@asynccontextmanager
async def open_lane(database: Database, settings: Mapping[str, str]) -> AsyncIterator[Lane]:
    """With the settings under which a way's windows are executed best."""
    async with (
        database.tuned(**settings) as connection,
        watching(database, connection) as watch,
    ):
        yield Lane(connection, watch)
        await upkeep.tell_counters(connection)


async def share(
    windows: Sequence[Window], lanes: Sequence[Lane], commit: Callable[[Lane, list[Window]], Awaitable[list[Done]]]
) -> tuple[list[Committed], list[BaseException | None]]:
    """Commit the windows, on all lanes at the same time: for each lane what stands, and what went wrong.

    The first lane takes from the front, the others from the back, until they meet; fewer and fewer at once, so that all
    end together. Once something went wrong, or an operator wishes something else, no lane takes any more.
    """
    left = deque(windows)

    async def take(lane: Lane, done: Committed) -> None:
        try:
            while left:
                count = max(len(left) // (2 * len(lanes)), 1) if len(lanes) > 1 else len(left)
                if lane is lanes[0]:
                    taken = [left.popleft() for _ in range(count)]
                else:
                    taken = [left.pop() for _ in range(count)][::-1]
                committed = await commit(lane, taken)
                done += zip(taken, committed, strict=False)
                if len(committed) < len(taken):
                    left.clear()
        except BaseException:
            left.clear()
            raise

    done = [Committed() for _ in lanes]
    outcomes = await asyncio.gather(*map(take, lanes, done), return_exceptions=True)
    return done, outcomes
