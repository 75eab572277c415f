"""The statements of a sweep's windows: what one batch deletes, by ranges of places and by lists of them.

Each repeats the whole eligibility condition. The bounds and the cutoff travel as text: `-infinity`, BC and the year
20000 do not fit Python's datetime, and their rows are eligible too.

`$1` is text[]. Of a range: [1] its first ctid, [2] the first one after it, [3] the cutoff, [4] a LIMIT. Of a list: [1]
the cutoff, [2:] the ctids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

import asyncpg

from db.batches import Change
from db.queryplans import Stated
from db.targets import Target, literal

RANGE = "ctid >= ($1::text[])[1]::tid AND ctid < ($1::text[])[2]::tid"
LIST = "ctid = ANY((($1::text[])[2:])::tid[])"


class Place(NamedTuple):
    """Where a row lies: its block, and its line pointer there. Line pointers count from 1; 0 is before all of them."""

    block: int
    pointer: int = 0

    @property
    def ctid(self) -> str:
        return f"({self.block},{self.pointer})"


@dataclass(frozen=True)
class Listing:
    """Eligible rows, in the order of their places. `last` is the highest value among them, as text."""

    places: list[tuple[int, int]]
    last: str | None
    at_last: set[tuple[int, int]]  # those that have it


def delete_range(
    target: Target, *, first: Place, last: Place, cutoff: datetime, most: int | None, skip_locked: str | None = None
) -> Change:
    """Delete the eligible rows from `first` up to, not with, `last`; at most `most` of them.

    With `skip_locked`, rows that others hold are passed over, and counted under that name.
    """
    here = f"{RANGE} AND {target.eligible('($1::text[])[3]::timestamptz')}"
    args = [first.ctid, last.ctid, cutoff.isoformat(), str(most or 0)]
    return _delete(
        target, here, args, limit="" if most is None else " LIMIT ($1::text[])[4]::bigint", counter=skip_locked
    )


def delete_untouched(target: Target, *, first: Place, last: Place, cutoff: datetime, counter: str) -> Change:
    """Delete the eligible rows of the range that nobody has ever locked; note under `counter` that some may be left."""
    change = delete_range(target, first=first, last=last, cutoff=cutoff, most=None)
    note = f"SELECT jsonb_build_object({literal(counter)}, 1)"
    return replace(change, statement=f"{change.statement} AND xmax = '0'", after=note)


def delete_listed(target: Target, ctids: Sequence[str], *, cutoff: datetime, skip_locked: str | None = None) -> Change:
    """Delete those of the listed rows that are still eligible. A place may hold another row by now."""
    here = f"{LIST} AND {target.eligible('($1::text[])[1]::timestamptz')}"
    return _delete(target, here, [cutoff.isoformat(), *ctids], limit="", counter=skip_locked)


def _delete(target: Target, here: str, args: Sequence[str], *, limit: str, counter: str | None) -> Change:
    """What is eligible `here`. With a limit or a `counter` (of locked rows), rows are chosen, and locked, before.

    Choosing costs a second write for each row. So where rows are passed over, only those are chosen that anybody has
    ever locked (xmax); one that gets locked at this very moment is waited for, as without.
    """
    rows = f"FROM ONLY {target.relation} WHERE {here}"
    locking = "" if counter is None else " FOR UPDATE SKIP LOCKED"
    if limit:
        chosen = f" AND ctid = ANY(ARRAY(SELECT ctid {rows}{limit}{locking}))"
    elif counter is not None:
        chosen = f" AND (xmax = '0' OR ctid = ANY(ARRAY(SELECT ctid {rows} AND xmax <> '0'{locking})))"
    else:
        chosen = ""
    # What is eligible still was not to be had; where there was a limit, some of it was, and is taken off.
    free = f" - (SELECT count(*) FROM (SELECT 1 {rows}{locking}) free)" if limit else ""
    count = f"SELECT jsonb_build_object({literal(counter or '')}, (SELECT count(*) {rows}){free})"
    return Change(f"DELETE {rows}{chosen}", args=args, after=None if counter is None else count)


def pass_over(counter: str) -> Change:
    """Change nothing, and count one row under that name: for a row that takes longer than it may."""
    return Change("SELECT WHERE false", after=f"SELECT jsonb_build_object({literal(counter)}, 1)")


async def first_eligible(
    connection: asyncpg.Connection, target: Target, *, first: Place, last: Place, cutoff: datetime
) -> Place | None:
    """The place of the first eligible row of the range."""
    row = await connection.fetchval(
        f"SELECT ctid FROM ONLY {target.relation} "
        f"WHERE {RANGE} AND {target.eligible('($1::text[])[3]::timestamptz')} LIMIT 1",
        [first.ctid, last.ctid, cutoff.isoformat()],
    )
    return None if row is None else Place(*row)


def stated(target: Target, *, way: str, blocks: int, rows: int, cutoff: datetime, most: int) -> list[Stated]:
    """What a purge says, for EXPLAIN: a window of so many blocks or so many rows, and the list of what is left."""
    if way == "blocks":
        change = delete_range(target, first=Place(0), last=Place(blocks), cutoff=cutoff, most=None)
    else:
        change = delete_listed(target, ["(0,1)"] * rows, cutoff=cutoff)
    reads = change.statement.replace("DELETE FROM", "SELECT 1 FROM", 1)
    window = Stated("window", change.statement, [list(change.args)], writes=True, reads=reads)
    return [window, Stated("list of eligible rows", _listing(target), [cutoff, most])]


def _listing(target: Target, lower: str = "") -> str:
    # The column is named with its table: alone, ORDER BY would take it for a column of the result of that name.
    column = f"{target.relation}.{target.quoted_column}"
    return f"""
        WITH listed AS MATERIALIZED (
            SELECT ctid AS place, {column} AS value FROM ONLY {target.relation}
            WHERE {target.indexable("$1::timestamptz")}{lower} ORDER BY {column} LIMIT $2
        ), last AS (SELECT max(value) AS value FROM listed)
        SELECT coalesce(array_agg(place ORDER BY place), '{{}}') AS places,
               (SELECT value::text FROM last) AS last,
               coalesce(array_agg(place) FILTER (WHERE value = (SELECT value FROM last)), '{{}}') AS at_last
        FROM listed
    """


async def eligible_rows(
    connection: asyncpg.Connection,
    target: Target,
    *,
    cutoff: datetime,
    most: int,
    since: str | None = None,
    beyond: str | None = None,
) -> Listing:
    """The first `most` eligible rows in the order of the column, from value `since` on, or after value `beyond`.

    Written so that an index on the column can answer, from the lower bound on: dead entries before it are not read.
    """
    operator, value = (">=", since) if beyond is None else (">", beyond)
    lower = "" if value is None else f" AND {target.quoted_column} {operator} $3::text::timestamptz"
    parameters = (cutoff, most) if value is None else (cutoff, most, value)
    row = await connection.fetchrow(_listing(target, lower), *parameters)
    return Listing(row["places"], row["last"], set(row["at_last"]))
