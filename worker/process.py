"""One worker process: its parts, wired; its start, its loop and its end."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy import text

from db import engine, migrate
from db.engine import Database
from db.faults import server_message, sqlstate
from jobs import policyfile
from jobs.background import alongside
from jobs.catalog import jobs
from jobs.failures import is_passing
from jobs.life import Life
from jobs.policies import DEFAULT, Policy
from worker import doorbells, redis_url, wakeup
from worker import settings as environment
from worker.dispatch import Dispatcher
from worker.lookout import Lookout
from worker.monitor import Monitor, monitored
from worker.pulse import QUEUE
from worker.queue import POLL, QueueWorker
from worker.settings import Settings, WrongSettings

log = structlog.get_logger()

START_WITHIN = timedelta(seconds=30)
# Above the statement_timeout of every session (db/engine.py): then it is not the statement that takes long.
ANSWER_WITHIN = timedelta(minutes=5, seconds=30)


class Unreachable(Exception):
    """A server can't be reached. Names the server, never its password."""


class NotMigrated(Exception):
    """The ledger is not in this database, or is older than this program."""


@dataclass(frozen=True)
class Servers:
    database: Database
    redis: ArqRedis
    queue: str


@contextlib.asynccontextmanager
async def servers(settings: Settings) -> AsyncIterator[Servers]:
    """Pools for both servers; nothing is opened before it is needed."""
    database = open_database(settings, answer_within_s=ANSWER_WITHIN.total_seconds())
    redis = open_redis(settings)
    try:
        yield Servers(database, redis, settings.queue)
    finally:
        await redis.aclose(close_connection_pool=True)
        await database.close()


def open_database(settings: Settings, *, answer_within_s: float | None = None) -> Database:
    url, most = settings.database_url.get_secret_value(), settings.database_pool or 1
    database = engine.connect(url, pool_size=most, answer_within_s=answer_within_s)
    for option in database.address.ignored:
        log.warning("database_url.ignored", option=option)
    return database


def open_redis(settings: Settings) -> ArqRedis:
    """Raises WrongSettings when no Redis is named: only what talks to the queue needs one."""
    if settings.redis_url is None:
        raise WrongSettings("LOWTIDE_REDIS_URL: is not set")
    url, most = settings.redis_url.get_secret_value(), settings.redis_pool or 1
    return doorbells.connect(url, queue=settings.queue, most_connections=most)


async def work(settings: Settings, *, burst: bool = False) -> int:
    """Consume until a signal, or with `burst` until nothing is due; return the exit code.

    Raises Unreachable when a server does not answer within 30 s, NotMigrated, PolicyFileBroken, and WrongSettings where
    a port is taken.
    """
    policies = policyfile.load(settings.policies)
    async with (
        servers(settings) as given,
        monitored(settings.http, given.database, given.redis, policies=policies.valid) as monitor,
    ):
        await reach(given, within=START_WITHIN)
        await require_ledger(given.database)
        lookout = Lookout(given.database, policies, metrics=monitor.metrics)
        life = Life(
            given.database,
            jobs(policies.every, disabled=lookout.disabled),
            worker=environment.process_name(),
            lease=settings.lease,
            slice_length=settings.slice,
            observer=monitor.metrics,
        )
        async with alongside(lookout.run()):
            return await consume(given, life, settings, burst=burst, monitor=monitor, policies=policies.every)


async def consume(
    given: Servers,
    life: Life,
    settings: Settings,
    *,
    burst: bool,
    monitor: Monitor | None = None,
    policies: tuple[Policy, ...] = DEFAULT,
) -> int:
    consumer = QueueWorker(life, given.redis, queue=given.queue, parallel_runs=settings.parallel_runs)
    monitor = monitor or Monitor()
    monitor.follow(consumer)
    dispatcher = Dispatcher(
        given.database,
        consumer.doorbells,
        jobs=list(life.jobs),
        policies=policies,
        rang=consumer.woken.set,
    )
    async with AsyncExitStack() as stack:
        stack.enter_context(_signals_set(life.stopping, consumer.woken))
        ticking = await stack.enter_async_context(alongside(dispatcher.run(every=settings.tick)))
        hearing = wakeup.listen(given.redis, given.queue, woken=consumer.woken.set)
        listening = await stack.enter_async_context(alongside(hearing))
        stack.push_async_callback(consumer.drain, within=settings.shutdown)
        log.info("worker.started", worker=life.worker, queue=given.queue, jobs=sorted(life.jobs))
        while not life.stopping.is_set():
            for beside in (ticking, listening):
                if beside.done():
                    beside.result()
            consumer.woken.clear()
            await consumer.poll()
            monitor.pulse.sign(QUEUE)
            if burst and consumer.idle and not await _more_to_do(consumer, dispatcher):
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(consumer.woken.wait(), POLL.total_seconds())
    log.info("worker.stopped", succeeded=consumer.succeeded, failed=consumer.failed, removed=consumer.removed)
    return 1 if burst and consumer.failed else 0


async def _more_to_do(consumer: QueueWorker, dispatcher: Dispatcher) -> bool:
    """For --burst: anything due in the queue, or in the ledger without a doorbell."""
    await dispatcher.tick()
    return await consumer.doorbells.any_due() or await dispatcher.any_due()


async def reach(given: Servers, *, within: timedelta) -> None:
    """Wait until both servers answer; Unreachable names the one that does not."""
    await reach_database(given.database, within=within)
    await _answers("Redis", redis_server(given.redis), given.redis.ping, within=within)


async def reach_database(
    database: Database, *, within: timedelta, question: Callable[[], Awaitable[object]] | None = None
) -> None:
    """`question` is what it has to answer, when anything at all is not enough."""

    async def ask() -> None:
        async with database.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    await _answers("PostgreSQL", database.address.server, question or ask, within=within)


async def _answers(kind: str, server: str, ask: Callable[[], Awaitable[object]], *, within: timedelta) -> None:
    clock = asyncio.get_running_loop().time
    deadline, told = clock() + within.total_seconds(), False
    while True:
        try:
            await ask()
        except Exception as exc:
            if not (isinstance(exc, RedisError | OSError) or is_passing(exc)) or clock() >= deadline:
                raise Unreachable(f"{kind} at {server} can't be reached: {why_away(exc)}") from exc
            if not told:
                log.warning("server.waiting", server=f"{kind} at {server}", seconds=within.total_seconds())
            told = True
            await asyncio.sleep(0.5)
        else:
            return


def why_away(error: BaseException) -> str:
    """In words for people: the drivers' have tuples in them, and end with a full stop of their own."""
    cause = error if sqlstate(error) is None else None  # what the server itself says is told as it is
    while cause is not None:
        if isinstance(cause, ConnectionError | FileNotFoundError | PermissionError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return re.sub(r" \('[^()]*\)", "", server_message(error)).rstrip(".")


def redis_server(redis: ArqRedis) -> str:
    return redis_url.server(redis.connection_pool)


async def require_ledger(database: Database) -> None:
    async with database.sessions.begin() as session:
        if "lowtide" in await migrate.pending(session):
            raise NotMigrated("this database has no ledger of this version; run `lowtide migrate` first")


@contextlib.contextmanager
def _signals_set(stopping: asyncio.Event, woken: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT end the open batches; the process then leaves by itself. A second signal does not wait."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if stopping.is_set():
            raise SystemExit(128 + number)
        log.info("worker.stopping", signal=number.name)
        stopping.set()
        woken.set()

    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
