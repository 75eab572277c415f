"""The blast radius: a purge that would delete unusually much deletes nothing, and says what to run."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from db import steering
from db.engine import Database
from db.models import Run
from db.targets import Target
from jobs import blast
from jobs.blast import LEAST_ROWS, broken_rule
from jobs.catalog import jobs
from jobs.life import Life
from jobs.policies import Policy
from tests.jobs.test_sweep import _slow_trigger, another
from tests.ledger import accept, row, run, serve_to_the_end

POLICY = Policy("t", Target("public", "t", "gone_at"), keep=timedelta(days=90), vacuum_share=None)


def life_with(database: Database, **rules: Any) -> Life:
    return Life(database, jobs((replace(POLICY, **rules),)), worker="test", lease=timedelta(seconds=2))


async def table(sql: asyncpg.Connection, *, gone: int, live: int) -> None:
    await sql.execute("CREATE TABLE t (id int, gone_at timestamptz)")
    await sql.execute(
        "INSERT INTO t SELECT n, CASE WHEN n <= $1 THEN now() - interval '100 days' END "
        "FROM generate_series(1, $1::int + $2::int) n",
        gone,
        live,
    )
    await sql.execute("CREATE INDEX ON t (gone_at) WHERE gone_at IS NOT NULL; ANALYZE t")


async def earlier(sql: asyncpg.Connection, *rows: int, result: str = "{}", payload: str = "{}") -> None:
    """Purges of the policy that have succeeded, the oldest first."""
    for number, deleted in enumerate(rows):
        await sql.execute(
            "INSERT INTO lowtide.run (id, job, payload, requested_by, policy, state, rows_done, result, finished_at) "
            "VALUES ($1, 'purge-old-deleted', $2, 'test', 't', 'succeeded', $3, $4, now() + make_interval(secs => $5))",
            f"{payload} {result} {number}",
            payload,
            deleted,
            result,
            number,
        )


async def left(sql: asyncpg.Connection) -> int:
    rows: int = await sql.fetchval("SELECT count(*) FROM t")
    return rows


def refusal(ended: Run) -> dict[str, Any]:
    assert (ended.state, ended.rows_done, ended.batches) == ("failed", 0, 0)
    assert ended.error is not None
    return ended.error


@pytest.mark.parametrize(
    ("gone", "live", "goes"),
    [(9_999, 0, True), (10_000, 0, False), (12_000, 8_000, True), (12_001, 7_999, False), (12_001, 8_001, True)],
)
async def test_more_than_its_share_of_a_table_is_refused_from_10_000_rows_on(
    database: Database, sql: asyncpg.Connection, gone: int, live: int, goes: bool
) -> None:
    await table(sql, gone=gone, live=live)
    ended = await run(life_with(database), "purge-old-deleted", policy="t")
    assert await left(sql) == (live if goes else gone + live)
    if not goes:
        assert refusal(ended)["type"] == "TooMuchWouldGo"


async def test_the_refusal_says_how_much_which_rule_and_what_to_run(
    database: Database, sql: asyncpg.Connection
) -> None:
    await table(sql, gone=15_000, live=5_000)
    told = refusal(await run(life_with(database), "purge-old-deleted", policy="t"))
    assert told["message"] == (
        "policy t would delete 15,000 of the 20,000 rows of public.t: 75.0%, over its max_share of 60.0%. Nothing of "
        "it was deleted. If that is right, `lowtide plan t` shows what would go, and `lowtide approve PLAN` (the id "
        "that it prints) lets it go once"
    )
    assert told["detail"] == {
        "policy": "t",
        "table": "public.t",
        "would_go": 15_000,
        "table_rows": 20_000,
        "max_share": 0.6,
        "last_runs": [],
        "rule": "max_share",
        "commands": ["lowtide plan t", "lowtide approve PLAN"],
    }


@pytest.mark.parametrize(("before", "goes"), [((3_000,) * 7, False), ((4_000,) * 7, True), ((3_000,) * 2, True)])
async def test_more_than_three_times_the_usual_is_refused_where_there_is_a_usual(
    database: Database, sql: asyncpg.Connection, before: tuple[int, ...], goes: bool
) -> None:
    await table(sql, gone=11_000, live=50_000)
    await earlier(sql, *before)
    ended = await run(life_with(database), "purge-old-deleted", policy="t")
    assert await left(sql) == (50_000 if goes else 61_000)
    if not goes:
        assert "over 3 times the 3,000 rows that its last 7 runs deleted" in refusal(ended)["message"]


async def test_only_the_last_seven_ordinary_purges_make_the_usual(database: Database, sql: asyncpg.Connection) -> None:
    """Neither dry runs, nor what was approved, nor older ones: each of them alone would let it go."""
    await table(sql, gone=11_000, live=50_000)
    await earlier(sql, *[100_000] * 8, *[10] * 7)
    await earlier(sql, *[100_000] * 8, result='{"dry_run": true}')
    await earlier(sql, *[100_000] * 8, payload='{"approve": "x"}')
    told = refusal(await run(life_with(database), "purge-old-deleted", policy="t"))
    assert told["detail"]["last_runs"] == [10] * 7


@pytest.mark.parametrize(("max_rows", "goes"), [(9_999, True), (12_000, True), (12_001, False)])
async def test_a_run_is_weighed_by_what_it_may_delete(
    database: Database, sql: asyncpg.Connection, max_rows: int, goes: bool
) -> None:
    await table(sql, gone=20_000, live=0)
    ended = await run(life_with(database), "purge-old-deleted", policy="t", max_rows=max_rows)
    assert await left(sql) == (20_000 - max_rows if goes else 20_000)
    assert ended.state == ("succeeded" if goes else "failed")


@pytest.mark.parametrize(
    "statistics", ["UPDATE pg_class SET reltuples = -1, relpages = 0", "UPDATE pg_class SET reltuples = 1e9"]
)
async def test_the_planners_numbers_never_let_anything_pass(
    database: Database, sql: asyncpg.Connection, statistics: str
) -> None:
    """Never analyzed, and a thousand times too many."""
    await table(sql, gone=15_000, live=5_000)
    await sql.execute(f"{statistics} WHERE relname = 't'")
    assert refusal(await run(life_with(database), "purge-old-deleted", policy="t"))["detail"]["table_rows"] == 20_000


async def test_estimates_that_are_far_off_cost_a_second_count_and_nothing_else(
    database: Database, sql: asyncpg.Connection
) -> None:
    await table(sql, gone=12_000, live=50_000)
    await sql.execute("UPDATE pg_class SET reltuples = 1e9 WHERE relname = 't'")
    assert (await run(life_with(database), "purge-old-deleted", policy="t")).rows_done == 12_000


async def test_a_count_that_takes_too_long_is_refused(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blast, "LONGEST_COUNT", timedelta(seconds=1))
    await table(sql, gone=20_000, live=0)
    target = replace(POLICY.target, where="pg_sleep(0.001) IS NOT NULL")
    told = refusal(await run(life_with(database, target=target), "purge-old-deleted", policy="t"))
    assert (told["type"], await left(sql)) == ("CountFailed", 20_000)
    assert "CREATE INDEX CONCURRENTLY" in told["message"]
    assert "`lowtide plan t`" in told["message"]


async def test_a_count_that_fails_is_refused(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=20_000, live=0)
    target = replace(POLICY.target, where="1 / (id - 5) IS NOT NULL")
    told = refusal(await run(life_with(database, target=target), "purge-old-deleted", policy="t"))
    assert (told["type"], await left(sql)) == ("CountFailed", 20_000)
    assert "division by zero" in told["message"]


async def test_partitions_are_weighed_together_before_one_is_dropped(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Control: with the gate before batches alone, the old one was dropped."""
    await sql.execute("CREATE TABLE t (id int, gone_at timestamptz) PARTITION BY RANGE (gone_at)")
    for year in (2001, 2101):
        await sql.execute(
            f"CREATE TABLE t{year} PARTITION OF t FOR VALUES FROM ('{year}-01-01') TO ('{year + 1}-01-01')"
        )
        await sql.execute(f"INSERT INTO t SELECT n, '{year}-06-01' FROM generate_series(1, 20000) n")
    refused = await run(life_with(database, max_share=0.4), "purge-old-deleted", "refused", policy="t")
    assert (refusal(refused)["detail"]["would_go"], refusal(refused)["detail"]["table_rows"]) == (20_000, 40_000)
    ended = await run(life_with(database), "purge-old-deleted", policy="t")
    assert (ended.rows_done, await left(sql)) == (20_000, 20_000)


