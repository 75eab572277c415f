"""The newest value of a column of integers: by an index, of a small table by reading it, else what the planner saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from db.targets import PER_SECOND, Target, literal

# The year 2200 in the finest unit. What is above is no time in any of them, but somebody's "never".
LATEST = 7_258_118_400 * max(PER_SECOND.values())
NEWEST = "SELECT max(value) AS value, clock_timestamp() AS now FROM ({}) found (value)"
# The greatest value of a sample of the rows. The view has what our role may read, and no row of others.
SEEN = f"""
    SELECT greatest((SELECT max(value) FROM unnest(s.most_common_vals::text::bigint[]) value WHERE value <= {LATEST}),
                    (SELECT max(value) FROM unnest(s.histogram_bounds::text::bigint[]) value WHERE value <= {LATEST}))
    FROM pg_stats s
    WHERE NOT s.inherited AND s.schemaname = {{schema}} AND s.tablename = {{table}} AND s.attname = {{column}}
"""


@dataclass(frozen=True)
class Newest:
    value: int | None  # None: it is unknown, or there is none
    now: datetime


async def newest(connection: asyncpg.Connection, *, read: Sequence[Target], seen: Sequence[Target]) -> Newest:
    """Of the own rows of all these relations together: those of `read` are asked, for `seen` the statistics are."""
    asked = [
        f"SELECT max({each.quoted_column})::bigint FROM ONLY {each.relation} WHERE {each.quoted_column} <= {LATEST}"
        for each in read
    ]
    asked += [
        SEEN.format(schema=literal(each.schema), table=literal(each.table), column=literal(each.column))
        for each in seen
    ]
    row = await connection.fetchrow(NEWEST.format(" UNION ALL ".join(asked) or "SELECT NULL::bigint"))
    return Newest(**dict(row))
