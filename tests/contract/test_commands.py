"""The commands of the contract, with right and wrong input: exit codes, stdout, stderr, JSON."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from arq.connections import ArqRedis

from tests import people
from tests.contract.cli import Done, as_role, environment, lowtide
from tests.eventually import eventually
from tests.folders import passable
from worker.embedded import Companion, Valkey
from worker.embedded.server import free_port

Urls = dict[str, str]


@pytest.fixture
def urls(database_url: str, valkey: Valkey, redis: ArqRedis) -> Urls:
    return {"database_url": database_url, "redis_url": valkey.url}


async def test_version_and_help_need_no_settings() -> None:
    version, usage = await asyncio.gather(lowtide("--version"), lowtide("--help"))
    assert (version.code, version.out) == (0, "lowtide 0.1.0\n")
    assert usage.code == 0
    for command in ("demo", "dev", "migrate", "worker", "enqueue", "runs", "show"):
        assert command in usage.out


@pytest.mark.parametrize("arguments", [["nonsense"], ["runs", "--nonsense"], ["show"], ["runs", "--state", "lost"]])
async def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = await lowtide(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "lowtide: " in done.err
    assert "Traceback" not in done.err


async def test_without_a_database_url_the_variable_is_named() -> None:
    done = await lowtide("runs")
    assert (done.code, done.err) == (2, "lowtide: LOWTIDE_DATABASE_URL: is not set\n")


@pytest.mark.parametrize("arguments", [["runs"], ["migrate"], ["enqueue", "purge-old-deleted"], ["show", "x"]])
async def test_a_database_that_can_not_be_reached_exits_3_and_is_named_without_its_password(
    arguments: list[str],
) -> None:
    port = free_port()
    done = await lowtide(*arguments, database_url=f"postgresql://u:hunter2@127.0.0.1:{port}/d")
    assert (done.code, done.out) == (3, "")
    assert f"PostgreSQL at 127.0.0.1:{port}/d can't be reached" in done.err
    assert "hunter2" not in done.err


async def test_errors_are_json_where_asked_for() -> None:
    done = await lowtide("runs", "--json", database_url=f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d")
    assert done.code == 3
    assert done.json["error"]["type"] == "Unreachable"
    assert "hunter2" not in done.out + done.err


async def test_a_wrong_password_is_not_shown(database_url: str) -> None:
    done = await lowtide("runs", database_url=database_url.rpartition("/")[0] + "/missing?password=hunter2")
    assert done.code == 3
    assert '"missing" does not exist' in done.err
    assert "hunter2" not in done.err


@pytest.mark.parametrize("arguments", [["runs"], ["enqueue", "purge-old-deleted"], ["worker", "--burst"]])
async def test_on_an_unmigrated_database_it_says_what_to_run(
    empty_url: str, valkey: Valkey, arguments: list[str]
) -> None:
    done = await lowtide(*arguments, database_url=empty_url, redis_url=valkey.url)
    assert done.code == 1
    assert "run `lowtide migrate` first" in done.err


async def test_migrate_says_what_it_did(empty_url: str) -> None:
    first = await lowtide("migrate", "--json", database_url=empty_url)
    second = await lowtide("migrate", "--with-tasks", database_url=empty_url)
    third = await lowtide("migrate", "--with-tasks", database_url=empty_url)
    assert (first.code, first.json) == (
        0,
        [f"lowtide_{number:04}" for number in range(1, 9)],
    )
    assert (second.code, second.err) == (0, "applied: tasks_0001, tasks_0002\n")
    assert (third.code, third.err) == (0, "up to date\n")


async def test_migrate_says_that_searches_will_be_slow_where_the_trigram_indexes_are_missing(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("DROP EXTENSION pg_trgm CASCADE")
    await connection.close()
    told = await lowtide("migrate", "--with-tasks", "--json", database_url=database_url)
    without = await lowtide("migrate", database_url=database_url)
    assert (told.code, told.json) == (0, [])
    assert "no trigram index on public.task (title, description)" in told.err
    assert "CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY task_title_trigrams" in told.err
    assert (without.code, without.err) == (0, "up to date\n")


async def test_migrate_leaves_a_table_that_does_not_fit_alone_and_says_so(empty_url: str) -> None:
    connection = await asyncpg.connect(empty_url)
    await connection.execute("CREATE TABLE task (id int)")
    await connection.close()
    done = await lowtide("migrate", "--with-tasks", database_url=empty_url)
    assert done.code == 1
    assert "public.task.id is integer, not bigint" in done.err


async def test_enqueue_prints_the_id_alone_and_a_worker_runs_it(urls: Urls, sql: asyncpg.Connection) -> None:
    done = await lowtide("enqueue", "purge-old-deleted", "--id", "night", "--payload", '{"dry_run": true}', **urls)
    assert (done.code, done.out, done.err) == (0, "night\n", "")

    worked = await lowtide("worker", "--burst", **urls)
    assert worked.code == 0
    assert await sql.fetchval("SELECT state FROM lowtide.run WHERE id = 'night'") == "succeeded"


async def test_enqueue_takes_the_payload_from_a_file_and_from_stdin(
    urls: Urls, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "p.json").write_text('{"days": 91}')
    from_file = await lowtide("enqueue", "purge-old-deleted", "--payload-file", str(tmp_path / "p.json"), **urls)
    from_stdin = await lowtide("enqueue", "purge-old-deleted", "--payload-file", "-", stdin='{"days": 92}', **urls)
    assert (from_file.code, from_stdin.code) == (0, 0)
    stored = await sql.fetch("SELECT payload ->> 'days' AS days FROM lowtide.run ORDER BY 1")
    assert [row["days"] for row in stored] == ["91", "92"]


BAD: list[tuple[list[str], str]] = [
    (["purge"], "there is no job 'purge'"),
    (["purge-old-deleted", "--payload", '{"days": 0}'], "days: must be 1 or more"),
    (["purge-old-deleted", "--payload", '{"day": 1}'], "day: is not known; leave it out"),
    (["purge-old-deleted", "--payload", "{"], "not JSON"),
    (["purge-old-deleted", "--payload", "[]"], "payload: must be a JSON object"),
    (["purge-old-deleted", "--payload", "[" * 50_000], "nested too deeply"),
    (["purge-old-deleted", "--payload", "{}", "--payload-file", "-"], "not both"),
    (["purge-old-deleted", "--payload-file", "missing.json"], "missing.json: No such file"),
    (["purge-old-deleted", "--payload-file", "."], ".: Is a directory"),
    (["purge-old-deleted", "--id", "a\nb"], "1 to 200 printable"),
    (["purge-old-deleted", "--id", "r" * 201], "1 to 200 printable"),
    (["purge-old-deleted", "--not-before", "soon"], "not an ISO 8601 time"),
    (["purge-old-deleted", "--not-before", "2026-12-24T02:30:00"], "has no zone"),
]


@pytest.mark.parametrize(("arguments", "told"), BAD, ids=[told for _, told in BAD])
async def test_a_wrong_run_is_refused_before_there_is_one(
    urls: Urls, sql: asyncpg.Connection, arguments: list[str], told: str
) -> None:
    done = await lowtide("enqueue", *arguments, **urls)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 0


async def test_the_same_id_with_another_payload_is_a_conflict(urls: Urls) -> None:
    first = await lowtide("enqueue", "purge-old-deleted", "--id", "r", **urls)
    again = await lowtide("enqueue", "purge-old-deleted", "--id", "r", **urls)
    other = await lowtide("enqueue", "purge-old-deleted", "--id", "r", "--payload", '{"days": 99}', "--json", **urls)
    assert (first.code, again.code, again.out) == (0, 0, "r\n")
    assert (other.code, other.json["error"]["type"]) == (1, "Conflict")


async def test_with_redis_away_the_run_is_written_all_the_same(urls: Urls, sql: asyncpg.Connection) -> None:
    away = {"redis_url": f"redis://:hunter2@127.0.0.1:{free_port()}/0"}
    done = await lowtide("enqueue", "purge-old-deleted", "--id", "r", **urls | away)
    assert (done.code, done.out) == (0, "r\n")
    server = away["redis_url"].rpartition("@")[2].removesuffix("/0")
    assert done.err == (
        f"warning: Redis at {server} can't be reached: Connection refused. The run is in the ledger; a worker finds it "
        "at its next tick.\n"
    )
    assert "hunter2" not in done.err
    assert await sql.fetchval("SELECT state FROM lowtide.run") == "queued"


async def test_wait_says_how_it_ended(urls: Urls, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    async with _worker(urls):
        good = await lowtide("enqueue", "purge-old-deleted", "--wait", **urls)
        bad = await lowtide(
            *("enqueue", "archive-project", "--payload", '{"project_id": 99, "requested_by": 1}', "--wait", "--json"),
            **urls,
        )
    assert good.code == 0
    assert "succeeded" in good.err
    assert bad.code == 1
    assert bad.json["error"] == {"type": "NotFound", "message": "project 99 does not exist"}
    assert "NotFound: project 99 does not exist" in bad.err


async def test_ctrl_c_detaches_and_the_run_goes_on(urls: Urls, sql: asyncpg.Connection) -> None:
    waiting = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "enqueue", "purge-old-deleted", "--id", "r", "--wait"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**urls),
    )
    assert waiting.stdout is not None
    assert await waiting.stdout.readline() == b"r\n"
    await asyncio.sleep(0.3)
    waiting.send_signal(signal.SIGINT)
    _, err = await waiting.communicate()
    assert waiting.returncode == 130
    assert b"goes on without you" in err
    assert b"Traceback" not in err
    assert await sql.fetchval("SELECT state FROM lowtide.run") == "queued"


async def test_runs_lists_the_newest_first(urls: Urls) -> None:
    assert (await lowtide("runs", "--json", **urls)).json == []
    assert (await lowtide("runs", **urls)).err == "no runs\n"
    for name in ("first", "[red]second[/red]"):
        await lowtide("enqueue", "purge-old-deleted", "--id", name, **urls)

    listed = await lowtide("runs", **urls)
    as_json = await lowtide("runs", "--json", "--limit", "1", **urls)
    failed = await lowtide("runs", "--json", "--state", "failed", **urls)

    lines = listed.out.splitlines()
    assert lines[0].split()[:3] == ["RUN", "JOB", "STATE"]
    assert [line.split()[0] for line in lines[1:]] == ["[red]second[/red]", "first"]
    assert [run["id"] for run in as_json.json] == ["[red]second[/red]"]
    assert failed.json == []


async def test_what_went_along_and_why_a_run_waits_is_told(urls: Urls, sql: asyncpg.Connection) -> None:
    for name in ("gone", "waiting"):
        await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', $1)", name)
    await sql.execute(
        "UPDATE lowtide.run SET rows_done = 1980, counters = "
        """'{"child app.comment": 10000, "child app.tag": 40, "locked": 3}', """
        "state = 'failed', finished_at = now() WHERE id = 'gone'"
    )
    await sql.execute(
        "UPDATE lowtide.run SET wait_reason = 'outside the hours', not_before = '2999-01-01Z' WHERE id = 'waiting'"
    )
    listed, gone, unknown = await asyncio.gather(
        lowtide("runs", **urls), lowtide("show", "gone", **urls), lowtide("runs", "--job", "foo", **urls)
    )
    assert "and 10,040 along\n" in listed.out
    assert "outside the hours; not before 2999-01-01T00:00:00Z\n" in listed.out
    assert "CREATED (UTC)" in listed.out
    assert "1,980 rows, and 10,040 along\n" in gone.out
    told = "there is no job 'foo'; known: create-batch, mark-completed, archive-project, purge-old-deleted\nno runs\n"
    assert (unknown.code, unknown.out, unknown.err) == (0, "", told)


async def test_show_says_everything_about_a_run(urls: Urls) -> None:
    await lowtide("enqueue", "purge-old-deleted", "--id", "r", "--payload", '{"dry_run": true}', **urls)
    await lowtide("worker", "--burst", **urls)

    shown, as_json = await asyncio.gather(lowtide("show", "r", **urls), lowtide("show", "r", "--json", **urls))
    assert shown.code == 0
    assert "succeeded" in shown.out
    assert list(as_json.json) == [
        *("id", "job", "payload", "requested_by", "state", "rows_done", "rows_expected", "batches", "attempt"),
        *("wait_reason", "result", "error", "scheduled_for", "not_before", "created_at", "started_at", "heartbeat_at"),
        *("finished_at", "pace", "max_rows", "max_seconds"),
    ]
    assert as_json.json["result"]["dry_run"] is True
    assert as_json.json["created_at"].endswith("Z")


async def test_show_of_an_unknown_run_exits_1(urls: Urls) -> None:
    done = await lowtide("show", "nobody", **urls)
    assert (done.code, done.out) == (1, "")
    assert 'there is no run "nobody"' in done.err


async def test_without_a_terminal_waiting_says_why_in_lines(urls: Urls, sql: asyncpg.Connection) -> None:
    """Each reason once; the bar of a terminal shows the same."""
    waiting = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "enqueue", "purge-old-deleted", "--id", "r", "--wait"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**urls),
    )
    assert waiting.stderr is not None
    assert await waiting.stderr.readline() == b"queued: nobody has taken it yet\n"
    await sql.execute("UPDATE lowtide.run SET wait_reason = 'outside the hours 01:00-05:00 UTC of policy p'")
    assert await waiting.stderr.readline() == b"queued: outside the hours 01:00-05:00 UTC of policy p\n"
    await lowtide("pause", "r", **urls)
    assert await waiting.stderr.readline() == b"paused: paused by an operator\n"
    await lowtide("cancel", "r", **urls)
    _, err = await waiting.communicate()
    assert (waiting.returncode, err.startswith(b"purge-old-deleted r cancelled")) == (1, True)


async def test_an_empty_redis_url_is_none(database_url: str) -> None:
    for command in (["runs"], ["hold", "list"]):
        assert (await lowtide(*command, database_url=database_url, redis_url="")).code == 0
    enqueued = await lowtide("enqueue", "purge-old-deleted", database_url=database_url, redis_url="")
    assert (enqueued.code, "LOWTIDE_REDIS_URL" in enqueued.err) == (0, True)


async def test_a_retry_that_can_not_be_says_which_of_its_reasons_it_is(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{\"approve\": \"p\"}', 'approved')")
    await sql.execute(
        "INSERT INTO lowtide.run (id, job, requested_by, state, finished_at) VALUES ('bad', 'x', 'q', 'failed', now())"
    )
    queued = await lowtide("retry", "approved", database_url=database_url)
    await sql.execute("UPDATE lowtide.run SET state = 'failed', finished_at = now() WHERE id = 'approved'")
    approved = await lowtide("retry", "approved", "--from-start", database_url=database_url)
    bad = await lowtide("retry", "bad", database_url=database_url)
    assert (queued.code, approved.code, bad.code) == (1, 1, 1)
    assert queued.err.endswith("is queued; this is for a failed or a cancelled one\n")
    assert approved.err.endswith("counts towards that. Leave --from-start out: it goes on where it stopped\n")
    assert bad.err.endswith("has no payload. Enqueue it anew, mended\n")


async def test_a_login_without_rights_on_the_ledger_is_told_where_they_are(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE ROLE stranger LOGIN PASSWORD 'secret'")
    try:
        for told in ("schema lowtide", "table migration", "table run"):
            done = await lowtide("runs", database_url=as_role(database_url, "stranger"))
            assert done.code == 1
            assert done.err.startswith(f"lowtide: permission denied for {told}. That is lowtide's own: docs/roles.sql")
            assert "GRANT lowtide_operator TO" in done.err
            await sql.execute(
                "GRANT SELECT ON lowtide.migration TO stranger"
                if told.startswith("table")
                else "GRANT USAGE ON SCHEMA lowtide TO stranger"
            )
    finally:
        await sql.execute("DROP OWNED BY stranger; DROP ROLE stranger")


async def test_show_follow_waits_for_the_end(urls: Urls) -> None:
    await lowtide("enqueue", "purge-old-deleted", "--id", "r", **urls)
    async with _worker(urls):
        done = await lowtide("show", "r", "--follow", "--json", **urls)
    assert (done.code, done.json["state"]) == (0, "succeeded")


async def test_burst_exits_1_when_a_run_failed_and_takes_what_sql_has_enqueued(
    urls: Urls, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{\"days\": 0}', 'bad')")
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'good')")
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'later', now() + interval '1 day')")
    await sql.execute("SELECT lowtide.enqueue('unheard-of', '{}', 'unknown')")

    done = await lowtide("worker", "--burst", **urls)

    assert done.code == 1
    rows = await sql.fetch("SELECT id, state FROM lowtide.run ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("bad", "failed"),
        ("good", "succeeded"),
        ("later", "queued"),
        ("unknown", "queued"),
    ]


async def test_a_worker_whose_redis_can_not_be_reached_names_it(database_url: str) -> None:
    """Only its message is looked at here: it tries for 30 s first."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "worker"),
        stderr=asyncio.subprocess.PIPE,
        env=environment(database_url=database_url, redis_url=f"redis://:hunter2@127.0.0.1:{port}/0"),
    )
    assert process.stderr is not None
    said: dict[str, Any] = json.loads(await process.stderr.readline())
    process.terminate()
    _, err = await process.communicate()
    assert (said["event"], said["server"]) == ("server.waiting", f"Redis at 127.0.0.1:{port}")
    assert b"hunter2" not in err


