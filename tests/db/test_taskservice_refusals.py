"""What the task service refuses: named, with the ids, with nothing changed, and with the transaction fit to go on."""

import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import col

from db import taskchanges
from db.engine import Database
from db.faults import sqlstate
from db.fields import BIGINT, LONGEST_DESCRIPTION, LONGEST_TITLE
from db.models import Run, Task
from db.refusals import Conflict, InvalidInput, NaiveDatetime, NotAllowed, NotFound, Refused
from db.schemas import TaskCreate, TaskFilter, TaskUpdate
from db.taskservice import TaskService, unit_of_work
from jobs.create_batch import NewTask
from tests import people
from tests.db.statements import said
from tests.people import CREATOR, OTHER_PROJECT, OWNER, PROJECT, STRANGER

OPEN, IN_PROGRESS, COMPLETED, DELETED, ARCHIVED, OTHERS = 1, 2, 3, 4, 5, 6  # as people.tasks makes them
NOBODY, NOTHING = 404, 4040
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - what is refused
TOO_EARLY = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
TITLED = TaskUpdate(title="new")
GIVEN = TaskCreate(project_id=PROJECT, title="new")

Operation = Callable[[TaskService], Awaitable[Any]]

REFUSED: list[tuple[Operation, type[Refused], list[int]]] = [
    (lambda tasks: tasks.create(GIVEN, actor=NOBODY), NotFound, [NOBODY]),
    (lambda tasks: tasks.create(TaskCreate(project_id=NOTHING, title="t"), actor=OWNER), NotFound, [NOTHING]),
    (lambda tasks: tasks.create(TaskCreate(project_id=3, title="t"), actor=OWNER), Conflict, [3]),
    (lambda tasks: tasks.create_many([GIVEN], actor=NOBODY), NotFound, [NOBODY]),
    (
        lambda tasks: tasks.create_many([GIVEN, TaskCreate(project_id=NOTHING, title="t")], actor=OWNER),
        NotFound,
        [NOTHING],
    ),
    (lambda tasks: tasks.create_many([GIVEN, TaskCreate(project_id=3, title="t")], actor=OWNER), Conflict, [3]),
    (lambda tasks: tasks.get(NOTHING), NotFound, [NOTHING]),
    (lambda tasks: tasks.get(DELETED), NotFound, [DELETED]),
    (lambda tasks: tasks.get(NOTHING, include_deleted=True), NotFound, [NOTHING]),
    (lambda tasks: tasks.update(OPEN, TITLED, actor=NOBODY), NotFound, [NOBODY]),
    (lambda tasks: tasks.update(NOTHING, TITLED, actor=OWNER), NotFound, [NOTHING]),
    (lambda tasks: tasks.update(OPEN, TITLED, actor=STRANGER), NotAllowed, [OPEN]),
    (lambda tasks: tasks.update(DELETED, TITLED, actor=STRANGER), NotAllowed, [DELETED]),
    (lambda tasks: tasks.update(DELETED, TITLED, actor=OWNER), NotFound, [DELETED]),
    (lambda tasks: tasks.update(ARCHIVED, TITLED, actor=OWNER), Conflict, [ARCHIVED]),
    (lambda tasks: tasks.update(7, TITLED, actor=OWNER), Conflict, [7]),
    (
        lambda tasks: tasks.update(OPEN, TITLED, actor=OWNER, unchanged_since=datetime(2020, 1, 1, tzinfo=UTC)),
        Conflict,
        [OPEN],
    ),
    (lambda tasks: tasks.mark_completed([OPEN], actor=NOBODY), NotFound, [NOBODY]),
    (lambda tasks: tasks.mark_completed([OPEN, NOTHING], actor=OWNER), NotFound, [NOTHING]),
    (lambda tasks: tasks.mark_completed([OPEN, DELETED], actor=OWNER), NotFound, [DELETED]),
    (lambda tasks: tasks.mark_completed([OPEN, ARCHIVED], actor=OWNER), Conflict, [ARCHIVED]),
    (lambda tasks: tasks.mark_completed([OPEN, 7], actor=OWNER), Conflict, [7]),
    (lambda tasks: tasks.mark_completed([OPEN, OTHERS, DELETED, NOTHING], actor=OWNER), NotAllowed, [OTHERS]),
    (lambda tasks: tasks.archive_project(PROJECT, actor=NOBODY), NotFound, [NOBODY]),
    (lambda tasks: tasks.archive_project(NOTHING, actor=OWNER), NotFound, [NOTHING]),
    (lambda tasks: tasks.archive_project(OTHER_PROJECT, actor=OWNER), NotAllowed, [OTHER_PROJECT]),
    (lambda tasks: tasks.archive_project(PROJECT, actor=CREATOR), NotAllowed, [PROJECT]),
    (lambda tasks: tasks.delete(OPEN, actor=NOBODY), NotFound, [NOBODY]),
    (lambda tasks: tasks.delete(NOTHING, actor=OWNER), NotFound, [NOTHING]),
    (lambda tasks: tasks.delete(OPEN, actor=STRANGER), NotAllowed, [OPEN]),
    (lambda tasks: tasks.delete(DELETED, actor=OWNER), NotFound, [DELETED]),
    (lambda tasks: tasks.delete_older(days=1, actor=NOBODY), NotFound, [NOBODY]),
    (lambda tasks: tasks.delete_older(days=1, actor=OWNER, project_id=NOTHING), NotFound, [NOTHING]),
    (lambda tasks: tasks.delete_older(days=1, actor=OWNER, project_id=OTHER_PROJECT), NotAllowed, [OTHER_PROJECT]),
    (lambda tasks: tasks.delete_older(days=1, actor=CREATOR, project_id=PROJECT), NotAllowed, [PROJECT]),
    (lambda tasks: tasks.restore(DELETED, actor=NOBODY), NotFound, [NOBODY]),
    (lambda tasks: tasks.restore(NOTHING, actor=OWNER), NotFound, [NOTHING]),
    (lambda tasks: tasks.restore(DELETED, actor=STRANGER), NotAllowed, [DELETED]),
    (lambda tasks: tasks.restore(OPEN, actor=OWNER), Conflict, [OPEN]),
    (lambda tasks: tasks.restore(ARCHIVED, actor=OWNER), Conflict, [ARCHIVED]),
    (lambda tasks: tasks.purge_deleted(days=1, actor=NOBODY), NotFound, [NOBODY]),
    (lambda tasks: tasks.delete_for_good(OPEN, actor=NOBODY), NotFound, [NOBODY]),
    (lambda tasks: tasks.delete_for_good(NOTHING, actor=OWNER), NotFound, [NOTHING]),
    (lambda tasks: tasks.delete_for_good(DELETED, actor=STRANGER), NotAllowed, [DELETED]),
]

