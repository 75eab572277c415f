"""The queue worker on a real Valkey: good messages become runs, bad ones hurt nobody else."""

import asyncio
import inspect
import json
import pickle
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from arq.connections import ArqRedis
from arq.jobs import Job as ArqJob
from arq.jobs import JobStatus, SerializationError
from arq.worker import Worker
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

from db import engine
from jobs.catalog import jobs
from jobs.life import Life
from tests import people
from tests.eventually import eventually
from tests.ledger import accept
from tests.worker.test_wire import UNREADABLE, Dangerous, message
from worker import doorbells, wire
from worker.dispatch import Dispatcher
from worker.embedded import Valkey
from worker.embedded.server import free_port
from worker.queue import PAGE, QueueWorker

QUEUE = "arq:queue"
NOW = 1_700_000_000_000
SMALL_BATCH: dict[str, Any] = {"project_id": 1, "created_by_id": 2, "tasks": [{"title": "t"}]}


async def put(redis: ArqRedis, name: str | bytes, raw: bytes, *, score: float = NOW) -> None:
    """As a foreign client would: the two keys."""
    key = name if isinstance(name, bytes) else name.encode()
    await redis.set(b"arq:job:" + key, raw)
    await redis.zadd(QUEUE, {key: score})


async def drained(consumer: QueueWorker, redis: ArqRedis, *, within_s: float = 5) -> None:
    """Poll until the queue is empty and nothing runs."""

    async def empty() -> bool:
        await consumer.poll()
        return consumer.idle and await redis.zcard(QUEUE) == 0

    await eventually(empty, within_s=within_s)


async def the_next_job_runs_at_once(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, *, run_id: str = "good"
) -> None:
    await redis.enqueue_job("purge-old-deleted", _job_id=run_id, dry_run=True)
    await drained(consumer, redis, within_s=2)
    assert await sql.fetchval("SELECT state FROM lowtide.run WHERE id = $1", run_id) == "succeeded"
    left = [key for key in await redis.keys("arq:*") if not key.startswith(b"arq:result:")]
    assert [key for key in left if not key.endswith(b":health-check")] == []


async def error_of(sql: asyncpg.Connection, run_id: str) -> dict[str, Any]:
    row = await people.run_row(sql, run_id)
    assert row is not None, "there is no such run"
    assert row["state"] == "failed"
    error: dict[str, Any] = json.loads(row["error"])
    return error


async def test_a_job_that_a_service_enqueues_runs_and_its_result_can_be_read_with_arq(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)

    job = await redis.enqueue_job(
        "mark-completed", task_ids=[tasks.open], requested_by=people.OWNER, _job_id="order-77"
    )
    assert job is not None
    await drained(consumer, redis)

    assert (await people.run_row(sql, "order-77"))["requested_by"] == "queue"
    assert await people.statuses(sql, [tasks.open]) == ["completed"]
    read = ArqJob("order-77", redis, _deserializer=json.loads)
    assert await read.status() == JobStatus.complete
    assert (await read.result(timeout=1))["completed"] == 1
    assert sorted(await redis.keys("arq:[jir][^e]*")) == []


