"""Who waits for a batch of ours, and how to give way. Asked on a second connection: between batches it is always 0."""

import asyncpg

# Of pg_locks, because pg_stat_activity hides from most roles what other roles' sessions wait for.
WAITING = """
    SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND $1 = ANY(pg_blocking_pids(pid))
"""


async def waiting_for(connection: asyncpg.Connection, pid: int) -> int:
    """How many sessions wait for a lock that the backend `pid` holds."""
    waiting: int = await connection.fetchval(WAITING, pid)
    return waiting


async def is_locked(connection: asyncpg.Connection, relation: str) -> bool:
    """Whether somebody holds a lock on the table itself that keeps rows from being deleted."""
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE ONLY {relation} IN ROW EXCLUSIVE MODE NOWAIT")
    except asyncpg.LockNotAvailableError:
        return True
    return False


async def cancel(connection: asyncpg.Connection, pid: int) -> None:
    """Cancel the statement that the backend works on; it takes back everything of it."""
    await connection.execute("SELECT pg_cancel_backend($1)", pid)
