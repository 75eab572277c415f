"""VACUUM after a purge: where dead rows ask for it, stopped at once, told where it was not done, never a failure."""

import asyncio
import time as clocks
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from db import steering, upkeep
from db.engine import Database, connect
from db.targets import Target
from jobs.endings import Again, Finished, Parked
from jobs.life import Life
from tests.eventually import eventually
from tests.jobs.test_blast import left, life_with, table
from tests.jobs.test_hours import NIGHT, NOON, ONE_OCLOCK, life_at
from tests.jobs.test_sweep import another
from tests.ledger import accept, row, run, serve_to_the_end

VACUUMS = "SELECT coalesce(sum(vacuum_count + analyze_count), 0) FROM pg_stat_user_tables WHERE relname = 't'"
AT_WORK = "SELECT count(*) > 0 FROM pg_stat_progress_vacuum"
WAITING = "SELECT wait_reason = 'VACUUM of public.t, after the purge' FROM lowtide.run"


async def vacuumed(life: Life, run_id: str = "run", name: str = "public.t") -> dict[str, Any]:
    """What the run's result says of it."""
    ended = await row(life, run_id)
    assert (ended.state, ended.result is not None) == ("succeeded", True), ended.error
    told: dict[str, Any] = (ended.result or {})["vacuum"][name]
    return told


async def slow_vacuum(database: Database, sql: asyncpg.Connection) -> None:
    """It sleeps after each page: of `wide` it takes half a minute."""
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET vacuum_cost_limit = 1")
    await database.engine.dispose()  # connections that are open have the old one


async def wide(sql: asyncpg.Connection, *, gone: int = 4000) -> None:
    """A row a page, so that VACUUM has many pages to read."""
    await sql.execute("CREATE TABLE t (id int, gone_at timestamptz, filler text STORAGE PLAIN)")
    await sql.execute(
        "INSERT INTO t SELECT n, CASE WHEN n <= $1 THEN now() - interval '100 days' END, repeat('x', 5000) "
        "FROM generate_series(1, $1::int * 2) n",
        gone,
    )
    await sql.execute("ANALYZE t")


async def test_a_purge_ends_with_it_and_the_result_says_so(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=5_000, live=5_000)
    life = life_with(database, vacuum_share=0.1)
    await run(life, "purge-old-deleted", policy="t")
    told = await vacuumed(life)
    assert (told["done"], told["dead_share"]) == (True, 0.5)
    assert 0 < told["before"]["table_bytes"] <= told["after"]["table_bytes"]  # a map of free space came with it
    assert (told["after"]["dead_rows"], told["after"]["live_rows"]) == (0, 5_000)
    assert await eventually(lambda: sql.fetchval(VACUUMS)) >= 2


@pytest.mark.parametrize(
    ("gone", "share", "said"),
    [
        (900, 0.01, "900 of its rows are dead, 9.0%: too few for it"),
        (2_000, 0.21, "2,000 of its rows are dead, 20.0%: too few for it"),
        (2_000, 0.2, None),
    ],
)
async def test_too_few_dead_rows_are_left_alone(
    database: Database, sql: asyncpg.Connection, gone: int, share: float, said: str | None
) -> None:
    await table(sql, gone=gone, live=10_000 - gone)
    life = life_with(database, vacuum_share=share)
    await run(life, "purge-old-deleted", policy="t")
    assert (await vacuumed(life)).get("reason") == said


@pytest.mark.parametrize(("gone", "share"), [(5_000, None), (0, 0.1)])
async def test_nothing_is_said_of_it_where_nothing_was_wanted(
    database: Database, sql: asyncpg.Connection, gone: int, share: float | None
) -> None:
    await table(sql, gone=gone, live=5_000)
    ended = await run(life_with(database, vacuum_share=share), "purge-old-deleted", policy="t")
    assert "vacuum" not in (ended.result or {})
    assert await sql.fetchval(VACUUMS) <= 1  # the test's own ANALYZE


