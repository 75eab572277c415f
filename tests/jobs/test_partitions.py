"""Partitioned tables: purged leaf by leaf; a whole partition is dropped where that comes to the same."""

import asyncio
from datetime import timedelta
from typing import Any, Literal

import asyncpg
import pytest

from db import partitions
from db.engine import Database
from db.targets import Target
from jobs.catalog import PAYLOADS, jobs
from jobs.life import Life
from jobs.policies import Policies, Policy
from tests.eventually import eventually
from tests.jobs.test_children import hold
from tests.ledger import accept, row, run, serve_to_the_end
from worker.lookout import Lookout
from worker.metrics import Metrics
from worker.pulse import Pulse

ROWS = 1000


async def months(sql: asyncpg.Connection, *, kind: str = "timestamptz") -> None:
    """`p` with partitions of 30 days: `old` and `older` are overdue, `now` is not, `edge` in part. 1,000 rows each."""
    await sql.execute(f"CREATE TABLE p (id int, at {kind} NOT NULL, kind text) PARTITION BY RANGE (at)")
    for name, oldest, newest in (("older", 160, 130), ("old", 130, 100), ("edge", 100, 70), ("now", 70, -1)):
        first, last = [f"(date_trunc('day', now()) - interval '{days} days')" for days in (oldest, newest)]
        bounds = [await sql.fetchval(f"SELECT {each}::{kind}::text") for each in (first, last)]
        await sql.execute(f"CREATE TABLE {name} PARTITION OF p FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')")
        await sql.execute(
            f"INSERT INTO p SELECT n, {first} + ({last} - {first}) * n / 1001.0, 'x' FROM generate_series(1, {ROWS}) n"
        )
    await sql.execute("CREATE INDEX ON p (at); ANALYZE p")


def life_of(database: Database, *, where: str | None = None, **rules: Any) -> Life:
    target = Target("public", "p", "at", where=where)
    policy = Policy("p", target, timedelta(days=90), max_share=1, **rules)
    return Life(database, jobs((policy,)), worker="test", lease=timedelta(seconds=2))


async def purge(database: Database, **rules: Any) -> dict[str, Any]:
    ended = await run(life_of(database, **rules), "purge-old-deleted", policy="p")
    assert ended.error is None, ended.error
    assert ended.result is not None
    assert ended.rows_done == ended.result["purged"]
    return ended.result


async def standing(sql: asyncpg.Connection) -> dict[str, int]:
    """Rows by partition."""
    rows = await sql.fetch("SELECT tableoid::regclass::text AS name, count(*) FROM p GROUP BY 1")
    return {row["name"]: row["count"] for row in rows}


async def attached(sql: asyncpg.Connection) -> set[str]:
    rows = await sql.fetch("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'p'::regclass")
    return {row[0] for row in rows}


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
async def test_whole_partitions_are_dropped_and_the_others_purged_by_rows(
    database: Database, sql: asyncpg.Connection, kind: str
) -> None:
    await months(sql, kind=kind)
    due = await sql.fetchval(f"SELECT count(*) FROM p WHERE at < (now() - interval '90 days')::{kind}")
    result = await purge(database)
    assert (result["purged"], result["remaining"]) == (due, False)
    assert result["partitions"] == {"public.old": ROWS, "public.older": ROWS}
    assert await attached(sql) == {"edge", "now"}
    assert (await standing(sql))["now"] == ROWS
    assert await sql.fetchval("SELECT count(*) FROM lowtide.detaching") == 0


REASONS = {
    "the policy says so": "",
    "a default partition": "CREATE TABLE rest PARTITION OF p DEFAULT",
    "a trigger": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';"
    "CREATE TRIGGER t BEFORE DELETE ON p FOR EACH ROW EXECUTE FUNCTION f()",
    "a foreign key of its own": "CREATE TABLE q (id int PRIMARY KEY); INSERT INTO q SELECT generate_series(1, 1000);"
    "ALTER TABLE p ADD FOREIGN KEY (id) REFERENCES q",
    "a foreign key": "ALTER TABLE p ADD PRIMARY KEY (id, at);"
    "CREATE TABLE c (id int, at timestamptz, FOREIGN KEY (id, at) REFERENCES p ON DELETE SET NULL)",
    "a publication": "CREATE PUBLICATION pub FOR TABLE p; ALTER TABLE older REPLICA IDENTITY FULL;"
    "ALTER TABLE old REPLICA IDENTITY FULL; ALTER TABLE edge REPLICA IDENTITY FULL;"
    "ALTER TABLE now REPLICA IDENTITY FULL",
}


@pytest.mark.parametrize("reason", REASONS)
async def test_rows_are_deleted_instead_where_a_drop_would_be_something_else(
    database: Database, sql: asyncpg.Connection, reason: str
) -> None:
    await months(sql)
    if REASONS[reason]:
        await sql.execute(REASONS[reason])
    due = await sql.fetchval("SELECT count(*) FROM p WHERE at < now() - interval '90 days'")
    how: Literal["drop", "delete"] = "drop" if REASONS[reason] else "delete"
    result = await purge(database, partitions=how)
    assert (result["purged"], "partitions" in result) == (due, False)
    assert {"old", "older"} <= await attached(sql)


async def test_a_held_row_keeps_its_partition(database: Database, sql: asyncpg.Connection) -> None:
    await months(sql)
    await hold(database, "public.p", "id", "7")
    result = await purge(database)
    assert "partitions" not in result
    assert result["skipped"]["held"] == 3
    assert (await standing(sql))["old"] == 1


