"""What the example service refuses: each with its status and type, nothing changed, and nothing of the input told."""

import asyncio
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest

from tests import people
from tests.examples.callers import acting, error, everything, patiently
from tests.examples.server import serving
from worker.embedded.server import free_port

CREATOR, STRANGER, NOBODY = acting(people.CREATOR), acting(people.STRANGER), acting(999)
NEW = {"project_id": people.PROJECT, "title": "write the letter"}
MEGABYTE = "secret " * 150_000
SEEN = "2026-01-01T00:00:00"

# What stands for a field of people.Tasks: {open}, {deleted} and so on.
Case = tuple[str, str, dict[str, Any], int, str]
CASES: dict[str, Case] = {
    "an empty title": ("POST", "/tasks", {"json": NEW | {"title": ""}}, 422, "InvalidInput"),
    "a title of 1 MB": ("POST", "/tasks", {"json": NEW | {"title": MEGABYTE}}, 422, "InvalidInput"),
    "a title of 1 MB in an update": ("PATCH", "/tasks/{open}", {"json": {"title": MEGABYTE}}, 422, "InvalidInput"),
    "a title of 1 MB in a batch": ("POST", "/tasks/batch", {"json": [NEW, {"title": MEGABYTE}]}, 422, "InvalidInput"),
    "a title with a NUL": ("POST", "/tasks", {"json": NEW | {"title": "a\x00"}}, 422, "InvalidInput"),
    "half of a surrogate": (
        *("POST", "/tasks", {"content": b'{"project_id": 1, "title": "\\ud800"}'}, 422, "InvalidInput"),
    ),
    "half of a surrogate as a name": (
        *("POST", "/tasks", {"content": b'{"project_id": 1, "title": "a", "\\ud800": 1}'}, 422, "InvalidInput"),
    ),
    "no title": ("POST", "/tasks", {"json": {"project_id": 1}}, 422, "InvalidInput"),
    "an unknown field with a name of 1 MB": (
        "POST",
        "/tasks",
        {"json": NEW | {"x" * 1_000_000: 1}},
        422,
        "InvalidInput",
    ),
    "what is no JSON": ("POST", "/tasks", {"content": b"{"}, 422, "InvalidInput"),
    "an empty batch": ("POST", "/tasks/batch", {"json": []}, 422, "InvalidInput"),
    "no change at all": ("PATCH", "/tasks/{open}", {"json": {}}, 422, "InvalidInput"),
    "a status that is none": ("POST", "/tasks", {"json": NEW | {"status": "done"}}, 422, "InvalidInput"),
    "a status that only a deletion gives": (
        *("PATCH", "/tasks/{open}", {"json": {"status": "deleted"}}, 422, "InvalidInput"),
    ),
    "a priority that is none": ("POST", "/tasks", {"json": NEW | {"priority": "urgent"}}, 422, "InvalidInput"),
    "an unknown status to list": ("GET", "/tasks", {"params": {"status": "done"}}, 422, "InvalidInput"),
    "the deleted in a list": ("GET", "/tasks", {"params": {"status": "deleted"}}, 422, "InvalidInput"),
    "an unknown priority to list": ("GET", "/tasks/feed", {"params": {"priority": "urgent"}}, 422, "InvalidInput"),
    "a filter that is none": ("GET", "/tasks", {"params": {"statuz": "pending"}}, 422, "InvalidInput"),
    "a naive instant": ("GET", "/tasks", {"params": {"created_before": SEEN}}, 422, "InvalidInput"),
    "a naive instant to update": (
        *("PATCH", "/tasks/{open}", {"json": {"title": "a"}, "params": {"unchanged_since": SEEN}}, 422),
        "InvalidInput",
    ),
    "limit 0": ("GET", "/tasks", {"params": {"limit": 0}}, 422, "InvalidInput"),
    "limit -1": ("GET", "/tasks/feed", {"params": {"limit": -1}}, 422, "InvalidInput"),
    "limit of a million": ("GET", "/tasks/board", {"params": {"limit": 1_000_000}}, 422, "InvalidInput"),
    "offset -1": ("GET", "/tasks", {"params": {"offset": -1}}, 422, "InvalidInput"),
    "offset beyond the end": ("GET", "/tasks", {"params": {"offset": 6}}, 422, "InvalidInput"),
    "offset beyond any number": ("GET", "/tasks", {"params": {"offset": 10**30}}, 422, "InvalidInput"),
    "a tampered cursor": ("GET", "/tasks/feed", {"params": {"cursor": "bm90IG91cnM"}}, 422, "InvalidInput"),
    "a cursor of no text": ("GET", "/tasks/deleted", {"params": {"days": 1, "cursor": "\x00é"}}, 422, "InvalidInput"),
    "days that are none": ("GET", "/tasks/deleted", {"params": {"days": 0}}, 422, "InvalidInput"),
    "days beyond the calendar": ("GET", "/tasks/deleted", {"params": {"days": 10**9}}, 422, "InvalidInput"),
    "old tasks of no age": ("DELETE", "/projects/1/tasks", {"params": {"older_than_days": -1}}, 422, "InvalidInput"),
    "a search for nothing": ("GET", "/tasks/search", {"params": {"q": ""}}, 422, "InvalidInput"),
    "a search for a NUL": ("GET", "/tasks/search", {"params": {"q": "a\x00b"}}, 422, "InvalidInput"),
    "an id beyond bigint": ("GET", f"/tasks/{10**30}", {}, 422, "InvalidInput"),
    "an id that is none": ("GET", "/tasks/0", {}, 422, "InvalidInput"),
    "a run's id that is none": ("GET", "/runs/a%00b", {}, 422, "InvalidInput"),
    "no actor": ("POST", "/tasks", {"json": NEW, "headers": {}}, 422, "InvalidInput"),
    "an actor of no number": ("POST", "/tasks", {"json": NEW, "headers": {"X-Actor": "me"}}, 422, "InvalidInput"),
    "an unknown actor creates": ("POST", "/tasks", {"json": NEW, "headers": NOBODY}, 404, "NotFound"),
    "an unknown actor creates many": ("POST", "/tasks/batch", {"json": [NEW], "headers": NOBODY}, 404, "NotFound"),
    "an unknown actor deletes": ("DELETE", "/tasks/{open}", {"headers": NOBODY}, 404, "NotFound"),
    "an unknown project": ("POST", "/tasks", {"json": NEW | {"project_id": 999}}, 404, "NotFound"),
    "an unknown project to archive": ("POST", "/projects/999/archive", {}, 404, "NotFound"),
    "an unknown task": ("GET", "/tasks/999", {}, 404, "NotFound"),
    "an unknown task to update": ("PATCH", "/tasks/999", {"json": {"title": "a"}}, 404, "NotFound"),
    "an unknown task to delete": ("DELETE", "/tasks/999", {}, 404, "NotFound"),
    "an unknown task to restore": ("POST", "/tasks/999/restore", {}, 404, "NotFound"),
    "an unknown task to delete for good": ("DELETE", "/tasks/999/for-good", {}, 404, "NotFound"),
    "an unknown task to complete": ("POST", "/tasks/complete", {"json": {"task_ids": [1, 999]}}, 404, "NotFound"),
    "a deleted task": ("GET", "/tasks/{deleted}", {}, 404, "NotFound"),
    "an unknown run": ("GET", "/runs/none", {}, 404, "NotFound"),
    "another's task to update": (
        *("PATCH", "/tasks/{open}", {"json": {"title": "a"}, "headers": STRANGER}, 403, "NotAllowed"),
    ),
    "another's task to delete": ("DELETE", "/tasks/{open}", {"headers": STRANGER}, 403, "NotAllowed"),
    "another's task to restore": ("POST", "/tasks/{deleted}/restore", {"headers": STRANGER}, 403, "NotAllowed"),
    "another's task to delete for good": (
        *("DELETE", "/tasks/{open}/for-good", {"headers": STRANGER}, 403, "NotAllowed"),
    ),
    "another's tasks to complete": (
        *("POST", "/tasks/complete", {"json": {"task_ids": [1, 6]}, "headers": STRANGER}, 403, "NotAllowed"),
    ),
    "another's project to archive": ("POST", "/projects/1/archive", {}, 403, "NotAllowed"),
    "another's project's old tasks": (
        *("DELETE", "/projects/1/tasks", {"params": {"older_than_days": 1}}, 403, "NotAllowed"),
    ),
    "restore of what is not deleted": ("POST", "/tasks/{open}/restore", {}, 409, "Conflict"),
    "delete of what is deleted": ("DELETE", "/tasks/{deleted}", {}, 404, "NotFound"),
}


