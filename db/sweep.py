"""The statements of a sweep, for any table: block ranges, their counts, and what is left.

A target names the table; everything that comes from it is quoted. The window's bounds and the cutoff travel as text:
`-infinity`, BC and the year 20000 do not fit Python's datetime, and their rows are eligible too.

`$1` is text[]: [1] the first ctid of the window, [2] the first one after it, [3] the cutoff, [4] a LIMIT.
"""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from db.batches import Change


@dataclass(frozen=True)
class Target:
    """Whose rows, and which: those whose `column` is before the cutoff, and for which `where` holds."""

    schema: str
    table: str
    column: str
    where: str | None = None  # SQL from the policy file, never from a payload

    @property
    def relation(self) -> str:
        return f"{_quoted(self.schema)}.{_quoted(self.table)}"

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    def eligible(self, cutoff: str) -> str:
        """The whole eligibility condition. `cutoff` is SQL of a timestamptz.

        `IS TRUE` keeps every index out of it, so that only the block range can drive the scan; the sub-select makes
        the cast of the cutoff happen once, not for each row.
        """
        condition = f"({_quoted(self.column)} < (SELECT {cutoff})) IS TRUE"
        return condition if self.where is None else f"{condition} AND ({self.where}) IS TRUE"


@dataclass(frozen=True)
class Heap:
    """The table's file: its length in blocks, and its number, which a rewrite (VACUUM FULL) changes."""

    blocks: int
    filenode: int
    rows: int  # the planner's estimate


@dataclass(frozen=True)
class Census:
    """What a dry run counts."""

    eligible: int
    oldest: str | None
    newest: str | None


WINDOW = "ctid >= ($1)[1]::tid AND ctid < ($1)[2]::tid"


def delete_blocks(
    target: Target, *, first: int, last: int, cutoff: datetime, most: int | None, skip_locked: str | None = None
) -> Change:
    """Delete the eligible rows of the blocks from `first` up to, not with, `last`; at most `most` of them.

    With `skip_locked`, rows that others hold are passed over, and counted under that name.
    """
    eligible = target.eligible("($1)[3]::timestamptz")
    here = f"{WINDOW} AND {eligible}"
    args = [f"({first},0)", f"({last},0)", cutoff.isoformat(), str(most or 0)]
    if skip_locked is None and most is None:
        return Change(f"DELETE FROM ONLY {target.relation} WHERE {here}", args=args)
    limit = "" if most is None else " LIMIT ($1)[4]::bigint"
    locking = "" if skip_locked is None else " FOR UPDATE SKIP LOCKED"
    chosen = f"SELECT ctid FROM ONLY {target.relation} WHERE {here}{limit}{locking}"
    left = (
        f"SELECT jsonb_build_object({_literal(skip_locked or '')}, count(*)) FROM ONLY {target.relation} WHERE {here}"
    )
    return Change(
        f"DELETE FROM ONLY {target.relation} WHERE ctid = ANY(ARRAY({chosen})) AND {eligible}",
        args=args,
        after=None if skip_locked is None else left,
    )


async def heap(connection: asyncpg.Connection, target: Target) -> Heap:
    """Raises the server's UndefinedTable where there is no such table."""
    row = await connection.fetchrow(
        """
        SELECT (pg_relation_size(c.oid) / current_setting('block_size')::bigint)::bigint AS blocks,
               pg_relation_filenode(c.oid)::bigint AS filenode, greatest(c.reltuples, 0)::bigint AS rows
        FROM pg_class c WHERE c.oid = $1::text::regclass
        """,
        target.relation,
    )
    return Heap(row["blocks"], row["filenode"], row["rows"])


async def any_left(connection: asyncpg.Connection, target: Target, *, cutoff: datetime) -> bool:
    """Whether any row is eligible. Written so that an index on the column can answer."""
    left: bool = await connection.fetchval(
        f"SELECT EXISTS (SELECT 1 FROM ONLY {target.relation} WHERE {_eligible_for_index(target)})", cutoff
    )
    return left


async def census(connection: asyncpg.Connection, target: Target, *, cutoff: datetime) -> Census:
    """Count the eligible rows exactly. One statement, so one snapshot."""
    column = _quoted(target.column)
    row = await connection.fetchrow(
        f"SELECT count(*) AS eligible, min({column})::text AS oldest, max({column})::text AS newest "
        f"FROM ONLY {target.relation} WHERE {_eligible_for_index(target)}",
        cutoff,
    )
    return Census(row["eligible"], row["oldest"], row["newest"])


async def expected(connection: asyncpg.Connection, target: Target, *, cutoff: datetime) -> int | None:
    """The planner's estimate of the eligible rows; None where the table was never analyzed."""
    if (await heap(connection, target)).rows == 0:
        return None
    explained = await connection.fetchval(
        f"EXPLAIN (FORMAT JSON) SELECT 1 FROM ONLY {target.relation} WHERE {_eligible_for_index(target)}", cutoff
    )
    return int(explained[0]["Plan"]["Plan Rows"])


def _eligible_for_index(target: Target) -> str:
    """The condition as an index on the column can answer it; `$1` is the cutoff."""
    extra = "" if target.where is None else f" AND ({target.where})"
    return f"{_quoted(target.column)} < $1{extra}"


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
