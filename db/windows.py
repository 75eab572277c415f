"""The statements of a sweep's windows: what one batch deletes, by places, by values, and by lists of places.

Each repeats the whole eligibility condition. Bounds travel as text: `-infinity`, BC and the year 20000 do not fit
Python's datetime, and their rows are eligible too. `$1` is text[]: what the window's part takes, and a LIMIT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import asyncpg

from db.batches import Change
from db.queryplans import Stated
from db.targets import Eligible, literal

PAST_LOCKS = " FOR UPDATE SKIP LOCKED"


class Place(NamedTuple):
    """Where a row lies: its block, and its line pointer there. Line pointers count from 1; 0 is before all of them."""

    block: int
    pointer: int = 0

    @property
    def ctid(self) -> str:
        return f"({self.block},{self.pointer})"


class Bound(NamedTuple):
    """An end of a range of values, as text."""

    value: str
    inclusive: bool


class Span(NamedTuple):
    """A range of the column's values."""

    lower: Bound
    upper: Bound


class Part(NamedTuple):
    """Which part of a table: SQL over `$1`, and the texts that it takes there, from the first on."""

    sql: str
    args: Sequence[str]


@dataclass(frozen=True)
class Look:
    """Values of the rows `step` apart, in their order, as text; and how many rows were looked at."""

    values: list[str]
    rows: int


def between(first: Place, last: Place) -> Part:
    """From `first` up to, not with, `last`."""
    return Part("ctid >= ($1::text[])[1]::tid AND ctid < ($1::text[])[2]::tid", [first.ctid, last.ctid])


def within(eligible: Eligible, span: Span) -> Part:
    """Written so that an index on the column answers it."""
    lower, upper = ">=" if span.lower.inclusive else ">", "<=" if span.upper.inclusive else "<"
    column = eligible.target.quoted_column
    first, last = eligible.value("($1::text[])[1]"), eligible.value("($1::text[])[2]")
    return Part(
        f"{column} {lower} {first} AND {column} {upper} {last}",
        [span.lower.value, span.upper.value],
    )


def listed(places: Sequence[Place]) -> Part:
    """A place may hold another row by now."""
    ctids = ",".join(f'"{place.ctid}"' for place in places)
    return Part("ctid = ANY(($1::text[])[1]::tid[])", [f"{{{ctids}}}"])


def delete(eligible: Eligible, part: Part, *, most: int | None = None, skip_locked: bool = False) -> Change:
    """Delete the part's eligible rows; at most `most` of them.

    With `skip_locked`, rows that others hold are passed over. Choosing rows before they are deleted costs a second
    write for each. So only those are chosen that anybody has ever locked (xmax); one that gets locked at this very
    moment is waited for, as without.
    """
    rows = rows_of(eligible, part)
    limit = "" if most is None else f" LIMIT ($1::text[])[{len(part.args) + 1}]::bigint"
    if limit:
        chosen = f" AND ctid = ANY(ARRAY(SELECT ctid {rows}{limit}{PAST_LOCKS if skip_locked else ''}))"
    elif skip_locked:
        chosen = f" AND (xmax = '0' OR ctid = ANY(ARRAY(SELECT ctid {rows} AND xmax <> '0'{PAST_LOCKS})))"
    else:
        chosen = ""
    return Change(f"DELETE {rows}{chosen}", args=[*part.args, str(most or 0)])


def chosen(
    eligible: Eligible, part: Part, *, most: int | None, skip_locked: bool = False, locking: bool = True
) -> Part:
    """A query that locks the part's eligible rows, and returns the array of their places."""
    limit = "" if most is None else f" LIMIT {most}"
    lock = f" FOR UPDATE{' SKIP LOCKED' if skip_locked else ''}" if locking else ""
    rows = f"SELECT ctid {rows_of(eligible, part)}{limit}{lock}"
    return Part(f"SELECT coalesce(pg_catalog.array_agg(ctid), '{{}}') FROM ({rows}) chosen", part.args)


def noting(change: Change, counter: str) -> Change:
    """The change, and one under `counter`: some of its rows may be left."""
    return _also(change, f"SELECT pg_catalog.jsonb_build_object({literal(counter)}, 1)")


def counting_locked(change: Change, eligible: Eligible, part: Part, counter: str) -> Change:
    """The change, and under `counter` how many rows are eligible still and can't be locked even now.

    A limit or a trigger may have kept others.
    """
    rows = rows_of(eligible, part)
    free = f"SELECT count(*) FROM (SELECT 1 {rows}{PAST_LOCKS}) free"
    return _also(
        change, f"SELECT pg_catalog.jsonb_build_object({literal(counter)}, (SELECT count(*) {rows}) - ({free}))"
    )


