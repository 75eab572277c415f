"""The task service's operations: what they change, and what they give back."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from db.engine import Database
from db.models import Task
from db.refusals import NotFound
from db.schemas import TaskCreate, TaskFilter, TaskUpdate
from db.taskservice import TaskService, unit_of_work
from tests import people
from tests.db.statements import said
from tests.people import CREATOR, OTHER_PROJECT, OWNER, PROJECT, STRANGER

LONG_AGO = "2020-02-03 04:05:06.789+00"

pytestmark = pytest.mark.usefixtures("actors")


@pytest_asyncio.fixture
async def service(database: Database, actors: None) -> AsyncIterator[TaskService]:
    """In a transaction that the test does not commit."""
    async with database.sessions() as session:
        yield TaskService(session)


async def _row(sql: asyncpg.Connection, number: int) -> dict[str, Any]:
    return dict(await sql.fetchrow("SELECT * FROM task WHERE id = $1", number))


async def _age(sql: asyncpg.Connection, number: int) -> None:
    """So that a change of updated_at shows."""
    await sql.execute("UPDATE task SET updated_at = $2::text::timestamptz WHERE id = $1", number, LONG_AGO)


async def test_create_gives_back_what_the_database_has_filled_in(database: Database, sql: asyncpg.Connection) -> None:
    before = await sql.fetchval("SELECT clock_timestamp()")
    async with unit_of_work(database.sessions) as service:
        made = await service.create(TaskCreate(project_id=PROJECT, title="A task"), actor=CREATOR)
    assert made.model_dump() == await _row(sql, made.id)
    assert (made.status, made.priority, made.created_by_id, made.deleted_at) == ("pending", "medium", CREATOR, None)
    assert before < made.created_at == made.updated_at


async def test_create_leaves_no_object_in_the_session(service: TaskService) -> None:
    made = await service.create(TaskCreate(project_id=PROJECT, title="A task", description="x"), actor=CREATOR)
    assert list(service.session.identity_map.values()) == []
    assert not service.session.in_nested_transaction()
    loaded = await service.session.get(Task, made.id)
    assert loaded is not None
    assert (loaded.title, loaded.description) == ("A task", "x")


async def test_create_many_makes_100_tasks_with_four_statements(database: Database, sql: asyncpg.Connection) -> None:
    given = [
        TaskCreate(project_id=1 + n % 2, title=f"Task {n}", priority="high", status="completed") for n in range(100)
    ]
    async with unit_of_work(database.sessions) as service:
        with said(database.engine) as heard:
            made = await service.create_many(given, actor=STRANGER)
        assert [timing.name for timing in service.timings] == ["actor", "projects", "reserve_ids", "copy"]
    assert len(heard) == 3  # and COPY
    rows = await sql.fetch("SELECT project_id, title FROM task WHERE id = ANY($1) ORDER BY id", made)
    assert [tuple(row) for row in rows] == [(task.project_id, task.title) for task in given]
    assert await sql.fetchval("SELECT count(*) FROM task WHERE priority = 'high' AND created_by_id = 3") == 100


async def test_nothing_is_committed_but_by_the_caller(database: Database, sql: asyncpg.Connection) -> None:
    async with database.sessions() as session:
        service = TaskService(session)
        await service.create(TaskCreate(project_id=PROJECT, title="A task"), actor=CREATOR)
        await service.create_many([TaskCreate(project_id=PROJECT, title="A task")], actor=CREATOR)
        await session.rollback()
    assert await sql.fetchval("SELECT count(*) FROM task") == 0


async def test_what_is_raised_in_a_unit_of_work_takes_it_back(database: Database, sql: asyncpg.Connection) -> None:
    async def made_and_failed() -> None:
        async with unit_of_work(database.sessions) as service:
            await service.create(TaskCreate(project_id=PROJECT, title="A task"), actor=CREATOR)
            await service.get(404)

    with pytest.raises(NotFound):
        await made_and_failed()
    assert await sql.fetchval("SELECT count(*) FROM task") == 0


async def test_get_knows_deleted_tasks_only_when_asked_for(service: TaskService, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    assert (await service.get(numbers.open)).model_dump() == await _row(sql, numbers.open)
    assert (await service.get(numbers.deleted, include_deleted=True)).status == "deleted"


async def test_a_row_that_the_session_has_loaded_is_read_anew(database: Database, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    async with database.sessions() as session:
        await session.get(Task, numbers.open)
        await sql.execute("UPDATE task SET title = 'by another' WHERE id = $1", numbers.open)
        assert (await TaskService(session).get(numbers.open)).title == "by another"


async def test_what_the_caller_has_changed_through_the_orm_is_seen(
    service: TaskService, sql: asyncpg.Connection
) -> None:
    numbers = await people.tasks(sql)
    loaded = await service.session.get(Task, numbers.open)
    assert loaded is not None
    loaded.title = "not flushed yet"
    assert (await service.get(numbers.open)).title == "not flushed yet"


async def test_lists_hold_no_deleted_task_however_it_was_deleted(service: TaskService, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    await sql.execute("UPDATE task SET status = 'deleted' WHERE id = $1", numbers.in_progress)  # the status alone
    await sql.execute("UPDATE task SET deleted_at = now() WHERE id = $1", numbers.completed)  # the date alone
    active = [numbers.others, numbers.archived, numbers.open]
    for listed in (
        await service.page(),
        await service.page_after(),
        await service.details(),
        await service.search("a task"),
    ):
        assert [task.id for task in listed.items] == active
    assert await service.count() == 3
    assert await service.count(TaskFilter(status="completed")) == 0


async def test_filters_hold_together(service: TaskService, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    await sql.execute("UPDATE task SET priority = 'high', created_at = $1::text::timestamptz WHERE id = 1", LONG_AGO)
    long_ago = datetime.fromisoformat(LONG_AGO)

    async def found(**wanted: Any) -> list[int]:
        where = TaskFilter(**wanted)
        (listed, counted) = (await service.page_after(where)).items, await service.count(where)
        assert len(listed) == counted
        return [task.id for task in listed]

    assert await found(project_id=OTHER_PROJECT) == [numbers.others]
    assert await found(project_id="2") == [numbers.others]  # as a URL has it
    assert await found(status="pending") == [numbers.others, numbers.open]
    assert await found(status="pending", priority="high", project_id=PROJECT) == [numbers.open]
    assert await found(status="completed", priority="high") == []
    assert await found(created_before=long_ago + timedelta(microseconds=1)) == [numbers.open]
    assert await found(created_before=long_ago) == []
    assert await found(created_from=long_ago, priority="high") == [numbers.open]
    assert await found(created_from=long_ago + timedelta(microseconds=1), priority="high") == []


async def test_numbered_pages_have_the_total_and_end_empty(service: TaskService, sql: asyncpg.Connection) -> None:
    await people.many(sql, 7)
    first, last, end = [await service.page(limit=3, offset=offset) for offset in (0, 6, 7)]
    assert ([task.id for task in first.items], first.total, first.offset, first.limit) == ([7, 6, 5], 7, 0, 3)
    assert ([task.id for task in last.items], last.total) == ([1], 7)
    assert (end.items, end.total, end.next_cursor) == ([], 7, None)


async def test_keyset_pages_hold_each_task_once_while_others_insert(
    service: TaskService, sql: asyncpg.Connection
) -> None:
    """All of one instant, which is what a bulk insert makes: the id decides."""
    await people.many(sql, 10)
    seen: list[int] = []
    cursor = None
    while True:
        page = await service.page_after(limit=3, cursor=cursor)
        seen += [task.id for task in page.items]
        await people.many(sql, 2)
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


async def test_numbered_pages_repeat_tasks_while_others_insert(service: TaskService, sql: asyncpg.Connection) -> None:
    """The control of the test above."""
    await people.many(sql, 6)
    first = await service.page(limit=3)
    await people.many(sql, 2)
    second = await service.page(limit=3, offset=3)
    assert {task.id for task in first.items} & {task.id for task in second.items}


@pytest.mark.parametrize("limit", [9, 10, 11])
async def test_the_last_page_has_no_cursor(service: TaskService, sql: asyncpg.Connection, limit: int) -> None:
    await people.many(sql, 10)
    for page in (
        await service.page_after(limit=limit),
        await service.search("task", limit=limit),
        await service.details(limit=limit),
    ):
        assert len(page.items) == min(limit, 10)
        assert (page.next_cursor is None) == (limit >= 10)


async def test_a_search_takes_what_is_special_literally(service: TaskService) -> None:
    given = [
        "100% done",
        "100 percent",
        r"C:\new\_folder",
        "C:/new/folder",
        "snake_case",
        "snakeXcase",
        "Ärger",
        "x' OR '1'='1",
    ]
    for title in given:
        await service.create(TaskCreate(project_id=PROJECT, title=title), actor=CREATOR)
    await service.create(TaskCreate(project_id=PROJECT, title="other", description="In the 100% text"), actor=CREATOR)

    async def found(words: str) -> list[str]:
        return [task.title for task in (await service.search(words)).items]

    assert await found("0%") == ["other", "100% done"]
    assert await found("e_c") == ["snake_case"]
    assert await found("\\") == [r"C:\new\_folder"]
    assert await found("\\n") == [r"C:\new\_folder"]
    assert await found("w\\_F") == [r"C:\new\_folder"]
    assert await found("ÄRGER") == ["Ärger"]
    assert await found("' OR '1") == ["x' OR '1'='1"]
    assert await found("%%") == []


async def test_a_search_has_filters_and_pages(service: TaskService, sql: asyncpg.Connection) -> None:
    await people.many(sql, 10)
    await people.tasks(sql)
    where = TaskFilter(project_id=PROJECT, status="pending", priority="medium")
    first = await service.search("TASK ", where, limit=6)
    second = await service.search("TASK ", where, limit=6, cursor=first.next_cursor)
    assert [task.id for task in first.items + second.items] == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


async def test_details_are_one_statement_for_any_number_of_projects(
    service: TaskService, sql: asyncpg.Connection
) -> None:
    numbers = await people.tasks(sql)
    await people.many(sql, 100)
    engine = service.session.bind
    with said(engine) as heard:  # type: ignore[arg-type]  # a session of ours is bound to an engine
        page = await service.details(limit=200)
    assert (len(page.items), len(heard)) == (105, 1)
    (others,) = [task for task in page.items if task.id == numbers.others]
    assert (others.project.id, others.project.name, others.project.owner_id) == (OTHER_PROJECT, "theirs", STRANGER)
    assert (others.created_by.id, others.created_by.name) == (STRANGER, "stranger")
    assert page.items[-1].project.name == "ours"


@pytest.mark.parametrize("actor", [OWNER, CREATOR])
async def test_update_changes_the_given_fields_and_updated_at(
    database: Database, sql: asyncpg.Connection, actor: int
) -> None:
    numbers = await people.tasks(sql)
    await _age(sql, numbers.open)
    before = await _row(sql, numbers.open)
    async with unit_of_work(database.sessions) as service:
        changed = await service.update(numbers.open, TaskUpdate(title="new", priority="high"), actor=actor)
    after = await _row(sql, numbers.open)
    assert changed.model_dump() == after
    assert after["updated_at"] > before["updated_at"]
    assert after == before | {"title": "new", "priority": "high", "updated_at": after["updated_at"]}


async def test_update_can_empty_the_description_alone(service: TaskService, sql: asyncpg.Connection) -> None:
    made = await service.create(TaskCreate(project_id=PROJECT, title="t", description="d"), actor=CREATOR)
    assert (await service.update(made.id, TaskUpdate(title="u"), actor=CREATOR)).description == "d"
    assert (await service.update(made.id, TaskUpdate(description=None), actor=CREATOR)).description is None


async def test_every_change_moves_updated_at(database: Database, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    ours = [numbers.open, numbers.in_progress, numbers.completed, numbers.deleted]
    for number in ours:
        await _age(sql, number)
    async with unit_of_work(database.sessions) as service:
        await service.mark_completed([numbers.in_progress], actor=OWNER)
        await service.update(numbers.open, TaskUpdate(status="in_progress"), actor=OWNER)
        await service.delete(numbers.completed, actor=OWNER)
        await service.restore(numbers.deleted, actor=OWNER)
    for number in ours:
        assert (await _row(sql, number))["updated_at"] > datetime(2026, 1, 1, tzinfo=UTC)
        await _age(sql, number)
    async with unit_of_work(database.sessions) as service:
        assert await service.archive_project(PROJECT, actor=OWNER) == 3
    assert (await _row(sql, numbers.open))["updated_at"] > datetime(2026, 1, 1, tzinfo=UTC)
    await _age(sql, numbers.open)
    await sql.execute("UPDATE task SET created_at = $1::text::timestamptz", LONG_AGO)
    async with unit_of_work(database.sessions) as service:
        assert await service.delete_older(days=30, actor=OWNER, project_id=PROJECT) == 4
    assert (await _row(sql, numbers.open))["updated_at"] > datetime(2026, 1, 1, tzinfo=UTC)


async def test_mark_completed_counts_what_was_not_yet(database: Database, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    asked = [numbers.in_progress, numbers.open, numbers.completed, numbers.open]
    async with unit_of_work(database.sessions) as service:
        assert await service.mark_completed(asked, actor=CREATOR) == 2
        assert await service.mark_completed(asked, actor=CREATOR) == 0
    assert await people.statuses(sql, asked[:3]) == ["completed"] * 3


async def test_archive_project_archives_all_that_is_not_deleted(database: Database, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    async with unit_of_work(database.sessions) as service:
        assert await service.archive_project(PROJECT, actor=OWNER) == 3
        assert await service.archive_project(PROJECT, actor=OWNER) == 0
    ids = [numbers.open, numbers.in_progress, numbers.completed, numbers.deleted, numbers.archived, numbers.others]
    assert await people.statuses(sql, ids) == ["archived", "archived", "archived", "deleted", "archived", "pending"]
    assert await sql.fetchval("SELECT archived_at IS NOT NULL FROM project WHERE id = 1")


@pytest.mark.parametrize("status", ["pending", "in_progress", "completed", "archived"])
async def test_delete_and_restore_keep_the_status(service: TaskService, sql: asyncpg.Connection, status: str) -> None:
    numbers = await people.tasks(sql)
    await sql.execute("UPDATE task SET status = $1 WHERE id = $2", status, numbers.open)

    gone = await service.delete(numbers.open, actor=CREATOR)
    assert (gone.status, gone.status_before_delete, gone.deleted_at is not None) == ("deleted", status, True)
    back = await service.restore(numbers.open, actor=OWNER)
    assert (back.status, back.status_before_delete, back.deleted_at) == (status, None, None)


@pytest.mark.parametrize(
    ("by_foreign_sql", "status"),
    [
        ("deleted_at = now()", "pending"),  # the status still stands
        ("status = 'deleted'", "pending"),  # nobody knows it
        ("status = 'deleted', deleted_at = now()", "pending"),
        ("status = 'deleted', status_before_delete = 'in_progress'", "in_progress"),
        ("status = 'completed', deleted_at = now()", "completed"),
        ("status = 'completed', deleted_at = now(), status_before_delete = 'pending'", "completed"),
    ],
)
async def test_what_foreign_sql_has_deleted_can_be_restored(
    service: TaskService, sql: asyncpg.Connection, by_foreign_sql: str, status: str
) -> None:
    numbers = await people.tasks(sql)
    await sql.execute(f"UPDATE task SET {by_foreign_sql} WHERE id = $1", numbers.open)
    back = await service.restore(numbers.open, actor=OWNER)
    assert (back.status, back.deleted_at, back.status_before_delete) == (status, None, None)


async def test_a_task_of_an_archived_project_comes_back_archived(service: TaskService, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    await sql.execute("UPDATE project SET archived_at = now() WHERE id = 1")
    assert (await service.restore(numbers.deleted, actor=OWNER)).status == "archived"


async def test_delete_older_takes_what_is_older_and_the_actors(database: Database, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    await sql.execute("UPDATE task SET created_at = now() - interval '240 hours'")
    await sql.execute("UPDATE task SET created_at = now() - interval '239 hours' WHERE id = $1", numbers.open)
    async with unit_of_work(database.sessions) as service:
        assert await service.delete_older(days=10, actor=STRANGER, project_id=OTHER_PROJECT) == 1
        assert await service.delete_older(days=10, actor=OWNER) == 3
        assert await service.delete_older(days=10, actor=OWNER) == 0
    ours = [numbers.open, numbers.in_progress, numbers.completed, numbers.archived]
    assert await people.statuses(sql, ours) == ["pending", "deleted", "deleted", "deleted"]
    assert (await _row(sql, numbers.completed))["status_before_delete"] == "completed"


async def test_delete_older_without_a_project_takes_what_the_actor_has_made_elsewhere(
    database: Database, sql: asyncpg.Connection
) -> None:
    numbers = await people.tasks(sql)
    await sql.execute("UPDATE task SET created_at = now() - interval '20 days'")
    await sql.execute("UPDATE task SET created_by_id = 1 WHERE id = $1", numbers.others)
    async with unit_of_work(database.sessions) as service:
        assert await service.delete_older(days=10, actor=OWNER) == 5
    assert await sql.fetchval("SELECT count(*) FROM task WHERE deleted_at IS NULL") == 0


async def test_deleted_lists_the_last_days_the_last_one_first(service: TaskService, sql: asyncpg.Connection) -> None:
    await people.many(sql, 5)
    await sql.execute("UPDATE task SET deleted_at = now() - make_interval(hours => 24 * id::int) + interval '1 hour'")
    first = await service.deleted(days=4, limit=2)
    second = await service.deleted(days=4, limit=2, cursor=first.next_cursor)
    assert [task.id for task in first.items + second.items] == [1, 2, 3, 4]
    assert second.next_cursor is None


async def test_purge_deleted_takes_what_was_deleted_before_and_is_the_actors(
    database: Database, sql: asyncpg.Connection
) -> None:
    await people.many(sql, 6)
    await sql.execute("UPDATE task SET deleted_at = now() - make_interval(hours => 240) WHERE id <= 4")
    await sql.execute("UPDATE task SET deleted_at = now() - make_interval(hours => 239) WHERE id = 5")
    await sql.execute("UPDATE task SET project_id = 2, created_by_id = 3 WHERE id = 4")
    async with unit_of_work(database.sessions) as service:
        assert await service.purge_deleted(days=10, actor=OWNER, most=2) == 2
        assert await service.purge_deleted(days=10, actor=CREATOR) == 1
        assert await service.purge_deleted(days=10, actor=CREATOR) == 0
    assert [row["id"] for row in await sql.fetch("SELECT id FROM task ORDER BY id")] == [4, 5, 6]


async def test_purge_deleted_passes_over_what_others_hold(database: Database, sql: asyncpg.Connection) -> None:
    await people.many(sql, 3, deleted_every=1)
    async with sql.transaction():
        await sql.execute("SELECT 1 FROM task WHERE id = 2 FOR UPDATE")
        async with unit_of_work(database.sessions) as service:
            assert await service.purge_deleted(days=10, actor=OWNER) == 2


@pytest.mark.parametrize("kind", ["open", "deleted", "archived"])
async def test_delete_for_good_takes_the_row(database: Database, sql: asyncpg.Connection, kind: str) -> None:
    number = getattr(await people.tasks(sql), kind)
    async with unit_of_work(database.sessions) as service:
        await service.delete_for_good(number, actor=CREATOR)
    assert await sql.fetchval("SELECT count(*) FROM task WHERE id = $1", number) == 0
    assert await sql.fetchval("SELECT count(*) FROM task") == 5