async def test_a_mistake_that_is_made_while_a_run_waits_is_weighed(database: Database, sql: asyncpg.Connection) -> None:
    """Control: weighed at its start alone, it deleted all 24,000."""
    await table(sql, gone=12_000, live=12_000)
    life = life_with(database)
    await accept(life, "purge-old-deleted", "run", policy="t")
    life.stopping.set()  # each slice is one batch
    await life.serve("run")
    life.stopping.clear()
    await sql.execute("UPDATE t SET gone_at = '2001-01-01'")
    await serve_to_the_end(life, "run")
    ended = await row(life, "run")
    assert ended.error is not None
    assert (ended.error["type"], 0 < ended.rows_done < 12_000) == ("TooMuchWouldGo", True)
    assert f"{ended.rows_done:,} of them are gone" in ended.error["message"]


async def test_a_limit_that_is_raised_while_it_works_is_weighed_too(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Control: weighed at its start alone, it deleted all 20,000."""
    await table(sql, gone=20_000, live=0)
    await _slow_trigger(sql, "0.0001")
    life = life_with(database)
    await accept(life, "purge-old-deleted", "run", policy="t", max_rows=9_000)
    life.stopping.set()
    while not (await row(life, "run")).rows_done:
        await life.serve("run")
    life.stopping.clear()
    async with database.sessions.begin() as session:
        assert await steering.wish(
            session, "run", jobs=["purge-old-deleted"], pace=None, max_rows=1_000_000, max_seconds=None
        )
    await serve_to_the_end(life, "run")
    ended = await row(life, "run")
    assert ended.error is not None
    assert ended.error["type"] == "TooMuchWouldGo"
    assert 0 < ended.rows_done == 20_000 - await left(sql) < 9_000


async def test_a_table_that_somebody_locks_is_waited_for(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=12_000, live=12_000)
    life = life_with(database)
    await accept(life, "purge-old-deleted", "run", policy="t")
    async with another(database) as other, other.transaction():
        await other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        await life.serve("run")
        assert (await row(life, "run")).state == "queued"
    await serve_to_the_end(life, "run")
    assert (await row(life, "run")).rows_done == 12_000


@pytest.mark.parametrize("days", [0, -5, "NaN", "5", True, 4.5, 36_501])
async def test_days_that_make_no_sense_are_refused(database: Database, sql: asyncpg.Connection, days: Any) -> None:
    """NaN only as a text: jsonb has no word for it."""
    await table(sql, gone=10, live=0)
    ended = await run(life_with(database), "purge-old-deleted", policy="t", days=days)
    assert (refusal(ended)["type"], await left(sql)) == ("InvalidPayload", 10)
    assert refusal(ended)["detail"]["fields"][0]["field"] == "days"


def test_rules_at_their_edges() -> None:
    """At its limit a purge may go; a row more, and it may not. An empty table has no share."""
    usual = [LEAST_ROWS] * 7
    assert broken_rule(POLICY, going=30_000, rows=10**9, earlier=usual) is None
    assert broken_rule(POLICY, going=30_001, rows=10**9, earlier=usual) is not None
    assert broken_rule(POLICY, going=10_000, rows=0, earlier=[]) is not None
    assert broken_rule(replace(POLICY, max_share=1.0), going=10_000, rows=10_000, earlier=[]) is None


async def test_a_change_of_the_last_moment_is_weighed(database: Database, sql: asyncpg.Connection) -> None:
    """Control: with statistics as evidence, and the rows counted that were changed since, all of them went: the counter
    of changes comes seconds late."""
    await table(sql, gone=0, live=20_000)
    await sql.execute("UPDATE t SET gone_at = '2001-01-01'")
    assert refusal(await run(life_with(database), "purge-old-deleted", policy="t"))["type"] == "TooMuchWouldGo"
