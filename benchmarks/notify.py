"""What `lowtide.enqueue` costs callers when many commit at once: NOTIFY takes a lock of the whole server at COMMIT."""

import asyncio
import statistics
import time

import asyncpg

from benchmarks.report import Report
from benchmarks.stage import seeded
from db.engine import Database
from worker.embedded import Postgres

WRITERS = 16
CALL = "SELECT lowtide.enqueue('purge-old-deleted', '{}', wake => $1)"
BARE = "INSERT INTO lowtide.run (id, job, requested_by, payload) VALUES (gen_random_uuid()::text, 'x', 'y', '{}')"
WAKE, QUIET, INSERT = "enqueue", "enqueue, wake => false", "bare INSERT of the row"


async def notify(postgres: Postgres, report: Report, *, rounds: int, seconds: float) -> None:
    """Sixteen writers, a transaction each time, nobody listening and one listening."""
    speeds: dict[str, list[float]] = {WAKE: [], QUIET: [], INSERT: []}
    async with seeded(postgres, tasks=10, describe_every=10) as stage:
        for _ in range(rounds):
            for name, found in speeds.items():
                async with stage.clone() as database:
                    found.append(await _calls_a_second(database, name, seconds=seconds))
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    rows = {name: [f"{speed:,.0f}", f"{speed / medians[INSERT]:.2f}"] for name, speed in medians.items()}
    report.table(f"{WRITERS} writers enqueue, a transaction each", ["a second", "of bare INSERT"], rows)
    report.results["notify"] = medians


async def _calls_a_second(database: Database, name: str, *, seconds: float) -> float:
    """With one session that listens, as each worker has one."""
    listener = await asyncpg.connect(database.address.dsn)
    await listener.add_listener("lowtide", lambda *_: None)
    writers = [await asyncpg.connect(database.address.dsn) for _ in range(WRITERS)]
    begun = time.monotonic()
    counts = await asyncio.gather(*(_write(writer, name, until=begun + seconds) for writer in writers))
    took_s = time.monotonic() - begun
    for connection in (listener, *writers):
        await connection.close()
    return sum(counts) / took_s


async def _write(writer: asyncpg.Connection, name: str, *, until: float) -> int:
    count = 0
    while time.monotonic() < until:
        await (writer.execute(BARE) if name == INSERT else writer.execute(CALL, name == WAKE))
        count += 1
    return count
