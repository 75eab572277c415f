"""The sweep among faults: locks, slow rows, movers, rewrites, odd tables, and an operator's hand."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from db import columns, estimates, windows
from db.engine import Database
from db.targets import Target
from jobs.catalog import jobs
from jobs.endings import Again, Parked
from jobs.life import Life
from jobs.policies import Policy
from jobs.ways import AHEAD_ROWS
from tests.eventually import eventually
from tests.ledger import accept, row, run, serve_to_the_end

OLD = "now() - interval '100 days'"
# Wide enough that eligible rows are rare among the blocks.
FILLER = "repeat('x', 1000)"


def life_of(database: Database, table: str = "t", column: str = "gone_at", schema: str = "public") -> Life:
    """With one policy, for one table."""
    policy = Policy(table, Target(schema, table, column), keep=timedelta(days=90), max_share=1.0)
    return Life(database, jobs((policy,)), worker="test", lease=timedelta(seconds=2))


async def purge(database: Database, run_id: str = "run", /, pace: str = "full", **target: str) -> dict[str, object]:
    """Run it to its end; return the result."""
    life = life_of(database, **target)
    ended = await run(life, "purge-old-deleted", run_id, policy=target.get("table", "t"), pace=pace)
    assert ended.result is not None, ended.error
    return ended.result


async def dense(sql: asyncpg.Connection, rows: int = 20_000) -> None:
    """Every second row is eligible."""
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, gone_at timestamptz, filler text)")
    await sql.execute(
        f"INSERT INTO t SELECT n, CASE WHEN n % 2 = 0 THEN {OLD} END, 'x' FROM generate_series(1, {rows}) n"
    )
    await sql.execute("CREATE INDEX t_gone_at ON t (gone_at) WHERE gone_at IS NOT NULL")
    await sql.execute("ANALYZE t")


async def sparse(sql: asyncpg.Connection, *, values: str = OLD, every: int = 50, rows: int = 10_000) -> None:
    """One row in `every` is eligible, in a table of more than a thousand blocks."""
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, gone_at timestamptz, filler text)")
    await sql.execute("ALTER TABLE t ALTER filler SET STORAGE PLAIN")
    await sql.execute(
        f"INSERT INTO t SELECT n, CASE WHEN n % {every} = 0 THEN {values} END, {FILLER} "
        f"FROM generate_series(1, {rows}) n"
    )
    await sql.execute("CREATE INDEX t_gone_at ON t (gone_at) WHERE gone_at IS NOT NULL")
    await sql.execute("ANALYZE t")


async def left(sql: asyncpg.Connection) -> int:
    count: int = await sql.fetchval("SELECT count(*) FROM t WHERE gone_at < now() - interval '90 days'")
    return count


@asynccontextmanager
async def another(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's session."""
    connection = await asyncpg.connect(database.address.dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def test_dense_rows_go_by_block_ranges(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql)
    result = await purge(database)
    assert (result["purged"], result["remaining"], await left(sql)) == (10_000, False, 0)
    assert str(result["way"]).startswith("block ranges: ")


async def test_rare_rows_go_by_windows_of_the_index(database: Database, sql: asyncpg.Connection) -> None:
    await sparse(sql)
    result = await purge(database)
    assert (result["purged"], result["remaining"], await left(sql)) == (200, False, 0)
    assert result["way"] == "windows of index t_gone_at: 200 rows (2.00%) are eligible, in 1,429 blocks"
    assert await sql.fetchval("SELECT count(*) FROM t") == 9_800


async def test_windows_of_values_end_at_the_cutoff_to_the_microsecond_and_take_the_beginning_of_time(
    database: Database, sql: asyncpg.Connection
) -> None:
    await sparse(sql)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "edge", policy="t")
    cutoff = "(SELECT created_at - interval '90 days' FROM lowtide.run WHERE id = 'edge')"
    for number, value in enumerate(
        [
            "'-infinity'",
            "'0044-03-15 BC'",
            f"{cutoff} - interval '1 microsecond'",
            cutoff,
            "'infinity'",
            "'20000-01-01'",
        ]
    ):
        await sql.execute(f"INSERT INTO t VALUES ({-number - 1}, {value}, '')")
    await serve_to_the_end(life, "edge")

    kept = [record["id"] for record in await sql.fetch("SELECT id FROM t WHERE id < 0 ORDER BY id DESC")]
    assert kept == [-4, -5, -6]
    assert (await row(life, "edge")).rows_done == 203


