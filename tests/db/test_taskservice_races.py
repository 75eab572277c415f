"""Two at once on the same tasks: nothing is lost, nothing is done twice, and the one that comes too late is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db import projects, tasks
from db.engine import Database
from db.refusals import Refused
from db.schemas import TaskCreate, TaskRead, TaskUpdate
from db.taskservice import TaskService, unit_of_work
from jobs.endings import Again
from jobs.life import Life
from tests import people
from tests.eventually import eventually
from tests.ledger import accept, run
from tests.people import CREATOR, OWNER, PROJECT, STRANGER

pytestmark = pytest.mark.usefixtures("actors")

WAITING = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)"


@asynccontextmanager
async def _patient(database: Database) -> AsyncIterator[TaskService]:
    """A unit of work that waits for locks, as most services do."""
    async with unit_of_work(database.sessions) as service:
        await service.session.execute(text("SET LOCAL lock_timeout = 0"))
        yield service


async def _update(database: Database, number: int, given: TaskUpdate, *, read: TaskRead | None = None) -> TaskRead:
    async with _patient(database) as service:
        since = None if read is None else read.updated_at
        return await service.update(number, given, actor=OWNER, unchanged_since=since)


async def _said(doing: Awaitable[object]) -> str:
    try:
        await doing
    except Refused as exc:
        return type(exc).__name__
    return "done"


async def test_updates_of_different_fields_at_once_both_stand(database: Database, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    async with unit_of_work(database.sessions) as first:
        await first.update(numbers.open, TaskUpdate(title="by the first"), actor=OWNER)
        second = asyncio.create_task(_update(database, numbers.open, TaskUpdate(priority="high")))
        await eventually(lambda: sql.fetchval(WAITING))
    changed = await second
    assert (changed.title, changed.priority) == ("by the first", "high")


async def test_reading_changing_and_writing_back_the_whole_row_loses_one(
    database: Database, sql: asyncpg.Connection
) -> None:
    """The control of the test above: what an update without `TaskUpdate`'s given fields alone would do."""
    numbers = await people.tasks(sql)
    async with unit_of_work(database.sessions) as service:
        read = await service.get(numbers.open)
    for change in ({"title": "by the first"}, {"priority": "high"}):
        whole = {"title": read.title, "priority": read.priority} | change
        await _update(database, numbers.open, TaskUpdate.model_validate(whole))
    async with unit_of_work(database.sessions) as service:
        assert (await service.get(numbers.open)).title == read.title