INVALID: list[tuple[Operation, str]] = [
    *(
        (lambda tasks, limit=limit: tasks.page(limit=limit), "limit")
        for limit in (0, -1, 1001, 1_000_000, True, 1.5, "5")
    ),
    (lambda tasks: tasks.page(offset=-1), "offset"),
    (lambda tasks: tasks.page(offset=2**63), "offset"),
    (lambda tasks: tasks.page_after(limit=0), "limit"),
    (lambda tasks: tasks.search("text", limit=-1), "limit"),
    (lambda tasks: tasks.details(limit=1_000_000), "limit"),
    (lambda tasks: tasks.deleted(days=1, limit=0), "limit"),
    (lambda tasks: tasks.page_after(cursor="tampered"), "cursor"),
    (lambda tasks: tasks.search("", limit=5), "text"),
    (lambda tasks: tasks.search("x" * 201), "text"),
    (lambda tasks: tasks.search("a\x00b"), "text"),
    (lambda tasks: tasks.search("\ud800"), "text"),
    (lambda tasks: tasks.search(7), "text"),  # type: ignore[arg-type]  # what is refused
    *(
        (lambda tasks, number=number: tasks.get(number), "task_id")
        for number in (0, -1, BIGINT + 1, True, 1.0, "1", None)
    ),
    (lambda tasks: tasks.update(0, TITLED, actor=OWNER), "task_id"),
    (lambda tasks: tasks.update(OPEN, TITLED, actor=0), "actor"),
    (lambda tasks: tasks.update(OPEN, TITLED, actor=OWNER, unchanged_since=NAIVE), "unchanged_since"),
    (lambda tasks: tasks.update(OPEN, TITLED, actor=OWNER, unchanged_since=TOO_EARLY), "unchanged_since"),
    *(
        (lambda tasks, since=since: tasks.update(OPEN, TITLED, actor=OWNER, unchanged_since=since), "unchanged_since")
        for since in ("2026-01-01", 0, NAIVE.date())
    ),
    (lambda tasks: tasks.create(GIVEN, actor=0), "actor"),
    (lambda tasks: tasks.create_many([GIVEN], actor=0), "actor"),
    (lambda tasks: tasks.create_many([], actor=OWNER), "given"),
    (lambda tasks: tasks.create_many([GIVEN] * 100_001, actor=OWNER), "given"),
    (lambda tasks: tasks.mark_completed([], actor=OWNER), "task_ids"),
    (lambda tasks: tasks.mark_completed([1, True], actor=OWNER), "task_ids"),
    (lambda tasks: tasks.mark_completed([1] * 200_001, actor=OWNER), "task_ids"),
    (lambda tasks: tasks.mark_completed([1], actor=0), "actor"),
    (lambda tasks: tasks.archive_project(0, actor=OWNER), "project_id"),
    (lambda tasks: tasks.archive_project(PROJECT, actor=0), "actor"),
    (lambda tasks: tasks.delete(0, actor=OWNER), "task_id"),
    (lambda tasks: tasks.delete(OPEN, actor=0), "actor"),
    (lambda tasks: tasks.delete_older(days=0, actor=OWNER), "days"),
    (lambda tasks: tasks.delete_older(days=36_501, actor=OWNER), "days"),
    (lambda tasks: tasks.delete_older(days=1, actor=0), "actor"),
    (lambda tasks: tasks.delete_older(days=1, actor=OWNER, project_id=0), "project_id"),
    (lambda tasks: tasks.restore(0, actor=OWNER), "task_id"),
    (lambda tasks: tasks.restore(DELETED, actor=0), "actor"),
    (lambda tasks: tasks.deleted(days=0), "days"),
    (lambda tasks: tasks.purge_deleted(days=0, actor=OWNER), "days"),
    (lambda tasks: tasks.purge_deleted(days=1, actor=0), "actor"),
    (lambda tasks: tasks.purge_deleted(days=1, actor=OWNER, most=0), "most"),
    (lambda tasks: tasks.purge_deleted(days=1, actor=OWNER, most=100_001), "most"),
    (lambda tasks: tasks.delete_for_good(0, actor=OWNER), "task_id"),
    (lambda tasks: tasks.delete_for_good(OPEN, actor=0), "actor"),
]


