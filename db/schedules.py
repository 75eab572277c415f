"""What the ledger knows of schedules: which are paused, and whether a fire time was in use and has its run."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

WAS_IN_USE = text("SELECT EXISTS (SELECT FROM lowtide.run WHERE created_at < :at)")
HAS_RUN = text("SELECT EXISTS (SELECT FROM lowtide.run WHERE id = :id)")
PAUSES = text("SELECT policy, resumed_at FROM lowtide.paused_schedule")
PAUSE = text("""
    INSERT INTO lowtide.paused_schedule (policy, paused_by) VALUES (:policy, :by)
    ON CONFLICT (policy) DO UPDATE SET paused_by = excluded.paused_by, paused_at = now(), resumed_at = NULL
    WHERE paused_schedule.resumed_at IS NOT NULL
""")
RESUME = text("UPDATE lowtide.paused_schedule SET resumed_at = now() WHERE policy = :policy AND resumed_at IS NULL")


async def was_in_use(session: AsyncSession, *, at: datetime) -> bool:
    """Whether the ledger held a run at that time already."""
    return bool((await session.execute(WAS_IN_USE, {"at": at})).scalar_one())


async def has_run(session: AsyncSession, run_id: str) -> bool:
    return bool((await session.execute(HAS_RUN, {"id": run_id})).scalar_one())


async def pauses(session: AsyncSession) -> dict[str, datetime | None]:
    """By policy, when its schedule was resumed; None while it is paused. What lies before makes no runs."""
    return {row.policy: row.resumed_at for row in await session.execute(PAUSES)}


async def pause(session: AsyncSession, policy: str, *, by: str) -> None:
    """From the next fire time on. A run that it has made already goes on."""
    await session.execute(PAUSE, {"policy": policy, "by": by})


async def resume(session: AsyncSession, policy: str) -> None:
    await session.execute(RESUME, {"policy": policy})
