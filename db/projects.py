"""What is said about projects. The two locks are chosen against each other, and against plain inserts of tasks."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.queryplans import Stated, stated
from db.sessions import execute


@dataclass(frozen=True)
class FoundProject:
    owner_id: int
    archived: bool


# FOR SHARE lets other inserts in, and keeps archive-project out until this transaction has ended.
JOIN = text("""
    SELECT id, owner_id, archived_at IS NOT NULL AS archived FROM public.project
    WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR SHARE
""")
# FOR UPDATE conflicts with the KEY SHARE that a foreign key takes, so it waits for every insert in flight.
CLOSE_TO_INSERTS = text(
    "SELECT owner_id, archived_at IS NOT NULL AS archived FROM public.project WHERE id = :id FOR UPDATE"
)
FIND = text("SELECT owner_id, archived_at IS NOT NULL AS archived FROM public.project WHERE id = :id")
ARCHIVE = text("UPDATE public.project SET archived_at = now() WHERE id = :id AND archived_at IS NULL")


async def join(session: AsyncSession, project_ids: Iterable[int]) -> dict[int, FoundProject]:
    """Lock the projects against being archived while tasks enter them; those that exist, by their ids."""
    rows = await execute(session, JOIN, {"ids": list(project_ids)})
    return {row.id: FoundProject(row.owner_id, row.archived) for row in rows}


async def find(session: AsyncSession, project_id: int) -> FoundProject | None:
    """Without a lock."""
    row = (await execute(session, FIND, {"id": project_id})).one_or_none()
    return None if row is None else FoundProject(**row._mapping)


async def close_to_inserts(session: AsyncSession, project_id: int) -> FoundProject | None:
    """Lock the project alone, once no insert of a task for it is in flight; None when there is no such project."""
    row = (await execute(session, CLOSE_TO_INSERTS, {"id": project_id})).one_or_none()
    return None if row is None else FoundProject(**row._mapping)


async def archive(session: AsyncSession, project_id: int) -> None:
    """Set archived_at; an earlier one stands. From the commit on no task enters the project."""
    await execute(session, ARCHIVE, {"id": project_id})


def stated_joining(project_id: int) -> Stated:
    """For EXPLAIN."""
    return stated("project", JOIN, ids=[project_id], writes=True)


def stated_closing(project_id: int) -> Stated:
    return stated("closing the project", CLOSE_TO_INSERTS, id=project_id, writes=True)
