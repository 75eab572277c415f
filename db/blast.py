"""How many rows a table has, and how many the last runs of a policy deleted: what a purge is weighed against."""

import asyncpg

from db.targets import Target

# By run_of_policy. What was approved by hand, or asked for with a limit, says nothing of an ordinary night.
EARLIER = """
    SELECT rows_done FROM lowtide.run
    WHERE policy = $1 AND finished_at IS NOT NULL AND state = 'succeeded'
      AND result ->> 'dry_run' IS DISTINCT FROM 'true' AND payload ->> 'approve' IS NULL
      AND NOT coalesce(payload ?| ARRAY['max_rows', 'max_seconds'], false)
    ORDER BY finished_at DESC LIMIT $2
"""


async def rows(connection: asyncpg.Connection, target: Target, *, most: int) -> int:
    """Count the table's rows, up to `most`; of a partitioned table those of all partitions."""
    counted: int = await connection.fetchval(
        f"SELECT count(*) FROM (SELECT FROM {target.relation} LIMIT $1) counted", most
    )
    return counted


async def never_eligible(connection: asyncpg.Connection, target: Target, *, most: int) -> int:
    """Count the table's rows without a value in the policy's column, up to `most`."""
    counted: int = await connection.fetchval(
        f"SELECT count(*) FROM (SELECT FROM {target.relation} WHERE {target.quoted_column} IS NULL LIMIT $1) counted",
        most,
    )
    return counted


async def never_eligible_expected(connection: asyncpg.Connection, target: Target) -> float:
    """The planner's estimate of the same."""
    asked = f"EXPLAIN (FORMAT JSON) SELECT FROM {target.relation} WHERE {target.quoted_column} IS NULL"
    expected: float = (await connection.fetchval(asked))[0]["Plan"]["Plan Rows"]
    return expected


async def earlier(connection: asyncpg.Connection, *, policy: str, most: int) -> list[int]:
    """What the newest successful purges of the policy deleted, dry runs and approved ones left out."""
    return [row["rows_done"] for row in await connection.fetch(EARLIER, policy, most)]