async def _everything(sql: asyncpg.Connection) -> list[list[asyncpg.Record]]:
    return [
        await sql.fetch(f"SELECT xmin::text, * FROM {table} ORDER BY id") for table in ("worker", "project", "task")
    ]


async def _fill(sql: asyncpg.Connection) -> None:
    """Task 7 is of project 3, which is archived while the task is not."""
    await people.people(sql)
    await people.tasks(sql)
    await sql.execute("INSERT INTO project (id, name, owner_id) VALUES (3, 'closed', 1)")
    await sql.execute("INSERT INTO task (title, project_id, created_by_id) VALUES ('t', 3, 1)")
    await sql.execute("UPDATE project SET archived_at = now() WHERE id = 3")


@pytest.mark.parametrize(("operation", "error", "ids"), REFUSED)
async def test_what_can_not_be_done_is_refused_with_the_ids_and_changes_nothing(
    database: Database, sql: asyncpg.Connection, operation: Operation, error: type[Refused], ids: list[int]
) -> None:
    await _fill(sql)
    before = await _everything(sql)
    async with unit_of_work(database.sessions) as service:
        with pytest.raises(error) as caught:
            await operation(service)
        assert (type(caught.value), caught.value.ids) == (error, ids)
        assert str(ids[0]) in str(caught.value)
        assert await service.count() == 6  # the transaction goes on
    assert await _everything(sql) == before


@pytest.mark.parametrize(("operation", "field"), INVALID)
async def test_a_value_that_nothing_can_be_done_with_is_named_before_any_statement(
    database: Database, operation: Operation, field: str
) -> None:
    with said(database.engine) as heard:
        async with unit_of_work(database.sessions) as service:
            with pytest.raises(InvalidInput) as caught:
                await operation(service)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert heard == []


async def test_an_offset_beyond_the_end_is_refused(database: Database, sql: asyncpg.Connection) -> None:
    await _fill(sql)
    async with unit_of_work(database.sessions) as service:
        assert (await service.page(offset=6)).items == []
        with pytest.raises(InvalidInput, match="offset: is beyond the end: there are 6"):
            await service.page(offset=7)


