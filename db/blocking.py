"""Who waits for a batch of ours, and how to give way. Asked on a second connection: between batches it is always 0."""

import asyncpg

WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND $1 = ANY(pg_blocking_pids(pid))
"""


async def waiting_for(connection: asyncpg.Connection, pid: int) -> int:
    """How many sessions wait for a lock that the backend `pid` holds."""
    waiting: int = await connection.fetchval(WAITING, pid)
    return waiting


async def cancel(connection: asyncpg.Connection, pid: int) -> None:
    """Cancel the statement that the backend works on; it takes back everything of it."""
    await connection.execute("SELECT pg_cancel_backend($1)", pid)