async def test_with_unchanged_since_the_second_of_two_is_told(database: Database, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    async with unit_of_work(database.sessions) as service:
        read = await service.get(numbers.open)
    async with unit_of_work(database.sessions) as first:
        mine = await first.update(
            numbers.open, TaskUpdate(title="by the first"), actor=OWNER, unchanged_since=read.updated_at
        )
        second = asyncio.create_task(_said(_update(database, numbers.open, TaskUpdate(title="lost?"), read=read)))
        await eventually(lambda: sql.fetchval(WAITING))
    assert await second == "Conflict"
    again = await _update(database, numbers.open, TaskUpdate(priority="high"), read=mine)
    assert (again.title, again.priority) == ("by the first", "high")


async def test_without_it_the_second_of_two_wins(database: Database, sql: asyncpg.Connection) -> None:
    """The control of the test above."""
    numbers = await people.tasks(sql)
    async with unit_of_work(database.sessions) as first:
        await first.update(numbers.open, TaskUpdate(title="by the first"), actor=OWNER)
        second = asyncio.create_task(_said(_update(database, numbers.open, TaskUpdate(title="lost?"))))
        await eventually(lambda: sql.fetchval(WAITING))
    assert await second == "done"


async def test_an_update_that_waited_for_a_delete_is_not_made(database: Database, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)
    async with unit_of_work(database.sessions) as first:
        await first.delete(numbers.open, actor=OWNER)
        second = asyncio.create_task(_said(_update(database, numbers.open, TaskUpdate(status="completed"))))
        await eventually(lambda: sql.fetchval(WAITING))
    assert await second == "NotFound"
    assert await people.statuses(sql, [numbers.open]) == ["deleted"]


async def test_of_two_restores_at_once_one_wins(database: Database, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)

    async def restored() -> None:
        async with _patient(database) as service:
            await service.restore(numbers.deleted, actor=OWNER)

    async with unit_of_work(database.sessions) as first:
        await first.restore(numbers.deleted, actor=OWNER)
        second = asyncio.create_task(_said(restored()))
        await eventually(lambda: sql.fetchval(WAITING))
    assert await second == "Conflict"
    assert await people.statuses(sql, [numbers.deleted]) == ["pending"]


async def test_of_many_restores_at_once_one_wins(database: Database, sql: asyncpg.Connection) -> None:
    numbers = await people.tasks(sql)

    async def restored() -> None:
        async with _patient(database) as service:
            await service.restore(numbers.deleted, actor=CREATOR)

    said = await asyncio.gather(*(_said(restored()) for _ in range(8)))
    assert sorted(said) == ["Conflict"] * 7 + ["done"]


async def test_a_task_that_changes_while_all_are_completed_leaves_none_completed(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Between the look at the tasks and their change another one deletes one of them."""
    numbers = await people.tasks(sql)

    async def completed() -> None:
        async with _patient(database) as service:
            try:
                await service.mark_completed([numbers.open, numbers.in_progress], actor=OWNER)
            finally:  # the transaction can go on, and nothing of it stands in it
                assert (await service.get(numbers.open)).status == "pending"

    async with unit_of_work(database.sessions) as first:
        await first.delete(numbers.in_progress, actor=OWNER)
        second = asyncio.create_task(_said(completed()))
        await eventually(lambda: sql.fetchval(WAITING))
    assert await second == "Conflict"
    assert await people.statuses(sql, [numbers.open, numbers.in_progress]) == ["pending", "deleted"]


@pytest.mark.parametrize("by_job", [False, True])
async def test_as_many_that_may_be_completed_as_before_are_not_the_same(
    database: Database, life: Life, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, by_job: bool
) -> None:
    """After the look one of the tasks is deleted and another one, completed before, is opened again: still two."""
    numbers = await people.tasks(sql)
    asked = [numbers.open, numbers.in_progress, numbers.completed]
    look = tasks.kinds

    async def looked(session: AsyncSession, ids: Sequence[int], *, actor: int) -> dict[str, tasks.Kind]:
        found = await look(session, ids, actor=actor)
        await sql.execute("UPDATE task SET deleted_at = now(), status = 'deleted' WHERE id = $1", numbers.in_progress)
        await sql.execute("UPDATE task SET status = 'pending' WHERE id = $1", numbers.completed)
        return found

    monkeypatch.setattr(tasks, "kinds", looked)
    if by_job:
        await accept(life, "mark-completed", "run", task_ids=asked, requested_by=OWNER)
        assert isinstance(await life.serve("run"), Again)
    else:
        async with unit_of_work(database.sessions) as service:
            assert await _said(service.mark_completed(asked, actor=OWNER)) == "Conflict"
    assert await people.statuses(sql, asked) == ["pending", "deleted", "pending"]


@pytest.mark.parametrize("locked", [True, False])
async def test_a_restore_never_brings_an_open_task_into_a_project_that_is_being_archived(
    database: Database, life: Life, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    """The restore has looked at the project and not committed when archive-project comes.

    Without the lock, which is the control, the job walks past the task and succeeds; then the restore commits.
    """
    numbers = await people.tasks(sql)
    if not locked:

        async def found(session: object, project_ids: object) -> dict[int, object]:
            return {}

        monkeypatch.setattr(projects, "join", found)
    async with unit_of_work(database.sessions) as service:
        await service.restore(numbers.deleted, actor=OWNER)
        archiving = asyncio.create_task(run(life, "archive-project", project_id=PROJECT, requested_by=OWNER))
        if locked:
            await eventually(lambda: sql.fetchval(WAITING))
        else:
            await archiving
    assert (await archiving).state == "succeeded"
    left = await sql.fetchval("SELECT count(*) FROM task WHERE project_id = 1 AND status = 'pending'")
    assert left == (0 if locked else 1)


async def test_a_restore_and_a_purge_leave_a_row_that_lives_or_none(
    database: Database, life: Life, sql: asyncpg.Connection
) -> None:
    """Of 400 tasks that a purge takes, every second one is restored meanwhile, by four at once."""
    await people.many(sql, 400, deleted_every=1)
    outcomes: dict[int, str] = {}

    async def restoring(numbers: list[int]) -> None:
        for number in numbers:

            async def restored(number: int = number) -> None:
                async with _patient(database) as service:
                    await service.restore(number, actor=OWNER)

            outcomes[number] = await _said(restored())

    purging = asyncio.create_task(run(life, "purge-old-deleted"))
    await asyncio.gather(*(restoring(list(range(first, 401, 8))) for first in (1, 3, 5, 7)))
    ended = await purging

    assert ended.state == "succeeded"
    alive = {row["id"] for row in await sql.fetch("SELECT id FROM task WHERE deleted_at IS NULL")}
    assert len(outcomes) == 200
    assert set(outcomes.values()) <= {"done", "NotFound"}
    assert alive == {number for number, said in outcomes.items() if said == "done"}
    gone = await sql.fetchval("SELECT 400 - count(*) FROM task")
    assert ended.result is not None
    assert gone == ended.result["purged"] == 400 - len(alive)


async def test_a_restore_that_the_purge_waits_for_stands(database: Database, sql: asyncpg.Connection) -> None:
    """And one that waits for the purge finds nothing."""
    await people.many(sql, 2, deleted_every=1)

    async def restored(number: int) -> None:
        async with _patient(database) as service:
            await service.restore(number, actor=OWNER)

    async with unit_of_work(database.sessions) as purging:
        async with unit_of_work(database.sessions) as restoring:
            await restoring.restore(1, actor=OWNER)
            assert await purging.purge_deleted(days=1, actor=OWNER) == 1
        late = asyncio.create_task(_said(restored(2)))
        await eventually(lambda: sql.fetchval(WAITING))
    assert await late == "NotFound"
    assert [row["id"] for row in await sql.fetch("SELECT id FROM task WHERE deleted_at IS NULL")] == [1]


REFUSED_ON = [
    lambda tasks: tasks.archive_project(PROJECT, actor=STRANGER),
    lambda tasks: tasks.restore(4, actor=STRANGER),
    lambda tasks: tasks.delete_for_good(1, actor=STRANGER),
    lambda tasks: tasks.delete_for_good(404, actor=STRANGER),
]
LOCKED = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


@pytest.mark.parametrize("operation", REFUSED_ON)
async def test_who_is_refused_has_nothing_locked(
    database: Database, sql: asyncpg.Connection, operation: Callable[[TaskService], Awaitable[object]]
) -> None:
    """While the transaction goes on: neither rows, nor what keeps holds from being placed."""
    await people.tasks(sql)
    async with unit_of_work(database.sessions) as service:
        assert await _said(operation(service)) in {"NotAllowed", "NotFound"}
        await sql.fetch("SELECT 1 FROM project, task, worker FOR UPDATE NOWAIT")
        assert await sql.fetchval(LOCKED) == 0


@pytest.mark.parametrize("operation", REFUSED_ON[:2])
async def test_who_is_refused_waits_for_nobody(
    database: Database, sql: asyncpg.Connection, operation: Callable[[TaskService], Awaitable[object]]
) -> None:
    """So that nobody queues behind them either. Where they waited, lock_timeout would end it."""
    await people.tasks(sql)
    async with sql.transaction(), unit_of_work(database.sessions) as service:
        await sql.execute("SELECT 1 FROM project FOR UPDATE")
        assert await _said(operation(service)) == "NotAllowed"


async def test_a_project_that_changes_hands_while_it_is_locked_is_not_archived(
    database: Database, sql: asyncpg.Connection
) -> None:
    await people.tasks(sql)

    async def archived() -> None:
        async with _patient(database) as service:
            await service.archive_project(PROJECT, actor=OWNER)

    async with sql.transaction():
        await sql.execute("UPDATE project SET owner_id = 3 WHERE id = 1")
        late = asyncio.create_task(_said(archived()))
        await eventually(lambda: _one(database, WAITING))
    assert await late == "NotAllowed"


async def _one(database: Database, statement: str) -> object:
    async with database.sessions() as session:
        return (await session.execute(text(statement))).scalar_one()


@pytest.mark.parametrize("many", [False, True])
async def test_an_actor_can_not_be_deleted_while_their_task_is_being_created(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """Control: without the lock the actor goes after the look at them, and the INSERT breaks the transaction."""
    joined = projects.join
    given = TaskCreate(project_id=PROJECT, title="new")

    async def meanwhile(session: AsyncSession, project_ids: Iterable[int]) -> dict[int, projects.FoundProject]:
        with pytest.raises(asyncpg.LockNotAvailableError):
            await sql.execute("SET lock_timeout = '50ms'; DELETE FROM worker WHERE id = 2")
        return await joined(session, project_ids)

    monkeypatch.setattr(projects, "join", meanwhile)
    async with unit_of_work(database.sessions) as service:
        if many:
            await service.create_many([given], actor=CREATOR)
        else:
            await service.create(given, actor=CREATOR)
    assert await sql.fetchval("SELECT count(*) FROM task WHERE created_by_id = 2") == 1


async def test_tasks_of_a_project_that_has_changed_hands_are_not_deleted(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the look at the owner and before the delete: the statement asks again."""
    numbers = await people.tasks(sql)
    await sql.execute("UPDATE task SET created_at = now() - interval '20 days'")
    find = projects.find

    async def found(session: AsyncSession, project_id: int) -> projects.FoundProject | None:
        owned = await find(session, project_id)
        await sql.execute("UPDATE project SET owner_id = 3 WHERE id = $1", project_id)
        return owned

    monkeypatch.setattr(projects, "find", found)
    async with unit_of_work(database.sessions) as service:
        assert await service.delete_older(days=10, actor=OWNER, project_id=PROJECT) == 0
    assert await people.statuses(sql, [numbers.open]) == ["pending"]


async def test_a_task_that_moves_to_another_project_meanwhile_is_not_restored(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its new project nothing is locked, so an archive-project could walk past it."""
    numbers = await people.tasks(sql)
    join = projects.join

    async def joined(session: AsyncSession, project_ids: Iterable[int]) -> dict[int, projects.FoundProject]:
        await sql.execute("UPDATE task SET project_id = 2 WHERE id = $1", numbers.deleted)
        return await join(session, project_ids)

    monkeypatch.setattr(projects, "join", joined)
    async with unit_of_work(database.sessions) as service:
        assert await _said(service.restore(numbers.deleted, actor=CREATOR)) == "Conflict"
    assert await people.statuses(sql, [numbers.deleted]) == ["deleted"]
