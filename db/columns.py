"""The column that a policy goes by: its type, and what a cutoff is in it.

Nothing goes early. A date is over when its day is, by the policy's timezone. Of timestamps without a zone, those in the
hour that a clock shows twice may wait up to an hour longer.
"""

from datetime import datetime

import asyncpg

from db.refusals import Refused
from db.targets import BIGINT, PER_SECOND, TIMESTAMPTZ, Eligible, Target, literal

DATES = ("date", "timestamp without time zone", TIMESTAMPTZ)
INTEGERS = ("smallint", "integer", "bigint")
TYPE = """
    SELECT (
        WITH RECURSIVE below (oid) AS (
            SELECT a.atttypid UNION SELECT t.typbasetype FROM below JOIN pg_type t USING (oid) WHERE t.typtype = 'd'
        )
        SELECT format_type(t.oid, NULL) FROM below JOIN pg_type t USING (oid) WHERE t.typtype <> 'd'
    )
    FROM pg_attribute a
    WHERE a.attrelid = $1::text::regclass AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped
"""
# By type, SQL of the cutoff in it; {cutoff} is a timestamptz, {zone} the clock that the column follows.
# What a clock shows twice PostgreSQL takes for the later time: then the earlier of two readings is on the safe side.
BEFORE = {
    TIMESTAMPTZ: "{cutoff}",
    "timestamp without time zone": (
        "({cutoff} AT TIME ZONE {zone}) "
        "- greatest(({cutoff} AT TIME ZONE {zone}) AT TIME ZONE {zone} - {cutoff}, interval '0')"
    ),
    "date": "({cutoff} AT TIME ZONE {zone})::date",
}


class UnfitColumn(Refused):
    """The column is not there, or has a type that no age can be told from."""


async def eligible(connection: asyncpg.Connection, target: Target, *, cutoff: datetime) -> Eligible:
    """All of the target's rows from before the cutoff. Raises UnfitColumn, and the server's UndefinedTable."""
    kind = await _kind(connection, target)
    if kind in INTEGERS:
        if target.epoch is None:
            raise UnfitColumn(
                f'{target.name}.{target.column} is {kind}: say what it counts since 1970, as epoch = "seconds" '
                '(or "milliseconds", "microseconds") of the policy'
            )
        kind, sql = BIGINT, f"ceil(extract(epoch FROM $1::timestamptz) * {PER_SECOND[target.epoch]})::bigint"
    elif kind in BEFORE and target.epoch is None:
        sql = BEFORE[kind].format(cutoff="$1::timestamptz", zone=literal(target.timezone))
    else:
        wanted = "an integer (epoch is set)" if target.epoch is not None else "a date, a timestamp or an integer"
        raise UnfitColumn(f"{target.name}.{target.column} is {kind}, not {wanted}: no age can be told from it")
    return Eligible(target, kind, await connection.fetchval(f"SELECT ({sql})::text", cutoff), whole=True)


async def _kind(connection: asyncpg.Connection, target: Target) -> str:
    kind: str | None = await connection.fetchval(TYPE, target.relation, target.column)
    if kind is None:
        raise UnfitColumn(f"{target.name} has no column {target.column}")
    return kind
