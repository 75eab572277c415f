"""Whose turn it is to purge a table: one run at a time, of those whose rows are the same."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.claims import Claim

# The tables whose rows are rows of the given one too, and those whose rows its rows are.
FAMILY = """
    WITH RECURSIVE given AS (
        SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname || '.' || c.relname = :target
    ), above (oid) AS (
        SELECT oid FROM given UNION SELECT h.inhparent FROM pg_inherits h JOIN above ON h.inhrelid = above.oid
    ), below (oid) AS (
        SELECT oid FROM given UNION SELECT h.inhrelid FROM pg_inherits h JOIN below ON h.inhparent = below.oid
    ), named AS (
        SELECT c.oid, n.nspname || '.' || c.relname AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid IN (SELECT oid FROM above UNION SELECT oid FROM below)
    )
"""
# Of two that begin at the same moment the first one's commit decides; the second waits for it here. Both ask for the
# topmost table.
QUEUE_UP = text(f"""
    {FAMILY}
    SELECT pg_advisory_xact_lock(hashtextextended('lowtide.run.target ' || coalesce((
        SELECT min(name) FROM named JOIN above USING (oid)
        WHERE NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = above.oid)
    ), :target), 0))
""")
AT_WORK = text(f"""
    {FAMILY}
    SELECT id FROM lowtide.run
    WHERE (target = :target OR target IN (SELECT name FROM named)) AND id <> :id
      AND state = 'running' AND lease_until >= clock_timestamp()
      AND NOT coalesce(payload @> '{{"dry_run": true}}', false)
    ORDER BY started_at LIMIT 1
""")


async def at_work_on(session: AsyncSession, claim: Claim, *, target: str) -> str | None:
    """Another run that changes rows of the table now; until the transaction ends no other begins to."""
    await session.execute(QUEUE_UP, {"target": target})
    other: str | None = (await session.execute(AT_WORK, {"target": target, "id": claim.id})).scalar_one_or_none()
    return other