async def test_one_timestamp_for_a_hundred_thousand_rows(database: Database, sql: asyncpg.Connection) -> None:
    """More than a list of places holds: the next one begins where it ended."""
    await sparse(sql, every=2, rows=2)
    await sql.execute("ALTER TABLE t DROP CONSTRAINT t_pkey")
    await sql.execute("INSERT INTO t SELECT 0, '2020-01-01', '' FROM generate_series(1, 100000)")
    await sql.execute(f"INSERT INTO t SELECT 1, NULL, {FILLER} FROM generate_series(1, 20000)")
    await sql.execute("ANALYZE t")
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="full")
    await on_the_index(sql)
    await serve_to_the_end(life, "run")

    ended = await row(life, "run")
    assert ended.result is not None
    assert (ended.result["purged"], ended.result["remaining"], await left(sql)) == (100_001, False, 0)


async def test_a_list_full_of_locked_rows_does_not_hide_what_lies_beyond(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sparse(sql, values="timestamptz '2020-01-01'", every=2, rows=12_000)
    monkeypatch.setattr("jobs.values.AHEAD_ROWS", 2000)
    await sql.execute("UPDATE t SET gone_at = '2021-01-01' WHERE id = 12000")
    await sql.execute("DELETE FROM t WHERE id % 2 = 1 AND id > 100")
    life = life_of(database)
    async with another(database) as other, other.transaction():
        await other.execute("SELECT 1 FROM t WHERE gone_at = '2020-01-01' AND id <= 8000 FOR UPDATE")
        await accept(life, "purge-old-deleted", "run", policy="t", pace="full")
        await on_the_index(sql)
        await serve_to_the_end(life, "run")
    ended = await row(life, "run")
    assert ended.result is not None
    assert ended.result["skipped"]["locked"] == 4000
    assert (ended.result["purged"], ended.result["remaining"]) == (2000, True)


async def on_the_index(sql: asyncpg.Connection, *, number: int = 1) -> None:
    """Let the run's pass of that number go by the index, and begin now."""
    await sql.execute(
        "UPDATE lowtide.run SET cursor = jsonb_build_object('pass', $1::int, 'way', 'index', 'told', '', "
        "'next_xid', NULL, 'rows_before', 0, 'batches_before', 0, 'lower', NULL, 'upper', NULL, 'after', NULL, "
        "'filenode', pg_relation_filenode('t'))",
        number,
    )


@pytest.mark.parametrize("way", ["dense", "sparse", "sparse, in short looks", "sparse, in short lists"])
async def test_rows_that_are_locked_for_the_whole_run_are_left_counted_and_said(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if "short" in way:  # the cursor is in the look, or in the list, before the one at hand, when a lane meets a lock
        monkeypatch.setattr("jobs.values.AHEAD_ROWS", 20)
        monkeypatch.setattr("jobs.values.STEP_ROWS", 2 if "looks" in way else 10)
        monkeypatch.setattr("jobs.values.Values.first", 5)
    scattered = "now() - make_interval(days => 100, secs => n * 7919 % 1000)"
    await (dense(sql) if way == "dense" else sparse(sql, values=scattered if "looks" in way else OLD))
    async with another(database) as other, other.transaction():
        await other.execute("SELECT 1 FROM t WHERE id IN (100, 5000, 10000) FOR UPDATE")
        result = await purge(database)
    assert result["skipped"] == {"locked": 3, "held": 0, "blocked": 0, "slow": 0}
    assert (result["remaining"], result["reason"], await left(sql)) == (True, "3 rows are locked by others", 3)


async def test_rows_that_max_rows_leaves_are_not_counted_as_locked(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql, rows=1000)
    life = life_of(database)
    async with another(database) as other, other.transaction():
        await other.execute("SELECT 1 FROM t WHERE id = 2 FOR UPDATE")
        ended = await run(life, "purge-old-deleted", policy="t", max_rows=10)
    assert ended.result is not None
    assert (ended.result["purged"], ended.result["skipped"]["locked"]) == (10, 1)


async def test_a_locked_table_makes_it_wait_outside_of_any_transaction(
    database: Database, sql: asyncpg.Connection
) -> None:
    await dense(sql)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t")
    async with another(database) as other:
        lock = other.transaction()
        await lock.start()
        await other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        assert isinstance(await life.serve("run"), Again)
        waiting = await sql.fetchrow("SELECT state, wait_reason, attempt FROM lowtide.run")
        assert tuple(waiting) == ("queued", "others hold locks on what the run needs", 1)
        open_ones = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lowtide' AND xact_start IS NOT NULL"
        )
        assert await sql.fetchval(open_ones) == 0
        await lock.rollback()
    await serve_to_the_end(life, "run")
    assert await left(sql) == 0


async def test_a_trigger_that_sleeps_makes_windows_of_single_rows(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql, rows=60)
    await _slow_trigger(sql, "0.05")
    result = await purge(database, pace="gentle")
    assert (result["purged"], result["remaining"]) == (30, False)
    longest = await sql.fetchval("SELECT batches FROM lowtide.run")
    assert longest >= 15


async def _slow_trigger(sql: asyncpg.Connection, seconds: str) -> None:
    await sql.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        f"'BEGIN PERFORM pg_sleep({seconds}); RETURN OLD; END'; "
        "CREATE TRIGGER dawdle BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )


async def test_a_single_row_that_takes_too_long_is_passed_over_and_counted(
    database: Database, sql: asyncpg.Connection
) -> None:
    await dense(sql, rows=40)
    await sql.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF OLD.id = 10 THEN PERFORM pg_sleep(60); END IF; RETURN OLD; END'; "
        "CREATE TRIGGER dawdle BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )
    result = await purge(database, pace="gentle")
    assert (result["purged"], result["remaining"]) == (19, True)
    assert result["skipped"] == {"locked": 0, "held": 0, "blocked": 0, "slow": 1}
    assert result["reason"] == "1 rows take longer than a batch may, and were passed over"
    assert [record["id"] for record in await sql.fetch("SELECT id FROM t WHERE gone_at IS NOT NULL")] == [10]


async def test_rows_of_800_kilobytes(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql, rows=0)
    await sql.execute("ALTER TABLE t ALTER filler SET STORAGE EXTERNAL")
    await sql.execute(f"INSERT INTO t SELECT n, {OLD}, repeat('x', 800000) FROM generate_series(1, 60) n")
    result = await purge(database, pace="gentle")
    assert (result["purged"], result["remaining"], await left(sql)) == (60, False, 0)


async def test_rows_that_move_behind_the_walk_are_found_by_the_look_at_the_end(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Control: without the look (`_left` returning an empty list) the moved row stays."""
    await dense(sql)
    await sql.execute("DELETE FROM t WHERE id < 2000")
    await sql.execute("VACUUM t")
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t")
    life.stopping.set()  # a batch a slice
    assert isinstance(await life.serve("run"), Again)
    block = await sql.fetchval("SELECT (cursor ->> 'block')::int FROM lowtide.run")
    moving = "UPDATE t SET filler = repeat('y', 1500) WHERE gone_at IS NOT NULL AND id > 19900 RETURNING ctid"
    assert min(record["ctid"][0] for record in await sql.fetch(moving)) < block
    life.stopping.clear()
    await serve_to_the_end(life, "run")

    ended = await row(life, "run")
    assert ended.result is not None
    assert (ended.result["remaining"], ended.result["passes"], await left(sql)) == (False, 2, 0)


async def test_where_nobody_else_wrote_there_is_nothing_to_look_for(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where somebody did, even elsewhere, or has a transaction open, it looks."""
    looked: list[int] = []
    monkeypatch.setattr("jobs.passes.estimates.count", _counting(looked))
    await dense(sql)
    await purge(database, "quiet")
    assert looked == []

    await sql.execute(f"UPDATE t SET gone_at = {OLD} WHERE id < 5000")
    async with another(database) as other, other.transaction():
        await other.execute("SELECT pg_current_xact_id()")
        await purge(database, "open")
    assert looked == [1]


def _counting(looked: list[int]):  # type: ignore[no-untyped-def]  # noqa: ANN202 - it stands for the function it wraps
    from db.estimates import count  # noqa: PLC0415 - before it is replaced

    async def counting(*args, **kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN003, ANN202 - as above
        if kwargs["most"] == AHEAD_ROWS:  # not that of the blast radius
            looked.append(1)
        return await count(*args, **kwargs)

    return counting


async def test_vacuum_full_in_the_middle_begins_anew(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t")
    life.stopping.set()
    assert isinstance(await life.serve("run"), Again)
    await sql.execute("VACUUM FULL t")
    life.stopping.clear()
    await serve_to_the_end(life, "run")

    ended = await row(life, "run")
    assert ended.result is not None
    assert (ended.result["purged"], ended.result["remaining"], await left(sql)) == (10_000, False, 0)


@pytest.mark.parametrize(
    ("create", "target"),
    [
        ("CREATE TABLE t (gone_at timestamptz)", {}),
        ("CREATE TABLE t (a int, b int, gone_at timestamptz, PRIMARY KEY (a, b))", {}),
        ("CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), gone_at timestamptz)", {}),
        ("CREATE TABLE t (gone_at date)", {}),
        ("CREATE TABLE t (gone_at timestamp)", {}),
        ('CREATE TABLE "The ""Table" ("Gone At" timestamptz)', {"table": 'The "Table', "column": "Gone At"}),
        ('CREATE TABLE "select" ("from" timestamptz)', {"table": "select", "column": "from"}),
    ],
)
async def test_any_table_is_purged(
    database: Database, sql: asyncpg.Connection, create: str, target: dict[str, str]
) -> None:
    """Without a key, with a composite one, with other types, with names of any kind; NULL is never eligible."""
    await sql.execute(create)
    table = '"' + target.get("table", "t").replace('"', '""') + '"'
    column = f'"{target.get("column", "gone_at")}"'
    key = ("a, b,", "n, n,") if "PRIMARY KEY (a, b)" in create else ("", "")
    await sql.execute(
        f"INSERT INTO {table} ({key[0]} {column}) SELECT {key[1]} CASE n % 3 WHEN 0 THEN {OLD} WHEN 1 THEN now() END "
        "FROM generate_series(1, 300) n"
    )
    result = await purge(database, **target)
    assert (result["purged"], result["remaining"]) == (100, False)
    assert await sql.fetchval(f"SELECT count(*) FROM {table}") == 200


async def test_statistics_that_were_never_gathered(database: Database, sql: asyncpg.Connection) -> None:
    await sparse(sql)
    await sql.execute("DELETE FROM pg_statistic WHERE starelid = 't'::regclass")
    await sql.execute("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = 't'::regclass")
    result = await purge(database)
    assert (result["purged"], await left(sql)) == (200, 0)
    assert str(result["way"]).startswith("windows of index t_gone_at: 200 rows are eligible")


async def test_statistics_from_before_a_bulk_delete_do_not_choose_the_index(
    database: Database, sql: asyncpg.Connection
) -> None:
    await sparse(sql)
    await sql.execute(f"UPDATE t SET gone_at = {OLD}")
    result = await purge(database)
    assert result["purged"] == 10_000
    assert str(result["way"]).startswith("block ranges: ")


@pytest.mark.parametrize(
    "create",
    ["CREATE VIEW t AS SELECT now() AS gone_at", "CREATE MATERIALIZED VIEW t AS SELECT now() AS gone_at"],
)
async def test_what_is_no_ordinary_table_is_refused(database: Database, sql: asyncpg.Connection, create: str) -> None:
    await sql.execute(create)
    for dry_run in (True, False):
        ended = await run(life_of(database), "purge-old-deleted", f"{dry_run}", policy="t", dry_run=dry_run)
        assert ended.error is not None
        assert ended.error["type"] == "NotATable"


async def test_an_operators_cancel_among_several_batches_pauses_too(
    database: Database, sql: asyncpg.Connection
) -> None:
    await dense(sql, rows=400_000)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="full")
    serving = asyncio.create_task(life.serve("run"))
    cancel = await sql.prepare(
        "SELECT bool_or(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'CALL lowtide.batches%' "
        "AND state = 'active' AND (SELECT batches > 3 FROM lowtide.run)"
    )
    while not await cancel.fetchval():
        assert not serving.done()

    assert isinstance(await serving, Parked)
    paused = await row(life, "run")
    assert paused.state == "paused"
    assert paused.rows_done == 200_000 - await left(sql)


async def test_a_lane_that_dies_leaves_nothing_behind_the_cursor(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql, rows=400_000)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="full")
    serving = asyncio.create_task(life.serve("run"))
    kill_the_first = await sql.prepare(
        "SELECT pg_terminate_backend(min(pid)) FROM pg_stat_activity WHERE query LIKE 'CALL lowtide.batches%' "
        "AND state = 'active' HAVING count(*) = 2"
    )
    while not await kill_the_first.fetchval():
        assert not serving.done(), "two lanes were never at work together"
    assert isinstance(await serving, Again)
    between = (await row(life, "run")).rows_done
    assert between == 200_000 - await left(sql)
    await serve_to_the_end(life, "run")

    ended = await row(life, "run")
    assert ended.result is not None
    # A cursor that had passed over what the dead lane left open would have needed a second pass.
    assert (ended.result["purged"], ended.result["passes"], await left(sql)) == (200_000, 1, 0)


async def test_lanes_that_meet_in_a_trigger_go_one_after_the_other(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql, rows=100_000)
    await sql.execute("CREATE TABLE total (gone int); INSERT INTO total VALUES (0)")
    await sql.execute(
        "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN UPDATE total SET gone = gone + (SELECT count(*) FROM gone_rows); RETURN NULL; END'"
    )
    await sql.execute(
        "CREATE TRIGGER counted AFTER DELETE ON t REFERENCING OLD TABLE AS gone_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION count_it()"
    )
    result = await purge(database)
    assert (result["purged"], result["remaining"], await left(sql)) == (50_000, False, 0)
    assert await sql.fetchval("SELECT gone FROM total") == 50_000


async def test_an_operators_cancel_pauses_the_run_until_it_is_resumed(
    database: Database, sql: asyncpg.Connection
) -> None:
    await dense(sql, rows=2)
    await _slow_trigger(sql, "0.3")
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="full")
    serving = asyncio.create_task(life.serve("run"))
    cancel = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
        "WHERE query LIKE 'CALL lowtide.batches%' AND state = 'active' AND datname = current_database()"
    )
    await eventually(lambda: sql.fetchval(cancel))

    assert isinstance(await serving, Parked)
    paused = await row(life, "run")
    assert (paused.state, paused.rows_done) == ("paused", 0)
    assert paused.wait_reason is not None
    assert "`lowtide resume run`" in paused.wait_reason

    await sql.execute("UPDATE lowtide.run SET state = 'queued', wait_reason = NULL")
    await serve_to_the_end(life, "run")
    assert (await row(life, "run")).rows_done == 1


