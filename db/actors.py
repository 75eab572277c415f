"""Actors: the rows of public.worker, on whose behalf the task jobs act."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.queryplans import Stated, stated
from db.sessions import execute

EXISTS = text("SELECT EXISTS (SELECT 1 FROM public.worker WHERE id = :id)")


async def exists(session: AsyncSession, actor_id: int) -> bool:
    found: bool = (await execute(session, EXISTS, {"id": actor_id})).scalar_one()
    return found


def stated_existence(actor_id: int) -> Stated:
    """For EXPLAIN."""
    return stated("actor", EXISTS, id=actor_id)
