"""Plans and approvals: what was counted may go once, within an hour, and no row more."""

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from db import steering
from db.engine import Database
from db.models import Run
from jobs import plans
from jobs.catalog import jobs
from jobs.endings import Again
from jobs.failures import ApprovalSpent, NotAllowed, NotFound, PlanStale, Refused
from jobs.life import Life
from jobs.policies import Policy
from jobs.samples import sample
from tests.eventually import eventually
from tests.jobs.test_blast import POLICY, earlier, left, life_with, refusal, table
from tests.ledger import accept, row, run, serve_to_the_end


async def planned(life: Life, run_id: str = "plan", **asked: Any) -> dict[str, Any]:
    ended = await run(life, "purge-old-deleted", run_id, policy="t", dry_run=True, **asked)
    assert ended.result is not None, ended.error
    return ended.result


async def approve(database: Database, plan_id: str = "plan", run_id: str = "run", policy: Policy = POLICY) -> None:
    async with database.sessions.begin() as session:
        await plans.approve(session, plan_id, (policy,), by="operator:test", run_id=run_id)


async def ended_by(life: Life, run_id: str = "run") -> Run:
    await serve_to_the_end(life, run_id)
    return await row(life, run_id)


async def test_a_dry_run_counts_and_keeps_a_plan(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=15_000, live=5_000)
    result = await planned(life_with(database))

    assert (result["eligible"], result["going"], result["rows"], result["share"]) == (15_000, 15_000, 20_000, 0.75)
    assert (result["held"], result["blocked"], result["children"], result["plan"]) == (0, 0, {}, "plan")
    assert result["needs_approval"] == "15,000 of the 20,000 rows of public.t: 75.0%, over its max_share of 60.0%"
    kept = await sql.fetchrow("SELECT * FROM lowtide.plan")
    assert (kept["run_id"], kept["policy"], kept["policy_sha256"]) == ("plan", "t", POLICY.digest)
    assert kept["cutoff"] == await sql.fetchval("SELECT cutoff FROM lowtide.run")
    assert (kept["approved_by"], kept["used_by_run"]) == (None, None)


async def test_what_is_too_much_goes_once_it_is_approved(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=20_000, live=0)
    life = life_with(database)
    await planned(life, pace="full")
    await approve(database)
    ended = await ended_by(life)
    assert (ended.state, ended.rows_done, ended.pace, await left(sql)) == ("succeeded", 20_000, "full", 0)
    assert await sql.fetchval("SELECT used_by_run FROM lowtide.plan") == "run"
    assert await sql.fetchval("SELECT requested_by FROM lowtide.audit WHERE event = 'approve'") == "operator:test"


async def test_it_goes_with_the_plans_cutoff_and_at_most_its_rows(database: Database, sql: asyncpg.Connection) -> None:
    """Later rows, and ones that were put in with an old date, stay. An operator can't raise the number."""
    await table(sql, gone=12_000, live=0)
    life = life_with(database)
    await planned(life)
    cutoff = await sql.fetchval("SELECT cutoff FROM lowtide.plan")
    await sql.execute("INSERT INTO t SELECT -n, $1 FROM generate_series(1, 10) n", cutoff)
    await sql.execute("INSERT INTO t SELECT -n, '2001-01-01' FROM generate_series(11, 15) n")
    await approve(database)
    async with database.sessions.begin() as session:
        await steering.wish(session, "run", jobs=["purge-old-deleted"], pace=None, max_rows=10**9, max_seconds=None)
    ended = await ended_by(life)
    assert ended.result is not None
    assert (ended.rows_done, ended.result["remaining"], await left(sql)) == (12_000, True, 15)
    assert await sql.fetchval("SELECT count(DISTINCT cutoff) FROM lowtide.run") == 1


