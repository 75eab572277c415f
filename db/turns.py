"""Whose turn it is to purge a table: one run at a time, of those whose rows are the same."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.claims import Claim
from db.targets import Target

# Which tables' rows are rows of the given one too, or the other way round. Of two runs that begin at the same moment
# the first one's commit decides, and the second waits for it here: both lock the topmost table's name.
QUEUE_UP = text("""
    WITH RECURSIVE given AS (
        SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = :schema AND c.relname = :table
    ), above (oid) AS (
        SELECT oid FROM given UNION SELECT h.inhparent FROM pg_inherits h JOIN above ON h.inhrelid = above.oid
    ), below (oid) AS (
        SELECT oid FROM given UNION SELECT h.inhrelid FROM pg_inherits h JOIN below ON h.inhparent = below.oid
    ), named AS (
        SELECT c.oid, n.nspname || '.' || c.relname AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid IN (SELECT oid FROM above UNION SELECT oid FROM below)
    ), topmost AS (
        SELECT min(name) AS name FROM named JOIN above USING (oid)
        WHERE NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = above.oid)
    )
    SELECT ARRAY(SELECT name FROM named) AS family,
           pg_advisory_xact_lock(hashtextextended('lowtide.run.target ' || coalesce(topmost.name, :target), 0))
    FROM topmost
""")
AT_WORK = text("""
    SELECT id FROM lowtide.run
    WHERE target = ANY(:family) AND id <> :id AND state = 'running' AND lease_until >= clock_timestamp()
      AND NOT coalesce(payload @> '{"dry_run": true}', false)
    ORDER BY started_at LIMIT 1
""")


async def at_work_on(session: AsyncSession, claim: Claim, *, target: Target) -> str | None:
    """Another run that changes rows of the table now; until the transaction ends no other begins to."""
    names = {"schema": target.schema, "table": target.table, "target": target.name}
    family = (await session.execute(QUEUE_UP, names)).one().family
    given = {"family": [*family, target.name], "id": claim.id}
    other: str | None = (await session.execute(AT_WORK, given)).scalar_one_or_none()
    return other
