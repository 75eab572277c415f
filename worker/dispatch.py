"""The dispatcher: the slow tick that makes Redis dispensable. Every worker has one; together they do no harm."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from db import runs
from db.engine import Database
from db.faults import server_message
from jobs.failures import is_passing
from jobs.policies import Policy
from worker import schedules
from worker.doorbells import Doorbells

log = structlog.get_logger()

# The most that one tick rings for. More are due only after an outage, and the next tick takes the next ones.
MOST_RUNS = 500


class Dispatcher:
    """Rings for runs that are due and have no doorbell, for runs whose lease ended, and for schedules."""

    def __init__(
        self, database: Database, doorbells: Doorbells, *, jobs: Sequence[str], policies: tuple[Policy, ...]
    ) -> None:
        self._database = database
        self._doorbells = doorbells
        self._jobs = jobs
        self._policies = policies

    async def tick(self) -> int:
        """Fire schedules, then ring; return for how many runs it rang. Raises what the servers raise."""
        await schedules.fire(self._database, self._policies)
        await self._doorbells.surface_the_never_due()
        due = await self._due()
        rung = await self._doorbells.ring(due) if due else 0
        if rung:
            log.debug("dispatcher.rang", runs=rung)
        return rung

    async def any_due(self) -> bool:
        return bool(await self._due())

    async def _due(self) -> list[str]:
        async with self._database.sessions.begin() as session:
            return await runs.due(session, jobs=self._jobs, most=MOST_RUNS)

    async def run(self, *, every: timedelta) -> None:
        """Tick until cancelled. A server that is away is tried again at the next tick."""
        while True:
            try:
                await self.tick()
            except (RedisError, OSError) as exc:
                log.warning("dispatcher.waiting", error=str(exc))
            except Exception as exc:
                if not (isinstance(exc, DBAPIError) or is_passing(exc)):  # a bad tick must not end good runs
                    raise
                log.warning("dispatcher.waiting", error=server_message(exc))
            await asyncio.sleep(every.total_seconds())
