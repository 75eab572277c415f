"""Policies from a file, from outside: listed, run, and each broken one disabled without the others."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from arq.connections import ArqRedis

from tests import people
from tests.contract.cli import lowtide
from tests.eventually import eventually
from tests.http import asked
from worker.embedded import Companion, Valkey
from worker.embedded.server import free_port

TASKS = '[[policy]]\nname = "tasks"\ntable = "task"\ncolumn = "deleted_at"\nkeep = "90 days"\nschedule = "30 2 * * *"\n'
EVENTS = '[[policy]]\nname = "events"\ntable = "app.event"\ncolumn = "at"\nkeep = "1 year"\n'
BROKEN = '[[policy]]\nname = "short"\ntable = "log"\ncolumn = "at"\nkeep = "5"\n'


Written = Callable[[str], dict[str, str]]


@pytest.fixture
def written(database_url: str, valkey: Valkey, redis: ArqRedis, tmp_path: Path) -> Written:
    """Settings for both servers, with a policy file that holds this."""

    def write(text: str) -> dict[str, str]:
        (tmp_path / "lowtide.toml").write_text(text)
        policies = str(tmp_path / "lowtide.toml")
        return {"database_url": database_url, "redis_url": valkey.url, "policies": policies}

    return write


async def make_tables(sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 100, deleted_every=2, days_ago=100)
    await sql.execute("CREATE SCHEMA app; CREATE TABLE app.event (at timestamptz); CREATE INDEX ON app.event (at)")
    await sql.execute("INSERT INTO app.event SELECT now() - interval '2 years' FROM generate_series(1, 7)")


async def test_the_policies_are_listed_with_what_their_next_purge_would_find(
    sql: asyncpg.Connection, written: Written
) -> None:
    await make_tables(sql)
    settings = written(TASKS + EVENTS)
    tasks, events = (await lowtide("policies", "--json", **settings)).json
    assert (tasks["name"], tasks["disabled"], tasks["table"], tasks["column"], tasks["keep"]) == (
        *("tasks", None, "public.task", "deleted_at", "90 days"),
    )
    assert (tasks["eligible"], tasks["eligible_or_more"], tasks["last_run"], tasks["paused"]) == (
        50,
        False,
        None,
        False,
    )
    assert tasks["oldest_eligible_s"] == pytest.approx(100 * 86400, abs=600)
    assert tasks["next_run"].endswith("T02:30:00Z")
    assert tasks["index"] == "task_deleted_at"
    assert (events["eligible"], events["next_run"], events["advice"]) == (7, None, [])

    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{\"policy\": \"events\"}', 'now')")
    burst = await lowtide("worker", "--burst", **settings)
    assert burst.code == 0, burst.err
    assert await sql.fetchval("SELECT count(*) FROM app.event") == 0
    assert await sql.fetchval("SELECT count(*) FROM task") == 100

    shown = await lowtide("policies", **settings)
    events = (await lowtide("policies", "--json", **settings)).json[1]
    assert {name: events["last_run"][name] for name in ("id", "state", "rows")} == {
        "id": "now",
        "state": "succeeded",
        "rows": 7,
    }
    assert (shown.code, shown.err) == (0, "")
    assert "  rule       app.event.at, kept 366 days\n  eligible   0 rows\n  last run   succeeded at " in shown.out
    assert "  eligible   50 rows, the oldest 100 days old\n" in shown.out


async def test_a_broken_policy_is_listed_with_its_reason_and_exits_1(sql: asyncpg.Connection, written: Written) -> None:
    await make_tables(sql)
    settings = written(TASKS + BROKEN + EVENTS.replace('"at"', '"nothing"'))
    shown = await lowtide("policies", **settings)
    done = await lowtide("policies", "--json", **settings)
    assert (shown.code, done.code) == (1, 1)
    found = {each["name"]: each for each in done.json}
    assert found["tasks"]["eligible"] == 50
    assert found["short"]["disabled"].startswith('keep: "5" is no length of time')
    assert found["events"]["disabled"].startswith("column: app.event has no column nothing")
    assert found["short"]["table"] == "public.log"
    assert {frozenset(each) for each in done.json} == {frozenset(found["tasks"])}
    assert "short\n  disabled   keep: " in shown.out


async def test_a_million_stands_for_that_many_or_more(sql: asyncpg.Connection, written: Written) -> None:
    await sql.execute("CREATE TABLE log (at date)")
    await sql.execute("INSERT INTO log SELECT '-infinity' FROM generate_series(1, 1000001)")
    await sql.execute("CREATE INDEX ON log (at); ANALYZE log")
    settings = written(BROKEN.replace('"5"', '"5 days"'))
    (log,) = (await lowtide("policies", "--json", **settings)).json
    assert (log["eligible"], log["eligible_or_more"], log["oldest_eligible_s"]) == (1_000_000, True, "infinity")
    shown = await lowtide("policies", **settings)
    assert "1,000,000 rows or more, the oldest from before all dates" in shown.out


async def test_without_a_file_it_is_the_built_in_one(database_url: str) -> None:
    (only,) = (await lowtide("policies", "--json", database_url=database_url)).json
    assert (only["name"], only["disabled"], only["eligible"]) == ("old-deleted-tasks", None, 0)


async def test_a_server_that_is_away_exits_3() -> None:
    done = await lowtide("policies", "--json", database_url=f"postgresql://127.0.0.1:{free_port()}/x")
    assert (done.code, done.json["error"]["type"]) == (3, "Unreachable")


async def test_a_broken_policy_disables_itself_loudly_and_never_the_others(
    sql: asyncpg.Connection, redis: ArqRedis, written: Written
) -> None:
    await make_tables(sql)
    settings = written(TASKS + BROKEN + EVENTS.replace('"app.event"', '"app.nothing"'))
    url = f"http://127.0.0.1:{(port := free_port())}"
    async with Companion(**settings, tick="0.2", http=str(port)) as worker:

        async def gauges() -> list[str]:
            return [line for line in (await asked(f"{url}/metrics"))[1].splitlines() if "_disabled{" in line]

        expected = [f'lowtide_policy_disabled{{policy="{name}"}} {on}' for name, on in DISABLED.items()]
        await eventually(lambda: _same(gauges(), expected))
        for name in DISABLED:
            await redis.enqueue_job("purge-old-deleted", policy=name, _job_id=name)
        await redis.enqueue_job("purge-old-deleted", table="log", _job_id="by-table")

        async def all_ended() -> bool:
            return bool(await sql.fetchval("SELECT count(*) = 4 FROM lowtide.run WHERE finished_at IS NOT NULL"))

        await eventually(all_ended)
        await worker.stop()
        logged = [json.loads(line) for line in worker.log.read_text().splitlines() if '"policy.disabled"' in line]
    assert {(each["policy"], each["level"]) for each in logged} == {("short", "error"), ("events", "error")}
    assert len(logged) == 2
    rows = await sql.fetch("SELECT id, state, error ->> 'type' AS type, error ->> 'message' AS told FROM lowtide.run")
    ended = {row["id"]: (row["state"], row["type"]) for row in rows}
    assert ended == {
        "tasks": ("succeeded", None),
        "short": ("failed", "PolicyBroken"),
        "events": ("failed", "PolicyBroken"),
        "by-table": ("failed", "PolicyBroken"),
    }
    reasons = {row["id"]: row["told"] for row in rows}
    assert reasons["short"].startswith("policy short is disabled, and nothing was deleted: keep: ")
    assert reasons["events"].startswith("policy events is disabled, and nothing was deleted: table: there is no app.")
    assert await sql.fetchval("SELECT count(*) FROM task") == 50


DISABLED = {"short": "1.0", "tasks": "0.0", "events": "1.0"}


async def _same(found: Awaitable[list[str]], expected: list[str]) -> bool:
    return sorted(await found) == sorted(expected)


async def test_commands_that_name_a_broken_policy_say_why(written: Written) -> None:
    settings = written(TASKS + BROKEN)
    payload = json.dumps({"policy": "short"})
    for command in (["explain", "purge-old-deleted", "--payload", payload], ["schedules", "run", "short"]):
        done = await lowtide(*command, **settings)
        assert (done.code, "policy short is disabled, and nothing was deleted: keep: " in done.err) == (1, True)
        assert "Traceback" not in done.err
    listed = await lowtide("schedules", "list", "--json", **settings)
    assert [each["policy"] for each in listed.json] == ["tasks", "lowtide-runs", "lowtide-failed-runs", "lowtide-plans"]
    assert "disabled: policy short: keep: " in listed.err
    unknown = await lowtide("schedules", "run", "nothing", **settings)
    assert (unknown.code, "there is no policy" in unknown.err) == (2, True)


async def test_a_payload_that_names_no_table_is_told_which_one_it_is_about(
    sql: asyncpg.Connection, written: Written
) -> None:
    settings = written(TASKS.replace('task"', 'events"').replace('"tasks"', '"events"'))
    told = "there is no policy for table 'task', the one that is meant where neither policy nor table is given; known: "
    explained = await lowtide("explain", "purge-old-deleted", "--payload", "{}", **settings)
    assert (explained.code, f"{told}events (public.events)" in explained.err) == (2, True), explained.err
    named = await lowtide("explain", "purge-old-deleted", "--payload", '{"table": "task"}', **settings)
    assert "there is no policy for table 'task'; known: events" in named.err


async def test_with_several_policies_for_a_table_a_run_has_to_name_one(
    sql: asyncpg.Connection, written: Written
) -> None:
    await make_tables(sql)
    settings = written(TASKS + TASKS.replace('"tasks"', '"drafts"').replace("deleted_at", "created_at"))
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'unclear')")
    assert (await lowtide("worker", "--burst", **settings)).code == 1
    error = json.loads(await sql.fetchval("SELECT error FROM lowtide.run"))
    assert error["type"] == "PolicyUnclear"
    assert error["message"].endswith("has several policies; name one: tasks, drafts")
    assert await sql.fetchval("SELECT count(*) FROM task") == 100


INJECTION = "x'; DROP TABLE victim; --"


@pytest.mark.parametrize("key", ["name", "table", "column", "where", "timezone", "schedule", "keep", "pace", "hours"])
async def test_nothing_in_the_file_is_executed(sql: asyncpg.Connection, written: Written, key: str) -> None:
    """Through `check`, `policies` and a worker that is asked to run it."""
    await make_tables(sql)
    await sql.execute("CREATE TABLE victim ()")
    keys = {"name": "x", "table": "task", "column": "deleted_at", "keep": "90 days"} | {key: INJECTION}
    settings = written("[[policy]]\n" + "".join(f'{each} = "{value}"\n' for each, value in keys.items()))
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', $1)", json.dumps({"policy": keys["name"]}))
    for command in (["check"], ["policies"], ["worker", "--burst"]):
        done = await lowtide(*command, **settings)
        assert done.code == (0 if key == "name" else 1), done.out + done.err
        assert "Traceback" not in done.err
    state = "succeeded" if key == "name" else "failed"
    assert await sql.fetchval("SELECT state FROM lowtide.run") == state
    assert await sql.fetchval(
        "SELECT to_regclass('victim') IS NOT NULL AND count(*) = 100 - $1 FROM task", 50 if key == "name" else 0
    )
