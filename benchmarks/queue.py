"""Runs that do nothing, through queue and ledger: how many a second, how soon they start, what waiting costs."""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from arq.connections import ArqRedis
from arq.jobs import serialize_job

from benchmarks.consumers import ARQ, ARQ_10_MS, NO_OP, OURS, QUEUE, consumer
from benchmarks.contenders import Outcome
from benchmarks.report import Report
from benchmarks.rounds import Measured
from db import engine, migrate
from worker import doorbells, wire
from worker.embedded import Postgres, Valkey

LOOK_S = 0.005
WARM_UP = 50
HERTZ = 100  # of the ticks in /proc/PID/stat, on every Linux


@dataclass(frozen=True)
class Size:
    runs: int
    rounds: int
    starts: int
    idle_s: float


@dataclass(frozen=True)
class Stage:
    database_url: str
    redis_url: str
    redis: ArqRedis
    sql: asyncpg.Connection


async def queue(postgres: Postgres, size: Size, report: Report) -> None:
    """One worker process of ours, with its defaults, against one of stock arq, which has no ledger to write."""
    async with _stage(postgres) as stage:
        report.speeds("queue", f"{size.runs} runs that do nothing", await _speeds(stage, size), to=ARQ)
        async with consumer(OURS, redis_url=stage.redis_url, database_url=stage.database_url) as pid:
            await _through(stage, OURS, WARM_UP)
            delays = {name: await _delay_ms(stage, send, size.starts) for name, send in _senders(stage).items()}
            idle = await _cpu_share(pid, size.idle_s)
        rows = {name: [f"{statistics.median(ms):.1f}", f"{max(ms):.1f}"] for name, ms in delays.items()}
        report.table("From enqueue to start, idle worker", ["median ms", "longest"], rows)
        report.say(f"An idle worker needs {idle:.1%} of one core\n")
        report.results["queue"] |= {"start_ms": {name: statistics.median(ms) for name, ms in delays.items()}}
        report.results["queue"] |= {"idle_cpu": idle}


@asynccontextmanager
async def _stage(postgres: Postgres) -> AsyncIterator[Stage]:
    database = engine.connect(postgres.url)
    await migrate.migrate(database.engine, with_tasks=False)
    await database.close()
    sql = await asyncpg.connect(postgres.url)
    async with Valkey() as valkey:
        redis = doorbells.connect(valkey.url, queue=QUEUE)
        try:
            yield Stage(postgres.url, valkey.url, redis, sql)
        finally:
            await redis.aclose(close_connection_pool=True)
            await sql.close()


async def _speeds(stage: Stage, size: Size) -> Measured:
    outcomes: dict[str, list[Outcome]] = {OURS: [], ARQ: [], ARQ_10_MS: []}
    for _ in range(size.rounds):
        for name, taken in outcomes.items():
            async with consumer(name, redis_url=stage.redis_url, database_url=stage.database_url):
                await _through(stage, name, WARM_UP)
                taken.append(Outcome(size.runs, await _through(stage, name, size.runs)))
            await stage.redis.flushall()
    return Measured(outcomes)


async def _through(stage: Stage, name: str, runs: int) -> float:
    """Seconds from the moment at which so many messages are there until the last one has been served."""
    message = _message if name == OURS else serialize_job(NO_OP, (), {}, None, time.time_ns() // 1_000_000)
    await stage.sql.execute("TRUNCATE lowtide.run")
    begun = time.perf_counter()
    await _put(stage.redis, [f"{begun}-{number}" for number in range(runs)], message)
    while await stage.redis.zcard(QUEUE):  # noqa: ASYNC110 - another process empties it
        await asyncio.sleep(LOOK_S)
    took = time.perf_counter() - begun
    if name == OURS:
        ended = await stage.sql.fetchval("SELECT count(*) FROM lowtide.run WHERE state = 'succeeded'")
        if ended != runs:
            raise RuntimeError(f"{ended} of {runs} runs have succeeded")
    return took


_message = wire.serialize({"t": None, "f": NO_OP, "a": [], "k": {}, "et": 1})


async def _put(redis: ArqRedis, names: list[str], message: bytes) -> None:
    """As a foreign client would: the two keys."""
    now = time.time_ns() // 1_000_000
    async with redis.pipeline(transaction=True) as pipe:
        for name in names:
            pipe.set(f"arq:job:{name}", message)
            pipe.zadd(QUEUE, {name: now})
        await pipe.execute()


def _senders(stage: Stage) -> dict[str, Callable[[str], Awaitable[object]]]:
    return {
        "our client": lambda name: stage.redis.enqueue_job(NO_OP, _job_id=name),
        "a foreign client, two keys": lambda name: _put(stage.redis, [name], _message),
        "SQL": lambda name: stage.sql.execute("SELECT lowtide.enqueue($1, '{}', $2)", NO_OP, name),
    }


async def _delay_ms(stage: Stage, send: Callable[[str], Awaitable[object]], starts: int) -> list[float]:
    """One run at a time, at no fixed distance from the one before it."""
    delays = []
    for number in range(starts):
        name, sent = f"start-{time.monotonic()}", time.monotonic()
        await send(name)
        while (result := await stage.sql.fetchval("SELECT result FROM lowtide.run WHERE id = $1", name)) is None:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(LOOK_S)
        delays.append(1000 * (json.loads(result)["started"] - sent))
        await asyncio.sleep(0.1 + 0.0137 * (number % 11))
    return delays


async def _cpu_share(pid: int, seconds: float) -> float:
    before, begun = _cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (_cpu_s(pid) - before) / (time.monotonic() - begun)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / HERTZ
