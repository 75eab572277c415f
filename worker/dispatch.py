"""The dispatcher: what makes Redis dispensable. Every worker has one; together they do no harm."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import asyncpg
import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from db import runs
from db.engine import Database
from db.faults import server_message
from jobs.background import alongside
from jobs.failures import is_passing
from jobs.policies import Policy
from worker import schedules
from worker.doorbells import Doorbells

log = structlog.get_logger()

# The most that one tick rings for. More are due only after an outage, and the next tick takes the next ones.
MOST_RUNS = 500
# Between two ticks, however often somebody enqueues: one look finds all that came meanwhile.
SHORTEST_GAP_S = 0.01
LOOK_SHARE = 5  # so many times as long as a look took; over a backlog each look is dear
LISTEN_AGAIN_S = 1.0


class Dispatcher:
    """Rings for runs that are due and have no doorbell, for runs whose lease ended, and for schedules.

    At once when PostgreSQL tells that a run was enqueued, and else at each tick. `rang` is told of every ring.
    """

    def __init__(
        self,
        database: Database,
        doorbells: Doorbells,
        *,
        jobs: Sequence[str],
        policies: tuple[Policy, ...],
        rang: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._doorbells = doorbells
        self._jobs = jobs
        self._policies = policies
        self._rang = rang
        self._notified = asyncio.Event()

    async def tick(self) -> int:
        """Fire schedules, then ring; return for how many runs it rang. Raises what the servers raise."""
        await self.fire()
        return await self.look()

    async def fire(self) -> list[str]:
        return await schedules.fire(self._database, self._policies)

    async def look(self) -> int:
        """Ring for all that is owed a bell; say of what nobody here can do why it waits."""
        await self._doorbells.surface_the_never_due()
        async with self._database.sessions.begin() as session:
            unknown = await runs.park_unknown(session, jobs=self._jobs)
        for run_id in unknown:
            log.warning("run.parked", run=run_id)
        return await self.ring()

    async def ring(self) -> int:
        """Ring for what is due; return for how many runs that was."""
        due = await self._due()
        rung = await self._doorbells.ring(due) if due else 0
        if rung:
            log.debug("dispatcher.rang", runs=rung)
            self._rang()
        return rung

    async def any_due(self) -> bool:
        return bool(await self._due())

    async def _due(self) -> list[str]:
        async with self._database.sessions.begin() as session:
            return await runs.due(session, jobs=self._jobs, most=MOST_RUNS)

    async def run(self, *, every: timedelta) -> None:
        """Tick, and ring when told to, until cancelled. A server that is away is tried again at the next tick."""
        clock = asyncio.get_running_loop().time
        async with alongside(self._listen()):
            await self._kept_alive(lambda: schedules.tell_missed(self._database, self._policies))
            while True:
                await self._kept_alive(self.fire)  # a fault of the one does not stop the other
                await self._kept_alive(self.look)
                next_tick = clock() + every.total_seconds()
                while (left_s := next_tick - clock()) > 0:
                    try:
                        await asyncio.wait_for(self._notified.wait(), left_s)
                    except TimeoutError:
                        break
                    self._notified.clear()
                    begun = clock()
                    await self._kept_alive(self.ring)
                    await asyncio.sleep(max(SHORTEST_GAP_S, LOOK_SHARE * (clock() - begun)))

    async def _kept_alive(self, work: Callable[[], Awaitable[object]]) -> None:
        """A server that is away, or one bad look, must not end good runs."""
        try:
            await work()
        except (RedisError, OSError) as exc:
            log.warning("dispatcher.waiting", error=str(exc))
        except Exception as exc:
            if not (isinstance(exc, DBAPIError | asyncpg.PostgresError) or is_passing(exc)):
                raise
            log.warning("dispatcher.waiting", error=server_message(exc))

    async def _listen(self) -> None:
        """Be told of what is enqueued. Without it each tick finds the same, later."""
        while True:
            await self._kept_alive(lambda: self._database.listen(self._notified.set))
            await asyncio.sleep(LISTEN_AGAIN_S)
