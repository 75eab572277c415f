"""`lowtide check`, from outside: what is well, what is not, and what to do."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio
from arq.connections import ArqRedis

from tests.contract.cli import Done, lowtide
from tests.eventually import eventually
from tests.pooler import behind_a_pooler
from worker.embedded import Companion, Valkey
from worker.embedded.server import free_port

ROLES = (Path(__file__).parents[2] / "docs" / "roles.sql").read_text()
AWAY = "postgresql://u:hunter2@127.0.0.1:{}/d"


async def check(*arguments: str, **settings: str) -> Done:
    done = await lowtide("check", *arguments, **settings)
    assert "Traceback" not in done.err
    assert "hunter2" not in done.out + done.err
    return done


def told(done: Done, word: str, about: str = "") -> list[str]:
    return [each["told"] for each in done.json if each["word"] == word and each["about"].startswith(about)]


def facts(done: Done, word: str) -> list[dict[str, Any]]:
    return [each for each in done.json if each["word"] == word]


@pytest_asyncio.fixture
async def night(database_url: str, sql: asyncpg.Connection) -> AsyncIterator[str]:
    """The URL of a login that may nothing."""
    await sql.execute("CREATE ROLE night LOGIN PASSWORD 'hunter2'")
    parts = urlsplit(database_url)
    yield urlunsplit(parts._replace(netloc=f"night:hunter2@{parts.netloc.rpartition('@')[2]}"))
    await sql.execute("DROP OWNED BY night; DROP ROLE night")


async def test_all_is_well_but_for_what_the_test_servers_leave_out(
    database_url: str, valkey: Valkey, redis: ArqRedis
) -> None:
    shown = await check(database_url=database_url, redis_url=valkey.url)
    done = await check("--json", database_url=database_url, redis_url=valkey.url)
    assert (shown.code, done.code) == (0, 0), shown.out
    assert told(done, "fault") == []
    assert {each.partition(" is ")[0] for each in told(done, "warning")} == {"autovacuum", "fsync", "full_page_writes"}
    assert {each["about"] for each in done.json} == {
        *("PostgreSQL", "ledger", "task tables", "workers", "policy old-deleted-tasks", "Redis")
    }
    assert {frozenset(each) for each in done.json} == {frozenset({"about", "word", "told", "advice"})}
    assert told(done, "note", "workers") == [
        "none seems to run: no session called lowtide listener is connected to this database"
    ]
    end = shown.out.split("\n\n")[1].splitlines()
    assert end[0] == "0 faults, 3 warnings"
    assert len([line for line in end if line.startswith("warning ")]) == 3
    for each in done.json:
        assert f"{each['word']:<8} {each['about']}: {each['told']}" in shown.out
        assert each["advice"] is None or f"         → {each['advice']}" in shown.out
    assert [each for each in told(done, "ok", "Redis") if each.startswith("Valkey ")]


async def test_a_server_that_is_away_hides_nothing_of_the_other(
    database_url: str, valkey: Valkey, redis: ArqRedis, tmp_path: Path
) -> None:
    file = tmp_path / "lowtide.toml"
    file.write_text('[[policy]]\nname = "x"\n')
    away = AWAY.format(free_port())
    done = await check("--json", database_url=away, redis_url=valkey.url, policies=str(file))
    assert done.code == 3
    assert [each for each in told(done, "fault", "PostgreSQL") if "can't be reached" in each]
    assert told(done, "ok", "Redis")
    assert told(done, "fault", "policy x")

    done = await check("--json", database_url=database_url, redis_url=f"redis://:hunter2@127.0.0.1:{free_port()}")
    assert done.code == 3
    assert [each for each in told(done, "fault", "Redis") if "can't be reached" in each]
    assert told(done, "ok", "ledger")

    done = await check("--json", database_url=away, redis_url=f"redis://127.0.0.1:{free_port()}")
    assert (done.code, len(facts(done, "fault"))) == (3, 2)


async def test_without_a_redis_url_it_says_so(database_url: str) -> None:
    done = await check("--json", database_url=database_url)
    assert done.code == 1
    assert told(done, "fault", "Redis") == ["LOWTIDE_REDIS_URL: is not set"]


async def test_a_database_that_is_not_there_can_not_be_reached(
    database_url: str, valkey: Valkey, redis: ArqRedis
) -> None:
    done = await check("--json", database_url=f"{database_url}_gone", redis_url=valkey.url)
    assert done.code == 3
    assert [each for each in told(done, "fault", "PostgreSQL") if "does not exist" in each]


async def test_an_empty_database_needs_a_ledger(empty_url: str, valkey: Valkey, redis: ArqRedis) -> None:
    done = await check("--json", database_url=empty_url, redis_url=valkey.url)
    assert done.code == 1
    assert [(each["told"], each["advice"]) for each in facts(done, "fault")][:1] == [
        ("there is no schema lowtide in this database", "lowtide migrate")
    ]
    assert told(done, "fault", "policy") == ["table: there is no public.task"]

    await lowtide("migrate", database_url=empty_url)
    done = await check("--json", database_url=empty_url, redis_url=valkey.url)
    assert told(done, "ok", "ledger")
    assert told(done, "note", "task tables")[0].startswith("not in this database")


async def test_an_old_ledger_is_a_fault(
    database_url: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE lowtide.migration SET version_num = 'lowtide_0001' WHERE version_num LIKE 'lowtide%'")
    done = await check("--json", database_url=database_url, redis_url=valkey.url)
    assert (done.code, told(done, "fault", "ledger")) == (1, ["is older than this program"])


async def test_a_role_without_rights_is_told_each_one_until_it_has_them(
    database_url: str, night: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    done = await check("--json", database_url=night, redis_url=valkey.url)
    assert done.code == 1
    assert told(done, "fault", "ledger") == ["role night may not use schema lowtide"]
    assert told(done, "fault", "policy") == ['rights: role "night" lacks SELECT, UPDATE, DELETE on public.task']
    assert "GRANT pg_monitor" in " ".join(each["advice"] for each in facts(done, "warning"))

    await sql.execute("GRANT USAGE ON SCHEMA lowtide TO night; GRANT SELECT ON lowtide.migration TO night")
    done = await check("--json", database_url=night, redis_url=valkey.url)
    (fault,) = [each for each in facts(done, "fault") if each["about"] == "ledger"]
    assert "GRANT DELETE, INSERT, SELECT, UPDATE ON lowtide.run" in fault["advice"]
    assert "EXECUTE" in fault["advice"]

    await sql.execute(ROLES)
    try:
        await sql.execute("GRANT lowtide_worker TO night")
        done = await check("--json", database_url=night, redis_url=valkey.url)
        assert (done.code, told(done, "fault")) == (0, [])
        assert not [each for each in facts(done, "warning") if "pg_monitor" in each["advice"]]
    finally:
        for role in ("lowtide_enqueuer", "lowtide_worker"):
            await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_transaction_pooler_is_refused_with_the_reason(
    database_url: str, valkey: Valkey, redis: ArqRedis
) -> None:
    async with behind_a_pooler(database_url, "transaction") as url:
        done = await check("--json", database_url=url, redis_url=valkey.url)
    assert done.code == 1
    assert "a transaction pooler stands between" in told(done, "fault", "PostgreSQL")[0]
    assert told(done, "ok", "Redis")


async def test_a_session_pooler_is_taken(database_url: str, valkey: Valkey, redis: ArqRedis) -> None:
    async with behind_a_pooler(database_url, "session", size=30) as url:
        done = await check("--json", database_url=url, redis_url=valkey.url)
    assert (done.code, told(done, "fault")) == (0, [])


async def test_what_would_lose_messages_in_redis_is_told(database_url: str) -> None:
    async with Valkey() as own:
        client = ArqRedis.from_url(own.url)
        await client.config_set("maxmemory-policy", "allkeys-lru")
        await client.set("arq:queue", "somebody's")
        done = await check("--json", database_url=database_url, redis_url=own.url)
        await client.aclose()
    assert done.code == 1
    assert [each for each in told(done, "warning", "Redis") if each.startswith("maxmemory-policy is allkeys-lru")]
    assert told(done, "fault", "Redis") == ["key arq:queue is a string, not the sorted set that a queue is"]


async def test_policies_are_looked_at_one_by_one(
    database_url: str, valkey: Valkey, redis: ArqRedis, tmp_path: Path, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE event (at bigint)")
    file = tmp_path / "lowtide.toml"
    block = '[[policy]]\nname = "{}"\ntable = "{}"\ncolumn = "{}"\nkeep = "{}"\n'
    file.write_text(
        block.format("tasks", "task", "deleted_at", "90 days")
        + "where = \"status = 'deleted'\"\n"
        + block.format("events", "event", "at", "1 year")
        + block.format("gone", "nowhere", "at", "1 year")
        + block.format("short", "task", "created_at", "90")
    )
    done = await check("--json", database_url=database_url, redis_url=valkey.url, policies=str(file))
    assert done.code == 1
    assert told(done, "fault", "policy tasks") == []
    assert "where: one condition" in told(done, "ok", "policy tasks")
    assert told(done, "fault", "policy events") == ["column: at is bigint"]
    assert told(done, "fault", "policy gone") == ["table: there is no public.nowhere"]
    assert told(done, "fault", "policy short")[0].startswith('keep: "90" is no length of time')


@pytest.mark.parametrize("command", [["check"], ["policies"], ["schedules", "list"], ["worker", "--burst"]])
async def test_a_policy_file_that_is_broken_as_a_whole_ends_every_command_with_2(
    database_url: str, valkey: Valkey, redis: ArqRedis, tmp_path: Path, command: list[str]
) -> None:
    done = await lowtide(*command, database_url=database_url, redis_url=valkey.url, policies=str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"lowtide: policy file {tmp_path} is a folder")


async def test_workers_that_listen_are_counted_unless_the_url_calls_all_sessions_alike(
    database_url: str, valkey: Valkey, redis: ArqRedis
) -> None:
    settings = {"database_url": database_url, "redis_url": valkey.url}
    async with Companion(**settings, queue="arq:queue"):
        await eventually(lambda: _listens(settings))
    named = await check("--json", **settings | {"database_url": f"{database_url}?application_name=ours"})
    assert [each for each in named.json if each["about"] == "workers"] == []


async def _listens(settings: dict[str, str]) -> bool:
    return told(await check("--json", **settings), "ok", "workers") == ["1 listens in this database"]