async def test_fewer_days_than_the_policy_keeps_go_with_an_approval(
    database: Database, sql: asyncpg.Connection
) -> None:
    await table(sql, gone=10, live=10)
    await sql.execute("UPDATE t SET gone_at = now() - interval '10 days'")
    life = life_with(database)
    short = await run(life, "purge-old-deleted", "short", policy="t", days=5)
    assert refusal(short)["type"] == "ApprovalNeeded"
    assert "`lowtide plan t --days 5`" in refusal(short)["message"]

    assert (await planned(life, days=5))["going"] == 20
    await approve(database)
    other = await run(life, "purge-old-deleted", "other", policy="t", days=6, approve="plan")
    assert "is for what is older than 5 days" in refusal(other)["message"]
    assert ((await ended_by(life)).rows_done, await left(sql)) == (20, 0)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ("UPDATE lowtide.run SET id = 'other'", NotFound, 'there is no run "plan"'),
        ("UPDATE lowtide.run SET payload = '{}' WHERE id = 'plan'", NotAllowed, "is no dry run"),
        ("UPDATE lowtide.run SET state = 'queued', finished_at = NULL", NotAllowed, "is queued"),
        ("DELETE FROM lowtide.plan", NotFound, "has left no plan"),
        ("UPDATE lowtide.plan SET made_at = now() - interval '25 hours'", PlanStale, "older than 24 hours"),
        ("UPDATE lowtide.plan SET policy_sha256 = 'x'", PlanStale, "policy 't' has changed since"),
        ("UPDATE lowtide.plan SET cutoff = now()", PlanStale, "is not what its dry run has written"),
        ("""UPDATE lowtide.plan SET counts = counts || '{"going": 9}'""", PlanStale, "is not what its dry run"),
        ("UPDATE lowtide.plan SET policy = 'gone'", NotFound, "which is not there any more"),
    ],
)
async def test_what_can_not_be_approved_is_said(
    database: Database, sql: asyncpg.Connection, change: str, error: type[Refused], said: str
) -> None:
    await table(sql, gone=10, live=10)
    await planned(life_with(database))
    await sql.execute(change)
    with pytest.raises(error, match=said):
        await approve(database)
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 1


async def test_a_plan_is_approved_once(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=10, live=10)
    await planned(life_with(database))
    await approve(database)
    with pytest.raises(ApprovalSpent, match="approved already, by operator:test"):
        await approve(database, run_id="again")
    await ended_by(life_with(database))
    with pytest.raises(ApprovalSpent, match="was used by run 'run', and works once"):
        await approve(database, run_id="again")
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 2


async def test_nothing_that_would_go_is_nothing_to_approve(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=0, live=10)
    await planned(life_with(database))
    with pytest.raises(NotAllowed, match="nothing to approve"):
        await approve(database)


@pytest.mark.parametrize(
    ("change", "type_", "said"),
    [
        ("DELETE FROM lowtide.plan", "NotFound", "a payload can use one, never grant one"),
        (
            "UPDATE lowtide.plan SET approved_by = NULL, approved_at = NULL, approval_until = NULL",
            "ApprovalNeeded",
            "`lowtide approve plan` does it",
        ),
        ("UPDATE lowtide.plan SET approval_until = now()", "ApprovalSpent", "has ended after an hour, unused"),
        ("UPDATE lowtide.plan SET used_by_run = 'other', used_at = now()", "ApprovalSpent", "by run 'other'"),
        ("UPDATE lowtide.plan SET policy = 'other'", "NotAllowed", "is one of policy 'other'"),
        ("UPDATE lowtide.plan SET cutoff = now()", "PlanStale", "is not what its dry run has written"),
    ],
)
async def test_a_run_without_a_standing_approval_deletes_nothing(
    database: Database, sql: asyncpg.Connection, change: str, type_: str, said: str
) -> None:
    await table(sql, gone=20_000, live=0)
    life = life_with(database)
    await planned(life)
    await approve(database)
    await sql.execute(change)
    told = refusal(await ended_by(life))
    assert (told["type"], await left(sql)) == (type_, 20_000)
    assert said in told["message"]


