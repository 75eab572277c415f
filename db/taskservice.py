"""Tasks, for services that share them with lowtide's jobs: the same tables, conditions and statements.

The caller owns the session and its transaction; nothing here commits. Every operation raises a Refused (db/refusals.py)
where it can't be done as asked, and the transaction can go on then: nothing of the operation stands in it. `actor` is
the worker on whose behalf it happens. What the session holds as ORM objects is not refreshed by what is done here.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar

from sqlalchemy import ClauseElement, Executable
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from db import projects, taskchanges, taskreads, tasks
from db.batches import Change
from db.explanations import Explained, explained
from db.fields import LONGEST_DAYS, MOST_IDS, MOST_PURGED, MOST_TASKS, an_id, an_instant, ids, sought, whole
from db.models import Task
from db.pages import Keyset, detail, numbered, within
from db.refusals import MOST_NAMED, Conflict, InvalidInput, NotFound
from db.schemas import Page, TaskCreate, TaskDetail, TaskFilter, TaskRead, TaskUpdate
from db.sessions import require_read_committed
from db.taskholds import unheld
from db.taskreads import EVERY
from db.taskrefusals import (
    KINDS,
    kinds_of,
    of_kinds,
    refusal,
    require_actor,
    require_open,
    require_owner,
    unless_referred_to,
)
from db.timing import TimedSession, Timing

Session = TypeVar("Session", bound=AsyncSession)


class TaskService:
    """Operations on tasks in one session."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self._timed = TimedSession(session)

    @property
    def timings(self) -> Sequence[Timing]:
        """Of the statements of this service, the last thousand, in their order."""
        return self._timed.timings

    async def create(self, given: TaskCreate, *, actor: int) -> TaskRead:
        """Any actor may create tasks, in any project that is not archived. Raises NotFound, Conflict."""
        await require_actor(self._timed, an_id("actor", actor))
        await require_open(self._timed, [given.project_id])
        task = Task(**given.model_dump(), created_by_id=actor)
        return await self._timed.call("create", _inserted(self.session, task), rows=lambda _: 1)

    async def create_many(self, given: Sequence[TaskCreate], *, actor: int) -> list[int]:
        """All or none, in four statements however many they are; the ids, in their order. Raises as `create` does."""
        an_id("actor", actor)
        if not 1 <= len(given) <= MOST_TASKS:
            raise InvalidInput("given", f"must be 1 to {MOST_TASKS} tasks")
        await require_actor(self._timed, actor)
        await require_open(self._timed, [task.project_id for task in given])
        session = self.session
        made = await self._timed.call("reserve_ids", tasks.reserve_ids(session, count=len(given)), rows=len)
        records = [
            (number, task.title, task.description, task.status, task.priority, task.project_id, actor)
            for number, task in zip(made, given, strict=True)
        ]
        await self._timed.call("copy", tasks.insert(session, records), rows=lambda _: len(records))
        return made

    async def get(self, task_id: int, *, include_deleted: bool = False) -> TaskRead:
        """Raises NotFound, for a deleted task too unless asked for."""
        statement = taskreads.one(an_id("task_id", task_id), include_deleted=include_deleted)
        if task := await self._one("get", statement):
            return task
        raise NotFound(f"task {task_id} does not exist{'' if include_deleted else ', or is deleted'}", ids=[task_id])

    async def page(self, where: TaskFilter = EVERY, *, limit: int = 50, offset: int = 0) -> Page[TaskRead]:
        """Active tasks, newest first, by number; counts all of them. An offset beyond the end is refused."""
        numbered(limit, offset)
        total = await self.count(where)
        within(offset, total)
        rows = await self._timed.rows("page", taskreads.newest(where, limit=limit, offset=offset))
        return Page(items=[TaskRead.model_validate(row) for row in rows], limit=limit, offset=offset, total=total)

    async def page_after(
        self, where: TaskFilter = EVERY, *, limit: int = 50, cursor: str | None = None
    ) -> Page[TaskRead]:
        """Active tasks, newest first, from where a page ended: no row twice, and page 1,000 costs what page 1 does."""
        keyset = Keyset.opened(f"newest {where.model_dump_json()}", limit=limit, cursor=cursor)
        statement = taskreads.newest(where, limit=keyset.asked, after=keyset.after)
        return keyset.page(await self._timed.rows("page_after", statement), TaskRead.model_validate)

    async def search(
        self, text: str, where: TaskFilter = EVERY, *, limit: int = 50, cursor: str | None = None
    ) -> Page[TaskRead]:
        """Active tasks with the text, of 1 to 200 characters, in title or description, upper or lower case alike."""
        keyset = Keyset.opened(f"search {where.model_dump_json()} {sought('text', text)}", limit=limit, cursor=cursor)
        statement = taskreads.holding(text, where, limit=keyset.asked, after=keyset.after)
        return keyset.page(await self._timed.rows("search", statement), TaskRead.model_validate)

    async def details(
        self, where: TaskFilter = EVERY, *, limit: int = 50, cursor: str | None = None
    ) -> Page[TaskDetail]:
        """As `page_after`, with project and creator, in one statement."""
        keyset = Keyset.opened(f"details {where.model_dump_json()}", limit=limit, cursor=cursor)
        statement = taskreads.detailed(where, limit=keyset.asked, after=keyset.after)
        return keyset.page(await self._timed.rows("details", statement), detail)

    async def count(self, where: TaskFilter = EVERY) -> int:
        """Active tasks, counted by the database."""
        (row,) = await self._timed.rows("count", taskreads.count(where))
        return int(row.total)

    async def update(
        self, task_id: int, given: TaskUpdate, *, actor: int, unchanged_since: datetime | None = None
    ) -> TaskRead:
        """Change the given fields alone, so updates of different fields both stand. With `unchanged_since` (the
        `updated_at` that the caller has read) a task that was changed since is a Conflict; so is an archived one.
        """
        since = None if unchanged_since is None else an_instant("unchanged_since", unchanged_since)
        statement = taskchanges.changed(
            an_id("task_id", task_id), given.changes(), actor=an_id("actor", actor), unchanged_since=since
        )
        if task := await self._one("update", statement):
            return task
        raise await refusal(self._timed, task_id, actor=actor, otherwise="was changed meanwhile: read it again")

    async def mark_completed(self, task_ids: Sequence[int], *, actor: int) -> int:
        """All or none; how many were not completed yet. Deleted and archived tasks are refused."""
        asked = ids("task_ids", task_ids, most=MOST_IDS)
        await require_actor(self._timed, an_id("actor", actor))
        session = self.session
        async with session.begin_nested():
            kinds = await kinds_of(self._timed, asked, actor=actor)
            if refused := of_kinds(kinds, actor=actor):
                raise refused
            open_tasks = kinds["open"].total if "open" in kinds else 0
            completed = await self._timed.call("mark_completed", tasks.complete(session, asked, actor=actor), rows=int)
            if completed != open_tasks:
                raise Conflict(
                    "some of the tasks were changed meanwhile, so none was completed: try again", ids=asked[:MOST_NAMED]
                )
        return completed

    async def archive_project(self, project_id: int, *, actor: int) -> int:
        """Close the project, and archive its tasks that are not deleted; how many. For a large one there is the job,
        which holds no lock for long."""
        an_id("project_id", project_id)
        await require_actor(self._timed, an_id("actor", actor))
        session = self.session
        await require_read_committed(session)  # a task that entered since an older snapshot would be passed over
        closing = projects.close_to_inserts(session, project_id)
        require_owner(await self._timed.call("close_project", closing, rows=_present), project_id, actor=actor)
        await self._timed.call("stamp_project", projects.archive(session, project_id), rows=lambda _: 1)
        return await self._timed.changed("archive_project", taskchanges.archived(project_id))

    async def delete(self, task_id: int, *, actor: int) -> TaskRead:
        """Softly: `restore` brings it back until the purge takes it. A deleted one is NotFound."""
        statement = taskchanges.deleted(an_id("task_id", task_id), actor=an_id("actor", actor))
        if task := await self._one("delete", statement):
            return task
        raise await refusal(
            self._timed, task_id, actor=actor, kinds=KINDS[:3], otherwise="was changed meanwhile: try again"
        )

    async def delete_older(self, *, days: int, actor: int, project_id: int | None = None) -> int:
        """Softly, the tasks made more than `days` times 24 hours ago: of a project that the actor owns, or all that
        they may act on; how many. The purge takes them when its time has come."""
        whole("days", days, most=LONGEST_DAYS)
        if project_id is not None:
            an_id("project_id", project_id)
        await require_actor(self._timed, an_id("actor", actor))
        if project_id is not None:
            owned = projects.find(self.session, project_id)
            require_owner(await self._timed.call("project", owned, rows=_present), project_id, actor=actor)
        statement = taskchanges.deleted_older(days=days, actor=actor, project_id=project_id)
        return await self._timed.changed("delete_older", statement)

    async def restore(self, task_id: int, *, actor: int) -> TaskRead:
        """Back to the status before, or to `archived` where the project is by now. A task that is not deleted is a
        Conflict; one that a purge has taken is NotFound."""
        an_id("actor", actor)
        found = await self._timed.rows("project_of", taskreads.project_of(an_id("task_id", task_id)))
        for (project_id,) in found:  # one, or none
            # Without the lock, an archive-project could walk past the task between this look at the project and commit.
            await self._timed.call("project", projects.join(self.session, [project_id]), rows=len)
            statement = taskchanges.restored(task_id, actor=actor, project_id=project_id)
            if task := await self._one("restore", statement):
                return task
        raise await refusal(
            self._timed, task_id, actor=actor, kinds=KINDS[:2], otherwise="is not deleted, or was changed meanwhile"
        )

    async def deleted(self, *, days: int, limit: int = 50, cursor: str | None = None) -> Page[TaskRead]:
        """Tasks that were deleted in the last `days` times 24 hours, the last one first."""
        keyset = Keyset.opened(f"deleted {whole('days', days, most=LONGEST_DAYS)}", limit=limit, cursor=cursor)
        statement = taskreads.deleted(days=days, limit=keyset.asked, after=keyset.after)
        rows = await self._timed.rows("deleted", statement)
        return keyset.page(rows, TaskRead.model_validate, instant=lambda task: task.deleted_at)

    async def purge_deleted(self, *, days: int, actor: int, most: int = 10_000) -> int:
        """Remove for good what the actor may act on and what was deleted more than `days` times 24 hours ago, at most
        so many; how many. Rows that others have locked, and held ones, are left. For whole tables there is the job."""
        whole("days", days, most=LONGEST_DAYS)
        whole("most", most, most=MOST_PURGED)
        await require_actor(self._timed, an_id("actor", actor))
        ((cutoff,),) = await self._timed.rows("cutoff", taskreads.cutoff(days=days))
        async with unless_referred_to(self.session, "one of the tasks"):
            free = await self._timed.call("holds", unheld(self.session), rows=lambda _: 0)
            statement = taskchanges.purged(cutoff=cutoff, actor=actor, most=most, unheld=free)
            return await self._timed.changed("purge_deleted", statement)

    async def delete_for_good(self, task_id: int, *, actor: int) -> None:
        """Remove the task, deleted or not. One that another table refers to, or that a hold is over, is a Conflict."""
        an_id("task_id", task_id)
        an_id("actor", actor)
        async with unless_referred_to(self.session, f"task {task_id}", ids=[task_id]):
            free = await self._timed.call("holds", unheld(self.session), rows=lambda _: 0)
            statement = taskchanges.gone(task_id, actor=actor, unheld=free)
            if await self._timed.rows("delete_for_good", statement):
                return
        raise await refusal(
            self._timed, task_id, actor=actor, kinds=KINDS[:2], otherwise="is under a hold (`lowtide hold list`)"
        )

    async def explain(self, statement: ClauseElement | Change) -> Explained:
        """What a statement of db/taskreads.py or db/taskchanges.py (or one of your own) would do, and whether that is
        good. It runs, and is taken back; what takes longer than 10 s is stopped."""
        return await self._timed.call("explain", explained(self.session, statement), rows=lambda _: 0)

    async def _one(self, name: str, statement: Executable) -> TaskRead | None:
        rows = await self._timed.rows(name, statement)
        return TaskRead.model_validate(rows[0]) if rows else None


@asynccontextmanager
async def unit_of_work(sessions: async_sessionmaker[Session]) -> AsyncIterator[TaskService]:
    """A service in a transaction of its own: committed at the end, rolled back where anything was raised."""
    async with sessions.begin() as session:
        yield TaskService(session)


async def _inserted(session: AsyncSession, task: Task) -> TaskRead:
    """The defaults of the database come back with the INSERT. The session keeps no object that could go stale."""
    session.add(task)
    await session.flush()
    made = TaskRead.model_validate(task)
    session.expunge(task)
    return made


def _present(found: object) -> int:
    return int(found is not None)
