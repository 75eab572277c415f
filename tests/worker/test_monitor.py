"""A whole worker, looked at from outside: a process of its own, asked over HTTP."""

import re
from collections.abc import Awaitable, Callable

import asyncpg
from arq.connections import ArqRedis

from db import engine, migrate
from tests import people
from tests.contract.cli import lowtide
from tests.eventually import eventually
from tests.http import answers, asked
from worker.embedded import Companion, Postgres, Valkey
from worker.embedded.server import free_port


def ready(url: str, code: int = 200) -> Callable[[], Awaitable[str | None]]:
    return lambda: answers(f"{url}/ready", code)


async def test_metrics_tell_what_a_run_did_and_nothing_of_its_payload(
    database_url: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 20, deleted_every=2)
    url = f"http://127.0.0.1:{(port := free_port())}"
    async with Companion(database_url=database_url, redis_url=valkey.url, tick="0.2", http=str(port)) as worker:
        await eventually(ready(url))
        surveyed = 'lowtide_policy_eligible_rows{policy="old-deleted-tasks"} 10.0'

        async def told(line: str) -> bool:
            return line in (await asked(f"{url}/metrics"))[1].splitlines()

        await eventually(lambda: told(surveyed))
        tasks = [{"title": "hunter2"}] * 3
        await redis.enqueue_job("create-batch", project_id=1, created_by_id=2, tasks=tasks, _job_id="hunter2")
        await redis.enqueue_job("hunter2", _job_id="unknown")
        await eventually(lambda: told('lowtide_runs_total{job="create-batch",state="succeeded"} 1.0'))
        assert await told('lowtide_rows_total{job="create-batch"} 3.0')
        assert await told('lowtide_healthy{part="PostgreSQL"} 1.0')
        text = (await asked(f"{url}/metrics"))[1]
        assert "hunter2" not in text
        assert re.search(r"^process_resident_memory_bytes \d", text, re.MULTILINE)

        await worker.stop()
        assert "http.listening" in worker.log.read_text()


async def test_ready_follows_redis_away_and_back(database_url: str) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    async with (
        Valkey() as valkey,
        Companion(database_url=database_url, redis_url=valkey.url, http=str(port)),
    ):
        await eventually(ready(url))
        await valkey.stop(immediate=True)
        said = await eventually(ready(url, 503), within_s=30)
        assert re.fullmatch(r"Redis: does not answer \(\w+\)\n", said)
        assert (await asked(f"{url}/live")) == (200, "ok\n")
        await valkey.start()
        await eventually(ready(url), within_s=30)


async def test_ready_follows_postgresql_away_and_back(valkey: Valkey, redis: ArqRedis) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    async with Postgres() as postgres:
        database = engine.connect(postgres.url)
        await migrate.migrate(database.engine, with_tasks=False)
        await database.close()
        async with Companion(database_url=postgres.url, redis_url=valkey.url, http=str(port)):
            await eventually(ready(url))
            await postgres.stop(immediate=True)
            said = await eventually(ready(url, 503), within_s=30)
            assert re.match(r"PostgreSQL: does not answer \(\w+\)", said)
            assert "postgres@" not in said
            assert (await asked(f"{url}/live")) == (200, "ok\n")
            await postgres.start()
            await eventually(ready(url), within_s=30)


async def test_ready_sees_a_ledger_of_another_version(database_url: str, valkey: Valkey, redis: ArqRedis) -> None:
    """As after a restore of a backup from before `lowtide migrate`."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    sql = await asyncpg.connect(database_url)
    async with Companion(database_url=database_url, redis_url=valkey.url, http=str(port)):
        await eventually(ready(url))
        await sql.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM lowtide.migration")
        await sql.execute("UPDATE lowtide.migration SET version_num = 'older' WHERE version_num LIKE 'lowtide%'")
        assert "run `lowtide migrate`" in await eventually(ready(url, 503))
        await sql.execute("TRUNCATE lowtide.migration")
        await sql.execute("INSERT INTO lowtide.migration SELECT * FROM kept")
        await eventually(ready(url))
    await sql.close()


async def test_a_port_that_is_taken_ends_the_worker_with_a_sentence(database_url: str, valkey: Valkey) -> None:
    done = await lowtide(
        "worker", "--burst", database_url=database_url, redis_url=valkey.url, http=f"127.0.0.1:{valkey.port}"
    )
    assert done.code == 2
    assert done.err == f"lowtide: LOWTIDE_HTTP: can't listen on 127.0.0.1:{valkey.port}: Address already in use\n"


async def test_without_the_setting_nothing_listens(database_url: str, valkey: Valkey, redis: ArqRedis) -> None:
    async with Companion(database_url=database_url, redis_url=valkey.url) as worker:
        await worker.stop()
        assert "http.listening" not in worker.log.read_text()


class Starting(Companion):
    """A worker that is not waited for until it consumes."""

    async def answers(self) -> bool:
        return self.log.exists() and "http.listening" in self.log.read_text()


async def test_while_it_waits_for_a_server_it_is_live_and_starting(database_url: str, redis: ArqRedis) -> None:
    away, port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"database_url": database_url, "redis_url": f"redis://127.0.0.1:{away}/0", "http": str(port)}
    async with Starting(**settings) as worker:
        assert await asked(f"{url}/ready") == (503, "the worker is starting\n")
        assert await asked(f"{url}/live") == (200, "ok\n")
        await worker.stop(immediate=True)  # nothing is under way that would hear SIGTERM
