"""While a gentle run waits for PostgreSQL to be well, its limits hold, and its operator is heard."""

import asyncio

import asyncpg
import pytest

from db import health
from db.engine import Database
from jobs import sweep
from jobs.endings import Again
from jobs.health import Health
from tests.eventually import eventually
from tests.jobs.test_sweep import dense, life_of
from tests.ledger import accept, row


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    async def troubled(self: Health, connection: asyncpg.Connection) -> str:
        return 'standby "a" is gone'

    monkeypatch.setattr(Health, "trouble", troubled)
    monkeypatch.setattr(sweep, "LOOK_EVERY_S", 0.05)


async def test_max_seconds_ends_a_run_that_waits(trouble: None, database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle", max_seconds=1)
    await life.serve("run")
    ended = await row(life, "run")
    assert ended.state == "succeeded"
    assert ended.result is not None
    assert (ended.result["purged"], ended.result["remaining"]) == (0, True)
    assert "max_seconds" in ended.result["reason"]


async def test_a_change_of_pace_is_heard_while_it_waits(
    trouble: None, database: Database, sql: asyncpg.Connection
) -> None:
    await dense(sql)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle")
    serving = asyncio.create_task(life.serve("run"))
    await eventually(lambda: sql.fetchval("SELECT wait_reason FROM lowtide.run"))
    await sql.execute("UPDATE lowtide.run SET pace = 'full'")
    await asyncio.wait_for(serving, 10)
    assert (await row(life, "run")).rows_done == 10_000


async def test_a_standby_that_has_gone_is_missed_by_the_next_slice_too(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await dense(sql)
    there = [health.Standby("a", 0)]

    async def standbys(connection: asyncpg.Connection) -> list[health.Standby]:
        return there

    monkeypatch.setattr(health, "standbys", standbys)
    monkeypatch.setattr(sweep, "LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr(sweep, "LOOK_EVERY_S", 0.05)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle")
    life.stopping.set()  # a batch a slice
    assert isinstance(await life.serve("run"), Again)
    life.stopping.clear()
    there.clear()
    before = (await row(life, "run")).rows_done
    for _ in range(2):
        await sql.execute("UPDATE lowtide.run SET not_before = now()")
        assert isinstance(await life.serve("run"), Again)
        waiting = await row(life, "run")
        assert (waiting.wait_reason, waiting.rows_done) == ('standby "a" is gone', before)
