"""What an operator does to a run from outside.

Where a worker holds the run it takes effect with its next batch, or its next look while it waits; else at once. A
holder whose lease has ended is fenced off: it may be alive, and must not go on.
"""

from collections.abc import Sequence

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

HELD = "(state = 'running' AND lease_until >= clock_timestamp())"


def _ask(action: str, *, becomes: str, of: str, sets: str) -> TextClause:
    """A holder is asked; without one the run becomes what was asked for. The FROM reads the row before the change."""
    return text(f"""
        UPDATE lowtide.run r
        SET state = CASE WHEN held THEN r.state ELSE '{becomes}' END,
            requested_action = CASE WHEN held THEN '{action}' END,
            lease_token = r.lease_token + CASE WHEN held THEN 0 ELSE 1 END,
            lease_until = CASE WHEN held THEN r.lease_until END,
            {sets}
        FROM (SELECT id, {HELD} AS held FROM lowtide.run WHERE id = :id FOR UPDATE) standing
        WHERE r.id = standing.id AND r.state IN ({of})
    """)


PAUSE = _ask(
    "pause",
    becomes="paused",
    of="'queued', 'running'",
    sets="wait_reason = CASE WHEN held THEN r.wait_reason ELSE 'paused by an operator' END",
)
CANCEL = _ask(
    "cancel",
    becomes="cancelled",
    of="'queued', 'running', 'paused'",
    sets="wait_reason = CASE WHEN held THEN r.wait_reason END, "
    "finished_at = CASE WHEN NOT held THEN clock_timestamp() END",
)
SET_WISHES = text("""
    UPDATE lowtide.run
    SET pace = coalesce(:pace, pace), max_rows = coalesce(:max_rows, max_rows),
        max_seconds = coalesce(:max_seconds, max_seconds)
    WHERE id = :id AND job = ANY(:jobs) AND state IN ('queued', 'running', 'paused')
""")
RESUME = text("""
    UPDATE lowtide.run
    SET state = 'queued', not_before = greatest(not_before, clock_timestamp()), wait_reason = NULL
    WHERE id = :id AND state = 'paused'
""")
# A run that was rejected at the door has no payload to be tried again with. Its time counts anew: max_seconds is what
# one attempt may take. An approval is for a number of rows: what was deleted under it must not be forgotten.
RETRY = text("""
    UPDATE lowtide.run
    SET state = 'queued', not_before = greatest(not_before, clock_timestamp()), finished_at = NULL,
        started_at = NULL, attempt = 0,
        error = NULL, result = NULL, wait_reason = NULL, requested_action = NULL,
        cursor = CASE WHEN :from_start THEN '{}' ELSE cursor END,
        counters = CASE WHEN :from_start THEN '{}' ELSE counters - 'outside_hours_s' END,
        rows_done = CASE WHEN :from_start THEN 0 ELSE rows_done END,
        batches = CASE WHEN :from_start THEN 0 ELSE batches END
    WHERE id = :id AND state IN ('failed', 'cancelled') AND payload IS NOT NULL
      AND NOT (:from_start AND payload ->> 'approve' IS NOT NULL)
""")


async def wish(
    session: AsyncSession,
    run_id: str,
    *,
    jobs: Sequence[str],
    pace: str | None,
    max_rows: int | None,
    max_seconds: int | None,
) -> bool:
    """Change pace and limits of a run of one of the jobs that has not ended; return whether there is one."""
    values = {"jobs": list(jobs), "pace": pace, "max_rows": max_rows, "max_seconds": max_seconds}
    return await _changed(session, SET_WISHES, run_id, **values)


async def pause(session: AsyncSession, run_id: str) -> bool:
    """Stop a run that is queued or running, its cursor kept; return whether there is one."""
    return await _changed(session, PAUSE, run_id)


async def cancel(session: AsyncSession, run_id: str) -> bool:
    """End a run that has not ended, as cancelled; committed batches stay. Return whether there is one."""
    return await _changed(session, CANCEL, run_id)


async def resume(session: AsyncSession, run_id: str) -> bool:
    """Put a paused run back into the queue, its cursor kept; return whether there was one."""
    return await _changed(session, RESUME, run_id)


async def retry(session: AsyncSession, run_id: str, *, from_start: bool) -> bool:
    """Put a failed or cancelled run back into the queue, from its cursor or from the start; whether there was one."""
    return await _changed(session, RETRY, run_id, from_start=from_start)


async def _changed(session: AsyncSession, statement: TextClause, run_id: str, **values: object) -> bool:
    outcome = await session.execute(statement, {"id": run_id, **values})
    return bool(outcome.rowcount)  # type: ignore[attr-defined]  # the result of an UPDATE is a CursorResult
