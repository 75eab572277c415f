"""`lowtide plan` and `lowtide approve`, from outside."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from arq.connections import ArqRedis

from tests import people
from tests.contract.cli import Done, lowtide
from worker.embedded import Companion, Valkey

POLICY = "old-deleted-tasks"
LEFT = "SELECT count(*) FROM task"


async def overdue(sql: asyncpg.Connection, rows: int) -> None:
    await people.people(sql)
    await people.many(sql, rows, deleted_every=1)


async def worked(database_url: str, valkey: Valkey) -> Done:
    return await lowtide("worker", "--burst", database_url=database_url, redis_url=valkey.url)


async def test_a_refused_purge_goes_when_its_plan_is_approved(
    database_url: str, sql: asyncpg.Connection, valkey: Valkey, redis: ArqRedis
) -> None:
    """The whole way of an operator, with the commands that the refusal names."""
    await overdue(sql, 12_000)
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'night')")
    assert (await worked(database_url, valkey)).code == 1
    error = await sql.fetchval("SELECT error ->> 'message' FROM lowtide.run")
    assert f"`lowtide plan {POLICY}`" in error
    assert await sql.fetchval(LEFT) == 12_000

    planned = await lowtide("plan", POLICY, "--json", database_url=database_url)
    assert planned.code == 0, planned.err
    told = planned.json
    assert (told["going"], told["rows"], told["share"], len(told["sample"])) == (12_000, 12_000, 1.0, 5)
    approved = await lowtide("approve", told["plan"], "--yes", "--json", database_url=database_url)
    assert approved.code == 0, approved.err
    assert (approved.json["plan"], approved.json["going"]) == (told["plan"], 12_000)
    assert "12,000 of 12,000 rows (100.0%)" in approved.err

    assert (await worked(database_url, valkey)).code == 0
    assert await sql.fetchval(LEFT) == 0
    again = await lowtide("approve", told["plan"], "--yes", "--json", database_url=database_url)
    assert (again.code, again.json["error"]["type"]) == (1, "ApprovalSpent")


async def test_a_plan_is_shown_to_people(database_url: str, sql: asyncpg.Connection) -> None:
    """It needs no worker, and stores no row."""
    await overdue(sql, 10)
    await sql.execute("UPDATE task SET title = E'[red]\\x1b[31m evil'")
    shown = await lowtide("plan", POLICY, database_url=database_url)
    run_id = await sql.fetchval("SELECT run_id FROM lowtide.plan")
    assert shown.code == 0, shown.err
    assert f"plan         {run_id}\n" in shown.out
    assert "would go     10 of 10 rows (100.0%)\n" in shown.out
    assert "[red]�[31m evil" in shown.out
    assert "\x1b" not in shown.out
    assert f"`lowtide approve {run_id}`" in shown.err
    assert "evil" not in await sql.fetchval(
        "SELECT string_agg(r::text || p::text, '') FROM lowtide.run r, lowtide.plan p"
    )

    without = await lowtide("plan", POLICY, "--no-sample", database_url=database_url)
    assert "evil" not in without.out


async def test_fewer_days_are_planned_and_approved(
    database_url: str, sql: asyncpg.Connection, valkey: Valkey, redis: ArqRedis
) -> None:
    await people.people(sql)
    await people.many(sql, 10, deleted_every=1, days_ago=10)
    planned = await lowtide("plan", POLICY, "--days", "5", "--pace", "full", "--json", database_url=database_url)
    done = await lowtide("approve", planned.json["plan"], "--yes", database_url=database_url)
    run = await sql.fetchrow("SELECT id, payload ->> 'pace' AS pace FROM lowtide.run ORDER BY created_at DESC LIMIT 1")
    assert (done.code, done.out, run["pace"]) == (0, f"{run['id']}\n", "full")
    assert (await worked(database_url, valkey)).code == 0
    assert await sql.fetchval(LEFT) == 0


async def test_approve_waits_where_it_is_asked_to(
    database_url: str, sql: asyncpg.Connection, valkey: Valkey, redis: ArqRedis
) -> None:
    await overdue(sql, 10)
    planned = await lowtide("plan", POLICY, "--json", database_url=database_url)
    approving = asyncio.create_task(
        lowtide("approve", planned.json["plan"], "--yes", "--wait", database_url=database_url, redis_url=valkey.url)
    )
    while not approving.done():
        await worked(database_url, valkey)
    done = approving.result()
    assert done.code == 0, done.err
    assert "succeeded" in done.err


BLOCK = '[[policy]]\nname = "{}"\ntable = "task"\ncolumn = "deleted_at"\nkeep = "{}"\n'


@pytest.mark.parametrize("as_json", [[], ["--json"]])
async def test_a_worker_with_another_policy_file_is_told(
    database_url: str, sql: asyncpg.Connection, valkey: Valkey, tmp_path: Path, as_json: list[str]
) -> None:
    """What it counts nobody could approve from here.

    Seen to fail without the comparison: the plan was shown, and each `approve` said that the policy has changed.
    """
    await overdue(sql, 10)
    theirs, ours = tmp_path / "theirs.toml", tmp_path / "ours.toml"
    theirs.write_text(BLOCK.format("x", "90 days"))
    ours.write_text(BLOCK.format("x", "30 days") + 'where = "true"\n' + BLOCK.format("new", "30 days"))
    settings = {"database_url": database_url, "redis_url": valkey.url}
    async with Companion(**settings, policies=str(theirs), tick="0.2") as worker:
        changed = await lowtide("plan", "x", *as_json, **settings, policies=str(ours))
        unknown = await lowtide("plan", "new", *as_json, **settings, policies=str(ours))
        same = await lowtide("plan", "x", *as_json, **settings, policies=str(theirs))
        await worker.stop()
    told = "the worker that counted has another policy file than this terminal: restart the workers (or use theirs)"
    assert (changed.code, told in (changed.out if as_json else changed.err)) == (1, True), changed.err
    assert changed.json["error"]["type"] == "OtherPolicies" if as_json else changed.out == ""
    assert unknown.code == 1
    assert "there is no policy 'new'" in unknown.err
    assert "The worker that took it has another policy file than this terminal: restart the workers" in unknown.err
    assert (same.code, "another policy file" in same.err) == (0, False)


async def test_nothing_is_approved_without_a_yes(database_url: str, sql: asyncpg.Connection) -> None:
    await overdue(sql, 10)
    planned = await lowtide("plan", POLICY, "--json", database_url=database_url)
    done = await lowtide("approve", planned.json["plan"], stdin="y\n", database_url=database_url)
    assert (done.code, done.out) == (2, "")
    assert "add --yes" in done.err
    assert await sql.fetchval("SELECT approved_by FROM lowtide.plan") is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["plan", "nope"], 2, "known: old-deleted-tasks (public.task)"),
        (["plan", POLICY, "--days", "0"], 2, "--days"),
        (["plan", POLICY, "--days", "nan"], 2, "--days"),
        (["plan", POLICY, "--pace", "wild"], 2, "--pace"),
        (["approve", "nope", "--yes"], 1, 'there is no run "nope"'),
        (["approve", "other", "--yes"], 1, "is no dry run"),
        (["approve", "failed", "--yes"], 1, "is failed: only one that has succeeded"),
    ],
)
async def test_wrong_input_is_refused(
    database_url: str, sql: asyncpg.Connection, arguments: list[str], code: int, said: str
) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'other')")
    await sql.execute("""SELECT lowtide.enqueue('purge-old-deleted', '{"dry_run": true}', 'failed')""")
    await sql.execute("UPDATE lowtide.run SET state = 'failed', finished_at = now() WHERE id = 'failed'")
    done = await lowtide(*arguments, database_url=database_url)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err


async def test_a_plan_that_can_not_be_made_says_why(empty_url: str) -> None:
    await lowtide("migrate", database_url=empty_url)
    done = await lowtide("plan", POLICY, "--json", database_url=empty_url)
    assert (done.code, done.json["error"]["type"]) == (1, "TasksMissing")
    assert "lowtide migrate --with-tasks" in done.err
    assert (await lowtide("plan", POLICY, database_url="postgresql://127.0.0.1:1/x")).code == 3
