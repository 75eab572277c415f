"""What a purge leaves behind, and VACUUM."""

from dataclasses import dataclass

import asyncpg

from db.targets import Target


@dataclass(frozen=True)
class Space:
    """By the server's counters. VACUUM keeps the bytes for new rows."""

    table_bytes: int
    index_bytes: int
    live_rows: int
    dead_rows: int

    @property
    def dead_share(self) -> float:
        return self.dead_rows / (self.live_rows + self.dead_rows) if self.dead_rows else 0.0


SPACE = """
    SELECT pg_table_size(c.oid) AS table_bytes, pg_indexes_size(c.oid) AS index_bytes,
           coalesce(pg_stat_get_live_tuples(c.oid), 0) AS live_rows,
           coalesce(pg_stat_get_dead_tuples(c.oid), 0) AS dead_rows
    FROM pg_class c WHERE c.oid = $1::text::regclass
"""


async def tell_counters(connection: asyncpg.Connection) -> None:
    """Have the session add to the server's counters what it has done, which it does every few seconds otherwise."""
    if connection.get_server_version() >= (15,):
        await connection.execute("SELECT pg_stat_force_next_flush()")


async def space(connection: asyncpg.Connection, target: Target) -> Space:
    """Of one relation, TOAST included. Raises the server's UndefinedTable."""
    return Space(**dict(await connection.fetchrow(SPACE, target.relation)))


async def vacuum(connection: asyncpg.Connection, target: Target, *, within_s: float) -> None:
    """On a connection in autocommit. What is skipped the server tells in a warning, and nothing is raised."""
    await connection.execute(f"VACUUM (ANALYZE, TRUNCATE false, SKIP_LOCKED) {target.relation}", timeout=within_s)
