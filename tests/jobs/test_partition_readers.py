"""Whole partitions among others who use them, and hours that end: nobody waits for us, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest
from asyncpg.transaction import Transaction

from db import engine, migrate, partitions
from db.engine import Database
from db.targets import Target
from jobs import life as life_module
from jobs import partitions as jobs_partitions
from jobs.background import alongside
from jobs.catalog import jobs
from jobs.failures import Waiting
from jobs.life import Life
from jobs.policies import Policy
from tests.eventually import eventually
from tests.jobs.test_hours import BERLINS_NIGHT, NOON, ONE_OCLOCK, with_clock
from tests.jobs.test_partitions import ROWS, as_partition, attached, detach_by_half, life_of, months, purge, standing
from tests.ledger import accept, row, run, serve_to_the_end
from worker.embedded import Postgres

WAITS_FOR_A_TABLE = "SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation' AND mode = 'AccessExclusiveLock'"


async def test_nobody_waits_behind_a_detach_for_those_who_read_the_partition_by_its_own_name(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detaching takes ACCESS EXCLUSIVE at its end, and waits for it behind a reader who knows nothing of the parent.
    Control: without giving way, all others waited as long as that reader took."""
    await months(sql)
    monkeypatch.setattr(life_module, "LONGEST_LOOK_S", 0.5)
    life = life_of(database)
    reading, holding = [await asyncpg.connect(database.address.dsn) for _ in range(2)]
    async with reading.transaction():
        async with holding.transaction():
            await holding.execute("SELECT FROM p LIMIT 1")
            await accept(life, "purge-old-deleted", "run", policy="p")
            serving = asyncio.create_task(serve_to_the_end(life, "run"))
            leaving = await eventually(
                lambda: sql.fetchval("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhdetachpending")
            )
            await reading.execute(f"SELECT FROM {leaving} LIMIT 1")
        await eventually(lambda: sql.fetchval(f"SELECT EXISTS ({WAITS_FOR_A_TABLE})"))
        assert await sql.fetchval(f"SELECT count(*) FROM {leaving}", timeout=1) == ROWS
        told = f"public.{leaving} is being attached again, and waits for those who use it"
        await eventually(lambda: sql.fetchval("SELECT wait_reason = $1 FROM lowtide.run", told))
    await serving
    await asyncio.gather(reading.close(), holding.close())
    ended = await row(life, "run")
    assert ended.result is not None
    assert ended.result["purged"] == ended.rows_done
    assert not {"old", "older"} & (await standing(sql)).keys()
    assert await sql.fetchval("SELECT count(*) FROM lowtide.detaching") == 0


