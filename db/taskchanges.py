"""What changes tasks: statements alone, for a TaskService to run or to explain.

Each repeats its whole condition, who may act included, so a row that somebody else has just changed is looked at again
when its lock is free; and says now() for updated_at. They are said of the tables, not of the models: what the session
holds of these rows stays as it was loaded. Nothing here checks its arguments; the service does.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Update,
    and_,
    any_,
    case,
    delete,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from db import tasks, windows
from db.batches import Change
from db.fields import BIGINT
from db.targets import TIMESTAMPTZ, Eligible, Target
from db.taskreads import ACTIVE, COLUMNS, DELETED, PROJECT, TASK, before
from db.windows import Bound, Part, Span

NOT_ARCHIVED = (TASK.c.status.is_distinct_from("archived"), PROJECT.c.archived_at.is_(None))
# Rows that were deleted with deleted_at alone, by somebody's own SQL, still have their status.
PREVIOUS = case(
    (PROJECT.c.archived_at.is_not(None), "archived"),
    (TASK.c.status != "deleted", TASK.c.status),
    else_=func.coalesce(TASK.c.status_before_delete, "pending"),
)
SOFT = {"deleted_at": func.now(), "status": "deleted", "status_before_delete": TASK.c.status, "updated_at": func.now()}
# The job's target, with who may act; the third text of a window's part is the actor.
PURGED = Target(
    "public",
    "task",
    "deleted_at",
    where="($1::text[])[3]::bigint IN (created_by_id, "
    "(SELECT p.owner_id FROM public.project p WHERE p.id = project_id))",
)


def changed(
    task_id: int, changes: Mapping[str, object], *, actor: int, unchanged_since: datetime | None = None
) -> ReturningUpdate[*tuple[object, ...]]:
    """The given columns of an active task that is not archived; with `unchanged_since`, of that updated_at alone."""
    since = () if unchanged_since is None else (TASK.c.updated_at == unchanged_since,)
    statement = update(TASK).where(*_acting(task_id, actor), *ACTIVE, *NOT_ARCHIVED, *since)
    return statement.values({**changes, "updated_at": func.now()}).returning(*COLUMNS)


def deleted(task_id: int, *, actor: int) -> ReturningUpdate[*tuple[object, ...]]:
    return update(TASK).where(*_acting(task_id, actor), *ACTIVE).values(SOFT).returning(*COLUMNS)


def deleted_older(*, days: int, actor: int, project_id: int | None = None) -> Update:
    """Active tasks that were made before that, those of a project of the actor's, or all that they may act on."""
    theirs = select(PROJECT.c.id).where(PROJECT.c.owner_id == actor).scalar_subquery()
    # Each row at its own instant: lists of deleted tasks, and the purge, are led by that alone.
    values = {**SOFT, "deleted_at": func.clock_timestamp()}
    statement = update(TASK).where(*ACTIVE, TASK.c.created_at < before(days)).values(values)
    if project_id is None:
        # As an array, so that an index can answer either way.
        of_theirs = TASK.c.project_id == any_(func.array(theirs, type_=ARRAY(BigInteger)))
        return statement.where(or_(TASK.c.created_by_id == actor, of_theirs))
    owner = select(PROJECT.c.owner_id).where(PROJECT.c.id == project_id).scalar_subquery()
    return statement.where(TASK.c.project_id == project_id, owner == actor)


def restored(task_id: int, *, actor: int, project_id: int) -> ReturningUpdate[*tuple[object, ...]]:
    """Of a project that is locked against being archived meanwhile."""
    statement = update(TASK).where(*_acting(task_id, actor), TASK.c.project_id == project_id, DELETED)
    values = {"deleted_at": None, "status": PREVIOUS, "status_before_delete": None, "updated_at": func.now()}
    return statement.values(values).returning(*COLUMNS)


def gone(task_id: int, *, actor: int, unheld: str = "true") -> ReturningDelete[*tuple[object, ...]]:
    """`unheld` is the condition that leaves held tasks alone (db/taskholds.py)."""
    return delete(TASK).where(*_acting(task_id, actor), text(unheld.replace(":", "\\:"))).returning(TASK.c.id)


def archived(project_id: int) -> Change:
    """All tasks of a project, in the words of archive-project for its windows."""
    return tasks.archive_range(project_id, after=-BIGINT, last=BIGINT)


def purged(*, cutoff: datetime, actor: int, most: int, unheld: str | None = None) -> Change:
    """In the words of purge-old-deleted for a window of values. Rows that others have locked are passed over."""
    eligible = Eligible(PURGED, TIMESTAMPTZ, cutoff.isoformat(), unheld=unheld)
    span = Span(Bound("-infinity", inclusive=True), Bound(cutoff.isoformat(), inclusive=False))
    part = windows.within(eligible, span)
    whose = Part(part.sql, [*part.args, str(actor)])
    return windows.delete(eligible, whose, most=most, skip_locked=True)


def _acting(task_id: int, actor: int) -> tuple[ColumnElement[bool], ...]:
    may_act = or_(TASK.c.created_by_id == actor, PROJECT.c.owner_id == actor)
    return TASK.c.id == task_id, and_(PROJECT.c.id == TASK.c.project_id, may_act)
