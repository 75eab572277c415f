"""What the ledger knows of a policy's runs."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

# Those that were refused before they froze their cutoff have no policy of their own: the payload or the schedule tells.
# By run_created_at, the newest first.
LAST = """
    SELECT id, state, coalesce(finished_at, started_at, created_at) AS at, rows_done AS rows, result ->> 'way' AS way
    FROM lowtide.run
    WHERE job = 'purge-old-deleted' AND $1 IN (policy, payload ->> 'policy')
      AND payload ->> 'dry_run' IS DISTINCT FROM 'true'
    ORDER BY created_at DESC, id DESC LIMIT 1
"""


@dataclass(frozen=True)
class LastRun:
    id: str
    state: str
    at: datetime  # when it ended, else when it began or came
    rows: int
    way: str | None  # which way a purge took, and why


async def last(connection: asyncpg.Connection, *, policy: str) -> LastRun | None:
    """The newest purge of the policy, dry runs left out."""
    row = await connection.fetchrow(LAST, policy)
    return None if row is None else LastRun(**dict(row))
