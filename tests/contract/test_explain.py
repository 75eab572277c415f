"""`lowtide explain`, `lowtide pace` and `lowtide resume`, from outside."""

import asyncpg
import pytest

from tests import people
from tests.contract.cli import lowtide

PAYLOADS = {
    "create-batch": '{"project_id": 1, "created_by_id": 2, "tasks": [{"title": "one"}]}',
    "mark-completed": '{"task_ids": [1, 2], "requested_by": 1}',
    "archive-project": '{"project_id": 1, "requested_by": 1}',
    "purge-old-deleted": "{}",
}


async def test_marking_with_skip_explains_the_statements_of_a_window(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 5000, deleted_every=2)
    payload = '{"task_ids": [1, 2, 3], "requested_by": 1, "on_invalid": "skip"}'

    told = await lowtide("explain", "mark-completed", "--payload", payload, "--json", database_url=database_url)

    assert told.code == 0, told.err
    assert [(each["statement"], each["verdict"]) for each in told.json] == [
        ("actor", "good"),
        ("verification", "good"),
        ("window", "good"),
    ]


@pytest.mark.parametrize("job", PAYLOADS)
async def test_the_query_plans_of_every_job_are_good(job: str, database_url: str, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 5000, deleted_every=2)

    shown = await lowtide("explain", job, "--payload", PAYLOADS[job], database_url=database_url)
    told = await lowtide("explain", job, "--payload", PAYLOADS[job], "--json", database_url=database_url)

    assert (shown.code, told.code) == (0, 0), shown.err + told.err
    assert {each["verdict"] for each in told.json} == {"good"}
    assert all(f"{each['statement']}: good" in shown.out for each in told.json)
    if job == "purge-old-deleted":
        assert "Tid Range Scan on task" in shown.out


