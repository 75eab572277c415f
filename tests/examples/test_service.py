"""The example service, called over HTTP: every operation, as a client would use it."""

import asyncio
import sys
from datetime import datetime

import asyncpg
import httpx
import pytest

from examples.service import router
from tests import people
from tests.contract.cli import environment
from tests.eventually import eventually
from tests.examples.callers import acting, error, titles
from tests.examples.program import ROOT
from worker.embedded.server import free_port

CREATOR, OWNER = acting(people.CREATOR), acting(people.OWNER)
NEW = {"project_id": people.PROJECT, "title": "write the letter"}


async def test_a_task_is_created_with_the_database_s_own_values(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    answer = await service.post("/tasks", json=NEW, headers=CREATOR)

    assert answer.status_code == 201
    task = answer.json()
    row = await sql.fetchrow("SELECT * FROM task WHERE id = $1", task["id"])
    assert (task["title"], task["status"], task["priority"], task["created_by_id"]) == (
        *("write the letter", "pending", "medium"),
        people.CREATOR,
    )
    assert datetime.fromisoformat(task["created_at"]) == row["created_at"]
    assert (await service.get(f"/tasks/{task['id']}")).json() == task


async def test_a_batch_is_created_in_order(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    batch = [NEW | {"title": f"letter {n}"} for n in range(100)]
    answer = await service.post("/tasks/batch", json=batch, headers=CREATOR)

    assert answer.status_code == 201
    ids = answer.json()["ids"]
    found = await sql.fetch("SELECT title FROM task WHERE id = ANY($1) ORDER BY array_position($1, id)", ids)
    assert [row["title"] for row in found] == [given["title"] for given in batch]


async def test_a_batch_that_somebody_s_lock_keeps_out_can_be_asked_for_again(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        await sql.execute("LOCK TABLE task IN SHARE MODE")
        held = await service.post("/tasks/batch", json=[NEW], headers=CREATOR)
    assert (held.status_code, error(held)["type"], held.headers["Retry-After"]) == (503, "Busy", "1")
    assert (await service.post("/tasks/batch", json=[NEW], headers=CREATOR)).status_code == 201


async def test_lists_are_the_newest_first_and_filtered(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE task SET title = status || ' ' || project_id, created_at = now() - interval '1 s' * id")

    everything = (await service.get("/tasks")).json()
    assert [task["title"] for task in everything["items"]] == [
        *("pending 1", "in_progress 1", "completed 1", "archived 1", "pending 2")
    ]
    assert (everything["total"], everything["limit"], everything["offset"]) == (5, 50, 0)
    some = await service.get("/tasks", params={"project_id": people.PROJECT, "status": "pending"})
    assert titles(some) == ["pending 1"]
    second = await service.get("/tasks", params={"limit": 2, "offset": 2})
    assert titles(second) == ["completed 1", "archived 1"]
    assert titles(await service.get("/tasks", params={"priority": "high"})) == []
    assert (await service.get("/tasks/count", params={"status": "pending"})).json() == {"count": 2}
    before = await sql.fetchval("SELECT created_at FROM task WHERE title = 'completed 1'")
    assert titles(await service.get("/tasks", params={"created_before": before.isoformat()})) == [
        *("archived 1", "pending 2")
    ]


async def test_at_its_end_a_list_is_an_empty_page(service: httpx.AsyncClient, tasks: people.Tasks) -> None:
    answer = await service.get("/tasks", params={"offset": 5})
    assert (titles(answer), answer.json()["total"]) == ([], 5)


@pytest.mark.parametrize("path", ["/tasks/feed", "/tasks/board", "/tasks/search", "/tasks/deleted"])
async def test_following_the_cursor_gives_each_task_once(
    service: httpx.AsyncClient, sql: asyncpg.Connection, path: str
) -> None:
    """All of one instant, and another comes in meanwhile."""
    await people.people(sql)
    await people.many(sql, 25)
    asked: dict[str, str | int] = {"limit": 10}
    if path == "/tasks/search":
        asked["q"] = "TASK"
    if path == "/tasks/deleted":
        asked["days"] = 1
        await sql.execute("UPDATE task SET deleted_at = now(), status = 'deleted'")
    seen = []
    while True:
        page = (await service.get(path, params=asked)).json()
        seen += [task["id"] for task in page["items"]]
        await sql.execute("INSERT INTO task (title, project_id, created_by_id) VALUES ('task of late', 1, 2)")
        if page["next_cursor"] is None:
            break
        asked["cursor"] = page["next_cursor"]
    assert sorted(seen) == list(range(1, 26))


async def test_search_takes_the_text_literally(
    service: httpx.AsyncClient, sql: asyncpg.Connection, tasks: people.Tasks
) -> None:
    await sql.execute("UPDATE task SET title = '100% done' WHERE id = $1", tasks.open)
    await sql.execute("UPDATE task SET description = 'is 100% DONE too' WHERE id = $1", tasks.completed)
    found = await service.get("/tasks/search", params={"q": "0% d"})
    assert {task["id"] for task in found.json()["items"]} == {tasks.open, tasks.completed}
    assert titles(await service.get("/tasks/search", params={"q": "0_ d"})) == []
    pending = await service.get("/tasks/search", params={"q": "0% d", "status": "pending"})
    assert titles(pending) == ["100% done"]


async def test_the_board_has_the_project_and_the_creator_of_each_task(
    service: httpx.AsyncClient, tasks: people.Tasks
) -> None:
    found = {task["id"]: task for task in (await service.get("/tasks/board")).json()["items"]}
    assert found[tasks.open]["project"]["name"] == "ours"
    assert found[tasks.others]["created_by"]["name"] == "stranger"


async def test_an_update_changes_what_is_given_alone(service: httpx.AsyncClient, tasks: people.Tasks) -> None:
    before = (await service.get(f"/tasks/{tasks.open}")).json()
    answer = await service.patch(f"/tasks/{tasks.open}", json={"priority": "high"}, headers=CREATOR)
    assert answer.status_code == 200, answer.text
    after = answer.json()
    assert {name for name in after if after[name] != before[name]} == {"priority", "updated_at"}


async def test_an_update_of_what_somebody_has_changed_since_is_a_conflict(
    service: httpx.AsyncClient, tasks: people.Tasks
) -> None:
    """Control: without unchanged_since the later one wins."""
    path = f"/tasks/{tasks.open}"
    seen = {"unchanged_since": (await service.get(path)).json()["updated_at"]}

    first = await service.patch(path, json={"title": "first"}, params=seen, headers=CREATOR)
    second = await service.patch(path, json={"title": "second"}, params=seen, headers=OWNER)

    assert (first.status_code, second.status_code) == (200, 409)
    assert error(second) | {"message": ""} == {"type": "Conflict", "message": "", "ids": [tasks.open]}
    assert (await service.get(path)).json()["title"] == "first"
    assert (await service.patch(path, json={"title": "second"}, headers=OWNER)).json()["title"] == "second"


async def test_a_task_is_deleted_found_among_the_deleted_and_restored(
    service: httpx.AsyncClient, tasks: people.Tasks
) -> None:
    path = f"/tasks/{tasks.in_progress}"
    gone = await service.delete(path, headers=CREATOR)
    assert (gone.json()["status"], gone.json()["status_before_delete"]) == ("deleted", "in_progress")
    assert (await service.get(path)).status_code == 404
    assert (await service.get(path, params={"include_deleted": True})).json() == gone.json()
    found = (await service.get("/tasks/deleted", params={"days": 1})).json()["items"]
    assert [task["id"] for task in found] == [tasks.in_progress, tasks.deleted]

    back = await service.post(f"{path}/restore", headers=CREATOR)
    assert (back.status_code, back.json()["status"], back.json()["deleted_at"]) == (200, "in_progress", None)


async def test_a_task_is_deleted_for_good(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    answer = await service.delete(f"/tasks/{tasks.open}/for-good", headers=CREATOR)
    assert (answer.status_code, answer.content) == (204, b"")
    assert await sql.fetchval("SELECT count(*) FROM task WHERE id = $1", tasks.open) == 0


async def test_tasks_are_completed_at_once(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    answer = await service.post("/tasks/complete", json={"task_ids": [tasks.open, tasks.in_progress]}, headers=CREATOR)
    assert answer.json() == {"completed": 2}
    assert await people.statuses(sql, [tasks.open, tasks.in_progress]) == ["completed", "completed"]


async def test_a_project_is_archived_with_its_tasks(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    answer = await service.post(f"/projects/{people.PROJECT}/archive", headers=OWNER)
    assert answer.json() == {"archived": 3}
    assert await people.statuses(sql, [tasks.completed, tasks.deleted, tasks.others]) == [
        *("archived", "deleted", "pending")
    ]
    refused = await service.post("/tasks", json=NEW, headers=CREATOR)
    assert (refused.status_code, error(refused)["ids"]) == (409, [people.PROJECT])


async def test_a_project_s_old_tasks_are_deleted(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE task SET created_at = now() - interval '31 days' WHERE id <> $1", tasks.open)
    answer = await service.delete(f"/projects/{people.PROJECT}/tasks", params={"older_than_days": 30}, headers=OWNER)
    assert answer.json() == {"deleted": 3}
    assert await people.statuses(sql, [tasks.open, tasks.completed, tasks.others]) == [
        *("pending", "deleted", "pending")
    ]


async def test_its_description_names_every_operation(service: httpx.AsyncClient) -> None:
    """What /docs shows; where a type can't be described, it is a 500."""
    described = (await service.get("/openapi.json")).json()["paths"]
    assert sum(len(methods) for methods in described.values()) == len(router.routes)


async def test_it_starts_with_the_command_that_it_tells(database_url: str) -> None:
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "uvicorn", "--factory", "examples.service:create_app"),
        *("--port", str(port), "--log-level", "warning"),
        cwd=ROOT,
        env=environment(database_url=database_url),
    )

    async def answers() -> bool:
        assert server.returncode is None, "it has ended"
        try:
            return (await client.get("/tasks/count")).text == '{"count":0}'
        except httpx.ConnectError:
            return False

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await eventually(answers)
    server.terminate()
    await server.wait()
