"""What the ledger knows of schedules: which are paused, and whether a fire time was in use and has its run."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

WAS_IN_USE = text("SELECT EXISTS (SELECT FROM lowtide.run WHERE created_at < :at)")
HAS_RUN = text("SELECT EXISTS (SELECT FROM lowtide.run WHERE id = :id)")
PAUSED = text("SELECT policy FROM lowtide.paused_schedule")
PAUSE = text("""
    INSERT INTO lowtide.paused_schedule (policy, paused_by) VALUES (:policy, :by) ON CONFLICT (policy) DO NOTHING
""")
RESUME = text("DELETE FROM lowtide.paused_schedule WHERE policy = :policy")


async def was_in_use(session: AsyncSession, *, at: datetime) -> bool:
    """Whether the ledger held a run at that time already."""
    return bool((await session.execute(WAS_IN_USE, {"at": at})).scalar_one())


async def has_run(session: AsyncSession, run_id: str) -> bool:
    return bool((await session.execute(HAS_RUN, {"id": run_id})).scalar_one())


async def paused(session: AsyncSession) -> set[str]:
    """Names of the policies whose schedules make no runs."""
    return set((await session.execute(PAUSED)).scalars())


async def pause(session: AsyncSession, policy: str, *, by: str) -> None:
    """From the next fire time on. A run that it has made already goes on."""
    await session.execute(PAUSE, {"policy": policy, "by": by})


async def resume(session: AsyncSession, policy: str) -> None:
    await session.execute(RESUME, {"policy": policy})
