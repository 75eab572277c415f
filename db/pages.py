"""Pages of a list that is ordered by an instant, then by id, newest first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Row

from db import cursors
from db.cursors import Position
from db.fields import BIGINT, LONGEST_PAGE, whole
from db.refusals import InvalidInput
from db.schemas import Page, ProjectRead, TaskDetail, TaskRead, WorkerRead

Item = TypeVar("Item", bound=TaskRead)


@dataclass(frozen=True)
class Keyset:
    """One page behind a position. A row more than it holds is asked for: whether there is one is whether it goes on."""

    of: str
    limit: int
    after: Position | None

    @classmethod
    def opened(cls, of: str, *, limit: int, cursor: str | None) -> "Keyset":
        """`of` says which list it is, with which filter. Raises InvalidInput."""
        whole("limit", limit, most=LONGEST_PAGE)
        return cls(of, limit, None if cursor is None else cursors.decoded(cursor, of=of))

    @property
    def asked(self) -> int:
        return self.limit + 1

    def page(
        self,
        rows: Sequence[Row[Any]],
        read: Callable[[Row[Any]], Item],
        *,
        instant: Callable[[Item], datetime | None] = lambda task: task.created_at,
    ) -> Page[Item]:
        items = [read(row) for row in rows[: self.limit]]
        last = instant(items[-1]) if len(rows) > self.limit else None
        following = None if last is None else cursors.encoded(Position(last, items[-1].id), of=self.of)
        return Page(items=items, limit=self.limit, next_cursor=following)


def numbered(limit: int, offset: int) -> None:
    """Raises InvalidInput for what no list can have."""
    whole("limit", limit, most=LONGEST_PAGE)
    whole("offset", offset, least=0, most=BIGINT)


def within(offset: int, total: int) -> None:
    """Raises InvalidInput for an offset beyond the end; at the end there is an empty page."""
    if offset > total:
        raise InvalidInput("offset", f"is beyond the end: there are {total}")


def detail(row: Row[Any]) -> TaskDetail:
    """The columns of project and creator have their names in front."""
    columns = dict(row._mapping)
    project = {name: columns.pop(f"project_{name}") for name in ProjectRead.model_fields if name != "id"}
    creator = {name: columns.pop(f"created_by_{name}") for name in WorkerRead.model_fields if name != "id"}
    return TaskDetail(
        **columns,
        project=ProjectRead(id=row.project_id, **project),
        created_by=WorkerRead(id=row.created_by_id, **creator),
    )
