"""Two plain Redis commands are a run: the example, run as it stands."""

import json
import uuid

import asyncpg
import pytest
from arq.connections import ArqRedis

from tests import people
from tests.eventually import eventually
from tests.examples import program
from worker.embedded import Valkey
from worker.embedded.server import free_port
from worker.queue import QueueWorker

MARKING = "mark-completed"


async def succeeded(consumer: QueueWorker, sql: asyncpg.Connection, run_id: str) -> None:
    """Poll until the ledger says so."""

    async def said() -> bool:
        await consumer.poll()
        row = await people.run_row(sql, run_id)
        return row is not None and row["state"] == "succeeded"

    await eventually(said)


async def test_what_it_enqueues_is_done_under_the_id_that_it_prints(
    consumer: QueueWorker, valkey: Valkey, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)
    payload = json.dumps({"task_ids": [tasks.open, tasks.in_progress], "requested_by": people.CREATOR})

    done = await program.run("enqueue_from_redis", MARKING, payload, redis_url=valkey.url)

    assert (done.code, done.err) == (0, "")
    run_id = done.out.strip()
    assert uuid.UUID(run_id).hex == run_id
    assert await people.run_row(sql, run_id) is None, "accepted, before any worker has seen it"
    await succeeded(consumer, sql, run_id)
    assert await people.statuses(sql, [tasks.open, tasks.in_progress, tasks.others]) == 2 * ["completed"] + ["pending"]


async def test_the_same_id_again_is_the_same_run_and_the_first_payload_stands(
    consumer: QueueWorker, redis: ArqRedis, valkey: Valkey, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)
    for task_id in (tasks.open, tasks.in_progress):
        payload = json.dumps({"task_ids": [task_id], "requested_by": people.CREATOR})
        done = await program.run("enqueue_from_redis", MARKING, payload, "--id", "order-77", redis_url=valkey.url)
        assert done.out == "order-77\n"

    assert await redis.zcard("arq:queue") == 1
    await succeeded(consumer, sql, "order-77")
    assert await people.statuses(sql, [tasks.open, tasks.in_progress]) == ["completed", "in_progress"]


async def test_another_queue_is_named_by_the_environment(redis: ArqRedis, valkey: Valkey) -> None:
    done = await program.run(
        "enqueue_from_redis", MARKING, "{}", "--id", "r", redis_url=valkey.url, queue="lowtide:night"
    )
    assert done.code == 0, done.err
    assert await redis.zrange("lowtide:night", 0, -1) == [b"r"]


@pytest.mark.parametrize(("payload", "told"), [("{", "it is not JSON"), ("[7]", "it is not a JSON object")])
async def test_a_payload_that_is_no_object_is_refused_before_anything_is_written(
    redis: ArqRedis, valkey: Valkey, payload: str, told: str
) -> None:
    done = await program.run("enqueue_from_redis", MARKING, payload, redis_url=valkey.url)
    assert done.code == 2
    assert told in done.err
    assert await redis.keys("*") == []


async def test_without_a_redis_it_says_so_in_a_sentence() -> None:
    unset = await program.run("enqueue_from_redis", MARKING, "{}")
    away = await program.run(
        "enqueue_from_redis", MARKING, "{}", redis_url=f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    )
    assert (unset.code, away.code) == (1, 1)
    assert unset.err.startswith("set LOWTIDE_REDIS_URL")
    assert away.err.startswith("nothing was enqueued: ")
    assert "hunter2" not in away.err
    assert "Traceback" not in unset.err + away.err