async def test_a_cursor_belongs_to_its_list_and_filter(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 10, deleted_every=2)
    async with unit_of_work(database.sessions) as service:
        cursor = (await service.page_after(limit=1)).next_cursor
        assert cursor is not None
        others: list[Callable[[str], Awaitable[Any]]] = [
            lambda cursor: service.page_after(TaskFilter(project_id=1), cursor=cursor),
            lambda cursor: service.search("task", cursor=cursor),
            lambda cursor: service.details(cursor=cursor),
            lambda cursor: service.deleted(days=1, cursor=cursor),
            lambda cursor: service.page_after(cursor=cursor[:-1] + ("A" if cursor[-1] != "A" else "B")),
        ]
        for other in others:
            with pytest.raises(InvalidInput, match=r"^cursor: "):
                await other(cursor)
        of_search = (await service.search("task", limit=1)).next_cursor
        with pytest.raises(InvalidInput, match=r"^cursor: "):
            await service.search("task 1", cursor=of_search)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": "x" * (LONGEST_TITLE + 1)}, "title"),
        ({"title": "x" * 2**20}, "title"),
        ({"title": " "}, "title"),
        ({"title": " \t\n\u00a0\u3000"}, "title"),
        ({"title": "a\x00"}, "title"),
        ({"title": 7}, "title"),
        ({"title": "t", "description": "x" * (LONGEST_DESCRIPTION + 1)}, "description"),
        ({"title": "t", "status": "unknown"}, "status"),
        ({"title": "t", "status": "deleted"}, "status"),
        ({"title": "t", "status": "archived"}, "status"),
        ({"title": "t", "priority": "urgent"}, "priority"),
        ({"title": "t", "created_at": datetime(2020, 1, 1, tzinfo=UTC)}, "created_at"),
        ({"title": "t", "project_id": 0}, "project_id"),
        ({"title": "t", "project_id": BIGINT + 1}, "project_id"),
        ({"title": "t", "project_id": True}, "project_id"),
        ({"title": "t", "created_by_id": 1}, "created_by_id"),
    ],
)
def test_a_wrong_field_is_named_and_its_value_kept_out_of_the_message(given: dict[str, Any], field: str) -> None:
    for schema, more in ((TaskCreate, {"project_id": 1}), (TaskUpdate, {})):
        with pytest.raises(ValidationError) as caught:
            schema(**(more | given))
        assert [fault["loc"] for fault in caught.value.errors()] == [(field,)]
        assert "xxxx" not in str(caught.value)


def test_a_title_of_blanks_alone_is_refused_in_every_way_in() -> None:
    """In those of the job too, which is not made of the schemas."""
    ways: list[Callable[[str], TaskCreate | TaskUpdate | NewTask]] = [
        lambda title: TaskCreate(project_id=1, title=title),
        lambda title: TaskUpdate(title=title),
        lambda title: NewTask(title=title),
    ]
    for way in ways:
        with pytest.raises(ValidationError, match="is blank: give at least one character that can be seen"):
            way(" \n\u3000")
        assert way(" a ").title == " a "


def test_titles_of_500_characters_and_descriptions_of_100000_are_taken() -> None:
    longest = TaskCreate(project_id=1, title="ä" * LONGEST_TITLE, description="ä" * LONGEST_DESCRIPTION)
    assert (len(longest.title), len(longest.description or "")) == (500, 100_000)


@pytest.mark.parametrize("given", [{}, {"title": None}, {"status": None}, {"priority": None}])
def test_an_update_of_nothing_and_of_what_can_not_be_empty_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"give at least one field|can't be empty"):
        TaskUpdate(**given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"status": "deleted"}, "use `deleted`"),
        ({"status": "unknown"}, "status"),
        ({"created_from": NAIVE}, "timezone"),
        ({"created_before": "2026-01-01T00:00:00"}, "timezone"),
        ({"created_before": "9999-12-31T23:59:59-14:00"}, "years 1 to 9999"),
        ({"created_from": "0001-01-01T00:00:00+14:00"}, "years 1 to 9999"),
        ({"project_id": True}, "valid integer"),
        ({"project_id": "9" * 5000}, "project_id"),
        ({"project_id": "99999999999999999999"}, "project_id"),
        ({"owner": 1}, "Extra inputs"),
    ],
)
def test_a_wrong_filter_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TaskFilter(**given)