async def test_dev_brings_everything_up_and_ctrl_c_takes_it_down(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = passable(tmp_path_factory)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "dev", "--folder", str(folder / "kept")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode().strip() for _ in range(2)]
    given = {line.partition("=")[0].removeprefix("LOWTIDE_").lower(): line.partition("=")[2] for line in lines}
    done: Done = await lowtide("enqueue", "purge-old-deleted", "--wait", **given)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()

    assert done.code == 0, done.err
    assert process.returncode == 0, err.decode()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncpg.connect(given["database_url"])
    assert sorted(path.name for path in (folder / "kept").iterdir()) == ["postgres", "valkey"]


def _worker(urls: Urls) -> Companion:
    return Companion(**urls, tick="0.2")


async def test_sigterm_ends_a_worker_with_0(urls: Urls) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "worker"), stderr=asyncio.subprocess.PIPE, env=environment(**urls)
    )
    assert process.stderr is not None
    stderr = process.stderr
    await eventually(lambda: _started(stderr))
    process.terminate()
    await process.communicate()
    assert process.returncode == 0


async def _started(stderr: asyncio.StreamReader) -> bool:
    return b"worker.started" in await stderr.readline()


async def test_schedules_are_listed_paused_resumed_and_run(database_url: str, sql: asyncpg.Connection) -> None:
    name = "old-deleted-tasks"
    assert (await lowtide("schedules", "pause", name, database_url=database_url)).code == 0
    listed = (await lowtide("schedules", "list", "--json", database_url=database_url)).json[0]
    assert (listed["policy"], listed["schedule"], listed["paused"]) == (name, "30 2 * * *", True)
    assert listed["next"].endswith("T02:30:00Z")
    assert "yes" in (await lowtide("schedules", "list", database_url=database_url)).out
    assert (await lowtide("schedules", "resume", name, database_url=database_url)).err == f"schedule of {name} is on\n"

    made = await lowtide("schedules", "run", name, database_url=database_url)
    assert (
        made.code,
        await sql.fetchval("SELECT payload ->> 'policy' FROM lowtide.run WHERE id = $1", made.out.strip()),
    ) == (0, name)
    assert (await lowtide("schedules", "pause", "nope", database_url=database_url)).code == 2