async def test_commands_in_messages_are_ready_for_a_shell(database: Database, sql: asyncpg.Connection) -> None:
    """Ids and names come from others: pasted, none of them may be a second command."""
    await table(sql, gone=10, live=10)
    name, plan_id = "nightly $(reboot)", "x; rm -rf it's"
    policy = replace(POLICY, name=name)
    life = Life(database, jobs((policy,)), worker="test", lease=timedelta(seconds=2))
    await run(life, "purge-old-deleted", plan_id, policy=name, dry_run=True)
    await accept(life, "purge-old-deleted", "purge", policy=name, approve=plan_id)
    told = refusal(await ended_by(life, "purge"))
    assert """`lowtide approve 'x; rm -rf it'"'"'s'` does it""" in told["message"]

    await sql.execute("UPDATE lowtide.plan SET made_at = now() - interval '25 hours'")
    with pytest.raises(PlanStale, match=re.escape("make a new one with `lowtide plan 'nightly $(reboot)'`")):
        async with database.sessions.begin() as session:
            await plans.approve(session, plan_id, (policy,), by="me", run_id="purge")


async def test_a_policy_that_has_changed_since_ends_the_approval(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=20_000, live=0)
    await planned(life_with(database))
    await approve(database)
    told = refusal(await ended_by(life_with(database, max_share=0.5)))
    assert (told["type"], await left(sql)) == ("PlanStale", 20_000)


async def test_of_two_runs_with_one_approval_one_goes(database: Database, sql: asyncpg.Connection) -> None:
    """Started at the same moment, ten times. Control: read without the lock on the plan's row, both went."""
    await table(sql, gone=200, live=0)
    for number in range(10):
        await sql.execute("TRUNCATE lowtide.plan; UPDATE t SET gone_at = now() - interval '100 days'")
        life = life_with(database)
        plan, one, two = f"plan {number}", f"one {number}", f"two {number}"
        await planned(life, plan, max_rows=10)
        await approve(database, plan, one)
        await accept(life, "purge-old-deleted", two, policy="t", approve=plan)
        await asyncio.gather(serve_to_the_end(life, one), serve_to_the_end(life, two))
        ended = [await row(life, each) for each in (one, two)]
        assert sorted(each.state for each in ended) == ["failed", "succeeded"]
        assert sorted(each.rows_done for each in ended) == [0, 10]
        assert {each.error["type"] for each in ended if each.error} == {"ApprovalSpent"}


