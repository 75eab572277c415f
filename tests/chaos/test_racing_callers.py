"""Callers that race, roll back and die: a run exists once, if and only if its transaction was committed."""

import asyncio
import os
import signal
import sys
from collections import Counter
from functools import partial

import asyncpg
from arq.connections import ArqRedis

from tests import people
from tests.chaos.scale import chance, times
from tests.chaos.stagehands import two_workers
from tests.eventually import eventually
from worker.embedded import Valkey

IDS, CALLS = 50, 100
ENQUEUE = (
    "SELECT lowtide.enqueue('mark-completed', jsonb_build_object('task_ids', ARRAY[$1::int], 'requested_by', 1), $2)"
)


async def test_a_hundred_racing_enqueues_of_fifty_ids_run_each_once(
    database_url: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    """Half through the queue, half through SQL, to two workers. Updates are counted by a trigger, not by the runs."""
    await people.people(sql)
    await people.many(sql, IDS)
    await sql.execute("CREATE TABLE changes (task_id bigint)")
    await sql.execute(
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO changes VALUES (NEW.id); RETURN NULL; END'; "
        "CREATE TRIGGER noted AFTER UPDATE ON task FOR EACH ROW EXECUTE FUNCTION noted()"
    )
    ids = [row["id"] for row in await sql.fetch("SELECT id FROM task ORDER BY id")]
    pool = await asyncpg.create_pool(database_url, min_size=4, max_size=8)
    async with two_workers(database_url, valkey.url):
        for number in times(2, 100):
            await sql.execute("UPDATE task SET status = 'pending'; TRUNCATE changes")
            wanted = ids * (CALLS // IDS)
            chance("race", number).shuffle(wanted)

            async def call(at: int, task_id: int, number: int = number) -> None:
                run_id = f"race-{number}-{task_id}"
                if at % 2:
                    await redis.enqueue_job("mark-completed", task_ids=[task_id], requested_by=1, _job_id=run_id)
                else:
                    await pool.execute(ENQUEUE, task_id, run_id)

            await asyncio.gather(*(call(at, task_id) for at, task_id in enumerate(wanted)))
            mine = f"race-{number}-%"
            succeeded = "SELECT count(*) FROM lowtide.run WHERE id LIKE $1 AND state = 'succeeded'"
            await eventually(partial(_all_are, sql, succeeded, mine), within_s=20)
            changed = Counter(row["task_id"] for row in await sql.fetch("SELECT task_id FROM changes"))
            assert changed == dict.fromkeys(ids, 1)
    await pool.close()


async def _all_are(sql: asyncpg.Connection, question: str, mine: str) -> bool:
    return bool(await sql.fetchval(question, mine) == IDS)


CALLER = """
import asyncio, sys, asyncpg
async def main(url, run_id):
    connection = await asyncpg.connect(url)
    await connection.execute("BEGIN")
    await connection.execute("SELECT lowtide.enqueue('purge-old-deleted', '{\\"dry_run\\": true}', $1)", run_id)
    print("enqueued", flush=True)
    await asyncio.sleep(60)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_run_exists_if_and_only_if_its_caller_commits(
    database_url: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    """Rolled back, killed before the commit, or committed; in each case after the run was written."""
    drawn = chance("callers")
    await people.people(sql)
    wanted = set()
    async with two_workers(database_url, valkey.url):
        for number in times(6, 100):
            run_id, how = f"caller-{number}", ("commit", "rollback", "kill")[number % 3]
            if how == "kill":
                caller = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", CALLER, database_url, run_id), stdout=asyncio.subprocess.PIPE
                )
                assert caller.stdout is not None
                await caller.stdout.readline()
                await asyncio.sleep(drawn.uniform(0, 0.05))
                os.kill(caller.pid, signal.SIGKILL)
                await caller.wait()
                continue
            transaction = sql.transaction()
            await transaction.start()
            await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{\"dry_run\": true}', $1)", run_id)
            await (transaction.commit() if how == "commit" else transaction.rollback())
            wanted |= {run_id} if how == "commit" else set()
        await eventually(
            lambda: sql.fetchval("SELECT count(*) = $1 FROM lowtide.run WHERE state = 'succeeded'", len(wanted))
        )
    assert {row["id"] for row in await sql.fetch("SELECT id FROM lowtide.run")} == wanted
