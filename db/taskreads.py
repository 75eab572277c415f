"""What is asked about tasks: statements alone, for a TaskService to run or to explain.

They select columns, never entities: a row that the session holds already would come back as it was when it was loaded.
Nothing here checks its arguments; the service does.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Table,
    func,
    inspect,
    not_,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.sql.elements import KeyedColumnElement

from db.cursors import Position
from db.models import Project, Task, Worker
from db.schemas import ProjectRead, TaskFilter, TaskRead, WorkerRead


def _table(model: type[Task | Project | Worker]) -> Table:
    table = inspect(model).local_table
    if not isinstance(table, Table):
        raise TypeError(model)
    return table


TASK, PROJECT, WORKER = _table(Task), _table(Project), _table(Worker)
COLUMNS = tuple(TASK.c[name] for name in TaskRead.model_fields)
DETAILS = (
    *COLUMNS,
    *(PROJECT.c[name].label(f"project_{name}") for name in ProjectRead.model_fields if name != "id"),
    *(WORKER.c[name].label(f"created_by_{name}") for name in WorkerRead.model_fields if name != "id"),
)
EVERY = TaskFilter()
WALKED = 1000  # of the newest tasks, by a search: a few milliseconds
FILTERS: Mapping[str, Callable[[Any], ColumnElement[bool]]] = {
    "project_id": TASK.c.project_id.__eq__,
    "status": TASK.c.status.__eq__,
    "priority": TASK.c.priority.__eq__,
    "created_from": TASK.c.created_at.__ge__,
    "created_before": TASK.c.created_at.__lt__,
}
# Everybody means the same by "deleted": the purge, the jobs, and what is here.
DELETED = or_(TASK.c.deleted_at.is_not(None), TASK.c.status == "deleted")
ACTIVE = (TASK.c.deleted_at.is_(None), TASK.c.status.is_distinct_from("deleted"))


def one(task_id: int, *, include_deleted: bool = False) -> Select[*tuple[object, ...]]:
    active = () if include_deleted else ACTIVE
    return select(*COLUMNS).where(TASK.c.id == task_id, *active)


def project_of(task_id: int) -> Select[*tuple[object, ...]]:
    """Of a task, deleted or not."""
    return select(TASK.c.project_id).where(TASK.c.id == task_id)


def newest(
    where: TaskFilter = EVERY, *, limit: int, offset: int = 0, after: Position | None = None
) -> Select[*tuple[object, ...]]:
    """Active tasks, newest first."""
    found = select(*COLUMNS).where(*_matching(where)).offset(offset or None)
    return _page(found, TASK.c.created_at, limit=limit, after=after)


def holding(
    text: str, where: TaskFilter = EVERY, *, limit: int, after: Position | None = None
) -> Select[*tuple[object, ...]]:
    """Active tasks with this text somewhere in the title or the description, newest first.

    A word that many tasks have is found among the newest; another one by the trigram indexes. Which of both it is, no
    statistics tell: those of ILIKE know no words, and deleted tasks have them too. So the newest WALKED are looked
    through, and where they have too few, OFFSET 0 keeps the order from driving the second search.
    ILIKE, and no lower(): it is what the trigram indexes answer.
    """
    pattern = f"%{_literally(text)}%"
    newest_first = _page(select(*COLUMNS).where(*_matching(where)), TASK.c.created_at, limit=WALKED, after=after)
    recent = newest_first.cte("recent").prefix_with("MATERIALIZED")
    hits = select(recent).where(_holds(recent, pattern)).cte("hits")
    enough = select(func.count() >= limit).select_from(hits).scalar_subquery()
    others = _page(select(*COLUMNS).where(*_matching(where), _holds(TASK, pattern)), TASK.c.created_at, after=after)
    fenced = others.order_by(None).offset(0).subquery("others")
    both = union_all(select(hits).where(enough), select(fenced).where(not_(enough))).subquery("found")
    return select(both).order_by(both.c.created_at.desc(), both.c.id.desc()).limit(limit)


def _holds(rows: FromClause, pattern: str) -> ColumnElement[bool]:
    return or_(rows.c.title.ilike(pattern), rows.c.description.ilike(pattern))


def detailed(where: TaskFilter = EVERY, *, limit: int, after: Position | None = None) -> Select[*tuple[object, ...]]:
    """Active tasks with the columns of their projects and creators, newest first: one statement for all of it."""
    joined = TASK.join(PROJECT, PROJECT.c.id == TASK.c.project_id).join(WORKER, WORKER.c.id == TASK.c.created_by_id)
    found = select(*DETAILS).select_from(joined).where(*_matching(where))
    return _page(found, TASK.c.created_at, limit=limit, after=after)


def deleted(*, days: int, limit: int, after: Position | None = None) -> Select[*tuple[object, ...]]:
    """Tasks that were deleted in the last so many days, the last one first."""
    found = select(*COLUMNS).where(TASK.c.deleted_at >= before(days))
    return _page(found, TASK.c.deleted_at, limit=limit, after=after)


def count(where: TaskFilter = EVERY) -> Select[*tuple[object, ...]]:
    return select(func.count().label("total")).select_from(TASK).where(*_matching(where))


def cutoff(*, days: int) -> Select[*tuple[object, ...]]:
    return select(before(days).label("cutoff"))


def before(days: int) -> ColumnElement[datetime]:
    """So many times 24 hours ago, by the database's clock. An interval of days would follow the session's time zone
    through its changes of clock; and the driver makes one of every timedelta."""
    return func.now() - func.make_interval(0, 0, 0, 0, 24 * days)


def _matching(where: TaskFilter) -> list[ColumnElement[bool]]:
    wanted = {name: getattr(where, name) for name in FILTERS}
    return [*ACTIVE, *(FILTERS[name](value) for name, value in wanted.items() if value is not None)]


def _page(
    found: Select[*tuple[object, ...]],
    instant: KeyedColumnElement[object],
    *,
    limit: int | None = None,
    after: Position | None,
) -> Select[*tuple[object, ...]]:
    """Compared as a row, so that an index on both, or on the instant alone, leads to the place at once."""
    if after is not None:
        position = tuple_(*after, types=[instant.type, TASK.c.id.type])
        found = found.where(tuple_(instant, TASK.c.id) < position)
    return found.order_by(instant.desc(), TASK.c.id.desc()).limit(limit)


def _literally(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