async def test_each_bad_input_is_a_named_refusal_and_changes_nothing(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection, subtests: pytest.Subtests
) -> None:
    before = await everything(sql)
    for name, (method, path, given, status, kind) in CASES.items():
        with subtests.test(name):
            asked: dict[str, Any] = {"headers": CREATOR} | given
            answer = await service.request(method, path.format(open=tasks.open, deleted=tasks.deleted), **asked)
            assert (answer.status_code, error(answer)["type"]) == (status, kind), answer.text[:500]
            assert "secret" not in answer.text
            assert len(answer.content) < 5_000
            assert await everything(sql) == before


async def test_a_refusal_names_the_field_or_the_ids(service: httpx.AsyncClient, tasks: people.Tasks) -> None:
    bad = await service.post("/tasks", json=NEW | {"title": ""}, headers=CREATOR)
    assert [fault["field"] for fault in error(bad)["fields"]] == ["body.title"]
    unknown = await service.get("/tasks/999")
    assert error(unknown)["ids"] == [999]
    forbidden = await service.delete(f"/tasks/{tasks.open}", headers=STRANGER)
    assert error(forbidden)["ids"] == [tasks.open]


async def test_a_cursor_with_one_character_changed_is_refused(
    service: httpx.AsyncClient, tasks: people.Tasks, subtests: pytest.Subtests
) -> None:
    cursor = (await service.get("/tasks/feed", params={"limit": 1})).json()["next_cursor"]
    assert (await service.get("/tasks/feed", params={"cursor": cursor})).status_code == 200
    for place in range(len(cursor)):
        with subtests.test(str(place)):
            changed = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
            answer = await service.get("/tasks/feed", params={"cursor": changed})
            assert (answer.status_code, error(answer)["type"]) == (422, "InvalidInput")


