"""Somebody else who uses the table while it is maintained, and feels how long that takes."""

import asyncio
import itertools
import math
import time
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import asyncpg

from db import seed
from db.engine import Database
from jobs.background import alongside

EVERY_S = 0.01


class Bystander:
    """A point read or update every 10 ms, in open loop: a statement that is due waits for the one before it, and
    its wait counts. Use as a context manager; `percentile` speaks of the time since the last `reset`."""

    def __init__(self, database: Database, task_ids: list[int]) -> None:
        self._database = database
        self._ids = itertools.cycle(task_ids)
        self._seconds: list[float] = []
        self._using = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._using.enter_async_context(alongside(self._use()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._using.aclose()

    def reset(self) -> None:
        self._seconds.clear()

    def percentile(self, share: float) -> float:
        """In seconds, by nearest rank; NaN where nothing was measured."""
        ranked = sorted(self._seconds)
        return ranked[math.ceil(share * len(ranked)) - 1] if ranked else math.nan

    async def _use(self) -> None:
        async with self._database.autocommit() as connection:
            due = time.monotonic()
            for number in itertools.count():
                due += EVERY_S
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self._once(connection, write=number % 2 == 0)
                self._seconds.append(time.monotonic() - due)

    async def _once(self, connection: asyncpg.Connection, *, write: bool) -> None:
        await seed.use(connection, next(self._ids), write=write)