async def test_after_a_crash_the_same_run_goes_on_with_its_approval(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Also when the hour is over by then. Its worker died between taking the approval and the first delete."""
    await table(sql, gone=20_000, live=0)
    life = life_with(database)
    await planned(life)
    await approve(database)
    async with sql.transaction():
        await sql.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        assert isinstance(await life.serve("run"), Again)
    await sql.execute("UPDATE lowtide.plan SET approval_until = now()")
    await sql.execute(
        "UPDATE lowtide.run SET state = 'running', lease_until = now() - interval '1 s', not_before = now() "
        "WHERE id = 'run'"
    )
    ended = await ended_by(life)
    assert (ended.state, ended.rows_done) == ("succeeded", 20_000)


async def test_a_crash_before_the_approval_is_taken_leaves_it_to_be_taken(
    database: Database, sql: asyncpg.Connection
) -> None:
    await table(sql, gone=20_000, live=0)
    life = life_with(database)
    await planned(life)
    await approve(database)
    await sql.execute(
        "UPDATE lowtide.run SET state = 'running', lease_until = now() - interval '1 s', started_at = now(), "
        "attempt = 1 WHERE id = 'run'"
    )
    assert (await ended_by(life)).rows_done == 20_000


async def test_an_approved_run_is_not_retried_from_the_start(database: Database, sql: asyncpg.Connection) -> None:
    """It would forget what it has deleted already, and delete as much again."""
    await table(sql, gone=10, live=10)
    life = life_with(database)
    await planned(life)
    await approve(database)
    async with database.sessions.begin() as session:
        assert await steering.cancel(session, "run")
        assert not await steering.retry(session, "run", from_start=True)
        assert await steering.retry(session, "run", from_start=False)


async def test_another_run_of_the_same_id_can_not_use_an_approval_again(
    database: Database, sql: asyncpg.Connection
) -> None:
    await table(sql, gone=20_000, live=0)
    life = life_with(database)
    await planned(life)
    await approve(database)
    assert (await ended_by(life)).rows_done == 20_000
    await sql.execute("DELETE FROM lowtide.run")
    await sql.execute("INSERT INTO t SELECT n, now() - interval '100 days' FROM generate_series(1, 20000) n")
    await accept(life, "purge-old-deleted", "run", policy="t", approve="plan")
    again = await ended_by(life)
    assert again.error is not None
    assert (again.error["type"], again.rows_done) == ("ApprovalSpent", 0)


async def test_a_plan_says_what_one_run_may_delete_and_weighs_that(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=20_000, live=0)
    await earlier(sql, *[10] * 7)
    life = life_with(database, max_rows=11_000)
    result = await planned(life)
    assert (result["eligible"], result["going"]) == (20_000, 11_000)
    assert "3 times" in result["needs_approval"]
    await approve(database, policy=replace(POLICY, max_rows=11_000))
    assert (await ended_by(life)).rows_done == 11_000


async def test_a_dry_run_that_is_served_twice_leaves_one_plan(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=10, live=10)
    life = life_with(database)
    await accept(life, "purge-old-deleted", "plan", policy="t", dry_run=True)
    await asyncio.gather(life.serve("plan"), life.serve("plan"))
    await eventually(lambda: sql.fetchval("SELECT state = 'succeeded' FROM lowtide.run"))
    assert await sql.fetchval("SELECT count(*) FROM lowtide.plan") == 1


async def test_a_dry_run_has_nothing_to_approve(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=10, live=10)
    ended = await run(life_with(database), "purge-old-deleted", policy="t", dry_run=True, approve="x")
    assert refusal(ended)["type"] == "InvalidPayload"


async def test_a_sample_has_the_oldest_rows_cut_short(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE t (story text, id int PRIMARY KEY, gone_at timestamptz)")
    await sql.execute(
        "INSERT INTO t SELECT repeat('x', 50), n, now() - make_interval(days => n) FROM generate_series(85, 100) n"
    )
    cutoff = await sql.fetchval("SELECT now() - interval '90 days'")
    rows = await sample(database, POLICY, cutoff)
    assert isinstance(rows, list)
    assert [row["id"] for row in rows] == ["100", "99", "98", "97", "96"]
    assert (list(rows[0]), rows[0]["story"]) == (["id", "gone_at", "story"], "x" * 40)


async def test_a_sample_that_can_not_be_had_says_why(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=10, live=0)
    target = replace(POLICY.target, where="1 / (id - 5) > 7")
    cutoff = await sql.fetchval("SELECT now() - interval '90 days'")
    assert await sample(database, replace(POLICY, target=target), cutoff) == "division by zero"


async def test_the_life_of_one_policy_knows_nothing_of_another_ones_plan(
    database: Database, sql: asyncpg.Connection
) -> None:
    await table(sql, gone=10, live=0)
    await planned(life_with(database))
    await approve(database)
    other = Life(database, jobs((replace(POLICY, name="u"),)), worker="test", lease=timedelta(seconds=2))
    told = refusal(await run(other, "purge-old-deleted", "stolen", policy="u", approve="plan"))
    assert (told["type"], await left(sql)) == ("NotAllowed", 10)


async def test_what_goes_along_and_what_stays_is_counted_too(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=10, live=10)
    await sql.execute(
        "ALTER TABLE t ADD PRIMARY KEY (id); CREATE TABLE c (t_id int REFERENCES t); CREATE INDEX ON c (t_id); "
        "INSERT INTO c SELECT n % 5 + 1 FROM generate_series(1, 30) n; "
        "CREATE TABLE d (t_id int REFERENCES t); CREATE INDEX ON d (t_id); INSERT INTO d VALUES (9), (10)"
    )
    result = await planned(life_with(database, children={"c": "delete", "d": "block"}))
    assert (result["going"], result["blocked"], result["children"]) == (8, 2, {"public.c": 30})
    undeclared = await planned(life_with(database), "undeclared")
    assert (undeclared["going"], "public.c points to it" in undeclared["refused"]) == (10, True)