async def test_what_somebody_holds_for_long_can_be_asked_for_again(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    """Control: without the translation it is a 500."""
    async with sql.transaction():
        await sql.execute("SELECT 1 FROM task WHERE id = $1 FOR UPDATE", tasks.open)
        held = await service.patch(f"/tasks/{tasks.open}", json={"title": "mine"}, headers=CREATOR)
    assert (held.status_code, error(held)["type"], held.headers["Retry-After"]) == (503, "Busy", "1")
    assert (await service.patch(f"/tasks/{tasks.open}", json={"title": "mine"}, headers=CREATOR)).status_code == 200


async def test_with_postgresql_away_it_runs_on_and_says_so() -> None:
    async with serving(f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d") as client:
        answer = await client.get("/tasks")
    assert (answer.status_code, error(answer)["type"]) == (503, "Busy")
    assert "hunter2" not in answer.text


async def test_of_two_restores_at_once_one_is_refused(
    service: httpx.AsyncClient, tasks: people.Tasks, sql: asyncpg.Connection
) -> None:
    await service.delete(f"/tasks/{tasks.in_progress}", headers=CREATOR)
    restoring = partial(service.post, f"/tasks/{tasks.in_progress}/restore", headers=CREATOR)
    answers = await asyncio.gather(patiently(restoring), patiently(restoring))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    refused = max(answers, key=lambda answer: answer.status_code)
    assert (error(refused)["type"], error(refused)["ids"]) == ("Conflict", [tasks.in_progress])
    assert await people.statuses(sql, [tasks.in_progress]) == ["in_progress"]