async def test_a_batch_that_others_wait_for_gives_way(database: Database, sql: asyncpg.Connection) -> None:
    """The foreground waits for a row of a long batch: it has it long before the batch would have ended.

    Control: without the watch it waits for the whole batch, half a second here.
    """
    await dense(sql, rows=20)
    await _slow_trigger(sql, "0.04")
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="full")
    async with another(database) as foreground:
        serving = asyncio.create_task(serve_to_the_end(life, "run"))
        await eventually(
            lambda: sql.fetchval("SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep')")
        )
        await asyncio.sleep(0.06)  # the first row of the batch is deleted by now, and not committed
        begun = time.monotonic()
        await foreground.execute("UPDATE t SET filler = 'mine' WHERE id = 2")
        waited_s = time.monotonic() - begun
        await serving
    assert waited_s < 0.3
    assert await left(sql) == 0


async def test_the_pace_of_a_running_run_can_be_changed(database: Database, sql: asyncpg.Connection) -> None:
    await dense(sql)
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle")
    life.stopping.set()
    await life.serve("run")
    await sql.execute("UPDATE lowtide.run SET pace = 'full', max_rows = 5000")
    life.stopping.clear()
    await serve_to_the_end(life, "run")

    ended = await row(life, "run")
    assert ended.result is not None
    assert (ended.result["pace"], ended.result["purged"], ended.result["remaining"]) == ("full", 5000, True)


