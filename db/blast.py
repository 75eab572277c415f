"""How many rows a table has, and how many the last runs of a policy deleted: what a purge is weighed against."""

from dataclasses import dataclass

import asyncpg

from db.targets import Eligible, Target

# By run_of_policy. What was approved by hand says nothing of an ordinary night.
EARLIER = """
    SELECT rows_done FROM lowtide.run
    WHERE policy = $1 AND finished_at IS NOT NULL AND state = 'succeeded'
      AND result ->> 'dry_run' IS DISTINCT FROM 'true' AND payload ->> 'approve' IS NULL
    ORDER BY finished_at DESC LIMIT $2
"""


# Known since the server last crashed or was reset: the counters of changes begin anew with it, and so do the dates.
# 100, the default, makes ANALYZE look at 30,000 rows.
STATISTICS = """
    SELECT c.reltuples AS rows, coalesce(s.n_mod_since_analyze, 0) AS changed,
           coalesce(s.last_analyze, s.last_autoanalyze) IS NOT NULL AND c.reltuples >= 0
           AND coalesce(nullif(to_jsonb(a) ->> 'attstattarget', '-1')::integer,
                        current_setting('default_statistics_target')::integer) >= 100 AS known
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2
    LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.oid = $1::text::regclass
"""


@dataclass(frozen=True)
class Statistics:
    """What the last ANALYZE found of a relation, and how many rows were changed since."""

    rows: float
    eligible: float  # at most, as holds and the policy's `where` make it fewer
    changed: int


async def statistics(connection: asyncpg.Connection, eligible: Eligible) -> Statistics | None:
    """None where there are none that one could rely on."""
    row = await connection.fetchrow(STATISTICS, eligible.target.relation, eligible.target.column)
    if row is None or not row["known"]:
        return None
    asked = f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {eligible.rows} WHERE {eligible.old}"
    expected = (await connection.fetchval(asked))[0]["Plan"]["Plan Rows"]
    return Statistics(row["rows"], expected, row["changed"])


async def rows(connection: asyncpg.Connection, target: Target, *, most: int) -> int:
    """Count the table's rows, up to `most`; of a partitioned table those of all partitions."""
    counted: int = await connection.fetchval(
        f"SELECT count(*) FROM (SELECT FROM {target.relation} LIMIT $1) counted", most
    )
    return counted


async def earlier(connection: asyncpg.Connection, *, policy: str, most: int) -> list[int]:
    """What the newest successful purges of the policy deleted, dry runs and approved ones left out."""
    return [row["rows_done"] for row in await connection.fetch(EARLIER, policy, most)]
