"""Somebody else who uses the table meanwhile, in a process of its own: point reads and updates at a fixed rate.

In open loop: each statement has its time, whether or not the one before it has ended, and its latency counts from that
time, so that queueing counts. Both processes read the same monotonic clock.
"""

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from db import seed

RATE = 400
CONNECTIONS = 8
WARM_UP_S = 0.5


@dataclass
class Latencies:
    """Pairs of the time at which a statement was due, and the milliseconds until it was answered."""

    pairs: list[tuple[float, float]] = field(default_factory=list)

    def between(self, begun: float, ended: float) -> list[float]:
        return [latency for due, latency in self.pairs if begun <= due <= ended]


@asynccontextmanager
async def foreground(dsn: str, *, tasks: int) -> AsyncIterator[Latencies]:
    """The load runs while the block does; what it measured is there afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.foreground", dsn, str(tasks)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env=dict(os.environ),
        limit=2**26,
    )
    if process.stdout is None or process.stdin is None:
        raise RuntimeError("no pipes")
    await process.stdout.readline()
    latencies = Latencies()
    try:
        yield latencies
    finally:
        process.stdin.close()
        said = await process.stdout.read()
        await process.wait()
    latencies.pairs += [(due, latency) for due, latency in json.loads(said)]


async def _load(dsn: str, tasks: int) -> None:
    free: asyncio.Queue[asyncpg.Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncpg.connect(dsn))
    pairs: list[tuple[float, float]] = []
    underway: set[asyncio.Task[None]] = set()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stopped.set)

    async def once(due: float, *, write: bool) -> None:
        connection = await free.get()
        with contextlib.suppress(asyncpg.PostgresError):
            await seed.use(connection, 2 * random.randrange(tasks // 2) + 1, write=write)
        free.put_nowait(connection)
        pairs.append((due, 1000 * (time.monotonic() - due)))

    print("ready", flush=True)  # noqa: T201 - the other process waits for it
    due, number = time.monotonic(), 0
    while not stopped.is_set():
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(once(due, write=number % 2 == 0))
        underway.add(task)
        task.add_done_callback(underway.discard)
        due, number = due + 1 / RATE, number + 1
    await asyncio.wait(underway, timeout=60) if underway else None
    json.dump(pairs, sys.stdout)


if __name__ == "__main__":
    asyncio.run(_load(sys.argv[1], int(sys.argv[2])))