async def test_a_partition_that_is_read_by_its_own_name_is_purged_by_rows(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await months(sql)
    monkeypatch.setattr(jobs_partitions, "LONGEST_READ_S", 0.2)
    reading = await asyncpg.connect(database.address.dsn)
    async with reading.transaction():
        await reading.execute("SELECT FROM old LIMIT 1")
        result = await purge(database)
    await reading.close()
    assert result["partitions"] == {"public.older": ROWS}
    assert "old" in await attached(sql)


async def test_a_short_read_of_a_partition_is_waited_for(database: Database, sql: asyncpg.Connection) -> None:
    await months(sql)
    life = life_of(database)
    reading = await asyncpg.connect(database.address.dsn)
    async with reading.transaction():
        await reading.execute("SELECT FROM older LIMIT 1")
        await reading.execute("SELECT FROM old LIMIT 1")
        await accept(life, "purge-old-deleted", "run", policy="p")
        serving = asyncio.create_task(serve_to_the_end(life, "run"))
        await eventually(lambda: sql.fetchval("SELECT wait_reason LIKE '%own name%' FROM lowtide.run"))
    await serving
    await reading.close()
    ended = await row(life, "run")
    assert ended.result is not None
    assert ended.result["partitions"] == {"public.older": ROWS, "public.old": ROWS}
    assert ended.wait_reason is None


async def test_nobody_waits_behind_an_attach_either(database: Database, sql: asyncpg.Connection) -> None:
    await months(sql)
    async with database.autocommit() as connection:
        await partitions.note(connection, await as_partition(sql, "edge"), run_id="crashed")
    await detach_by_half(database, sql, "edge")
    await sql.execute("ALTER TABLE p DETACH PARTITION edge FINALIZE")
    reading = await asyncpg.connect(database.address.dsn)
    async with reading.transaction():
        await reading.execute("SELECT FROM edge LIMIT 1")
        bringing = asyncio.create_task(jobs_partitions.bring_back(database, None))
        await eventually(lambda: sql.fetchval(f"SELECT EXISTS ({WAITS_FOR_A_TABLE})"))
        assert await sql.fetchval("SELECT count(*) FROM edge", timeout=1) == ROWS
        with pytest.raises(Waiting, match=r"public\.edge"):
            await bringing
    await reading.close()
    assert await jobs_partitions.bring_back(database, None) == ["public.edge"]


@asynccontextmanager
async def somebody_reads(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[list[str], Transaction]]:
    """By its own name, the first partition that is detached, in a transaction that began just before; and others too,
    again and again."""
    monkeypatch.setattr(life_module, "LONGEST_LOOK_S", 0.3)
    real, leaving = partitions.detach, list[str]()
    reading, client = [await asyncpg.connect(database.address.dsn) for _ in range(2)]
    transaction = reading.transaction()

    async def detach(connection: asyncpg.Connection, partition: partitions.Partition) -> None:
        if not leaving:
            leaving.append(partition.name)
            await transaction.start()
            await reading.execute(f"SELECT FROM {partition.name} LIMIT 1")
        await real(connection, partition)

    async def others() -> None:
        while True:
            await asyncio.sleep(0.02)
            if leaving:
                await client.execute(f"SELECT FROM {leaving[0]} LIMIT 1")

    monkeypatch.setattr(partitions, "detach", detach)
    async with alongside(others()):
        yield leaving, transaction
    await asyncio.gather(reading.close(), client.close())


async def test_what_others_are_in_the_way_of_comes_last(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the run waited for the reader of the one, and left the other for as long."""
    await months(sql)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="p")
    async with somebody_reads(database, monkeypatch) as (leaving, transaction):
        serving = asyncio.create_task(serve_to_the_end(life, "run"))
        await eventually(lambda: sql.fetchval("SELECT rows_done > $1 FROM lowtide.run", ROWS))
        assert (await row(life, "run")).state != "succeeded"
        await transaction.rollback()
        await serving
    ended = await row(life, "run")
    assert ended.result is not None
    assert ended.result["partitions"] == {leaving[0]: ROWS}  # one at a time is on its way out: the other went by rows
    assert (ended.result["purged"], ended.result["remaining"]) == (ended.rows_done, False)
    assert await standing(sql) == {"edge": ROWS - ended.rows_done + 2 * ROWS, "now": ROWS}


async def test_what_others_are_in_the_way_of_is_left_when_the_time_is_over(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await months(sql)
    life = life_of(database, max_seconds=2)
    await accept(life, "purge-old-deleted", "run", policy="p")
    async with somebody_reads(database, monkeypatch) as (leaving, transaction):
        await serve_to_the_end(life, "run")
        await transaction.rollback()
    ended = await row(life, "run")
    assert ended.result is not None
    assert ended.result["remaining"]
    assert ended.result["reason"].startswith(f"{leaving[0]} is in use by its own name")
    assert await jobs_partitions.bring_back(database, None) == leaving
    assert (await standing(sql))[leaving[0].removeprefix("public.")] == ROWS


async def test_a_parallel_query_of_the_table_is_no_reader_of_the_partition(postgres: Postgres) -> None:
    """Its workers lock the partitions alone. Control: each was waited for, and purged by rows."""
    async with Postgres(settings={"autovacuum": "off", "max_parallel_workers": "8"}) as server:
        database = engine.connect(server.url)
        await migrate.migrate(database.engine, with_tasks=False)
        sql, other = [await asyncpg.connect(server.url) for _ in range(2)]
        await months(sql)
        await sql.execute(
            "CREATE FUNCTION dawdle(int) RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE AS "
            "'BEGIN PERFORM pg_sleep(0.002); RETURN true; END';"
            "ALTER TABLE older SET (parallel_workers = 2); ALTER TABLE old SET (parallel_workers = 2)"
        )
        await other.execute(
            "SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;"
            "SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off"
        )
        reading = asyncio.create_task(other.fetch("SELECT count(*) FROM p WHERE dawdle(id)"))
        workers = "SELECT count(*) > 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE leader_pid IS NOT NULL"
        await eventually(lambda: sql.fetchval(workers))
        assert set((await purge(database))["partitions"]) == {"public.old", "public.older"}
        await reading
        await asyncio.gather(sql.close(), other.close())
        await database.close()


async def test_a_clone_of_the_database_is_another_one(
    database: Database, sql: asyncpg.Connection, postgres: Postgres
) -> None:
    """Its tables have the same oids. Control: a transaction there was taken for a reader here."""
    await months(sql)
    name = await sql.fetchval("SELECT current_database()")
    await database.engine.dispose()
    admin = await asyncpg.connect(postgres.url)
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await sql.close()
    await admin.execute(f"CREATE DATABASE twin TEMPLATE {name}")
    twin = await asyncpg.connect(postgres.url_of("twin"))
    async with twin.transaction():
        await twin.execute("SELECT FROM old LIMIT 1; SELECT FROM older LIMIT 1")
        result = await purge(database)
    await twin.close()
    await admin.execute("DROP DATABASE twin WITH (FORCE)")
    await admin.close()
    assert set(result["partitions"]) == {"public.old", "public.older"}


async def test_a_table_and_a_partition_of_it_are_purged_one_at_a_time(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the second run attached and dropped what the first had just detached, and the first one failed."""
    await sql.execute(
        "CREATE TABLE p (id int, at timestamptz NOT NULL) PARTITION BY RANGE (at);"
        "CREATE TABLE sub PARTITION OF p FOR VALUES FROM ('2000-01-01') TO ('2024-01-01') PARTITION BY RANGE (at);"
        "CREATE TABLE s1 PARTITION OF sub FOR VALUES FROM ('2000-01-01') TO ('2010-01-01');"
        "CREATE TABLE s2 PARTITION OF sub FOR VALUES FROM ('2010-01-01') TO ('2024-01-01');"
        "CREATE TABLE live PARTITION OF p FOR VALUES FROM ('2024-01-01') TO ('2100-01-01');"
        "INSERT INTO p SELECT n, '2005-01-01' FROM generate_series(1, 1000) n; CREATE INDEX ON p (at); ANALYZE p"
    )
    whole, part = (Policy(t, Target("public", t, "at"), timedelta(days=90), max_share=1) for t in ("p", "sub"))
    life = Life(database, jobs((whole, part)), worker="test", lease=timedelta(seconds=2))
    real, seen = partitions.detach, list[str | None]()

    async def detach(connection: asyncpg.Connection, partition: partitions.Partition) -> None:
        await real(connection, partition)
        if not seen:
            await accept(life, "purge-old-deleted", "second", policy="sub")
            await life.serve("second")
            seen.append((await row(life, "second")).wait_reason)

    monkeypatch.setattr(partitions, "detach", detach)
    first = await run(life, "purge-old-deleted", "first", policy="p")
    assert (first.state, first.rows_done) == ("succeeded", 1000)
    assert seen == ["run first purges public.sub now: one at a time"]


async def test_nothing_is_dropped_when_the_hours_are_over(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To detach may take long. Control: a partition went after the hours."""
    await months(sql)
    now, real = ONE_OCLOCK, partitions.detach

    async def detach(connection: asyncpg.Connection, partition: partitions.Partition) -> None:
        nonlocal now
        await real(connection, partition)
        now = NOON + timedelta(days=1)

    monkeypatch.setattr(partitions, "detach", detach)
    life = with_clock(life_of(database, **BERLINS_NIGHT), lambda: now)
    await accept(life, "purge-old-deleted", "run", policy="p")
    await life.serve("run")
    waiting = await row(life, "run")
    assert (waiting.state, waiting.rows_done) == ("queued", 0)
    assert "outside the hours" in (waiting.wait_reason or "")
    assert await attached(sql) == {"older", "old", "edge", "now"}