async def test_the_result_of_a_failed_run_raises_with_the_ledger_s_error(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await redis.enqueue_job("archive-project", project_id=9, requested_by=1, _job_id="fails")
    await drained(consumer, redis)

    with pytest.raises(SerializationError) as caught:
        await ArqJob("fails", redis, _deserializer=json.loads).result(timeout=1)
    assert caught.value.args == (await error_of(sql, "fails"),)


async def test_a_payload_that_a_job_refuses_ends_as_a_failed_run_that_names_the_field(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await redis.enqueue_job("mark-completed", task_ids=["7"], requested_by=1, _job_id="wrong")
    await drained(consumer, redis)

    error = await error_of(sql, "wrong")
    assert error["type"] == "InvalidPayload"
    assert [fault["field"] for fault in error["detail"]["fields"]] == ["task_ids.0"]
    await the_next_job_runs_at_once(consumer, redis, sql)


async def test_a_deferred_job_does_not_start_early(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await redis.enqueue_job("purge-old-deleted", _job_id="later", _defer_by=0.5)
    await consumer.poll()
    assert consumer.idle
    await drained(consumer, redis)
    assert (await people.run_row(sql, "later"))["state"] == "succeeded"


async def test_an_unreadable_message_fails_alone(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, subtests: pytest.Subtests
) -> None:
    for name, (raw, job) in UNREADABLE.items():
        with subtests.test(name):
            await redis.flushall()
            removed, failed = consumer.removed, consumer.failed
            await put(redis, name, raw)
            await drained(consumer, redis)

            ended = consumer.removed - removed, consumer.failed - failed
            assert ended == ((1, 0) if job is None else (0, 1))
            await _ended_as_rejected(sql, name, job)
            await the_next_job_runs_at_once(consumer, redis, sql, run_id=f"after {name}")


async def _ended_as_rejected(sql: asyncpg.Connection, run_id: str, job: str | None) -> None:
    if job is None:
        assert await people.run_row(sql, run_id) is None
        return
    error = await error_of(sql, run_id)
    assert error["type"] == "InvalidEnvelope"
    assert len(error["detail"]["excerpt"]) <= 200
    row = await people.run_row(sql, run_id)
    assert (row["job"], row["payload"], row["requested_by"]) == (job, None, "queue")


async def test_more_unreadable_messages_than_one_look_shows_all_end_and_the_good_one_after_them_runs(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    for n in range(PAGE + 1):
        await put(redis, f"bad-{n}", b"garbage", score=NOW + n)
    await redis.enqueue_job("purge-old-deleted", _job_id="good", dry_run=True)
    await drained(consumer, redis, within_s=10)

    assert consumer.removed == PAGE + 1
    assert (await people.run_row(sql, "good"))["state"] == "succeeded"


async def test_a_pickle_creates_no_file(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    await put(redis, "pickle", pickle.dumps({"f": "purge-old-deleted", "k": Dangerous(tmp_path / "loot")}))
    await drained(consumer, redis)

    assert not (tmp_path / "loot").exists()
    assert consumer.removed == 1
    await the_next_job_runs_at_once(consumer, redis, sql)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"r" * 201, b"a\nb", b"a\x00b", b"", "a\u202eb".encode()])
async def test_an_id_that_is_none_is_removed(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, name: bytes
) -> None:
    await put(redis, name, message(f="purge-old-deleted", k={}))
    await drained(consumer, redis)

    assert consumer.removed == 1
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 0
    await the_next_job_runs_at_once(consumer, redis, sql)


@pytest.mark.parametrize("score", [0.0, -1.0, float("-inf")])
async def test_a_score_that_is_no_time_ends_as_a_failed_run(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, score: float
) -> None:
    """Control: stock arq skips a score of 0 for ever, and int() of an infinite one ends its worker."""
    await put(redis, "strange", message(f="purge-old-deleted", k={}), score=score)
    await drained(consumer, redis)

    assert "score" in (await error_of(sql, "strange"))["message"]
    await the_next_job_runs_at_once(consumer, redis, sql)


@pytest.mark.parametrize("score", [float("inf"), 1e300])
async def test_a_score_that_is_never_due_ends_as_a_failed_run_after_a_tick(
    consumer: QueueWorker, life: Life, redis: ArqRedis, sql: asyncpg.Connection, score: float
) -> None:
    await put(redis, "never", message(f="purge-old-deleted", k={}), score=score)
    await Dispatcher(life.database, consumer.doorbells, jobs=list(life.jobs), policies=()).tick()
    await drained(consumer, redis)
    assert "score" in (await error_of(sql, "never"))["message"]


@pytest.mark.parametrize("kind", ["list", "hash", "set"])
async def test_a_payload_key_of_another_type_is_removed(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, kind: str
) -> None:
    await _of_type(redis, "arq:job:odd", kind)
    await redis.zadd(QUEUE, {"odd": NOW})
    await drained(consumer, redis)

    assert consumer.removed == 1
    await the_next_job_runs_at_once(consumer, redis, sql)


@pytest.mark.parametrize("prefix", ["arq:retry:", "arq:result:"])
async def test_arqs_other_keys_of_another_type_do_no_harm(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, prefix: str
) -> None:
    await _of_type(redis, f"{prefix}odd", "list")
    await put(redis, "odd", message(f="purge-old-deleted", k={"dry_run": True}))
    await drained(consumer, redis)

    assert (await people.run_row(sql, "odd"))["state"] == "succeeded"


async def test_a_mark_of_progress_of_another_type_does_not_stop_others(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await _of_type(redis, "arq:in-progress:odd", "list")
    await put(redis, "odd", message(f="purge-old-deleted", k={"dry_run": True}))
    await _run_at_once(consumer, redis, sql, "good")


@pytest.mark.parametrize("kind", ["list", "string"])
async def test_a_mark_of_progress_that_never_ends_does_not_keep_a_run_for_ever(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, kind: str
) -> None:
    """arq's own mark ends with the lease; stock arq passes over a message with any other one for ever."""
    await _of_type(redis, "arq:in-progress:odd", kind)
    await put(redis, "odd", message(f="purge-old-deleted", k={"dry_run": True}))
    await drained(consumer, redis)
    assert (await people.run_row(sql, "odd"))["state"] == "succeeded"


async def test_messages_that_others_work_on_do_not_fill_the_worker_s_view_of_the_queue(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    """arq looks at the first 100 due ids; a fleet of 25 workers of 4 runs each has as many in progress."""
    names = [f"elsewhere-{n}" for n in range(100)]
    for name in names:
        await redis.set(f"arq:in-progress:{name}", b"1", ex=60)
    await redis.zadd(QUEUE, dict.fromkeys(names, NOW))
    await _run_at_once(consumer, redis, sql, "good")


async def test_a_queue_of_another_type_does_not_keep_runs_for_ever(
    consumer: QueueWorker, life: Life, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await _of_type(redis, QUEUE, "string")
    await accept(life, "purge-old-deleted", "patient", dry_run=True)
    dispatcher = Dispatcher(life.database, consumer.doorbells, jobs=list(life.jobs), policies=())

    async def ended() -> bool:
        await consumer.poll()
        await dispatcher.tick()
        return bool((await people.run_row(sql, "patient"))["state"] == "succeeded")

    await eventually(ended, within_s=3)


async def test_a_message_without_a_payload_is_removed_or_is_a_doorbell(
    consumer: QueueWorker, life: Life, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await accept(life, "purge-old-deleted", "known", dry_run=True)
    await redis.zadd(QUEUE, {"known": NOW, "unknown": NOW})
    await drained(consumer, redis)

    assert (await people.run_row(sql, "known"))["state"] == "succeeded"
    assert await people.run_row(sql, "unknown") is None
    assert consumer.removed == 1


async def test_a_doorbell_for_a_run_that_is_lost_starts_nothing(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    """After a failover the ledger may lack what Redis rings for; {} would be a valid payload of a purge."""
    await put(redis, "lost", wire.doorbell(NOW))
    await drained(consumer, redis)
    assert await people.run_row(sql, "lost") is None


async def test_a_broken_message_for_a_run_that_exists_is_its_doorbell(
    consumer: QueueWorker, life: Life, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await accept(life, "purge-old-deleted", "known", dry_run=True)
    await put(redis, "known", b"garbage", score=0)
    await drained(consumer, redis)
    assert (await people.run_row(sql, "known"))["state"] == "succeeded"


async def test_a_payload_of_33_mib_fails_without_being_loaded(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(redis, "huge", message(f="create-batch", k={"x": "x" * (33 * 1024 * 1024)}))
    monkeypatch.setattr(consumer.doorbells, "payload", None)
    await drained(consumer, redis)
    monkeypatch.undo()

    error = await error_of(sql, "huge")
    assert "a payload may have 33554432" in error["message"]
    await the_next_job_runs_at_once(consumer, redis, sql)


@pytest.mark.parametrize(("title", "told"), [("a\x00b", "NUL"), ("a\ud800b", "surrogate")])
async def test_a_payload_that_jsonb_can_not_hold_names_the_field_and_keeps_an_excerpt(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, title: str, told: str
) -> None:
    await people.people(sql)
    await redis.enqueue_job("create-batch", _job_id="unfit", project_id=1, created_by_id=2, tasks=[{"title": title}])
    await drained(consumer, redis)

    error = await error_of(sql, "unfit")
    assert error["type"] == "InvalidPayload"
    assert error["message"].startswith("tasks.0.title")
    assert told in error["message"]
    assert len(error["detail"]["excerpt"]) <= 200
    assert (await people.run_row(sql, "unfit"))["payload"] is None
    await the_next_job_runs_at_once(consumer, redis, sql)


@pytest.mark.parametrize("name", ["a\x00b", "a\ud800b"])
async def test_a_field_whose_name_jsonb_can_not_hold_fails_alone(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, name: str
) -> None:
    """The error names the field, and is jsonb as well."""
    await put(redis, "unfit", message(f="purge-old-deleted", k={name: 1}))
    await drained(consumer, redis, within_s=3)

    assert (await error_of(sql, "unfit"))["type"] == "InvalidPayload"
    await the_next_job_runs_at_once(consumer, redis, sql)


@pytest.mark.parametrize("k", [{"x": "a\x00b"}, {"x": "a\ud800b"}])
async def test_an_unknown_job_s_payload_that_jsonb_can_not_hold_fails_alone(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, k: dict[str, str]
) -> None:
    await put(redis, "unfit", message(f="nobody-knows", k=k))
    await drained(consumer, redis)

    error = await error_of(sql, "unfit")
    assert error["message"].startswith("the payload can't be stored: ")
    assert (await people.run_row(sql, "unfit"))["job"] == "nobody-knows"


async def test_a_deep_payload_that_jsonb_can_not_hold_fails_alone(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await put(redis, "deep", message(f="purge-old-deleted").replace(b'{"x": 1}', b'{"x":' * 900 + b"1" + b"}" * 900))
    await drained(consumer, redis)
    assert (await error_of(sql, "deep"))["type"] == "InvalidPayload"
    await the_next_job_runs_at_once(consumer, redis, sql)


async def test_an_unknown_job_is_kept_for_a_worker_that_knows_it(
    consumer: QueueWorker, life: Life, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    known = life.jobs
    life.jobs = {name: job for name, job in known.items() if name != "purge-old-deleted"}
    await redis.enqueue_job("purge-old-deleted", _job_id="early", dry_run=True)
    await drained(consumer, redis)
    row = await people.run_row(sql, "early")
    assert (row["state"], row["wait_reason"]) == ("queued", "no worker here knows job 'purge-old-deleted'")

    life.jobs = known
    await Dispatcher(life.database, consumer.doorbells, jobs=list(known), policies=()).tick()
    await drained(consumer, redis)
    assert (await people.run_row(sql, "early"))["state"] == "succeeded"


async def test_the_same_id_twice_at_once_and_once_more_has_one_effect(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, database_url: str
) -> None:
    await people.people(sql)
    other_database = engine.connect(database_url)
    other_life = Life(other_database, jobs(), worker="other", lease=timedelta(seconds=2))
    other = QueueWorker(other_life, redis, queue=QUEUE, parallel_runs=4)
    payload = {"project_id": 1, "created_by_id": 2, "tasks": [{"title": "t"}] * 500}

    async def deliver() -> None:
        await put(redis, "same", message(f="create-batch", k=payload))
        await redis.delete("arq:in-progress:same")  # so that both take it
        await asyncio.gather(drained(consumer, redis), drained(other, redis))

    await deliver()
    await deliver()
    await other_database.close()

    assert await sql.fetchval("SELECT count(*) FROM task") == 500
    assert (await people.run_row(sql, "same"))["rows_done"] == 500


async def test_two_workers_that_serve_one_message_at_once_have_one_effect(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    """Past arq's mark of progress, which ends with the lease: only the ledger is left to decide."""
    await people.people(sql)
    await put(
        redis, "same", message(f="create-batch", k={"project_id": 1, "created_by_id": 2, "tasks": [{"title": "t"}]})
    )
    await asyncio.gather(*(consumer.run_job("same", NOW) for _ in range(8)))
    await drained(consumer, redis)

    assert await sql.fetchval("SELECT count(*) FROM task") == 1
    assert consumer.succeeded == 1


async def test_the_same_id_with_another_payload_changes_nothing(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    for count in (1, 5):
        payload = {"project_id": 1, "created_by_id": 2, "tasks": [{"title": "t"}] * count}
        await put(redis, "same", message(f="create-batch", k=payload))
        await drained(consumer, redis)
    assert await sql.fetchval("SELECT count(*) FROM task") == 1


async def test_a_hundred_racing_enqueues_of_fifty_ids_run_each_once(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    sends = [
        redis.enqueue_job(
            "create-batch", _job_id=f"r{n % 50}", project_id=1, created_by_id=2, tasks=[{"title": str(n % 50)}]
        )
        for n in range(100)
    ]
    await asyncio.gather(*sends)
    await drained(consumer, redis, within_s=20)
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run WHERE state = 'succeeded'") == 50
    assert await sql.fetchval("SELECT count(*) FROM task") == 50


async def test_two_workers_never_serve_one_id_at_the_same_time(
    consumer: QueueWorker,
    redis: ArqRedis,
    sql: asyncpg.Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred racing enqueues of fifty ids. Control: without NX in the claim the same id is served twice at once."""
    await people.people(sql)
    other_database = engine.connect(database_url)
    other_life = Life(other_database, jobs(), worker="other", lease=timedelta(seconds=2))
    other = QueueWorker(other_life, redis, queue=QUEUE, parallel_runs=4)
    served: Counter[str] = Counter()
    most_at_once: Counter[str] = Counter()
    for worker in (consumer, other):
        monkeypatch.setattr(worker, "run_job", _counting(worker.run_job, served, most_at_once))

    await asyncio.gather(
        *(
            redis.enqueue_job(
                "create-batch", _job_id=f"r{n % 50}", project_id=1, created_by_id=2, tasks=[{"title": str(n % 50)}]
            )
            for n in range(100)
        ),
        drained(consumer, redis, within_s=20),
        drained(other, redis, within_s=20),
    )
    await asyncio.gather(drained(consumer, redis), drained(other, redis))
    await other_database.close()

    assert set(most_at_once.values()) == {1}
    assert len(most_at_once) == 50
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run WHERE state = 'succeeded'") == 50
    assert await sql.fetchval("SELECT count(DISTINCT title) || '/' || count(*) FROM task") == "50/50"


def _counting(
    serve: Callable[[str], Awaitable[None]], served: Counter[str], most_at_once: Counter[str]
) -> Callable[[str], Awaitable[None]]:
    async def counted(run_id: str) -> None:
        served[run_id] += 1
        most_at_once[run_id] = max(most_at_once[run_id], served[run_id])
        try:
            await serve(run_id)
        finally:
            served[run_id] -= 1

    return counted


async def test_five_racing_claims_of_one_id_give_one_run(consumer: QueueWorker, redis: ArqRedis) -> None:
    await redis.zadd(QUEUE, {"wanted": NOW})
    claims = [consumer.doorbells.claim(["wanted"], lease=timedelta(seconds=5)) for _ in range(5)]
    assert sorted(await asyncio.gather(*claims)) == [[], [], [], [], ["wanted"]]
    assert 0 < await redis.pttl("arq:in-progress:wanted") <= 5000


async def test_no_more_is_started_than_there_are_places(
    consumer: QueueWorker, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else is marked: another worker can have the rest at once."""
    finish = asyncio.Event()
    monkeypatch.setattr(consumer, "run_job", lambda _: finish.wait())
    for n in range(6):
        await put(redis, f"r{n}", message(f="purge-old-deleted"), score=NOW + n)

    await consumer.poll()
    await consumer.poll()
    assert sorted(consumer.tasks) == ["r0", "r1", "r2", "r3"]
    assert len(await redis.keys("arq:in-progress:*")) == 4

    finish.set()
    await asyncio.wait(consumer.tasks.values())
    await consumer.poll()
    assert sorted(consumer.tasks) == ["r4", "r5"]


@pytest.mark.parametrize("becomes", ["later", "gone"])
async def test_an_id_that_is_no_longer_due_when_it_is_claimed_is_let_go(
    consumer: QueueWorker, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    """Between the look and the claim another worker has served it, and rung for later or removed it."""
    await put(redis, "r", message(f="purge-old-deleted"))
    await put(redis, "next", message(f="purge-old-deleted"), score=NOW + 1)
    look_at = consumer.doorbells.look_at

    async def looked(ids: list[bytes]) -> list[doorbells.Message]:
        messages = await look_at(ids)
        if becomes == "later":
            await redis.zadd(QUEUE, {"r": (time.time() + 60) * 1000})
        else:
            await redis.zrem(QUEUE, "r")
        return messages

    monkeypatch.setattr(consumer.doorbells, "look_at", looked)
    await consumer.poll()

    assert list(consumer.tasks) == ["next"]
    assert await redis.exists("arq:in-progress:r") == 0


async def test_a_claim_whose_answer_was_lost_finds_its_own_mark(
    consumer: QueueWorker, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py sends the transaction again. Control: judged by SET NX alone, the run waits for its lease to end."""
    await redis.zadd(QUEUE, {"r": NOW})
    execute = Pipeline._execute_transaction
    lost = 0

    async def losing(pipe: Pipeline, connection: Any, *rest: Any) -> Any:
        nonlocal lost
        answer = await execute(pipe, connection, *rest)
        lost += 1
        if lost == 1:
            raise RedisConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(Pipeline, "_execute_transaction", losing)
    assert await consumer.doorbells.claim(["r"], lease=timedelta(seconds=5)) == ["r"]
    assert lost == 2


async def test_the_end_of_a_run_asks_for_the_next_poll_at_once(
    consumer: QueueWorker, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = asyncio.Event()
    monkeypatch.setattr(consumer, "run_job", lambda _: finish.wait())
    await put(redis, "r", message(f="purge-old-deleted"))
    await consumer.poll()
    assert not consumer.woken.is_set()

    finish.set()
    await asyncio.wait_for(consumer.woken.wait(), 1)


async def test_all_that_is_said_to_arq_s_worker_it_knows(
    life: Life, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parameters change between versions, and what it overrides would then never be called."""
    known = set(inspect.signature(Worker.__init__).parameters)
    said: dict[str, Any] = {}
    original = Worker.__init__

    def noted(self: Worker, *functions: Any, **options: Any) -> None:
        said.update(options)
        original(self, *functions, **{name: value for name, value in options.items() if name in known})

    monkeypatch.setattr(Worker, "__init__", noted)
    consumer = QueueWorker(life, redis, queue=QUEUE, parallel_runs=3)

    assert said
    assert set(said) - known == set()
    assert (consumer.max_jobs, consumer.queue_name) == (3, QUEUE)


@pytest.mark.parametrize("name", ["_poll_iteration", "start_jobs", "run_job"])
def test_what_we_override_is_arq_s(name: str) -> None:
    assert name in vars(QueueWorker)
    assert name in vars(Worker)


async def test_with_postgresql_away_a_message_stays(redis: ArqRedis) -> None:
    away = engine.connect(f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d")
    consumer = QueueWorker(Life(away, jobs(), worker="w"), redis, queue=QUEUE, parallel_runs=4)
    await redis.enqueue_job("purge-old-deleted", _job_id="patient")

    await consumer.poll()
    await eventually(lambda: consumer.idle)

    assert await redis.zscore(QUEUE, "patient") > NOW
    assert b'"f": "purge-old-deleted"' in await redis.get("arq:job:patient")
    assert await redis.exists("arq:in-progress:patient") == 0


async def test_with_postgresql_away_a_broken_message_stays(redis: ArqRedis) -> None:
    away = engine.connect(f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d")
    consumer = QueueWorker(Life(away, jobs(), worker="w"), redis, queue=QUEUE, parallel_runs=4)
    await put(redis, "patient", message(f="purge-old-deleted", k={}), score=0)

    await consumer.poll()

    assert (consumer.idle, consumer.removed, consumer.failed) == (True, 0, 0)
    assert await redis.zscore(QUEUE, "patient") == 0
    await away.close()


async def test_with_redis_restarted_empty_nothing_that_was_accepted_is_lost(
    life: Life, sql: asyncpg.Connection
) -> None:
    async with Valkey() as valkey:
        redis = doorbells.connect(valkey.url, queue=QUEUE)
        consumer = QueueWorker(life, redis, queue=QUEUE, parallel_runs=4)
        dispatcher = Dispatcher(life.database, consumer.doorbells, jobs=list(life.jobs), policies=())
        await accept(life, "purge-old-deleted", "accepted", dry_run=True)
        await dispatcher.tick()
        await valkey.stop(immediate=True)
        await consumer.poll()  # does not raise
        await valkey.start()
        assert await redis.zcard(QUEUE) == 0

        await dispatcher.tick()
        await drained(consumer, redis)
        await redis.aclose(close_connection_pool=True)
    assert (await people.run_row(sql, "accepted"))["state"] == "succeeded"


async def _of_type(redis: ArqRedis, key: str, kind: str) -> None:
    writers: dict[str, Any] = {"list": redis.rpush, "set": redis.sadd, "hash": redis.hset, "string": redis.set}
    await writers[kind](key, "x", *(["y"] if kind == "hash" else []))


async def _run_at_once(consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, run_id: str) -> None:
    """Wait for a run while others stay in the queue."""
    await redis.enqueue_job("purge-old-deleted", _job_id=run_id, dry_run=True)

    async def ended() -> bool:
        await consumer.poll()
        row = await people.run_row(sql, run_id)
        return row is not None and row["state"] == "succeeded"

    await eventually(ended, within_s=2)


async def test_a_run_that_is_cancelled_at_shutdown_is_free_for_the_next_worker_at_once(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    """Held in its transaction longer than the shutdown lasts."""
    await people.people(sql)
    await sql.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'; "
        "CREATE TRIGGER dawdle AFTER INSERT ON task EXECUTE FUNCTION dawdle()"
    )
    await put(redis, "slow", message(f="create-batch", k=SMALL_BATCH))
    await consumer.poll()
    await eventually(lambda: sql.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    await consumer.drain(within=timedelta(0))

    assert await redis.exists("arq:in-progress:slow") == 0
    assert b'"f": "create-batch"' in await redis.get("arq:job:slow")
    row = await people.run_row(sql, "slow")
    assert (row["state"], row["attempt"]) == ("queued", 1)
    assert await sql.fetchval("SELECT count(*) FROM task") == 0


async def test_redis_blips_while_messages_are_claimed_cost_no_place(
    consumer: QueueWorker, redis: ArqRedis, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with arq's own counting of places, four blips make a worker of four places deaf for ever."""

    async def blip(*_: Any, **__: Any) -> None:
        raise RedisConnectionError("blip")

    await put(redis, "patient", message(f="purge-old-deleted", k={"dry_run": True}))
    monkeypatch.setattr(consumer.doorbells, "claim", blip)
    monkeypatch.setattr("worker.queue.LONGEST_WAIT_FOR_REDIS_S", 0.01)
    for _ in range(6):
        await consumer.poll()
    monkeypatch.undo()
    await drained(consumer, redis)
    assert (await people.run_row(sql, "patient"))["state"] == "succeeded"