def _also(change: Change, counted: str) -> Change:
    """Count this too, after the change."""
    return replace(change, after=counted if change.after is None else f"SELECT ({change.after}) || ({counted})")


def pass_over(counter: str) -> Change:
    """Change nothing, and count one row under that name: for a row that can't be deleted now."""
    return Change("SELECT WHERE false", after=f"SELECT pg_catalog.jsonb_build_object({literal(counter)}, 1)")


async def first_eligible(
    connection: asyncpg.Connection, eligible: Eligible, *, first: Place, last: Place
) -> Place | None:
    """The place of the first eligible row of the range."""
    part = between(first, last)
    row = await connection.fetchval(f"SELECT ctid {rows_of(eligible, part)} LIMIT 1", part.args)
    return None if row is None else Place(*row)


async def look(
    connection: asyncpg.Connection, eligible: Eligible, *, lower: Bound | None, step: int, most: int
) -> Look:
    """The values that eligible rows have from the lower bound on, `step` rows apart, among the first `most` rows.

    An index on the column answers it alone, without the table; and dead entries below the bound are not read.
    """
    row = await connection.fetchrow(_look(eligible, lower), None if lower is None else lower.value, step, most)
    return Look(row["values"], row["rows"])


async def places(
    connection: asyncpg.Connection, eligible: Eligible, span: Span, *, after: Place, most: int
) -> list[Place]:
    """The eligible rows of the span that lie behind a place, in the order of their places; the first `most`.

    `IS TRUE` keeps the place from driving the scan: the span's index shall.
    """
    part = within(eligible, span)
    found: list[tuple[int, int]] = await connection.fetchval(
        f"""
        SELECT coalesce(array_agg(ctid ORDER BY ctid), '{{}}') FROM (
            SELECT ctid {rows_of(eligible, part)} AND (ctid > ($1::text[])[3]::tid) IS TRUE ORDER BY ctid LIMIT $2
        ) listed
        """,
        [*part.args, after.ctid],
        most,
    )
    return [Place(*place) for place in found]


def stated_range(eligible: Eligible, *, blocks: int) -> list[Stated]:
    """A window of so many blocks, for EXPLAIN; and the same past locks."""
    return _stated(eligible, between(Place(0), Place(blocks)), {})


def stated_values(eligible: Eligible, *, settings: Mapping[str, str]) -> list[Stated]:
    """A window of the last values before the cutoff, under the settings of its lane, for EXPLAIN; the same, too."""
    span = Span(Bound(eligible.before, inclusive=True), Bound(eligible.before, inclusive=False))
    return _stated(eligible, within(eligible, span), settings)


def stated_look(eligible: Eligible, *, step: int, most: int, settings: Mapping[str, str]) -> Stated:
    return Stated("values of the next windows", _look(eligible, None), [None, step, most], settings=settings)


def _stated(eligible: Eligible, part: Part, settings: Mapping[str, str]) -> list[Stated]:
    window = delete(eligible, part)
    reads = window.statement.replace("DELETE FROM", "SELECT 1 FROM", 1)
    past_locks = delete(eligible, part, skip_locked=True)
    return [
        Stated("window", window.statement, [list(window.args)], writes=True, reads=reads, settings=settings),
        Stated("window past locks", past_locks.statement, [list(past_locks.args)], writes=True, settings=settings),
    ]


def rows_of(eligible: Eligible, part: Part) -> str:
    return f"FROM {eligible.rows} WHERE {part.sql} AND {eligible.condition}"


def _look(eligible: Eligible, lower: Bound | None) -> str:
    # The column is named with its table: alone, ORDER BY would take it for a column of the result of that name.
    column = f"{eligible.target.relation}.{eligible.target.quoted_column}"
    operator = ">=" if lower is None or lower.inclusive else ">"
    bound = "$1::text IS NULL" if lower is None else f"{column} {operator} {eligible.value('$1::text')}"
    return f"""
        SELECT coalesce(array_agg(value::text ORDER BY number) FILTER (WHERE (number - 1) % $2::bigint = 0), '{{}}')
                   AS values,
               count(*) AS rows
        FROM (
            SELECT value, row_number() OVER (ORDER BY value) AS number FROM (
                SELECT {column} AS value FROM {eligible.rows}
                WHERE {column} < {eligible.value(literal(eligible.before))} AND {bound} ORDER BY {column} LIMIT $3
            ) walked
        ) numbered
    """
