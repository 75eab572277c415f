"""A purge while somebody restores, updates, locks and rewrites, and kills its sessions: the counts are exact.

The table, its index, its values, the pace and what is done to it follow from a seed, which a failure names.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
import pytest

from db.engine import Database
from db.targets import Target
from jobs.catalog import jobs
from jobs.endings import Again
from jobs.life import Life
from jobs.policies import Policy
from tests.chaos.scale import times
from tests.jobs.test_sweep import another
from tests.ledger import accept, row

MEDDLED_S = 2.0


@dataclass
class Scene:
    """What a seed makes of the table, and of the condition that every count is by."""

    seed: int
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        pick = self.chance.choice
        self.type = pick(["timestamptz", "timestamp", "date"])
        self.rows, self.every, self.width = pick(
            [(12_000, 3, 900), (12_000, 17, 900), (12_000, 60, 900), (16_000, 2, 10)]
        )
        self.distinct = pick([1, 3, 50, 100_000])
        self.index = pick(["(gone_at)", "(gone_at) WHERE gone_at IS NOT NULL", "(gone_at DESC, id)"])
        self.where = pick([None, "id % 7 <> 0", "filler <> 'y' OR id > 3"])
        self.row_s = pick([0, 0.0001, 0.0003])  # what a trigger takes for each deleted row: there is time to meddle
        self.pace = pick(["full", "gentle"])
        self.slice = timedelta(seconds=pick([0.3, 60]))
        self.eligible = "gone_at < now() - interval '90 days'" + (f" AND ({self.where})" if self.where else "")

    async def set_up(self, sql: asyncpg.Connection) -> None:
        await sql.execute(
            f"CREATE TABLE t (id int PRIMARY KEY, gone_at {self.type}, touched int DEFAULT 0, filler text)"
        )
        await sql.execute("ALTER TABLE t ALTER filler SET STORAGE PLAIN")
        await sql.execute(
            f"INSERT INTO t SELECT n, CASE WHEN n % {self.every} = 0 THEN now() - interval '100 days' "
            f"- (hashint4(n) & 65535) % {self.distinct} * interval '1 hour' END, 0, repeat('x', {self.width}) "
            f"FROM generate_series(1, {self.rows}) n"
        )
        await sql.execute(f"CREATE INDEX t_gone_at ON t {self.index}")
        if self.row_s:
            await sql.execute(
                "CREATE FUNCTION lag() RETURNS trigger LANGUAGE plpgsql AS "
                f"'BEGIN PERFORM pg_sleep({self.row_s} * CASE WHEN OLD.id % 501 = 0 THEN 30 ELSE 1 END); "
                "RETURN NULL; END'; "
                "CREATE TRIGGER lag AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION lag()"
            )
        if self.chance.random() < 0.7:
            await sql.execute("ANALYZE t")

    def some_ids(self) -> list[int]:
        pick = self.chance.randrange
        return [pick(self.rows // self.every) * self.every for _ in range(self.chance.choice([1, 20, 200]))]


class Meddler:
    """Somebody else. `restored` counts the rows that it has made ineligible."""

    def __init__(self, scene: Scene, sql: asyncpg.Connection) -> None:
        self._scene = scene
        self._sql = sql
        self.restored = 0
        self.stopped = False

    async def run(self) -> None:
        acts = [self._restore, self._update, self._lock, self._kill, self._vacuum, self._rewrite]
        loop = asyncio.get_running_loop()
        ends = loop.time() + MEDDLED_S
        while loop.time() < ends and not self.stopped:
            (act,) = self._scene.chance.choices(acts, weights=[30, 30, 20, 5, 5, 3])
            with contextlib.suppress(asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError):
                await act()  # of two who meet, one gives way; here it may be either
            await asyncio.sleep(self._scene.chance.random() * 0.02)

    async def _restore(self) -> None:
        self.restored += await self._sql.fetchval(
            f"WITH restored AS (UPDATE t SET gone_at = NULL WHERE id = ANY($1) AND {self._scene.eligible} RETURNING 1) "
            "SELECT count(*) FROM restored",
            self._scene.some_ids(),
        )

    async def _update(self) -> None:
        await self._sql.execute("UPDATE t SET touched = touched + 1 WHERE id = ANY($1)", self._scene.some_ids())

    async def _lock(self) -> None:
        async with self._sql.transaction():
            await self._sql.execute("SELECT 1 FROM t WHERE id = ANY($1) FOR UPDATE", self._scene.some_ids())
            await asyncio.sleep(self._scene.chance.random() * 0.1)

    async def _kill(self) -> None:
        await self._sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE 'CALL lowtide.batches%' AND state = 'active' LIMIT 1"
        )

    async def _vacuum(self) -> None:
        await self._sql.execute("VACUUM t")

    async def _rewrite(self) -> None:
        await self._sql.execute("VACUUM FULL t")


@asynccontextmanager
async def meddling(scene: Scene, database: Database) -> AsyncIterator[Meddler]:
    async with another(database) as other:
        meddler = Meddler(scene, other)
        at_work = asyncio.create_task(meddler.run())
        try:
            yield meddler
        finally:
            meddler.stopped = True
            await at_work


@pytest.mark.parametrize("seed", times(6, 100))
async def test_what_is_gone_is_what_was_eligible_and_not_restored(
    database: Database, sql: asyncpg.Connection, seed: int
) -> None:
    scene = Scene(seed)
    await scene.set_up(sql)
    count = f"SELECT count(*) FROM t WHERE {scene.eligible}"
    before = await sql.fetchval(count)
    policy = Policy("t", Target("public", "t", "gone_at", where=scene.where), timedelta(days=90), max_share=1.0)
    life = Life(database, jobs((policy,)), worker="chaos", lease=timedelta(seconds=2), slice_length=scene.slice)
    await accept(life, "purge-old-deleted", "run", policy="t", pace=scene.pace)
    async with meddling(scene, database) as meddler:
        while isinstance(await life.serve("run"), Again):
            await sql.execute("UPDATE lowtide.run SET not_before = now() WHERE state = 'queued'")
    after, ended = await sql.fetchval(count), await row(life, "run")

    assert ended.state == "succeeded", ended.error
    assert ended.result is not None
    assert ended.result["purged"] == ended.rows_done
    assert ended.rows_done == before - meddler.restored - after
    assert ended.result["remaining"] or after == 0
