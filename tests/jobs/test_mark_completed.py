"""mark-completed: all or nothing with "fail", as many as possible with "skip"."""

import asyncpg
import pytest

from db.engine import Database
from jobs.endings import Again, Finished
from jobs.life import Life
from tests import people
from tests.ledger import accept, row, run, serve_to_the_end

NONE = {"missing": 0, "deleted": 0, "archived": 0, "forbidden": 0}


async def test_completes_open_tasks_and_counts_those_that_were(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)
    ids = [tasks.completed, tasks.in_progress, tasks.open]

    ended = await run(life, "mark-completed", task_ids=ids, requested_by=people.OWNER)

    assert ended.result == {"completed": 2, "already_completed": 1, "skipped": NONE}
    assert await people.statuses(sql, ids) == ["completed"] * 3
    assert (ended.rows_done, ended.payload) == (2, {"requested_by": 1, "on_invalid": "fail"})


async def test_one_bad_id_means_no_change_and_each_kind_is_listed(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)
    ids = [tasks.open, 999, tasks.deleted, tasks.archived, tasks.others]

    ended = await run(life, "mark-completed", task_ids=ids, requested_by=people.CREATOR)

    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["type"] == "TasksRefused"
    assert ended.error["detail"] == {
        "missing": {"total": 1, "ids": [999]},
        "deleted": {"total": 1, "ids": [tasks.deleted]},
        "archived": {"total": 1, "ids": [tasks.archived]},
        "forbidden": {"total": 1, "ids": [tasks.others]},
    }
    assert await people.statuses(sql, [tasks.open]) == ["pending"]


async def test_the_first_twenty_of_a_kind_are_listed_with_the_total(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    ended = await run(life, "mark-completed", task_ids=list(range(1, 31)), requested_by=people.OWNER)
    assert ended.error is not None
    assert ended.error["detail"] == {"missing": {"total": 30, "ids": list(range(1, 21))}}


async def test_skip_completes_the_others_and_counts_each_kind(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)
    ids = [tasks.open, tasks.in_progress, tasks.completed, 999, tasks.deleted, tasks.archived, tasks.others]

    ended = await run(life, "mark-completed", task_ids=ids, requested_by=people.CREATOR, on_invalid="skip")

    assert ended.result == {"completed": 2, "already_completed": 1, "skipped": dict.fromkeys(NONE, 1)}
    asked = [tasks.open, tasks.in_progress, tasks.deleted, tasks.archived, tasks.others]
    assert await people.statuses(sql, asked) == ["completed", "completed", "deleted", "archived", "pending"]


@pytest.mark.parametrize("on_invalid", ["fail", "skip"])
async def test_nobody_learns_about_tasks_that_are_not_theirs(
    life: Life, sql: asyncpg.Connection, on_invalid: str
) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)
    ids = [tasks.open, tasks.completed, tasks.deleted, tasks.archived]

    ended = await run(life, "mark-completed", task_ids=ids, requested_by=people.STRANGER, on_invalid=on_invalid)

    said = ended.result["skipped"] if ended.result else (ended.error or {})["detail"]
    assert said["forbidden"] in (4, {"total": 4, "ids": ids})
    assert await people.statuses(sql, [tasks.open]) == ["pending"]


@pytest.mark.parametrize("on_invalid", ["fail", "skip"])
async def test_a_task_in_an_archived_project_counts_as_archived(
    life: Life, sql: asyncpg.Connection, on_invalid: str
) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)
    await sql.execute("UPDATE project SET archived_at = now() WHERE id = 1")

    ended = await run(life, "mark-completed", task_ids=[tasks.open], requested_by=people.OWNER, on_invalid=on_invalid)

    said = ended.result["skipped"] if ended.result else (ended.error or {})["detail"]
    assert said["archived"] in (1, {"total": 1, "ids": [tasks.open]})


@pytest.mark.parametrize("on_invalid", ["fail", "skip"])
async def test_an_actor_that_does_not_exist_is_refused(life: Life, sql: asyncpg.Connection, on_invalid: str) -> None:
    await people.people(sql)
    ended = await run(life, "mark-completed", task_ids=[1], requested_by=99, on_invalid=on_invalid)
    assert ended.error is not None
    assert ended.error["type"] == "NotFound"


async def test_two_hundred_thousand_ids_work(life: Life, sql: asyncpg.Connection) -> None:
    """More than asyncpg takes as parameters (32,767): they travel as one array."""
    await people.people(sql)
    ids = list(range(1, 200_001))
    await sql.execute("DROP INDEX task_title_trigrams, task_description_trigrams")  # only for speed
    await people.many(sql, 200_000)

    ended = await run(life, "mark-completed", task_ids=ids, requested_by=people.CREATOR)

    assert ended.result == {"completed": 200_000, "already_completed": 0, "skipped": NONE}
    assert await sql.fetchval("SELECT count(*) FROM task WHERE status = 'completed'") == 200_000


async def test_a_task_that_another_is_changing_is_waited_for_outside_of_any_transaction(
    life: Life, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)
    other = sql.transaction()
    await other.start()
    await sql.execute("UPDATE task SET deleted_at = now() WHERE id = $1", tasks.open)
    await accept(life, "mark-completed", "waits", task_ids=[tasks.open], requested_by=people.OWNER)

    first = await life.serve("waits")
    await other.commit()
    ended = await serve_to_the_end(life, "waits")

    assert isinstance(first, Again)
    assert isinstance(ended, Finished)
    assert ended.glance.error is not None
    assert ended.glance.error["detail"] == {"deleted": {"total": 1, "ids": [tasks.open]}}


async def test_skip_goes_on_at_its_cursor_and_counts_nothing_twice(
    database: Database, life: Life, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=10)
    asked = {"task_ids": list(range(1, 1001)), "requested_by": people.OWNER, "on_invalid": "skip"}
    await accept(life, "mark-completed", "slices", **asked)
    life.stopping.set()  # every slice ends after one batch

    slices = 0
    while isinstance(await life.serve("slices"), Again):
        slices += 1
        if slices == 2:
            life.stopping.clear()
    ended = await row(life, "slices")

    assert slices == 2
    assert ended.result == {"completed": 900, "already_completed": 0, "skipped": NONE | {"deleted": 100}}
    assert ended.rows_done == 900


@pytest.mark.parametrize("on_invalid", ["fail", "skip"])
async def test_tasks_of_another_programs_making_are_told_apart(
    life: Life, sql: asyncpg.Connection, on_invalid: str
) -> None:
    """Its own statuses are open ones; a task that nobody has created belongs to its project's owner."""
    await people.people(sql)
    await sql.execute(
        "ALTER TABLE task ALTER created_by_id DROP NOT NULL; ALTER TABLE task DROP CONSTRAINT task_status"
    )
    await sql.execute("INSERT INTO task (id, title, project_id, created_by_id) VALUES (1000, 'a', 2, NULL)")
    await sql.execute(
        "INSERT INTO task (id, title, project_id, created_by_id, status) VALUES (1001, 'a', 1, 2, 'blocked')"
    )
    ended = await run(life, "mark-completed", task_ids=[1000, 1001], requested_by=1, on_invalid=on_invalid)
    if on_invalid == "fail":
        assert ended.error is not None
        assert ended.error["detail"] == {"forbidden": {"total": 1, "ids": [1000]}}
    else:
        assert ended.result is not None
        assert (ended.result["completed"], ended.result["skipped"]["forbidden"]) == (1, 1)
        assert ended.result["skipped"]["missing"] == 0
