"""How PostgreSQL is: read from its own views, a question each, so that one missing right hides no other answer."""

from dataclasses import dataclass

import asyncpg

# A base backup streams too, and so does a subscription that copies a table for the first time: both end by themselves.
# One whose state nobody tells us may be either.
STANDBYS = """
    SELECT CASE WHEN state IS NOT NULL THEN coalesce(nullif(application_name, ''), host(client_addr)) END AS name,
           pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint AS lag_bytes
    FROM pg_stat_replication
    WHERE state IS DISTINCT FROM 'backup' AND application_name NOT IN ('pg_basebackup', 'pg_receivewal')
      AND application_name !~ '^pg_[0-9]+_sync_'
"""
# A lost slot can't be harmed any more. `extended` and `unreserved` keep more WAL than max_wal_size foresees.
SLOTS = """
    SELECT slot_name, wal_status FROM pg_replication_slots WHERE wal_status IN ('extended', 'unreserved')
    ORDER BY slot_name LIMIT 1
"""
ARCHIVE = """
    SELECT CASE WHEN current_setting('archive_mode') = 'off' THEN 0
                ELSE (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') END
"""
# Everything that keeps dead rows from being removed, in transactions. NULL: no right to see other sessions' ones.
OLDEST_XMIN = """
    SELECT CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN coalesce(max(age(xmin)), 0) END
    FROM (
        SELECT backend_xmin FROM pg_stat_activity WHERE pid <> pg_backend_pid()
        UNION ALL SELECT transaction FROM pg_prepared_xacts
        UNION ALL SELECT xmin FROM pg_replication_slots
        UNION ALL SELECT catalog_xmin FROM pg_replication_slots
    ) held (xmin)
"""
FROZEN = """
    SELECT max(age(c.relfrozenxid)) FROM pg_class c
    WHERE c.relfrozenxid <> '0' AND c.oid IN (
        $1::text::regclass, (SELECT reltoastrelid FROM pg_class WHERE oid = $1::text::regclass)
    )
"""


@dataclass(frozen=True)
class Standby:
    name: str | None  # None: it has none that stays the same, or nobody tells
    lag_bytes: int | None  # None: no right to see it


@dataclass(frozen=True)
class Slot:
    name: str
    wal_status: str


async def standbys(connection: asyncpg.Connection) -> list[Standby]:
    """In bytes of WAL that they have not replayed; the time (`replay_lag`) freezes where a standby stops."""
    return [Standby(row["name"], row["lag_bytes"]) for row in await connection.fetch(STANDBYS)]


async def slot_behind(connection: asyncpg.Connection) -> Slot | None:
    """A replication slot that keeps too much WAL."""
    row = await connection.fetchrow(SLOTS)
    return None if row is None else Slot(row["slot_name"], row["wal_status"])


async def archive_backlog(connection: asyncpg.Connection) -> int:
    """Finished WAL files that wait for archive_command."""
    files: int = await connection.fetchval(ARCHIVE)
    return files


async def oldest_xmin_age(connection: asyncpg.Connection) -> int | None:
    """Of other sessions, prepared transactions and slots; None without the right to see them."""
    age: int | None = await connection.fetchval(OLDEST_XMIN)
    return age


async def frozen_age(connection: asyncpg.Connection, relation: str) -> int | None:
    """How many transactions ago the table, or its TOAST table, was frozen; None where it has no rows of its own."""
    age: int | None = await connection.fetchval(FROZEN, relation)
    return age
