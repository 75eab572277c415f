"""Seeing inside one worker process: what keeps its pulse, its metrics and its HTTP server going."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from arq.connections import ArqRedis
from prometheus_client import make_wsgi_app

from db import migrate
from db.engine import Database
from db.faults import server_message
from jobs.background import alongside
from jobs.catalog import PAYLOADS
from jobs.policies import Policy
from jobs.survey import survey
from worker.http import application, listening
from worker.metrics import Metrics
from worker.pulse import LOOP, POSTGRESQL, REDIS, Pulse
from worker.queue import QueueWorker

log = structlog.get_logger()

BEAT_EVERY_S = 0.5
ASK_EVERY_S = 2.0
ANSWER_WITHIN_S = 2.0
SURVEY_EVERY = timedelta(minutes=5)


class Monitor:
    """Of one process. It watches and never takes part: whatever fails here, the work goes on."""

    def __init__(self) -> None:
        self.pulse = Pulse()
        self.metrics = Metrics(jobs=PAYLOADS, pulse=self.pulse)
        self._started = asyncio.Event()

    def follow(self, consumer: QueueWorker) -> None:
        """Both servers answer, the ledger is there, and the worker consumes from now on."""
        self.metrics.present.consumer = consumer
        self.pulse.started(consumer.life.stopping)
        self._started.set()

    async def beat(self) -> None:
        while True:
            self.pulse.sign(LOOP)
            await asyncio.sleep(BEAT_EVERY_S)

    async def ask(self, part: str, question: Callable[[], Awaitable[str | None]]) -> None:
        """Ask a server again and again what is wrong with it. Of an error only the name is told: no secret is in it."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    fault = await question()
            except Exception as exc:
                fault = f"does not answer ({type(exc).__name__})"
            self.pulse.sign(part, fault)
            await asyncio.sleep(ASK_EVERY_S)

    async def survey(self, database: Database, policies: Iterable[Policy], *, every: timedelta = SURVEY_EVERY) -> None:
        await self._started.wait()
        while True:
            for policy in policies:
                await self._look_at(database, policy)
            await asyncio.sleep(every.total_seconds())

    async def _look_at(self, database: Database, policy: Policy) -> None:
        found = None
        try:
            found = await survey(database, policy)
            why = found.why_unknown
        except Exception as exc:  # most likely PostgreSQL is away
            why = server_message(exc)
        self.metrics.surveyed(policy.name, found)
        if why is not None:
            log.warning("policy.not_surveyed", policy=policy.name, why=why)


@asynccontextmanager
async def monitored(
    address: str | None, database: Database, redis: ArqRedis, *, policies: tuple[Policy, ...]
) -> AsyncIterator[Monitor]:
    """A monitor, shown over HTTP where there is an address. Raises WrongSettings when that can't be had."""
    monitor = Monitor()
    if address is None:
        yield monitor
        return

    async def postgresql() -> str | None:
        async with database.sessions.begin() as session:
            is_old = "lowtide" in await migrate.pending(session)
        return "there is no ledger of this version; run `lowtide migrate`" if is_old else None

    async def valkey() -> None:
        await redis.ping()

    with listening(address, application(monitor.pulse, make_wsgi_app(monitor.metrics.registry))) as url:
        log.info("http.listening", url=url)
        async with (
            alongside(monitor.beat()),
            alongside(monitor.ask(POSTGRESQL, postgresql)),
            alongside(monitor.ask(REDIS, valkey)),
            alongside(monitor.survey(database, policies)),
        ):
            yield monitor
