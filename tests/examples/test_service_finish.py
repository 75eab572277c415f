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

CREATOR, STRANGER, OWNER = acting(people.CREATOR), acting(people.STRANGER), acting(people.OWNER)
KEY = {"Idempotency-Key": "one-of-the-caller-s"}
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
        f"/tasks/{tasks.open}/finish", json={"task_ids": [tasks.in_progress, tasks.completed]}, headers=CREATOR | KEY
    )

    assert answer.status_code == 202
    run_id = answer.json()["run_id"]
    assert await people.statuses(sql, [tasks.open, tasks.in_progress]) == ["completed", "in_progress"]
    assert (await service.get(f"/runs/{run_id}", headers=CREATOR)).json()["state"] == "queued"

    await Dispatcher(consumer.life.database, consumer.doorbells, jobs=["mark-completed"], policies=()).tick()
    await succeeded(consumer, sql, run_id)
    assert await people.statuses(sql, [tasks.in_progress]) == ["completed"]
    seen = (await service.get(f"/runs/{run_id}", headers=CREATOR)).json()
    assert (seen["state"], seen["rows_done"], seen["result"]["already_completed"]) == ("succeeded", 1, 1)


async def test_a_run_that_failed_says_why_and_not_where(
    service: httpx.AsyncClient, tasks: people.Tasks, life: Life
) -> None:
    answer = await service.post(f"/tasks/{tasks.open}/finish", json={"task_ids": [tasks.others]}, headers=CREATOR | KEY)
    await serve_to_the_end(life, answer.json()["run_id"])

    seen = (await service.get(f"/runs/{answer.json()['run_id']}", headers=CREATOR)).json()
    assert (seen["state"], seen["error"].keys()) == ("failed", {"type", "message"})
    assert str(tasks.others) in seen["error"]["message"]


async def test_asked_again_in_other_words_it_is_the_same_run(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    ids = [tasks.in_progress, tasks.completed]
    for given in (ids, [*reversed(ids), *ids]):
        answer = await service.post(f"/tasks/{tasks.open}/finish", json={"task_ids": given}, headers=CREATOR | KEY)
        assert answer.status_code == 202
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 1


async def test_where_its_own_change_is_refused_there_is_no_run(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    before = await everything(sql)
    answer = await service.post(
        f"/tasks/{tasks.open}/finish", json={"task_ids": [tasks.others]}, headers=STRANGER | KEY
    )
    assert (answer.status_code, error(answer)["type"]) == (403, "NotAllowed")
    assert await everything(sql) == before


async def test_where_the_commit_fails_there_is_no_run_and_nobody_is_told_of_one(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    """Control: without scope="function" the answer is 202."""
    await sql.execute(TOO_LATE)
    before = await everything(sql)
    answer = await service.post(
        f"/tasks/{tasks.open}/finish", json={"task_ids": [tasks.in_progress]}, headers=CREATOR | KEY
    )
    assert answer.status_code == 500
    assert "too late" not in answer.text
    assert await everything(sql) == before


async def test_where_the_run_can_t_be_enqueued_its_own_change_is_undone(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE lowtide.run ADD CHECK (job <> 'mark-completed')")
    before = await everything(sql)
    answer = await service.post(
        f"/tasks/{tasks.open}/finish", json={"task_ids": [tasks.in_progress]}, headers=CREATOR | KEY
    )
    assert answer.status_code == 500
    assert await everything(sql) == before


async def test_other_tasks_under_the_same_key_are_refused(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    asked = f"/tasks/{tasks.open}/finish"
    first = await service.post(asked, json={"task_ids": [tasks.in_progress]}, headers=CREATOR | KEY)
    before = await everything(sql)
    answer = await service.post(asked, json={"task_ids": [tasks.completed]}, headers=CREATOR | KEY)
    assert (answer.status_code, error(answer)["type"]) == (409, "Conflict")
    assert error(answer)["ids"] == [first.json()["run_id"]]
    assert await everything(sql) == before


async def test_a_task_that_was_opened_again_can_be_finished_again(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection, life: Life
) -> None:
    """With a key of its own; a request that only comes twice, and late, changes nothing."""
    asked, given = f"/tasks/{tasks.open}/finish", {"task_ids": [tasks.in_progress]}
    first = await service.post(asked, json=given, headers=CREATOR | KEY)
    await serve_to_the_end(life, first.json()["run_id"])
    await sql.execute("UPDATE task SET status = 'pending' WHERE id = ANY($1)", [tasks.open, tasks.in_progress])

    late = await service.post(asked, json=given, headers=CREATOR | KEY)
    assert (late.status_code, late.json()) == (202, first.json())
    assert await people.statuses(sql, [tasks.open, tasks.in_progress]) == ["pending", "pending"]

    again = await service.post(asked, json=given, headers=CREATOR | {"Idempotency-Key": "the-second-time"})
    await serve_to_the_end(life, again.json()["run_id"])
    assert await people.statuses(sql, [tasks.open, tasks.in_progress]) == ["completed", "completed"]


async def test_a_key_is_of_one_actor_and_so_is_the_run(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    asked, given = f"/tasks/{tasks.open}/finish", {"task_ids": [tasks.in_progress]}
    answers = [await service.post(asked, json=given, headers=actor | KEY) for actor in (CREATOR, OWNER)]
    assert [answer.status_code for answer in answers] == [202, 202]

    of_creator = f"/runs/{answers[0].json()['run_id']}"
    assert (await service.get(of_creator, headers=CREATOR)).status_code == 200
    refused = await service.get(of_creator, headers=OWNER)
    assert (refused.status_code, error(refused)["type"]) == (403, "NotAllowed")


async def test_without_a_key_nothing_is_done(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    before = await everything(sql)
    for key in ({}, {"Idempotency-Key": "a b"}, {"Idempotency-Key": "x" * 101}):
        answer = await service.post(f"/tasks/{tasks.open}/finish", json={"task_ids": [1]}, headers=CREATOR | key)
        assert (answer.status_code, error(answer)["type"]) == (422, "InvalidInput")
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
