"""lowtide's own tables, cleaned by policies of its own through the same sweep."""

import asyncpg
import pytest

from db.engine import Database
from jobs.catalog import jobs
from jobs.failures import NotFound
from jobs.life import Life
from jobs.policies import DEFAULT, OWN, Policies
from jobs.purge_payload import PurgeOldDeleted, policy_for
from tests.ledger import run

POLICIES = Policies(DEFAULT).every


async def ended(sql: asyncpg.Connection, name: str, state: str, ago: str, *, runs: int = 1) -> None:
    await sql.execute(
        "INSERT INTO lowtide.run (id, job, payload, requested_by, state, finished_at) "
        "SELECT $1 || n, 'mark-completed', '{}', 'test', $2, now() - $3::text::interval FROM generate_series(1, $4) n",
        *(name, state, ago, runs),
    )


async def clean(database: Database, policy: str, run_id: str = "clean") -> int:
    life = Life(database, jobs(POLICIES), worker="test")
    done = await run(life, "purge-old-deleted", run_id, policy=policy)
    assert done.error is None, done.error
    return done.rows_done


async def left(sql: asyncpg.Connection) -> set[str]:
    return {row["id"] for row in await sql.fetch("SELECT id FROM lowtide.run WHERE id <> 'clean'")}


async def test_finished_runs_go_after_30_days_and_failed_ones_after_90(
    database: Database, sql: asyncpg.Connection
) -> None:
    for state in ("succeeded", "cancelled", "failed"):
        await ended(sql, f"{state} older ", state, "91 days")
        await ended(sql, f"{state} old ", state, "31 days")
        await ended(sql, f"{state} new ", state, "29 days")
    await sql.execute(
        "INSERT INTO lowtide.run (id, job, payload, requested_by, created_at) "
        "VALUES ('waits', 'mark-completed', '{}', 'test', now() - interval '1 year')"
    )

    assert await clean(database, "lowtide-runs") == 4
    kept = {"succeeded new 1", "cancelled new 1", "failed older 1", "failed old 1", "failed new 1", "waits"}
    assert await left(sql) == kept

    await sql.execute("DELETE FROM lowtide.run WHERE id = 'clean'")
    assert await clean(database, "lowtide-failed-runs") == 1
    assert await left(sql) == kept - {"failed older 1"}


async def test_plans_go_after_30_days_with_what_they_have_counted(database: Database, sql: asyncpg.Connection) -> None:
    for name, ago in (("old", "31 days"), ("new", "29 days")):
        await sql.execute(
            "INSERT INTO lowtide.plan (run_id, policy, policy_sha256, target, keep, cutoff, counts, plan_sha256, "
            "made_at) VALUES ($1, 'p', '', 't', '1 day', now(), '{}', '', now() - $2::text::interval)",
            *(name, ago),
        )
    assert await clean(database, "lowtide-plans") == 1
    assert await sql.fetchval("SELECT run_id FROM lowtide.plan") == "new"


async def test_a_busy_day_of_a_month_ago_is_no_mistake(database: Database, sql: asyncpg.Connection) -> None:
    """Control: weighed as others are, it was refused with TooMuchWouldGo, by the median of the runs before."""
    for number in range(3):
        await sql.execute(
            "INSERT INTO lowtide.run (id, job, payload, requested_by, state, finished_at, policy, rows_done, result) "
            "VALUES ($1, 'purge-old-deleted', '{}', 'test', 'succeeded', now(), 'lowtide-runs', 10, '{}')",
            f"clean {number}",
        )
    await ended(sql, "old ", "succeeded", "31 days", runs=12_000)
    await sql.execute("ANALYZE lowtide.run")
    assert await clean(database, "lowtide-runs") == 12_000


def test_a_table_of_that_name_elsewhere_is_not_mixed_up_with_the_ledgers() -> None:
    with pytest.raises(NotFound):
        policy_for(PurgeOldDeleted(table="run"), POLICIES)
    assert policy_for(PurgeOldDeleted(policy="lowtide-runs"), POLICIES) is OWN[0]
    assert policy_for(PurgeOldDeleted(), POLICIES) is DEFAULT[0]
