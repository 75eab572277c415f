"""What an operator does to a run from outside: it takes effect with the run's next batch."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

SET_WISHES = text("""
    UPDATE lowtide.run
    SET pace = coalesce(:pace, pace), max_rows = coalesce(:max_rows, max_rows),
        max_seconds = coalesce(:max_seconds, max_seconds)
    WHERE id = :id AND state IN ('queued', 'running', 'paused')
""")
RESUME = text("""
    UPDATE lowtide.run SET state = 'queued', not_before = clock_timestamp(), wait_reason = NULL
    WHERE id = :id AND state = 'paused'
""")


async def wish(
    session: AsyncSession, run_id: str, *, pace: str | None, max_rows: int | None, max_seconds: int | None
) -> bool:
    """Change pace and limits of a run that has not ended; return whether there is one."""
    values = {"id": run_id, "pace": pace, "max_rows": max_rows, "max_seconds": max_seconds}
    return bool((await session.execute(SET_WISHES, values)).rowcount)  # type: ignore[attr-defined]  # the result of an UPDATE is a CursorResult


async def resume(session: AsyncSession, run_id: str) -> bool:
    """Put a paused run back into the queue, its cursor kept; return whether there was one."""
    return bool((await session.execute(RESUME, {"id": run_id})).rowcount)  # type: ignore[attr-defined]  # as above
