"""What is known of a table before and after a sweep: its file, the planner's estimates, exact counts."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from db.queryplans import Stated
from db.targets import Eligible, Target, quoted
from db.triggers import on_delete


@dataclass(frozen=True)
class Table:
    """`filenode` is changed by a rewrite (VACUUM FULL)."""

    blocks: int
    filenode: int | None  # None of what has no file
    rows: int | None  # the planner's estimate; None where it never looked
    index: str | None  # a valid index whose first column is the target's and that holds every eligible row
    acts_alone: bool  # whether a DELETE removes its rows and does nothing else: no trigger, no rule, no cascade
    next_xid: int | None  # the first transaction id that has not ended; None while an earlier one is open


@dataclass(frozen=True)
class Census:
    """What a dry run counts. `bytes` is the rows' stored size, TOAST included, indexes not."""

    eligible: int
    bytes: int
    oldest: str | None
    newest: str | None


@dataclass(frozen=True)
class Kept:
    """Rows that stay although their time has come. `by` is by constraint; a row may be kept by several."""

    held: int
    blocked: int  # and not held
    by: dict[str, int]


NEXT_XID = """
    SELECT CASE WHEN pg_snapshot_xmin(s) = pg_snapshot_xmax(s) THEN pg_snapshot_xmax(s)::text::bigint END
    FROM pg_current_snapshot() s
"""
# A partial index serves when its predicate is no more than that the column is not NULL: `column < cutoff` implies it.
TABLE = f"""
    SELECT coalesce(pg_relation_size(c.oid) / current_setting('block_size')::bigint, 0)::bigint AS blocks,
           pg_relation_filenode(c.oid)::bigint AS filenode,
           CASE WHEN c.reltuples >= 0 AND (c.reltuples > 0 OR c.relpages > 0) THEN c.reltuples::bigint END AS rows,
           (SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = x.indkey[0]
            WHERE x.indrelid = c.oid AND x.indisvalid AND x.indisready AND m.amname = 'btree' AND a.attname = $2
              AND (x.indpred IS NULL
                   OR pg_get_expr(x.indpred, c.oid) = format('(%I IS NOT NULL)', a.attname))
            ORDER BY x.indnatts, pg_relation_size(i.oid), i.relname LIMIT 1) AS index,
           NOT c.relhasrules AND NOT {on_delete("c.oid")} AND NOT EXISTS (
               SELECT 1 FROM pg_constraint f
               WHERE f.confrelid = c.oid AND f.contype = 'f' AND f.confdeltype IN ('c', 'n', 'd')
           ) AS acts_alone, ({NEXT_XID}) AS next_xid
    FROM pg_class c WHERE c.oid = $1::text::regclass
"""
COLUMNS = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v' ORDER BY attnum
"""
# HeapTupleHeaderData and its line pointer (src/include/access/htup_details.h).
ROW_HEADER_BYTES = 24 + 4

# Of runs that took long enough to say something. Neither a VACUUM afterwards nor a rest outside of the hours is work.
SPEED = """
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY speed) FROM (
        SELECT rows_done / greatest(
                   extract(epoch FROM finished_at - started_at) - coalesce((counters ->> 'outside_hours_s')::numeric, 0)
                   - coalesce(vacuum_s, 0), 0.001) AS speed
        FROM lowtide.run,
             LATERAL (SELECT sum((told ->> 'seconds')::numeric) AS vacuum_s
                      FROM jsonb_each(result -> 'vacuum') each_table (name, told)) upkeep
        WHERE target = $1 AND pace = $2 AND state = 'succeeded' AND rows_done >= 1000
        ORDER BY finished_at DESC LIMIT 5
    ) last
"""


async def cutoff(connection: asyncpg.Connection, *, keep: timedelta) -> datetime:
    """What a run that is created now would delete up to, by the database's clock."""
    instant: datetime = await connection.fetchval("SELECT now() - $1::interval", keep)
    return instant


async def table(connection: asyncpg.Connection, target: Target) -> Table:
    """Raises the server's UndefinedTable where there is no such table."""
    return Table(**dict(await connection.fetchrow(TABLE, target.relation, target.column)))


async def next_xid(connection: asyncpg.Connection) -> int | None:
    """As `Table.next_xid`."""
    number: int | None = await connection.fetchval(NEXT_XID)
    return number


async def expected(connection: asyncpg.Connection, eligible: Eligible) -> int:
    """The planner's estimate of the eligible rows: worth something where the table was analyzed."""
    explained = await connection.fetchval(
        f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {eligible.rows} WHERE {eligible.indexable}"
    )
    return int(explained[0]["Plan"]["Plan Rows"])


async def count_all(connection: asyncpg.Connection, eligible: Eligible) -> int:
    """Count eligible rows."""
    counted: int = await connection.fetchval(f"SELECT count(*) FROM {eligible.rows} WHERE {eligible.indexable}")
    return counted


async def count(connection: asyncpg.Connection, eligible: Eligible, *, most: int) -> int:
    """Count eligible rows, up to `most`. A LIMIT costs a quarter more than none."""
    counted: int = await connection.fetchval(_count(eligible), most)
    return counted


def stated_count(eligible: Eligible, *, most: int) -> Stated:
    return Stated("count of what is left", _count(eligible), [most])


def _count(eligible: Eligible) -> str:
    return f"SELECT count(*) FROM (SELECT 1 FROM {eligible.rows} WHERE {eligible.indexable} LIMIT $1) counted"


async def kept(connection: asyncpg.Connection, eligible: Eligible) -> Kept:
    held = "false" if eligible.unheld is None else f"NOT ({eligible.unheld})"
    blocked = list(eligible.blocked.values())
    some = " OR ".join(f"({each})" for each in blocked) or "false"
    row = await connection.fetchrow(
        f"SELECT count(*) FILTER (WHERE {held}), count(*) FILTER (WHERE ({held}) IS NOT TRUE AND ({some}))"
        f"{''.join(f', count(*) FILTER (WHERE {each})' for each in blocked)} "
        f"FROM {eligible.rows} WHERE {eligible.but_kept}"
    )
    return Kept(row[0], row[1], dict(zip(eligible.blocked, row[2:], strict=True)))


async def census(connection: asyncpg.Connection, eligible: Eligible, *, within: timedelta) -> Census:
    """Count the eligible rows exactly. One statement, so one snapshot."""
    column = eligible.target.quoted_column
    oldest, newest = eligible.instant(f"min({column})"), eligible.instant(f"max({column})")
    columns = [row["attname"] for row in await connection.fetch(COLUMNS, eligible.target.relation)]
    stored = " + ".join(f"coalesce(pg_column_size({quoted(name)}), 0)" for name in columns) or "0"
    row = await connection.fetchrow(
        f"SELECT count(*) AS eligible, coalesce(sum({stored} + {ROW_HEADER_BYTES}), 0)::bigint AS bytes, "
        f"to_json({oldest}) #>> '{{}}' AS oldest, to_json({newest}) #>> '{{}}' AS newest "
        f"FROM {eligible.rows} WHERE {eligible.indexable}",
        timeout=within.total_seconds(),
    )
    return Census(**dict(row))


async def usual_speed(connection: asyncpg.Connection, target: Target, *, pace: str) -> float | None:
    """Rows per second of the last runs over this table at this pace, their median; None where there was none."""
    speed: float | None = await connection.fetchval(SPEED, target.name, pace)
    return speed
