"""Watching the batch that is open: where it takes long and others wait for it, it is taken back."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import structlog

from db import blocking
from db.engine import Database
from jobs.background import alongside
from jobs.failures import is_passing

log = structlog.get_logger()

SHORTEST_SLEEP_S = 0.025


class Watch:
    """`patience_s` is how long a batch of `target_s` may take before a second connection asks who waits for it."""

    def __init__(self, database: Database, connection: asyncpg.Connection) -> None:
        self.target_s = self.patience_s = 1.0
        self._database = database
        self._pid = connection.get_server_pid()
        self._look_at: float | None = None
        self._looking = asyncio.Lock()
        self.gave_way = False

    def begin(self, batches: int) -> None:
        """So many batches in a row begin; each may take its target time, and all of them together some more."""
        self._look_at = time.monotonic() + (batches - 1) * self.target_s + self.patience_s
        self.gave_way = False

    async def end(self) -> None:
        """The batch has ended. A cancel that is on its way must not meet the next statement."""
        self._look_at = None
        async with self._looking:
            pass

    async def run(self) -> None:
        """Look until cancelled. What the server says against it is no reason to stop the sweep."""
        while True:
            await asyncio.sleep(max(self.patience_s, SHORTEST_SLEEP_S))
            if self._look_at is None or time.monotonic() < self._look_at:
                continue
            try:
                await self._look()
            except Exception as exc:
                if not (isinstance(exc, asyncpg.PostgresError) or is_passing(exc)):
                    raise

    async def _look(self) -> None:
        async with self._looking, self._database.autocommit() as second:
            waiting = await blocking.waiting_for(second, self._pid)
            if waiting and self._look_at is not None:
                self.gave_way = True
                await blocking.cancel(second, self._pid)
                log.info("batch.gave_way", waiting=waiting)


@asynccontextmanager
async def watching(database: Database, connection: asyncpg.Connection) -> AsyncIterator[Watch]:
    watch = Watch(database, connection)
    async with alongside(watch.run()):
        yield watch
