"""purge-old-deleted: exactly the rows that were deleted before the cutoff, in short batches."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from db import windows
from db.batches import Change
from db.engine import Database
from db.targets import TIMESTAMPTZ, Eligible, Target
from db.windows import Bound, Place, Span
from jobs.endings import Again
from jobs.life import Life
from jobs.policies import OLD_DELETED_TASKS
from tests import people
from tests.eventually import eventually
from tests.ledger import accept, row, run, serve_to_the_end

TASKS = OLD_DELETED_TASKS.target
LEFT = "SELECT count(*) FROM task"
OVERDUE = "SELECT count(*) FROM task WHERE deleted_at < now() - interval '90 days'"


async def test_removes_what_was_deleted_before_the_cutoff_and_nothing_else(life: Life, sql: asyncpg.Connection) -> None:
    """Older, equal, newer to the microsecond; NULL; the ends of time."""
    await people.people(sql)
    await accept(life, "purge-old-deleted", "edge")
    cutoff = "(SELECT created_at - interval '90 days' FROM lowtide.run WHERE id = 'edge')"
    for name, deleted_at in {
        "older": f"{cutoff} - interval '1 microsecond'",
        "equal": cutoff,
        "newer": f"{cutoff} + interval '1 microsecond'",
        "never": "NULL",
        "beginning of time": "'-infinity'",
        "before Christ": "'0044-03-15 BC'",
        "end of time": "'infinity'",
        "the year 20000": "'20000-01-01'",
    }.items():
        await sql.execute(
            f"INSERT INTO task (title, project_id, created_by_id, deleted_at) VALUES ($1, 1, 1, {deleted_at})", name
        )
    await serve_to_the_end(life, "edge")

    ended = await row(life, "edge")
    assert ended.result is not None
    assert ended.result["purged"] == 3
    assert ended.result["remaining"] is False
    left = [record["title"] for record in await sql.fetch("SELECT title FROM task ORDER BY id")]
    assert left == ["equal", "newer", "never", "end of time", "the year 20000"]


async def test_the_cutoff_is_that_of_the_runs_creation(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await accept(life, "purge-old-deleted", "frozen", days=100)
    await sql.execute("UPDATE lowtide.run SET created_at = created_at - interval '3 days'")
    await people.many(sql, 10, deleted_every=1, days_ago=102)

    await serve_to_the_end(life, "frozen")

    assert await sql.fetchval(LEFT) == 10
    assert await sql.fetchval("SELECT cutoff = created_at - interval '100 days' FROM lowtide.run")


async def test_works_in_batches_that_move_on_block_by_block(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)

    ended = await run(life, "purge-old-deleted", pace="full")

    assert ended.result is not None
    assert (ended.result["purged"], ended.result["passes"]) == (10_000, 1)
    assert ended.rows_done == 10_000
    assert ended.batches > 3
    assert ended.rows_expected == pytest.approx(10_000, rel=0.1)
    assert (await sql.fetchval(LEFT), await sql.fetchval(OVERDUE)) == (10_000, 0)


async def test_a_second_run_changes_nothing(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 100, deleted_every=2)
    await run(life, "purge-old-deleted", run_id="first")

    ended = await run(life, "purge-old-deleted", run_id="second")

    assert ended.result is not None
    assert (ended.result["purged"], ended.result["remaining"]) == (0, False)
    assert await sql.fetchval(LEFT) == 50


async def test_an_empty_table_is_purged_without_a_batch(life: Life) -> None:
    ended = await run(life, "purge-old-deleted")
    assert ended.state == "succeeded"
    assert ended.batches == 0


async def test_stopped_between_batches_it_goes_on_where_it_was(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)
    await accept(life, "purge-old-deleted", "slices")
    life.stopping.set()  # each slice is one batch
    gone = []
    for _ in range(3):
        assert isinstance(await life.serve("slices"), Again)
        gone.append(20_000 - await sql.fetchval(LEFT))
        assert (await row(life, "slices")).rows_done == gone[-1]
    life.stopping.clear()
    await serve_to_the_end(life, "slices")

    ended = await row(life, "slices")
    assert 0 < gone[0] < gone[1] < gone[2] < 10_000
    assert ended.result is not None
    assert (ended.result["purged"], ended.attempt) == (10_000, 1)
    assert await sql.fetchval(OVERDUE) == 0


async def test_a_dry_run_counts_and_changes_nothing(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 100, deleted_every=4)

    ended = await run(life, "purge-old-deleted", dry_run=True)

    assert ended.result is not None
    assert (ended.result["dry_run"], ended.result["purged"], ended.result["eligible"]) == (True, 0, 25)
    assert (ended.rows_done, ended.batches, await sql.fetchval(LEFT)) == (0, 0, 100)
    stored = "SELECT sum(pg_column_size(t.*)) FROM task t WHERE deleted_at IS NOT NULL"
    assert ended.result["bytes"] == pytest.approx(await sql.fetchval(stored), rel=0.2)
    assert ended.result["oldest"] == ended.result["newest"]
    assert ended.result["way"].startswith("block ranges: 25% of ")
    assert (ended.result["seconds"], ended.result["seconds_from"]) == (0.0, "the benchmark's speed")


async def test_a_dry_run_estimates_by_the_speed_of_earlier_runs(life: Life, sql: asyncpg.Connection) -> None:
    """Of their work alone, not of rest and VACUUM."""
    await people.people(sql)
    await people.many(sql, 4000, deleted_every=2)
    await sql.execute(
        "INSERT INTO lowtide.run "
        "(id, job, requested_by, target, pace, state, rows_done, started_at, finished_at, result, counters) "
        "SELECT 'earlier ' || n, 'purge-old-deleted', 'test', 'public.task', 'gentle', 'succeeded', 1000, "
        "now() - make_interval(secs => n + 25), now(), "
        """ '{"vacuum": {"a": {"seconds": 2.5}, "b": {"seconds": 2.5}, "c": {"done": false}}}', """
        """ '{"outside_hours_s": 20}' """
        "FROM generate_series(9, 11) n"
    )
    ended = await run(life, "purge-old-deleted", dry_run=True)

    assert ended.result is not None
    assert (ended.result["seconds"], ended.result["seconds_from"]) == (20.0, "the speed of earlier runs")


async def test_a_dry_run_sees_one_snapshot_and_waits_for_nobody(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 100, deleted_every=2)
    async with sql.transaction():
        await sql.execute("DELETE FROM task WHERE id <= 50")
        ended = await run(life, "purge-old-deleted", dry_run=True)
    assert ended.result is not None
    assert ended.result["eligible"] == 50


async def test_max_rows_is_kept_to_the_row(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)

    ended = await run(life, "purge-old-deleted", max_rows=123)

    assert ended.result is not None
    assert (ended.result["purged"], ended.result["remaining"]) == (123, True)
    assert "max_rows" in ended.result["reason"]
    assert await sql.fetchval(LEFT) == 877


async def test_fewer_days_than_the_policy_keeps_need_an_approval(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 10, deleted_every=1)

    short = await run(life, "purge-old-deleted", run_id="short", days=89)
    granted = await run(life, "purge-old-deleted", run_id="granted", days=89, approve="me")

    assert short.error is not None
    assert granted.error is not None
    assert (short.error["type"], granted.error["type"]) == ("ApprovalNeeded", "NotFound")
    assert await sql.fetchval(LEFT) == 10


@pytest.mark.parametrize("asked", [{"table": "project"}, {"policy": "nope"}, {"table": "public.run"}])
async def test_a_table_needs_a_policy(life: Life, asked: dict[str, str]) -> None:
    ended = await run(life, "purge-old-deleted", **asked)
    assert ended.error is not None
    assert ended.error["type"] == "NotFound"
    assert "old-deleted-tasks (public.task)" in ended.error["message"]


@pytest.mark.parametrize("asked", [{"table": "task"}, {"table": "public.task"}, {"policy": "old-deleted-tasks"}])
async def test_the_policy_is_found_by_its_name_and_by_its_table(
    life: Life, sql: asyncpg.Connection, asked: dict[str, str]
) -> None:
    await people.people(sql)
    await people.many(sql, 10, deleted_every=1)
    ended = await run(life, "purge-old-deleted", **asked)
    assert ended.result is not None
    assert ended.result["purged"] == 10


async def test_rows_that_others_hold_are_left_counted_and_said(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    async with sql.transaction():
        await sql.execute("SELECT 1 FROM task WHERE id IN (2, 500, 1000) FOR UPDATE")
        ended = await run(life, "purge-old-deleted")

    assert ended.result is not None
    assert (ended.result["purged"], ended.result["remaining"]) == (497, True)
    assert ended.result["skipped"] == {"locked": 3, "held": 0, "blocked": 0, "slow": 0}
    assert ended.result["reason"] == "3 rows are locked by others"
    assert await sql.fetchval(OVERDUE) == 3


CUTOFF = datetime.now(UTC) - timedelta(days=90)
ELIGIBLE = Eligible(TASKS, TIMESTAMPTZ, CUTOFF.isoformat())
RESTORED, LEFT_ALONE = "id BETWEEN 1 AND 1000", "id BETWEEN 1001 AND 2000"


def _by_range() -> Change:
    return windows.delete(ELIGIBLE, windows.between(Place(0), Place(1000)))


def _by_list() -> Change:
    places = [Place(block, pointer) for block in range(150) for pointer in range(1, 120)]
    return windows.delete(ELIGIBLE, windows.listed(places))


def _by_values() -> Change:
    span = Span(Bound("-infinity", inclusive=True), Bound(CUTOFF.isoformat(), inclusive=False))
    return windows.delete(ELIGIBLE, windows.within(ELIGIBLE, span))


def _without_the_repeated_condition() -> Change:
    """What a loop over chosen keys says: the condition is looked at once, when they are chosen."""
    chosen = f"SELECT id FROM task WHERE deleted_at < '{ELIGIBLE.before}' AND $1::text[] IS NOT NULL"
    return replace(_by_range(), statement=f"DELETE FROM task WHERE id = ANY(ARRAY({chosen}))")


@pytest.mark.parametrize(
    ("change", "survivors"),
    [(_by_range, 1000), (_by_list, 1000), (_by_values, 1000), (_without_the_repeated_condition, 0)],
)
async def test_rows_that_are_restored_while_the_batch_waits_for_them_survive(
    database: Database, sql: asyncpg.Connection, change: Callable[[], Change], survivors: int
) -> None:
    """Two others hold 1,000 rows each, restored and not committed, when the batch reaches them: one commits, one rolls
    back. The batch then looks at the condition again. The last case is the control: it deletes all that were restored.
    """
    await people.people(sql)
    await people.many(sql, 5000, deleted_every=1)
    restoring, hesitating = [await asyncpg.connect(database.address.dsn) for _ in range(2)]
    transactions = [other.transaction() for other in (restoring, hesitating)]
    for transaction in transactions:
        await transaction.start()
    await restoring.execute(f"UPDATE task SET deleted_at = NULL WHERE {RESTORED}")
    await hesitating.execute(f"UPDATE task SET deleted_at = NULL WHERE {LEFT_ALONE}")

    async with database.tuned(lock_timeout="0") as connection:
        given = change()
        deleting = asyncio.create_task(connection.execute(given.statement, list(given.args)))
        await eventually(lambda: sql.fetchval("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)"))
        await transactions[0].commit()
        await transactions[1].rollback()
        await deleting
    await restoring.close()
    await hesitating.close()

    assert await sql.fetchval(f"SELECT count(*) FROM task WHERE {RESTORED}") == survivors
    assert await sql.fetchval(LEFT) == survivors


async def test_a_trigger_that_swallows_deletes_does_not_make_it_loop(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 100, deleted_every=2)
    await sql.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE TRIGGER swallow BEFORE DELETE ON task FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    ended = await run(life, "purge-old-deleted")

    assert ended.state == "succeeded"
    assert ended.result is not None
    assert (ended.result["purged"], ended.result["remaining"]) == (0, True)
    assert "trigger" in ended.result["reason"]


HELD = "project_id NOT IN (SELECT id FROM project WHERE archived_at > now())"
CHILDLESS = "(SELECT true FROM comment WHERE comment.task_id = task.id LIMIT 1) IS NULL"


@pytest.mark.parametrize(
    "where", [None, "true", "1 = 1", "now() > '2000-01-01'", "priority = 'high'", "id > 0", CHILDLESS, HELD]
)
async def test_the_block_range_drives_the_scan_whatever_the_statistics_say(
    life: Life, sql: asyncpg.Connection, where: str | None
) -> None:
    """Fresh, stale and missing statistics, with an index on each half of the condition; conditions that are constant,
    that an index answers, and that look at other tables, as those of children and holds do.

    Control: without IS TRUE, statistics from before a bulk update choose an index, which reads every eligible entry in
    every window.
    """
    await people.people(sql)
    await people.many(sql, 20_000)
    await sql.execute("CREATE INDEX ON task (priority)")
    await sql.execute("CREATE TABLE comment (id int PRIMARY KEY, task_id bigint REFERENCES task)")
    await sql.execute("INSERT INTO comment SELECT id, id FROM task WHERE id % 10 = 0")
    await sql.execute("CREATE INDEX ON comment (task_id)")
    await sql.execute("UPDATE task SET deleted_at = now() - interval '91 days', priority = 'high'")
    target = replace(OLD_DELETED_TASKS.target, where=where)
    assert await _scans(life, target) == {"Tid Range Scan"}
    await sql.execute("ANALYZE task, comment")
    assert await _scans(life, target) == {"Tid Range Scan"}
    await sql.execute("DELETE FROM pg_statistic WHERE starelid IN ('task'::regclass, 'comment'::regclass)")
    await sql.execute("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relname IN ('task', 'comment')")
    assert await _scans(life, target) == {"Tid Range Scan"}


async def _scans(life: Life, target: Target) -> set[str]:
    """How the very statements of a window read the table: the plain one and those past locks.

    As a generic query plan and as one for the values at hand: PostgreSQL may take either.
    """
    part = windows.between(Place(0), Place(100))
    changes = [
        windows.delete(replace(ELIGIBLE, target=target), part),
        windows.delete(replace(ELIGIBLE, target=target), part, skip_locked=True),
    ]
    scans = set()
    async with life.database.autocommit() as connection:
        for change in changes:
            args = ", ".join(f"'{value}'" for value in change.args)
            await connection.execute(f"PREPARE of_window (text[]) AS {change.statement}")
            for mode in ("force_generic_plan", "force_custom_plan"):
                await connection.execute(f"SET plan_cache_mode = {mode}")
                asked = f"EXPLAIN (FORMAT JSON) EXECUTE of_window (ARRAY[{args}])"
                scans |= set(_scans_of_task((await connection.fetchval(asked))[0]["Plan"]))
            await connection.execute("DEALLOCATE of_window; RESET plan_cache_mode")
    return scans


def _scans_of_task(plan: dict[str, Any]) -> Iterator[str]:
    if plan.get("Relation Name") == "task" and plan["Node Type"] != "ModifyTable":
        yield plan["Node Type"]
    for child in plan.get("Plans", []):
        yield from _scans_of_task(child)


async def test_without_the_task_tables_the_run_says_what_to_do(life: Life, sql: asyncpg.Connection) -> None:
    await sql.execute("DROP TABLE task, project, worker CASCADE")
    purge = await run(life, "purge-old-deleted", run_id="purge")
    mark = await run(life, "mark-completed", run_id="mark", task_ids=[1], requested_by=1)
    for ended in (purge, mark):
        assert ended.error is not None
        assert "lowtide migrate --with-tasks" in ended.error["message"]


async def test_two_runs_never_purge_one_table_at_once(life: Life, sql: asyncpg.Connection) -> None:
    """The second waits in the queue, and says for which; a dry run waits for nobody, and nobody for it."""
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    for run_id in ("first", "second"):
        await accept(life, "purge-old-deleted", run_id)
    await accept(life, "purge-old-deleted", "dry", dry_run=True)
    await sql.execute(
        "UPDATE lowtide.run SET state = 'running', lease_until = now() + interval '1 h', target = 'public.task', "
        "started_at = now() WHERE id = 'first'"
    )
    assert isinstance(await life.serve("second"), Again)
    waiting = await row(life, "second")
    assert (waiting.state, waiting.wait_reason) == ("queued", "run first purges public.task now: one at a time")
    await life.serve("dry")
    assert (await row(life, "dry")).state == "succeeded"

    await sql.execute("UPDATE lowtide.run SET lease_until = now() - interval '1 s' WHERE id = 'first'")
    await sql.execute("UPDATE lowtide.run SET not_before = now() WHERE id = 'second'")
    await serve_to_the_end(life, "second")
    assert (await row(life, "second")).rows_done == 500


async def test_of_two_that_begin_together_one_purges_first(
    database: Database, life: Life, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)
    for run_id in ("a", "b"):
        await accept(life, "purge-old-deleted", run_id)
    endings = await asyncio.gather(life.serve("a"), life.serve("b"))
    rows = [(await row(life, run_id)).rows_done for run_id in ("a", "b")]
    assert (sorted(rows), sum(isinstance(ending, Again) for ending in endings)) == ([0, 10_000], 1)