async def test_a_point_in_time_without_a_zone_is_refused_by_every_column(database: Database) -> None:
    """SQLAlchemy would wrap the error in one of its own."""
    async with database.sessions() as session:
        for column in (col(Task.created_at), col(Run.not_before)):
            with pytest.raises(NaiveDatetime, match="needs a time zone"):
                await session.execute(select(column).where(column < NAIVE))
        session.add(Task(title="t", project_id=1, created_by_id=1, deleted_at=NAIVE))
        with pytest.raises(NaiveDatetime):
            await session.flush()


@pytest.mark.parametrize(
    "operation",
    [
        lambda tasks: tasks.delete_for_good(OPEN, actor=OWNER),
        lambda tasks: tasks.purge_deleted(days=1, actor=OWNER),
    ],
)
async def test_a_task_that_another_table_refers_to_stays(
    database: Database, sql: asyncpg.Connection, operation: Operation
) -> None:
    await _fill(sql)
    await sql.execute("UPDATE task SET deleted_at = now() - interval '9 days' WHERE id IN (1, 4)")
    await sql.execute("CREATE TABLE comment (task_id bigint CONSTRAINT comment_of REFERENCES task (id))")
    await sql.execute("INSERT INTO comment VALUES (1)")
    async with unit_of_work(database.sessions) as service:
        await service.update(IN_PROGRESS, TITLED, actor=OWNER)
        with pytest.raises(Conflict, match="comment_of") as caught:
            await operation(service)
        assert caught.value.detail == {"constraint": "comment_of"}
        assert caught.value.ids == [1]
    assert await sql.fetchval("SELECT count(*) FROM task WHERE id IN (1, 4)") == 2
    assert await sql.fetchval("SELECT title FROM task WHERE id = $1", IN_PROGRESS) == "new"


async def test_a_row_of_another_table_that_stops_a_purge_is_not_taken_for_a_task(
    database: Database, sql: asyncpg.Connection
) -> None:
    """The comment would go along with its task; its id is none of a task."""
    await _fill(sql)
    await sql.execute("""
        UPDATE task SET deleted_at = now() - interval '9 days' WHERE id = 1;
        CREATE TABLE comment (id bigint PRIMARY KEY, task_id bigint REFERENCES task (id) ON DELETE CASCADE);
        CREATE TABLE likes (comment_id bigint CONSTRAINT likes_of REFERENCES comment (id));
        INSERT INTO comment VALUES (6, 1);
        INSERT INTO likes VALUES (6);
    """)
    async with unit_of_work(database.sessions) as service:
        with pytest.raises(Conflict, match=r"one of the tasks can.t go.*likes_of") as caught:
            await service.purge_deleted(days=1, actor=OWNER)
    assert caught.value.ids == []


async def test_of_many_refused_ids_the_first_20_are_named(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    async with unit_of_work(database.sessions) as service:
        with pytest.raises(NotFound, match=r"100 tasks 1, 2, .*, 20, … do not exist") as caught:
            await service.mark_completed(range(1, 101), actor=OWNER)
    assert caught.value.ids == list(range(1, 21))
    assert caught.value.detail == {"missing": {"total": 100, "ids": list(range(1, 21))}}


async def test_what_the_driver_says_comes_as_sqlalchemy_s_error_without_the_failing_row(
    database: Database, sql: asyncpg.Connection
) -> None:
    """COPY goes past SQLAlchemy, and its error would name the title that exists already."""
    await people.people(sql)
    await sql.execute("CREATE UNIQUE INDEX one_title ON task (title)")
    secret = TaskCreate(project_id=PROJECT, title="hunter2")
    async with database.sessions() as session:
        with pytest.raises(IntegrityError, match="one_title") as caught:
            await TaskService(session).create_many([secret, secret], actor=OWNER)
    assert sqlstate(caught.value) == "23505"
    told = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "operation",
    [
        lambda tasks: tasks.create_many([GIVEN], actor=OWNER),
        lambda tasks: tasks.explain(taskchanges.deleted(OPEN, actor=OWNER)),
        lambda tasks: tasks.delete_for_good(OPEN, actor=OWNER),
    ],
)
async def test_another_s_lock_comes_as_sqlalchemy_s_error(
    database: Database, sql: asyncpg.Connection, operation: Operation
) -> None:
    await _fill(sql)
    async with sql.transaction(), database.sessions() as session:
        await sql.execute("LOCK TABLE task, lowtide.hold IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DBAPIError) as caught:
            await operation(TaskService(session))
    assert sqlstate(caught.value) == "55P03"
