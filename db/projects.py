"""What is said about projects. The two locks are chosen against each other, and against plain inserts of tasks."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.queryplans import Stated, stated


@dataclass(frozen=True)
class LockedProject:
    owner_id: int
    archived: bool


# FOR SHARE lets other inserts in, and keeps archive-project out until this transaction has ended.
JOIN = text("SELECT owner_id, archived_at IS NOT NULL AS archived FROM public.project WHERE id = :id FOR SHARE")
# FOR UPDATE conflicts with the KEY SHARE that a foreign key takes, so it waits for every insert in flight.
CLOSE_TO_INSERTS = text(
    "SELECT owner_id, archived_at IS NOT NULL AS archived FROM public.project WHERE id = :id FOR UPDATE"
)
ARCHIVE = text("UPDATE public.project SET archived_at = now() WHERE id = :id AND archived_at IS NULL")


async def join(session: AsyncSession, project_id: int) -> LockedProject | None:
    """Lock the project against being archived while tasks enter it; None when there is no such project."""
    row = (await session.execute(JOIN, {"id": project_id})).one_or_none()
    return None if row is None else LockedProject(**row._mapping)


async def close_to_inserts(session: AsyncSession, project_id: int) -> LockedProject | None:
    """Lock the project alone, once no insert of a task for it is in flight; None when there is no such project."""
    row = (await session.execute(CLOSE_TO_INSERTS, {"id": project_id})).one_or_none()
    return None if row is None else LockedProject(**row._mapping)


async def archive(session: AsyncSession, project_id: int) -> None:
    """Set archived_at; an earlier one stands. From the commit on no task enters the project."""
    await session.execute(ARCHIVE, {"id": project_id})


def stated_joining(project_id: int) -> Stated:
    """For EXPLAIN."""
    return stated("project", JOIN, id=project_id, writes=True)


def stated_closing(project_id: int) -> Stated:
    return stated("closing the project", CLOSE_TO_INSERTS, id=project_id, writes=True)