async def test_a_run_that_would_be_refused_exits_1_and_says_what_to_do(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    await sql.execute("CREATE TABLE note (task_id bigint REFERENCES task (id), body text STORAGE PLAIN)")
    await sql.execute("INSERT INTO note SELECT 1, repeat('x', 7000) FROM generate_series(1, 200)")

    shown = await lowtide("explain", "purge-old-deleted", database_url=database_url)

    assert shown.code == 1
    assert 'CREATE INDEX CONCURRENTLY ON public.note ("task_id");' in shown.err


async def test_wrong_input_exits_2(database_url: str) -> None:
    for arguments in (
        ["no-such-job"],
        ["purge-old-deleted", "--payload", '{"days": "many"}'],
        ["purge-old-deleted", "--payload", "{"],
        ["purge-old-deleted", "--payload", '{"table": "nope"}'],
    ):
        done = await lowtide("explain", *arguments, database_url=database_url)
        assert (done.code, done.out) == (2, ""), arguments
        assert "Traceback" not in done.err
    assert (await lowtide("explain", "purge-old-deleted", database_url="postgresql://127.0.0.1:1/x")).code == 3


@pytest.mark.parametrize("job", PAYLOADS)
async def test_without_the_task_tables_it_says_what_to_run(job: str, empty_url: str) -> None:
    await lowtide("migrate", database_url=empty_url)
    done = await lowtide("explain", job, "--payload", PAYLOADS[job], "--json", database_url=empty_url)
    assert (done.code, done.json["error"]["type"]) == (1, "NotMigrated")
    assert "run `lowtide migrate --with-tasks`" in done.json["error"]["message"]
    assert "Traceback" not in done.err


async def test_pace_and_limits_of_a_waiting_run_are_changed(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'night')")

    done = await lowtide("pace", "night", "full", "--max-rows", "7", database_url=database_url)

    assert (done.code, done.err) == (0, "run night (queued) has pace full, at most 7 rows now\n")
    assert tuple(await sql.fetchrow("SELECT pace, max_rows, max_seconds FROM lowtide.run")) == ("full", 7, None)


async def test_a_limit_beyond_what_was_approved_is_told_to_be_none(database_url: str, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 10, deleted_every=1, days_ago=100)
    planned = await lowtide("plan", "old-deleted-tasks", "--json", database_url=database_url)
    made = await lowtide("approve", planned.json["plan"], "--yes", database_url=database_url)
    for most, is_told in (("5", False), ("500", True)):
        done = await lowtide("pace", made.out.strip(), "--max-rows", most, database_url=database_url)
        assert f"has at most {most} rows now\n" in done.err
        told = f"note: run {made.out.strip()} is approved for 10 rows; more than that does not go"
        assert (done.code, told in done.err) == (0, is_told), done.err


async def test_what_can_not_be_steered_is_told(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'night')")
    missing = await lowtide("pace", "nope", "full", database_url=database_url)
    nothing = await lowtide("pace", "night", database_url=database_url)
    unknown = await lowtide("pace", "night", "wild", database_url=database_url)
    queued = await lowtide("resume", "night", database_url=database_url)

    assert (missing.code, nothing.code, unknown.code, queued.code) == (1, 2, 2, 1)
    assert 'there is no run "nope"' in missing.err
    assert queued.err == "lowtide: run night (purge-old-deleted) is queued; this is for a paused one\n"


async def test_a_paused_run_goes_on_when_it_is_resumed(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'night')")
    await sql.execute("UPDATE lowtide.run SET state = 'paused', wait_reason = 'somebody said so'")

    done = await lowtide("resume", "night", "--json", database_url=database_url)

    assert (done.code, done.json["state"], done.json["wait_reason"]) == (0, "queued", None)
    assert "LOWTIDE_REDIS_URL" in done.err


async def test_a_run_of_a_job_without_a_pace_is_refused(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("SELECT lowtide.enqueue('archive-project', '{}', 'old')")
    done = await lowtide("pace", "old", "full", database_url=database_url)
    assert (done.code, done.err) == (
        1,
        "lowtide: run old (archive-project) is queued; this is for a purge that has not ended\n",
    )


async def test_resume_and_retry_keep_the_time_before_which_a_run_may_not_start(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'later', now() + interval '7 days')")
    for command in ("pause", "resume", "cancel", "retry"):
        done = await lowtide(command, "later", database_url=database_url)
        assert done.code == 0
        if command in {"resume", "retry"}:
            assert "not before" in done.err
    assert await sql.fetchval("SELECT not_before > now() + interval '6 days' FROM lowtide.run")


async def test_explain_says_what_the_run_would_say(database_url: str, sql: asyncpg.Connection) -> None:
    done = await lowtide("explain", "purge-old-deleted", "--payload", '{"days": 5}', database_url=database_url)
    assert (done.code, "needs an approval" in done.err) == (1, True)

    await sql.execute("CREATE ROLE reader LOGIN PASSWORD 'secret'")
    try:
        await sql.execute(
            "GRANT USAGE ON SCHEMA lowtide TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA lowtide TO reader; "
            "GRANT SELECT, DELETE ON task TO reader"
        )
        url = database_url.replace("postgres@", "reader:secret@")
        for job, said in (("purge-old-deleted", "GRANT SELECT, UPDATE, DELETE"), ("create-batch", "permission denied")):
            refused = await lowtide("explain", job, "--payload", PAYLOADS[job], "--json", database_url=url)
            assert refused.code == 1
            assert said in refused.json["error"]["message"]
            assert "Traceback" not in refused.err
    finally:
        await sql.execute("DROP OWNED BY reader; DROP ROLE reader")


async def test_a_lock_is_no_server_that_can_not_be_reached(database_url: str, sql: asyncpg.Connection) -> None:
    async with sql.transaction():
        await sql.execute("LOCK TABLE task IN ACCESS EXCLUSIVE MODE")
        done = await lowtide("explain", "purge-old-deleted", database_url=database_url)
    assert (done.code, "others hold locks" in done.err) == (1, True)