async def test_a_lock_that_keeps_it_away_is_said(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=5_000, live=5_000)
    life = life_with(database, vacuum_share=0.1)
    async with another(database) as other, other.transaction():
        await other.execute("LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE")
        await run(life, "purge-old-deleted", policy="t")
    told = await vacuumed(life)
    assert (told["done"], told["reason"]) == (False, 'skipping vacuum of "t" --- lock not available')


async def test_a_right_that_is_missing_is_said(database_url: str, sql: asyncpg.Connection) -> None:
    await table(sql, gone=5_000, live=5_000)
    await sql.execute("CREATE ROLE purger LOGIN PASSWORD 'secret'")
    await sql.execute(
        "GRANT USAGE ON SCHEMA lowtide TO purger; GRANT ALL ON ALL TABLES IN SCHEMA lowtide TO purger; "
        "GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO purger; GRANT SELECT, UPDATE, DELETE ON t TO purger"
    )
    limited = connect(database_url.replace("postgres@", "purger:secret@"))
    try:
        life = life_with(limited, vacuum_share=0.1)
        await run(life, "purge-old-deleted", policy="t")
        told = await vacuumed(life)
    finally:
        await limited.close()
        await sql.execute("DROP OWNED BY purger; DROP ROLE purger")
    assert not told["done"]
    assert "skipping" in told["reason"]
    assert await left(sql) == 5_000


async def test_what_goes_wrong_with_it_fails_nothing(database: Database, sql: asyncpg.Connection) -> None:
    """Somebody ends its connection."""
    await wide(sql)
    life = life_with(database, vacuum_share=0.1)
    await slow_vacuum(database, sql)
    await accept(life, "purge-old-deleted", "run", policy="t")
    serving = asyncio.create_task(life.serve("run"))
    await eventually(lambda: sql.fetchval(AT_WORK))
    await sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_vacuum")
    await serving
    told = await vacuumed(life)
    assert (told["done"], (await row(life, "run")).rows_done) == (False, 4000)
    assert "terminating connection" in told["reason"]


@pytest.mark.parametrize(("action", "ending"), [(steering.pause, Parked), (steering.cancel, Finished)])
async def test_an_operator_stops_it_within_seconds(
    database: Database, sql: asyncpg.Connection, action: Any, ending: type[object]
) -> None:
    await wide(sql)
    life = life_with(database, vacuum_share=0.1)
    await slow_vacuum(database, sql)
    await accept(life, "purge-old-deleted", "run", policy="t")
    serving = asyncio.create_task(life.serve("run"))
    await eventually(lambda: sql.fetchval(AT_WORK))
    assert await eventually(lambda: sql.fetchval(WAITING))
    async with database.sessions.begin() as session:
        await action(session, "run")
    assert isinstance(await asyncio.wait_for(serving, 5), ending)
    await eventually(lambda: sql.fetchval(f"SELECT NOT ({AT_WORK})"))
    assert (await row(life, "run")).rows_done == 4000


async def test_a_worker_that_is_told_to_leave_stops_it_and_the_next_one_does_not_begin_it_again(
    database: Database, sql: asyncpg.Connection
) -> None:
    """As after SIGTERM, when the time that a slice has to end is over."""
    await wide(sql)
    life = life_with(database, vacuum_share=0.1)
    await slow_vacuum(database, sql)
    await accept(life, "purge-old-deleted", "run", policy="t")
    serving = asyncio.create_task(life.serve("run"))
    await eventually(lambda: sql.fetchval(AT_WORK))
    begun = clocks.monotonic()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert clocks.monotonic() - begun < 3
    await eventually(lambda: sql.fetchval(f"SELECT NOT ({AT_WORK})"))
    assert (await row(life, "run")).state == "queued"
    await serve_to_the_end(life, "run")
    told = await vacuumed(life)
    assert (told["done"], told["reason"]) == (
        False,
        "interrupted: its worker stopped meanwhile; autovacuum does the rest",
    )


