"""A small FastAPI service over the tasks that lowtide maintains: copy from it what you need.

    uvicorn --factory examples.service:create_app

with LOWTIDE_DATABASE_URL set, for example to what `lowtide dev` prints. A request is one transaction: it is committed
before the answer goes out, and rolled back when the request is refused.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Body, Depends, FastAPI, Header, Path, Query, Request
from pydantic import AwareDatetime

from db import engine, runs
from db.fields import BIGINT, Text
from db.refusals import NotAllowed, NotFound
from db.schemas import Page, TaskCreate, TaskDetail, TaskFilter, TaskRead, TaskUpdate
from db.taskservice import TaskService, unit_of_work
from examples import errors
from examples.schemas import Feed, Finish, Numbered, RunRead, Search

router = APIRouter()


def create_app(database_url: str | None = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = engine.connect(database_url or os.environ["LOWTIDE_DATABASE_URL"], application_name="tasks service")
        app.state.sessions = database.sessions
        yield
        await database.close()

    app = FastAPI(title="Tasks", lifespan=lifespan)
    app.include_router(router)
    errors.install(app)
    return app


async def transaction(request: Request) -> AsyncIterator[TaskService]:
    async with unit_of_work(request.app.state.sessions) as tasks:
        yield tasks


# scope="function": by default FastAPI ends a dependency after the answer has gone out, and a caller would be told of a
# change that is not committed yet, or never is.
Tasks = Annotated[TaskService, Depends(transaction, scope="function")]
# Who acts. A real service finds that out from a session or a token; never believe a header that anyone can set.
Actor = Annotated[int, Header(alias="X-Actor", ge=1, le=BIGINT)]
RowId = Annotated[int, Path(ge=1, le=BIGINT)]
# Made up by the caller, once for each thing that they want done; said again when they have missed the answer.
Key = Annotated[str, Header(alias="Idempotency-Key", pattern=r"^[A-Za-z0-9_-]{8,100}$")]


@router.post("/tasks", status_code=201)
async def create(given: TaskCreate, tasks: Tasks, actor: Actor) -> TaskRead:
    return await tasks.create(given, actor=actor)


@router.post("/tasks/batch", status_code=201)
async def create_many(
    given: Annotated[list[TaskCreate], Body(min_length=1, max_length=1000)], tasks: Tasks, actor: Actor
) -> dict[str, list[int]]:
    return {"ids": await tasks.create_many(given, actor=actor)}


@router.get("/tasks")
async def page(given: Annotated[Numbered, Query()], tasks: Tasks) -> Page[TaskRead]:
    """With the total. For long lists take /tasks/feed: its last page costs what its first does."""
    return await tasks.page(given.where, limit=given.limit, offset=given.offset)


@router.get("/tasks/feed")
async def feed(given: Annotated[Feed, Query()], tasks: Tasks) -> Page[TaskRead]:
    """The next page is at the answer's next_cursor; the last one has none."""
    return await tasks.page_after(given.where, limit=given.limit, cursor=given.cursor)


@router.get("/tasks/search")
async def search(given: Annotated[Search, Query()], tasks: Tasks) -> Page[TaskRead]:
    return await tasks.search(given.q, given.where, limit=given.limit, cursor=given.cursor)


@router.get("/tasks/count")
async def count(where: Annotated[TaskFilter, Query()], tasks: Tasks) -> dict[str, int]:
    return {"count": await tasks.count(where)}


@router.get("/tasks/board")
async def board(given: Annotated[Feed, Query()], tasks: Tasks) -> Page[TaskDetail]:
    """Each task with its project and its creator."""
    return await tasks.details(given.where, limit=given.limit, cursor=given.cursor)


@router.get("/tasks/deleted")
async def deleted(days: int, tasks: Tasks, limit: int = 50, cursor: str | None = None) -> Page[TaskRead]:
    return await tasks.deleted(days=days, limit=limit, cursor=cursor)


@router.post("/tasks/complete")
async def complete(given: Finish, tasks: Tasks, actor: Actor) -> dict[str, int]:
    """All of them at once, or none. For many thousands let a worker do it: see finish."""
    return {"completed": await tasks.mark_completed(given.task_ids, actor=actor)}


@router.get("/tasks/{task_id}")
async def get(task_id: RowId, tasks: Tasks, *, include_deleted: bool = False) -> TaskRead:
    return await tasks.get(task_id, include_deleted=include_deleted)


@router.patch("/tasks/{task_id}")
async def update(
    task_id: RowId, given: TaskUpdate, tasks: Tasks, actor: Actor, unchanged_since: AwareDatetime | None = None
) -> TaskRead:
    """With unchanged_since, the updated_at that the caller has seen: 409 where somebody has changed the task since.

    Not the header If-Unmodified-Since, which knows whole seconds only.
    """
    return await tasks.update(task_id, given, actor=actor, unchanged_since=unchanged_since)


@router.delete("/tasks/{task_id}")
async def delete(task_id: RowId, tasks: Tasks, actor: Actor) -> TaskRead:
    """Softly: it can be restored until a purge takes it."""
    return await tasks.delete(task_id, actor=actor)


@router.post("/tasks/{task_id}/restore")
async def restore(task_id: RowId, tasks: Tasks, actor: Actor) -> TaskRead:
    return await tasks.restore(task_id, actor=actor)


@router.delete("/tasks/{task_id}/for-good", status_code=204)
async def delete_for_good(task_id: RowId, tasks: Tasks, actor: Actor) -> None:
    await tasks.delete_for_good(task_id, actor=actor)


@router.post("/tasks/{task_id}/finish", status_code=202)
async def finish(task_id: RowId, given: Finish, tasks: Tasks, actor: Actor, key: Key) -> dict[str, str]:
    """Completes the task now, and leaves the many that belong to it to a worker: both, or neither.

    A key that this actor has used for the task is the same request: nothing is done twice, whatever became of the task
    since. An id made of the task's alone would be used up after the first time.
    """
    run_id = f"finish-{task_id}-{actor}-{key}"
    if await runs.standing(tasks.session, run_id) is None:
        await tasks.update(task_id, TaskUpdate(status="completed"), actor=actor)
    payload = json.dumps({"task_ids": sorted(set(given.task_ids)), "requested_by": actor})
    await runs.enqueue(tasks.session, job="mark-completed", payload=payload, run_id=run_id, not_before=None)
    return {"run_id": run_id}


@router.post("/projects/{project_id}/archive")
async def archive(project_id: RowId, tasks: Tasks, actor: Actor) -> dict[str, int]:
    return {"archived": await tasks.archive_project(project_id, actor=actor)}


@router.delete("/projects/{project_id}/tasks")
async def delete_older(project_id: RowId, older_than_days: int, tasks: Tasks, actor: Actor) -> dict[str, int]:
    return {"deleted": await tasks.delete_older(days=older_than_days, actor=actor, project_id=project_id)}


@router.get("/runs/{run_id}")
async def run(run_id: Annotated[Text, Path(max_length=200)], tasks: Tasks, actor: Actor) -> RunRead:
    """A run that this actor has asked for: what others' runs did, and why they failed, is theirs to know."""
    found = await runs.get(tasks.session, run_id)
    if found is None:
        raise NotFound(f'run "{run_id}" does not exist', ids=[run_id])
    if (found.payload or {}).get("requested_by") != actor:
        raise NotAllowed(f'worker {actor} has not asked for run "{run_id}"', ids=[run_id])
    return RunRead.model_validate(found)
