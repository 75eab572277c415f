"""The example service's own change and the run that it enqueues: both, or neither. And many requests at once."""

import asyncio
from collections import Counter

import asyncpg
import httpx

from jobs.life import Life
from tests import people
from tests.examples.callers import acting, error, everything, patiently
from tests.examples.test_enqueue_from_redis import succeeded
from tests.ledger import serve_to_the_end
from worker.dispatch import Dispatcher
from worker.queue import QueueWorker

CREATOR, STRANGER = acting(people.CREATOR), acting(people.STRANGER)
# What fails when the transaction commits, and not a moment earlier.
TOO_LATE = """
    CREATE FUNCTION too_late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''too late''; END';
    CREATE CONSTRAINT TRIGGER too_late AFTER UPDATE ON task DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION too_late()
"""


async def test_its_own_change_stands_at_once_and_a_worker_does_the_rest(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection, consumer: QueueWorker
) -> None:
    answer = await service.post(
        f"/tasks/{tasks.open}/finish", json={"task_ids": [tasks.in_progress, tasks.completed]}, headers=CREATOR
    )

    assert answer.status_code == 202
    run_id = answer.json()["run_id"]
    assert await people.statuses(sql, [tasks.open, tasks.in_progress]) == ["completed", "in_progress"]
    assert (await service.get(f"/runs/{run_id}")).json()["state"] == "queued"

    await Dispatcher(consumer.life.database, consumer.doorbells, jobs=["mark-completed"], policies=()).tick()
    await succeeded(consumer, sql, run_id)
    assert await people.statuses(sql, [tasks.in_progress]) == ["completed"]
    seen = (await service.get(f"/runs/{run_id}")).json()
    assert (seen["state"], seen["rows_done"], seen["result"]["already_completed"]) == ("succeeded", 1, 1)


async def test_a_run_that_failed_says_why_and_not_where(
    service: httpx.AsyncClient, tasks: people.Tasks, life: Life
) -> None:
    answer = await service.post(f"/tasks/{tasks.open}/finish", json={"task_ids": [tasks.others]}, headers=CREATOR)
    await serve_to_the_end(life, answer.json()["run_id"])

    seen = (await service.get(f"/runs/{answer.json()['run_id']}")).json()
    assert (seen["state"], seen["error"].keys()) == ("failed", {"type", "message"})
    assert str(tasks.others) in seen["error"]["message"]


async def test_asked_again_in_other_words_it_is_the_same_run(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    ids = [tasks.in_progress, tasks.completed]
    for given in (ids, [*reversed(ids), *ids]):
        answer = await service.post(f"/tasks/{tasks.open}/finish", json={"task_ids": given}, headers=CREATOR)
        assert answer.status_code == 202
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 1


async def test_where_its_own_change_is_refused_there_is_no_run(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    before = await everything(sql)
    answer = await service.post(f"/tasks/{tasks.open}/finish", json={"task_ids": [tasks.others]}, headers=STRANGER)
    assert (answer.status_code, error(answer)["type"]) == (403, "NotAllowed")
    assert await everything(sql) == before


async def test_where_the_commit_fails_there_is_no_run_and_nobody_is_told_of_one(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    """Control: without scope="function" the answer is 202."""
    await sql.execute(TOO_LATE)
    before = await everything(sql)
    answer = await service.post(f"/tasks/{tasks.open}/finish", json={"task_ids": [tasks.in_progress]}, headers=CREATOR)
    assert answer.status_code == 500
    assert "too late" not in answer.text
    assert await everything(sql) == before


async def test_where_the_run_can_t_be_enqueued_its_own_change_is_undone(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('mark-completed', '{\"task_ids\": [1]}', $1)", f"finish-{tasks.open}")
    before = await everything(sql)
    answer = await service.post(f"/tasks/{tasks.open}/finish", json={"task_ids": [tasks.in_progress]}, headers=CREATOR)
    assert (answer.status_code, error(answer)["type"]) == (409, "Conflict")
    assert error(answer)["ids"] == [f"finish-{tasks.open}"]
    assert await everything(sql) == before


async def test_fifty_requests_at_once_share_the_pool(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    new = {"project_id": people.PROJECT, "title": "at once"}
    answers = await asyncio.gather(*(service.post("/tasks", json=new, headers=CREATOR) for _ in range(50)))
    assert Counter(answer.status_code for answer in answers) == {201: 50}
    assert await sql.fetchval("SELECT count(*) FROM task WHERE title = 'at once'") == 50


async def test_fifty_changes_of_one_task_at_once_wait_for_each_other(
    service: httpx.AsyncClient, tasks: people.Tasks
) -> None:
    async def change(number: int) -> httpx.Response:
        given = {"title": f"title {number}"}
        return await patiently(lambda: service.patch(f"/tasks/{tasks.open}", json=given, headers=CREATOR))

    answers = await asyncio.gather(*(change(n) for n in range(50)))
    assert Counter(answer.status_code for answer in answers) == {200: 50}
    assert {answer.json()["title"] for answer in answers} == {f"title {n}" for n in range(50)}