async def test_a_run_that_has_lost_its_lease_stops_it(database: Database, sql: asyncpg.Connection) -> None:
    await wide(sql)
    life = life_with(database, vacuum_share=0.1)
    await slow_vacuum(database, sql)
    await accept(life, "purge-old-deleted", "run", policy="t")
    serving = asyncio.create_task(life.serve("run"))
    await eventually(lambda: sql.fetchval(AT_WORK))
    await sql.execute("UPDATE lowtide.run SET lease_token = lease_token + 1, lease_until = now() + interval '1 h'")
    assert isinstance(await asyncio.wait_for(serving, 5), Again)
    await eventually(lambda: sql.fetchval(f"SELECT NOT ({AT_WORK})"))


async def test_the_end_of_the_hours_ends_it(database: Database, sql: asyncpg.Connection) -> None:
    await wide(sql)
    now = ONE_OCLOCK
    life = life_at(database, lambda: now, hours=NIGHT, timezone="Europe/Berlin", vacuum_share=0.1)
    await slow_vacuum(database, sql)
    await accept(life, "purge-old-deleted", "run", policy="t")
    serving = asyncio.create_task(life.serve("run"))
    await eventually(lambda: sql.fetchval(AT_WORK))
    now = NOON + timedelta(days=1)
    await asyncio.wait_for(serving, 5)
    assert (await vacuumed(life))["reason"] == "outside the hours 01:00-05:00 Europe/Berlin of policy t"


async def test_each_partition_is_looked_at_by_itself(database: Database, sql: asyncpg.Connection) -> None:
    """Control: with what all of them have lost, the second one was vacuumed too."""
    await sql.execute("CREATE TABLE t (id int, gone_at timestamptz) PARTITION BY RANGE (id)")
    for number in range(2):
        await sql.execute(
            f"CREATE TABLE t{number} PARTITION OF t FOR VALUES FROM ({number * 10_000}) TO ({number * 10_000 + 10_000})"
        )
    await sql.execute(
        "INSERT INTO t SELECT n, CASE WHEN n < 5000 THEN now() - interval '100 days' END "
        "FROM generate_series(0, 14999) n"
    )
    await sql.execute("ANALYZE t")
    life = life_with(database, vacuum_share=0.3, partitions="delete")
    await run(life, "purge-old-deleted", policy="t")
    told = await vacuumed(life, name="public.t0")
    assert (told["done"], told["dead_share"], told["before"]["dead_rows"]) == (True, 0.5, 5000)
    other = await vacuumed(life, name="public.t1")
    assert other == {"done": False, "reason": "0 of its rows are dead, 0.0%: too few for it"}


async def test_what_becomes_of_a_partition_meanwhile_fails_nothing(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the purge that was done ended as failed."""
    await sql.execute(
        "CREATE TABLE t (id int, gone_at timestamptz) PARTITION BY RANGE (id);"
        "CREATE TABLE t0 PARTITION OF t FOR VALUES FROM (0) TO (10); CREATE TABLE t1 PARTITION OF t DEFAULT;"
        "INSERT INTO t SELECT n, now() - interval '1 year' FROM generate_series(0, 8) n"
    )
    real = upkeep.space

    async def space(connection: asyncpg.Connection, target: Target) -> upkeep.Space:
        if target.table == "t1":
            await sql.execute("DROP TABLE t1")
        return await real(connection, target)

    monkeypatch.setattr(upkeep, "space", space)
    life = life_with(database, vacuum_share=0.1)
    ended = await run(life, "purge-old-deleted", policy="t")
    assert (ended.state, ended.rows_done) == ("succeeded", 9)
    assert (await vacuumed(life, name="public.t1"))["reason"] == 'relation "public.t1" does not exist'


async def test_max_seconds_ends_it(database: Database, sql: asyncpg.Connection) -> None:
    """Control: it went on for as long as it took, up to six hours."""
    await slow_vacuum(database, sql)
    await wide(sql, gone=2000)
    life = life_with(database, max_seconds=2, vacuum_share=0.1)
    ended = await run(life, "purge-old-deleted", policy="t", pace="full")
    assert (ended.state, ended.rows_done) == ("succeeded", 2000)
    assert (await vacuumed(life))["reason"] == "the run has taken its 2 s (max_seconds)"