async def test_a_gentle_run_waits_while_postgresql_is_in_trouble_and_a_full_one_does_not(
    database: Database, sql: asyncpg.Connection
) -> None:
    """A slot that keeps too much WAL, said in wait_reason; the run goes on by itself when it is gone."""
    await dense(sql)
    life = life_of(database)
    await sql.execute("SELECT pg_create_physical_replication_slot('lagging', true)")
    async with another(database) as other:
        await other.execute("ALTER SYSTEM SET max_wal_size = '32MB'")
        await other.execute("SELECT pg_reload_conf()")
        try:
            for _ in range(5):
                await other.execute("SELECT pg_logical_emit_message(false, 'test', 'x')")
                await other.execute("SELECT pg_switch_wal()")
            await other.execute("CHECKPOINT")
            assert (await run(life, "purge-old-deleted", "full", policy="t", pace="full", max_rows=1)).rows_done == 1
            await accept(life, "purge-old-deleted", "gentle", policy="t")
            serving = asyncio.create_task(serve_to_the_end(life, "gentle"))
            reason = "SELECT wait_reason FROM lowtide.run WHERE id = 'gentle' AND state = 'running'"
            told = await eventually(lambda: sql.fetchval(reason))
            idle = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lowtide' AND state LIKE 'idle in%'"
            assert await sql.fetchval(idle) == 0
        finally:
            await other.execute("SELECT pg_drop_replication_slot('lagging')")
            await other.execute("ALTER SYSTEM RESET max_wal_size")
            await other.execute("SELECT pg_reload_conf()")
    assert told == 'replication slot "lagging" is behind: wal_status extended'
    await serving
    assert (await row(life, "gentle")).rows_done == 9_999


