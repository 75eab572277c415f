"""The one loop that changes rows in bulk: window by window, each a batch of its own, each row read once.

A way says what the windows are (block ranges, key ranges, chunks of ids). The loop sizes them to the pace's target
time, commits each with its cursor, and gives way in between. Purge, archive and mark-completed all walk with it.
"""

import time
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg

from db.batches import Change
from db.faults import sqlstate
from jobs.failures import LOCKED
from jobs.pace import Pace, Sizer
from jobs.run import Run


@dataclass(frozen=True)
class Window:
    """What one batch covers, and where the next one starts."""

    change: Change
    cursor: dict[str, Any]
    past_locks: Change | None = None  # the same window, passing over rows that others hold


class Way(Protocol):
    """How a table is walked. Sizes are in the way's own unit."""

    smallest: int
    largest: int
    first: int

    async def window(self, connection: asyncpg.Connection, run: Run, size: int) -> Window | None:
        """The window at the run's cursor; None at the end of the walk."""


async def sweep(run: Run, way: Way, *, pace: Pace) -> None:
    """Walk from the run's cursor to the end. Raises SliceOver between two batches when the run's turn has ended."""
    sizer = Sizer(target_s=pace.target_s, first=way.first, smallest=way.smallest, largest=way.largest)
    async with run.database.autocommit() as connection:
        while (window := await way.window(connection, run, sizer.size)) is not None:
            begun = time.monotonic()
            await _commit(run, connection, window)
            took = time.monotonic() - begun
            sizer.took(took)
            await run.rest(pace.rest_s(took))


async def _commit(run: Run, connection: asyncpg.Connection, window: Window) -> None:
    """Commit the window. Where others hold rows of it, take the rest at once and leave theirs to the next pass."""
    try:
        await run.batch(connection, window.change, cursor=window.cursor)
    except asyncpg.PostgresError as exc:
        if sqlstate(exc) != LOCKED or window.past_locks is None:
            raise
        await run.batch(connection, window.past_locks, cursor=window.cursor)
