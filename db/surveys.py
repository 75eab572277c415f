"""What a policy has before it and behind it, for onlookers: each answer comes from an index, or not at all."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from db.targets import Eligible

# By run_finished_at. A dry run deletes nothing, so it is no success of the policy.
LAST_SUCCESS = """
    SELECT finished_at FROM lowtide.run
    WHERE policy = $1 AND state = 'succeeded' AND finished_at IS NOT NULL
      AND result ->> 'dry_run' IS DISTINCT FROM 'true'
    ORDER BY finished_at DESC LIMIT 1
"""


async def oldest_age_s(connection: asyncpg.Connection, eligible: Sequence[Eligible]) -> float | None:
    """Seconds since the date of the oldest eligible row of all relations, infinite for `-infinity`; None: none."""
    ages = " UNION ALL ".join(f"({_age(each)})" for each in eligible)
    age: float | None = await connection.fetchval(f"SELECT max(age) FROM ({ages}) found (age)")
    return age


def _age(eligible: Eligible) -> str:
    column = eligible.target.quoted_column
    return (
        f"SELECT (extract(epoch FROM now()) - extract(epoch FROM {eligible.instant(column)}))::float8 "
        f"FROM {eligible.rows} WHERE {eligible.indexable} ORDER BY {column} LIMIT 1"
    )


async def count(connection: asyncpg.Connection, eligible: Sequence[Eligible], *, most: int) -> int:
    """Count the eligible rows of all relations, up to `most`."""
    rows = " UNION ALL ".join(f"SELECT 1 FROM {each.rows} WHERE {each.indexable}" for each in eligible)
    counted: int = await connection.fetchval(
        f"SELECT count(*) FROM (SELECT 1 FROM ({rows}) found LIMIT $1) counted", most
    )
    return counted


async def oldest(connection: asyncpg.Connection, eligible: Eligible) -> str | None:
    """The lowest value that an eligible row has; None where no row is eligible."""
    column = eligible.target.quoted_column
    value: str | None = await connection.fetchval(
        f"SELECT to_json({column}) #>> '{{}}' FROM {eligible.rows} WHERE {eligible.indexable} ORDER BY {column} LIMIT 1"
    )
    return value


async def last_success(connection: asyncpg.Connection, *, policy: str) -> datetime | None:
    """When the policy's last purge ended well; None where the ledger holds none."""
    finished_at: datetime | None = await connection.fetchval(LAST_SUCCESS, policy)
    return finished_at