async def test_a_row_that_the_condition_keeps_keeps_its_partition(database: Database, sql: asyncpg.Connection) -> None:
    await months(sql)
    await sql.execute("UPDATE old SET kind = NULL WHERE id = 1")
    ended = await run(life_of(database, where="kind = 'x'"), "purge-old-deleted", policy="p")
    assert ended.result is not None
    assert ended.result["partitions"] == {"public.older": ROWS}
    assert (await standing(sql))["old"] == 1


async def test_a_partition_that_an_old_transaction_reads_is_purged_by_rows(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await months(sql)
    monkeypatch.setattr(partitions, "OLD_TRANSACTION", "0 s")
    other = await asyncpg.connect(database.address.dsn)
    async with other.transaction():
        await other.fetchval("SELECT count(*) FROM p")
        result = await purge(database)
    await other.close()
    assert "partitions" not in result
    assert {"old", "older"} <= await attached(sql)


async def test_a_row_that_must_stay_and_comes_while_the_partition_is_detached_brings_it_back(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Control: without the second look at every row it went with the partition."""
    await months(sql)
    life = life_of(database, where="kind = 'x'")
    other = await asyncpg.connect(database.address.dsn)
    async with other.transaction():
        await other.execute("SELECT 1 FROM p LIMIT 1")
        await accept(life, "purge-old-deleted", "run", policy="p")
        serving = asyncio.create_task(serve_to_the_end(life, "run"))
        await eventually(lambda: sql.fetchval("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)"))
        await other.execute("INSERT INTO older SELECT id, at, NULL FROM older LIMIT 1")
    await serving
    await other.close()
    ended = await row(life, "run")
    assert ended.result is not None
    assert ended.result["partitions"] == {"public.old": ROWS}
    assert ended.result["purged"] == ended.rows_done
    assert (await standing(sql))["older"] == 1
    assert await sql.fetchval("SELECT count(*) FROM lowtide.detaching") == 0


@pytest.mark.parametrize("step", ["noted", "pending", "detached"])
async def test_what_a_crash_left_on_its_way_out_is_attached_again_first(
    database: Database, sql: asyncpg.Connection, step: str
) -> None:
    await months(sql)
    checks = await sql.fetchval(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'edge'::regclass AND contype = 'c'"
    )
    async with database.autocommit() as connection:
        await partitions.note(connection, await as_partition(sql, "edge"), run_id="crashed")
    if step == "noted":
        await sql.execute("UPDATE lowtide.detaching SET begun_at = now() - interval '1 hour'")
    else:
        await detach_by_half(database, sql, "edge")
    if step == "detached":
        await sql.execute("ALTER TABLE p DETACH PARTITION edge FINALIZE")
    due = await sql.fetchval("SELECT count(*) FROM edge WHERE at < now() - interval '90 days'")
    result = await purge(database)
    assert result["purged"] == 2 * ROWS + due
    assert await attached(sql) == {"edge", "now"}
    left = await sql.fetchval("SELECT count(*) FROM pg_constraint WHERE conrelid = 'edge'::regclass AND contype = 'c'")
    assert left == checks
    assert await sql.fetchval("SELECT count(*) FROM lowtide.detaching") == 0


async def as_partition(sql: asyncpg.Connection, name: str) -> partitions.Partition:
    oid, parent, bound = await sql.fetchrow(
        "SELECT oid::bigint, 'p'::regclass::oid::bigint, pg_get_expr(relpartbound, oid) FROM pg_class "
        "WHERE relname = $1",
        name,
    )
    return partitions.Partition(oid, f"public.{name}", "public.p", parent, bound)


async def detach_by_half(database: Database, sql: asyncpg.Connection, name: str) -> None:
    """As where the server goes down while it waits for those that use the table."""
    reading, detaching = [await asyncpg.connect(database.address.dsn) for _ in range(2)]
    async with reading.transaction():
        await reading.fetchval("SELECT count(*) FROM p")
        pid = detaching.get_server_pid()
        half = asyncio.create_task(detaching.execute(f"ALTER TABLE p DETACH PARTITION {name} CONCURRENTLY"))
        await eventually(lambda: sql.fetchval("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)"))
        await sql.execute(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
            await half
    await reading.close()


async def test_a_policy_for_a_partition_alone_does_not_drop_it(database: Database, sql: asyncpg.Connection) -> None:
    await months(sql)
    policy = Policy("p", Target("public", "old", "at"), timedelta(days=90), max_share=1)
    life = Life(database, jobs((policy,)), worker="test", lease=timedelta(seconds=2))
    ended = await run(life, "purge-old-deleted", policy="p")
    assert (ended.state, ended.rows_done) == ("succeeded", ROWS)
    assert "old" in await attached(sql)


async def test_a_partition_with_more_rows_than_the_run_may_delete_stays(
    database: Database, sql: asyncpg.Connection
) -> None:
    await months(sql)
    ended = await run(life_of(database), "purge-old-deleted", policy="p", max_rows=ROWS - 1)
    assert ended.result is not None
    assert (ended.rows_done, "partitions" in ended.result) == (ROWS - 1, False)
    assert {"old", "older"} <= await attached(sql)


async def test_a_partition_that_nobody_purges_any_more_is_attached_again_by_the_next_worker(
    database: Database, sql: asyncpg.Connection
) -> None:
    await months(sql)
    async with database.autocommit() as connection:
        await partitions.note(connection, await as_partition(sql, "edge"), run_id="crashed")
    await detach_by_half(database, sql, "edge")
    await sql.execute("ALTER TABLE p RENAME TO renamed")
    await Lookout(database, Policies((), ()), metrics=Metrics(jobs=PAYLOADS, pulse=Pulse())).look()
    assert (
        await sql.fetchval(
            "SELECT count(*) FROM pg_inherits WHERE NOT inhdetachpending AND inhparent = 'renamed'::regclass"
        )
        == 4
    )
