"""Worker processes for the section "queue", each with one job that does nothing: ours, and stock arq."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from arq.connections import RedisSettings, create_pool
from arq.worker import Worker, func

from jobs.catalog import Job
from jobs.fields import Payload
from jobs.life import Life
from jobs.run import Run
from worker import process
from worker.settings import load

NO_OP = "no-op"
OURS, ARQ, ARQ_10_MS = "lowtide", "arq", "arq, poll_delay=0.01"
QUEUE = "bench:queue"


@asynccontextmanager
async def consumer(name: str, *, redis_url: str, database_url: str) -> AsyncIterator[int]:
    """A process that consumes while the block lasts; its id."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.consumers", name, redis_url, database_url),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env=dict(os.environ),
    )
    if child.stdout is None:
        raise RuntimeError("no pipe")
    await child.stdout.readline()
    try:
        yield child.pid
    finally:
        child.send_signal(signal.SIGTERM)
        await child.wait()


async def _perform(run: Run, payload: Payload) -> dict[str, Any]:  # noqa: ARG001 - what a job is given
    return {"started": time.monotonic()}  # one clock for all processes


async def _ours(redis_url: str, database_url: str) -> None:
    settings = load(redis_url=redis_url, database_url=database_url, queue=QUEUE)
    async with process.servers(settings) as given:
        await process.reach(given, within=timedelta(seconds=30))
        life = Life(given.database, {NO_OP: Job(Payload, _perform)}, worker="benchmark")
        print("ready", flush=True)  # noqa: T201 - the other process waits for it
        await process.consume(given, life, settings, burst=False)


async def _no_op(ctx: dict[str, Any]) -> None:
    """Stock arq's."""


async def _arq(redis_url: str, **options: Any) -> None:
    pool = await create_pool(RedisSettings.from_dsn(redis_url), default_queue_name=QUEUE)
    worker = Worker([func(_no_op, name=NO_OP)], redis_pool=pool, queue_name=QUEUE, handle_signals=False, **options)
    running = asyncio.create_task(worker.async_run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    print("ready", flush=True)  # noqa: T201 - as above
    await asyncio.wait([running])
    await pool.aclose(close_connection_pool=True)


WORKERS: dict[str, Callable[[str, str], Coroutine[Any, Any, None]]] = {
    OURS: _ours,
    ARQ: lambda redis_url, _: _arq(redis_url),
    ARQ_10_MS: lambda redis_url, _: _arq(redis_url, poll_delay=0.01),
}

if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(WORKERS[sys.argv[1]](*sys.argv[2:]))