async def test_changes_of_schedules_and_runs_by_hand_are_json_where_asked_for(database_url: str) -> None:
    name = "old-deleted-tasks"
    for command in ("pause", "resume"):
        done = await lowtide("schedules", command, name, "--json", database_url=database_url)
        assert (done.code, done.err) == (0, "")
        assert done.json == (await lowtide("schedules", "list", "--json", database_url=database_url)).json[0]
    made = await lowtide("schedules", "run", name, "--json", database_url=database_url)
    assert made.json == (await lowtide("show", made.json["id"], "--json", database_url=database_url)).json
    wrong = await lowtide("schedules", "resume", "nope", "--json", database_url=database_url)
    assert (wrong.code, wrong.json["error"]["type"]) == (2, "BadParameter")


async def test_who_asked_from_a_terminal_is_on_record(database_url: str, sql: asyncpg.Connection) -> None:
    """As for holds and approvals; a task job is done for the actor that its payload names."""
    await lowtide("schedules", "run", "old-deleted-tasks", database_url=database_url)
    await lowtide("enqueue", "purge-old-deleted", "--id", "mine", database_url=database_url)
    payload = '{"project_id": 1, "requested_by": 7}'
    await lowtide("enqueue", "archive-project", "--payload", payload, database_url=database_url)
    asked = await sql.fetch("SELECT split_part(requested_by, ':', 1) AS by FROM lowtide.run ORDER BY created_at")
    assert [row["by"] for row in asked] == ["operator", "operator", "actor"]
    other = await lowtide(
        "enqueue", "purge-old-deleted", "--id", "mine", "--payload", '{"days": 99}', database_url=database_url
    )
    assert (other.code, "exists already" in other.err) == (1, True)


async def test_runs_are_paused_resumed_cancelled_and_retried(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'night')")
    states = []
    for command in ("pause", "resume", "cancel", "retry"):
        done = await lowtide(command, "night", "--json", database_url=database_url)
        states.append((done.code, done.json["state"]))
    assert states == [(0, "paused"), (0, "queued"), (0, "cancelled"), (0, "queued")]
    wrong = await lowtide("retry", "night", "--json", database_url=database_url)
    assert (wrong.code, wrong.json["error"]["type"]) == (1, "NotToBeSteered")

    await sql.execute("UPDATE lowtide.run SET state = 'running', lease_until = now() + interval '1 h'")
    asked = await lowtide("cancel", "night", database_url=database_url)
    assert asked.err == "run night is running; its worker has been asked to cancel it\n"
