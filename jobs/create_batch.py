"""create-batch: inserts many tasks into one project, all or none.

Changes: adds rows to public.task, and nothing else. Running it again is safe because the rows, the run's result and
its end are one transaction: either all of it stands, or the run starts from nothing. It never touches a task that
exists, and never enters an archived project.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sqlalchemy.ext.asyncio import AsyncSession

from db import actors, projects, tasks
from db.fields import MOST_TASKS, Description, Id, Priority, Status, Title
from jobs.failures import NotFound, ProjectArchived
from jobs.fields import Payload
from jobs.run import Run


@dataclass(config=ConfigDict(extra="forbid"), slots=True)  # a hundred thousand of them: slots keep them small
class NewTask:
    title: Title
    description: Description | None = None
    status: Status = "pending"
    priority: Priority = "medium"


class CreateBatch(Payload):
    project_id: Id
    created_by_id: Id
    tasks: Annotated[list[NewTask], Field(min_length=1, max_length=MOST_TASKS)]


async def create_batch(run: Run, payload: CreateBatch) -> dict[str, Any]:
    """Result: `created`, and `ids` as ranges [first, last], in the order of the payload's tasks."""
    async with run.transaction() as session:
        await _admit(session, payload)
        ids = await tasks.reserve_ids(session, count=len(payload.tasks))
        await tasks.insert(session, _records(payload, ids))
        result = {"created": len(ids), "ids": ranges(ids)}
        done = payload.model_dump_json(exclude={"tasks"})
        await run.succeed(session, result, rows=len(ids), batches=1, payload=done)
    return result


async def _admit(session: AsyncSession, payload: CreateBatch) -> None:
    """Any actor may create tasks in any project that is not archived; the tasks are then the actor's own."""
    if not await actors.exists(session, payload.created_by_id):
        raise NotFound(f"worker {payload.created_by_id} (created_by_id) does not exist")
    project = (await projects.join(session, [payload.project_id])).get(payload.project_id)
    if project is None:
        raise NotFound(f"project {payload.project_id} does not exist")
    if project.archived:
        raise ProjectArchived(f"project {payload.project_id} is archived: no task may enter it")


def _records(payload: CreateBatch, ids: Sequence[int]) -> Iterator[tuple[object, ...]]:
    """In the order of tasks.COLUMNS."""
    project, actor = payload.project_id, payload.created_by_id
    for task_id, task in zip(ids, payload.tasks, strict=True):
        yield task_id, task.title, task.description, task.status, task.priority, project, actor


def ranges(ids: Sequence[int]) -> list[list[int]]:
    """Ascending ids as [first, last] pairs of runs without a gap."""
    found: list[list[int]] = []
    for number in ids:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found
