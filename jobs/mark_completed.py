"""mark-completed: sets status `completed` on the given tasks.

Changes: status and updated_at of open tasks (pending, in_progress) that the actor may act on. With `on_invalid: "fail"`
everything is one transaction with the run's end; with "skip" each batch commits with its cursor and its counts. A task
that is completed already stays as it is, so running again is safe. It never touches a deleted or archived task.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from sqlalchemy.ext.asyncio import AsyncSession

from db import actors, tasks
from db.fields import MOST_IDS, Id
from db.tasks import Kind
from jobs.failures import NotFound, TasksRefused
from jobs.fields import Payload
from jobs.run import Run
from jobs.sweep import sweep
from jobs.window import BY_INDEX, Window

REFUSED = ("missing", "deleted", "archived", "forbidden")


def _distinct(ids: list[int]) -> list[int]:
    if len(set(ids)) < len(ids):
        seen: set[int] = set()
        twice = sorted({number for number in ids if number in seen or seen.add(number)})  # type: ignore[func-returns-value]  # add() returns None, which is the point
        raise ValueError(f"{len(twice)} ids are given more than once: {', '.join(map(str, twice[:20]))}")
    return ids


class MarkCompleted(Payload):
    task_ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_IDS), AfterValidator(_distinct)]
    requested_by: Id
    on_invalid: Literal["fail", "skip"] = "fail"


class ChangedMeanwhile(Exception):
    """Between verification and change somebody changed some of the tasks: the verification is stale."""


async def mark_completed(run: Run, payload: MarkCompleted) -> dict[str, Any]:
    ids = sorted(payload.task_ids)  # one order for all: two runs over the same tasks do not deadlock
    if payload.on_invalid == "skip":
        return await _skipping(run, payload, ids)
    async with run.transaction() as session:
        await _admit(session, payload)
        completed, already = await _all_or_none(session, ids, actor=payload.requested_by)
        result = {"completed": completed, "already_completed": already, "skipped": dict.fromkeys(REFUSED, 0)}
        await run.succeed(session, result, rows=completed, batches=1, payload=_done(payload))
    return result


async def _admit(session: AsyncSession, payload: MarkCompleted) -> None:
    if not await actors.exists(session, payload.requested_by):
        raise NotFound(f"worker {payload.requested_by} (requested_by) does not exist")


async def _all_or_none(session: AsyncSession, ids: list[int], *, actor: int) -> tuple[int, int]:
    """Verify without locks, change with the whole condition, compare which: tasks are locked only while they change."""
    kinds = await tasks.kinds(session, ids, actor=actor)
    if refused := {name: kinds[name] for name in REFUSED if name in kinds}:
        raise _refusal(refused)
    already = kinds["already_completed"].total if "already_completed" in kinds else 0
    completed = await tasks.complete(session, ids, actor=actor)
    if not completed.are(kinds.get("open")):
        raise ChangedMeanwhile
    return completed.total, already


def _refusal(refused: dict[str, Kind]) -> TasksRefused:
    told = "; ".join(f"{kind.total} {name} ({_listed(kind)})" for name, kind in refused.items())
    detail = {name: {"total": kind.total, "ids": kind.first_ids} for name, kind in refused.items()}
    return TasksRefused(f'no task was changed: {told}. "on_invalid": "skip" completes the others', detail=detail)


def _listed(kind: Kind) -> str:
    return ", ".join(map(str, kind.first_ids)) + (", …" if kind.total > len(kind.first_ids) else "")


async def _skipping(run: Run, payload: MarkCompleted, ids: list[int]) -> dict[str, Any]:
    async with run.transaction() as session:
        await _admit(session, payload)
    await sweep(run, Chunks(ids, payload.requested_by))
    counted = {name: run.counters.get(name, 0) for name in ("already_completed", *REFUSED)}
    counted["missing"] = len(ids) - run.rows_done - sum(counted.values())
    already = counted.pop("already_completed")
    result = {"completed": run.rows_done, "already_completed": already, "skipped": counted}
    async with run.transaction() as session:
        await run.succeed(session, result, payload=_done(payload))
    return result


class Chunks:
    """Chunks of the given ids. The cursor counts the ids that are done."""

    first, largest = 100, 10_000
    among_locks = False
    settings = BY_INDEX

    def __init__(self, ids: list[int], actor: int) -> None:
        self._ids = ids
        self._actor = actor

    async def windows(self, run: Run, size: int, *, most: int) -> list[Window]:  # noqa: ARG002 - Way's: one at a time
        start = int(run.cursor.get("ids_done", 0))
        chunk = self._ids[start : start + size]
        if not chunk:
            return []
        change = tasks.complete_chunk(chunk, actor=self._actor)
        return [Window(change, cursor={"ids_done": start + len(chunk)}, units=len(chunk))]


def _done(payload: MarkCompleted) -> str:
    return payload.model_dump_json(exclude={"task_ids"})
