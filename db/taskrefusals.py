"""Why a change of tasks was refused, found out after the fact: a change that succeeds asks nothing."""

import re
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from db import actors, projects, tasks
from db.faults import BLOCKED, sqlstate
from db.projects import FoundProject
from db.refusals import MOST_NAMED, Conflict, NotAllowed, NotFound, Refused
from db.sessions import execute
from db.tasks import Kind
from db.timing import TimedSession

# In the order in which they are told: who may not act on a task learns nothing else about it.
KINDS = ("forbidden", "missing", "deleted", "archived")

KEEP = text("SELECT 1 FROM public.worker WHERE id = :id FOR KEY SHARE")

# In the server's detail, whatever its language is.
KEY = re.compile(r"\(id\)=\((\d+)\)")
OF_TASKS = text("""
    SELECT EXISTS (
        SELECT 1 FROM pg_constraint WHERE conname = :constraint AND confrelid = 'public.task'::regclass
        AND conrelid = to_regclass(format('%I.%I', CAST(:schema AS text), CAST(:table AS text)))
    )
""")


async def require_actor(session: TimedSession, actor: int) -> None:
    if not await session.call("actor", actors.exists(session.session, actor), rows=int):
        raise NotFound(f"worker {actor} does not exist", ids=[actor])


async def require_creator(session: TimedSession, actor: int) -> None:
    """`require_actor`, and nobody deletes the worker before the rows that name them are there. The lock is the one that
    their foreign key would take; like any, it needs UPDATE on the table or on a column of it."""
    if not await session.rows("actor", KEEP.bindparams(id=actor)):
        raise NotFound(f"worker {actor} does not exist", ids=[actor])


async def require_open(session: TimedSession, project_ids: Collection[int]) -> None:
    """Lock the projects against being archived; refuse where one is missing or archived."""
    asked = sorted(set(project_ids))
    standing = await session.call("projects", projects.join(session.session, asked), rows=len)
    if missing := [number for number in asked if number not in standing]:
        raise NotFound(f"{_named('project', missing)} not exist", ids=missing[:MOST_NAMED])
    if archived := [number for number in asked if standing[number].archived]:
        raise Conflict(f"no task may enter an archived project: {_listed(archived)}", ids=archived[:MOST_NAMED])


def require_owner(project: FoundProject | None, project_id: int, *, actor: int) -> FoundProject:
    if project is None:
        raise NotFound(f"project {project_id} does not exist", ids=[project_id])
    if project.owner_id != actor:
        raise NotAllowed(
            f"worker {actor} may not do this to project {project_id}: only its owner may", ids=[project_id]
        )
    return project


async def require_owner_of(session: TimedSession, project_id: int, *, actor: int) -> None:
    """Without a lock."""
    found = await session.call(
        "project", projects.find(session.session, project_id), rows=lambda one: int(one is not None)
    )
    require_owner(found, project_id, actor=actor)


async def require_acting(session: TimedSession, task_id: int, *, actor: int) -> None:
    """Without a lock. A task that is missing is left to who asks for it."""
    standing = await kinds_of(session, [task_id], actor=actor)
    if "forbidden" in standing:
        await require_actor(session, actor)
        if refused := of_kinds(standing, actor=actor):
            raise refused


async def refusal(
    session: TimedSession, task_id: int, *, actor: int, kinds: Collection[str] = KINDS, otherwise: str
) -> Refused:
    """Which of the kinds the task is; or else a Conflict, with those words."""
    await require_actor(session, actor)
    standing = await kinds_of(session, [task_id], actor=actor)
    refused = of_kinds({kind: standing[kind] for kind in kinds if kind in standing}, actor=actor)
    return refused or Conflict(f"task {task_id} {otherwise}", ids=[task_id])


async def kinds_of(session: TimedSession, task_ids: Sequence[int], *, actor: int) -> dict[str, Kind]:
    return await session.call("kinds", tasks.kinds(session.session, task_ids, actor=actor), rows=len)


def of_kinds(found: dict[str, Kind], *, actor: int) -> Refused | None:
    """The first of KINDS that occurs, with its first 20 ids."""
    detail = {name: {"total": kind.total, "ids": kind.first_ids} for name, kind in found.items() if name in KINDS}
    for name in KINDS:
        if name in found:
            error = NotAllowed if name == "forbidden" else Conflict if name == "archived" else NotFound
            told = f"{_told(name, found[name], actor)}. Nothing was changed"
            return error(told, detail=detail, ids=found[name].first_ids)
    return None


def _told(name: str, kind: Kind, actor: int) -> str:
    which = f"{'task' if kind.total == 1 else f'{kind.total} tasks'} {_listed(kind.first_ids, kind.total)}"
    match name:
        case "forbidden":
            return f"worker {actor} may not act on {which}: only the creator or the project's owner may"
        case "missing":
            return f"{which} {'does' if kind.total == 1 else 'do'} not exist"
    told = f"{which} {'is' if kind.total == 1 else 'are'} {name}"
    return f"{told} already; restore brings {'it' if kind.total == 1 else 'them'} back" if name == "deleted" else told


@asynccontextmanager
async def unless_referred_to(session: AsyncSession, which: str, *, ids: Sequence[int] = ()) -> AsyncIterator[None]:
    """A savepoint for deletes: where another table refers to a row, back to it, and a Conflict that names the foreign
    key."""
    try:
        async with session.begin_nested():
            yield
    except IntegrityError as exc:
        if sqlstate(exc) not in BLOCKED:
            raise
        cause = exc.orig.__cause__ if exc.orig else None
        constraint = getattr(cause, "constraint_name", None)
        named = ids or await _referred_to(session, cause)
        which = which if ids or not named else f"task {named[0]}"
        told = f"{which} can't go: another table refers to it ({constraint}). Nothing was changed"
        raise Conflict(told, detail={"constraint": constraint}, ids=named) from exc


async def _referred_to(session: AsyncSession, cause: object) -> list[int]:
    """The task that stopped a delete of many: the first one, since the server names no more. None where that was a row
    of another table, which would have gone along, or where the server names no key."""
    if not isinstance(cause, asyncpg.PostgresError) or not (key := KEY.search(cause.detail or "")):
        return []
    given = {"schema": cause.schema_name, "table": cause.table_name, "constraint": cause.constraint_name}
    of_tasks = (await execute(session, OF_TASKS, given)).scalar_one()
    return [int(key[1])] if of_tasks else []


def _named(noun: str, ids: Sequence[int]) -> str:
    return f"{noun}{'' if len(ids) == 1 else 's'} {_listed(ids)} {'does' if len(ids) == 1 else 'do'}"


def _listed(ids: Sequence[int], total: int | None = None) -> str:
    return ", ".join(map(str, ids[:MOST_NAMED])) + (", …" if (total or len(ids)) > MOST_NAMED else "")