async def test_a_column_named_as_one_of_the_looks_own_is_ordered_by_its_value(
    database: Database, sql: asyncpg.Connection
) -> None:
    """As text, the year 20000 BC and the beginning of time sort elsewhere."""
    await sparse(sql)
    await sql.execute("ALTER TABLE t RENAME gone_at TO value")
    await sql.execute("UPDATE t SET value = '0044-03-15 BC' WHERE id = 50")
    target = Target("public", "t", "value")
    async with database.autocommit() as connection:
        cutoff = await estimates.cutoff(connection, keep=timedelta(days=90))
        eligible = await columns.eligible(connection, target, cutoff=cutoff)
        look = await windows.look(connection, eligible, lower=None, step=199, most=1000)
    assert look.values[0] == "0044-03-15 00:00:00+00 BC"
    assert (len(look.values), look.rows) == (2, 200)


async def test_slices_too_short_for_a_window_learn_from_each_other(database: Database, sql: asyncpg.Connection) -> None:
    """Control: with the size forgotten, each slice tried a window that took too long, for ever."""
    await dense(sql, rows=2000)
    await _slow_trigger(sql, "0.002")
    life = life_of(database)
    life.slice_length = timedelta(milliseconds=50)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="full")
    for _ in range(300):
        if not isinstance(await life.serve("run"), Again):
            break
    assert (await row(life, "run")).rows_done == 1000
