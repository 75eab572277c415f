"""Holds, as the person places them who must: rows with a certain value in a certain column are not purged.

What a purge says for them is in db/held.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from db import audit
from db.faults import sqlstate, without_values
from db.refusals import Refused
from db.relations import no_table
from db.targets import quoted

LOCK_TIMEOUT_S = 10  # batches last tens of milliseconds; so long waits only who meets one that hangs
LOCKED, TIMED_OUT = "55P03", "57014"
LONGEST_VALUE_BYTES = 1000
MOST_COUNTED = 10_000
LONGEST_COUNT_S = 2
# What makes a value none of a type: all of class 22, and a domain's condition.
NO_VALUE = ("22", "23514", "23502")


class HoldRefused(Refused):
    """The hold can't be placed or released as asked: nothing was changed."""


class WrongHold(HoldRefused):
    """What was asked for can't be a hold, or a release, however often it is tried: nothing was changed."""


@dataclass(frozen=True)
class Hold:
    id: int
    table_name: str  # as it was called when the hold was placed
    column_name: str
    value: str  # as the column's type prints it
    reason: str
    until: datetime | None
    placed_by: str
    placed_at: datetime
    released_by: str | None
    released_at: datetime | None
    release_reason: str | None
    state: str  # active, expired, released
    present_name: str | None  # of the table that is under it; None where that is gone


@dataclass(frozen=True)
class Place:
    """A table's column, as the catalog has it. `table`, `column` and `type` are quoted, for statements."""

    name: str  # of the table, as it was asked for
    relation: int  # it, or of a partition the top-most partitioned table
    table: str
    column: str
    type: str


# A table is named as policies name it: to the letter, with its schema or found by the search path.
TABLE = text("""
    SELECT n.nspname AS schema, n.nspname || '.' || c.relname AS name, c.relkind::text AS kind, c.oid::bigint AS oid,
           root.oid::bigint AS relation, root.oid::regclass::text AS table
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (SELECT coalesce(pg_partition_root(c.oid)::oid, c.oid) AS oid) root
    WHERE n.nspname || '.' || c.relname = :table OR (c.relname = :table AND pg_table_is_visible(c.oid))
    ORDER BY n.nspname || '.' || c.relname = :table DESC LIMIT 1
""")
COLUMN = text("""
    SELECT format_type(atttypid, -1) FROM pg_attribute
    WHERE attrelid = :oid AND attname = :column AND attnum > 0 AND NOT attisdropped
""")
COLUMNS = text("""
    SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = :oid AND attnum > 0 AND NOT attisdropped
""")
IS_PAST = text("SELECT CAST(:until AS timestamptz) <= clock_timestamp()")
WAIT_FOR_BATCHES = text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
HAVE_ALONE = text("SELECT pg_advisory_xact_lock(lowtide.hold_key(CAST(:relation AS oid)))")
# pg_locks has the halves of a bigint key.
HOLDERS = text("""
    SELECT string_agg(format('process %s (%s, for %s s)', l.pid, coalesce(nullif(a.application_name, ''), 'no name'),
                             round(extract(epoch FROM clock_timestamp() - a.xact_start))), ', ') AS told
    FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32) | l.objid::bigint = lowtide.hold_key(CAST(:relation AS oid))
""")
INSERT = text("""
    INSERT INTO lowtide.hold (relation, table_name, column_name, value, reason, until, placed_by)
    VALUES (CAST(CAST(:relation AS oid) AS regclass), :table, :column, :value, :reason,
            CAST(:until AS timestamptz), :by) RETURNING id
""")
HOLD = """
    SELECT id, table_name, column_name, value, reason, until, placed_by, placed_at, released_by, released_at,
           release_reason,
           CASE WHEN released_at IS NOT NULL THEN 'released' WHEN until <= now() THEN 'expired' ELSE 'active' END
               AS state,
           (SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = h.relation) AS present_name
    FROM lowtide.hold h
"""
ALL = text(f"{HOLD} WHERE :ended OR (released_at IS NULL AND (until IS NULL OR until > now())) ORDER BY id DESC")
ONE = text(f"{HOLD} WHERE id = :id")
RELEASE = text("""
    UPDATE lowtide.hold SET released_by = :by, released_at = clock_timestamp(), release_reason = :reason
    WHERE id = :id AND released_at IS NULL RETURNING table_name, column_name, value
""")
STANDING = text("SELECT released_by, released_at FROM lowtide.hold WHERE id = :id")


async def place(session: AsyncSession, *, table: str, column: str) -> Place:
    """Raises WrongHold where there is no such table or column, or no purge with holds that touches it."""
    row = (await session.execute(TABLE, {"table": table})).one_or_none()
    if row is None:
        raise WrongHold(f"there is no table {table!r}; write it as schema.table, to the letter")
    if row.schema == "lowtide":
        raise WrongHold(
            f"{row.name} is one of lowtide's own tables, which it cleans whatever is held; name one of yours"
        )
    if row.schema.startswith("pg_") or row.schema == "information_schema":
        raise WrongHold(f"{row.name} is one of PostgreSQL's own tables, which no policy purges; name one of yours")
    if (told := no_table(row.kind)) is not None:
        raise WrongHold(f"{row.name} {told[0]}: no purge deletes from it. {told[1]}")
    kind = (await session.execute(COLUMN, {"oid": row.oid, "column": column})).scalar_one_or_none()
    if kind is None:
        known = (await session.execute(COLUMNS, {"oid": row.oid})).scalar_one()
        raise WrongHold(f"{row.name} has no column {column!r}; it has {known}")
    return Place(row.name, row.relation, *map(_literally, (row.table, quoted(column), kind)))


def _literally(sql: str) -> str:
    """As text() leaves it: a colon in a name is no parameter."""
    return sql.replace(":", "\\:")


async def add(
    session: AsyncSession, *, table: str, column: str, value: str, reason: str, until: datetime | None, by: str
) -> int:
    """Place a hold, and return its id. Once the transaction is committed, no row that it is over is deleted.

    Waits for the batches that are open on the table; no other begins meanwhile. Raises WrongHold and HoldRefused.
    """
    at = await place(session, table=table, column=column)
    printed = await _printed(session, at, value)
    if not reason.strip():
        raise WrongHold("a hold has a reason: somebody will want to know it")
    if until is not None and (until.tzinfo is None or (await session.execute(IS_PAST, {"until": until})).scalar_one()):
        raise WrongHold("until is a time with a zone, in the future")
    await _wait_for_batches(session, at)
    given = {"table": at.name, "column": column, "value": printed, "reason": reason, "until": until, "by": by}
    hold_id: int = (await session.execute(INSERT, given | {"relation": at.relation})).scalar_one()
    told = {"hold": hold_id, "column": column, "value": printed, "reason": reason}
    told |= {"until": None if until is None else until.isoformat()}
    await audit.note(session, "hold", requested_by=by, table=at.name, detail=told)
    return hold_id


async def _printed(session: AsyncSession, at: Place, value: str) -> str:
    """The value as the column's type prints it: 007 is 7, and a time has a zone. Raises WrongHold."""
    asked = text(
        f"SELECT value::text, value = value FROM (SELECT CAST(CAST(:value AS text) AS {at.type}) AS value) cast_"
    )
    try:
        async with session.begin_nested():
            printed: str = (await session.execute(asked, {"value": value})).one()[0]
    except DBAPIError as exc:
        code = sqlstate(exc) or ""
        if code.startswith(NO_VALUE):
            raise WrongHold(
                f"{value!r} is no value of column {at.column} of {at.name}, which is of type {at.type}"
            ) from exc
        if code == "42883":
            raise WrongHold(f"values of type {at.type} can't be compared: hold the rows by another column") from exc
        raise
    if len(printed.encode()) > LONGEST_VALUE_BYTES:
        raise WrongHold(f"a value of a hold has {LONGEST_VALUE_BYTES} bytes at most; hold the rows by another column")
    return printed


async def _wait_for_batches(session: AsyncSession, at: Place) -> None:
    """Have the table's key alone until the transaction ends. Raises HoldRefused where a batch does not end."""
    await session.execute(WAIT_FOR_BATCHES)
    try:
        async with session.begin_nested():
            await session.execute(HAVE_ALONE, {"relation": at.relation})
    except DBAPIError as exc:
        if sqlstate(exc) != LOCKED:
            raise
        told = (await session.execute(HOLDERS, {"relation": at.relation})).scalar_one()
        raise HoldRefused(
            f"the hold was not placed: a batch on {at.name} is open for {LOCK_TIMEOUT_S} s already, by "
            f"{told or 'a process that has ended by now'}. Pause the run (`lowtide pause RUN`), or end that process "
            "with pg_terminate_backend, and place the hold again"
        ) from exc


async def all(session: AsyncSession, *, ended: bool = False) -> Sequence[Hold]:  # noqa: A001 - it reads as holds.all
    """Those that count now, the newest first; with `ended` the expired and the released ones too."""
    return [Hold(**row._mapping) for row in await session.execute(ALL, {"ended": ended})]


async def get(session: AsyncSession, hold_id: int) -> Hold:
    """One that is known to be there: it is never deleted."""
    return Hold(**(await session.execute(ONE, {"id": hold_id})).one()._mapping)


async def release(session: AsyncSession, hold_id: int, *, reason: str, by: str) -> None:
    """The rows may be purged from now on, as far as no other hold is over them. Raises WrongHold and HoldRefused."""
    if not reason.strip():
        raise WrongHold("a release has a reason: somebody will want to know it")
    row = (await session.execute(RELEASE, {"id": hold_id, "reason": reason, "by": by})).one_or_none()
    if row is None:
        standing = (await session.execute(STANDING, {"id": hold_id})).one_or_none()
        if standing is None:
            raise HoldRefused(f"there is no hold {hold_id}; see `lowtide hold list`")
        at = f"{standing.released_at:%Y-%m-%d %H:%M:%S} UTC"
        raise HoldRefused(f"hold {hold_id} was released already, by {standing.released_by} at {at}")
    told = {"hold": hold_id, "column": row.column_name, "value": row.value, "reason": reason}
    await audit.note(session, "release", requested_by=by, table=row.table_name, detail=told)


async def protected(session: AsyncSession, hold_id: int, at: Place) -> int | str:
    """How many rows the hold is over, up to MOST_COUNTED; where that can't be counted, in words why."""
    value = f"SELECT CAST(h.value AS {at.type}) FROM lowtide.hold h WHERE h.id = :id"
    rows = f"SELECT 1 FROM {at.table} WHERE {at.column} = ({value}) LIMIT {MOST_COUNTED}"
    asked = text(f"SELECT count(*) FROM ({rows}) counted")
    try:
        async with session.begin_nested():
            await session.execute(text(f"SET LOCAL statement_timeout = '{LONGEST_COUNT_S}s'"))
            counted: int = (await session.execute(asked, {"id": hold_id})).scalar_one()
    except DBAPIError as exc:
        if (code := sqlstate(exc)) is None:  # the connection, not the count
            raise
        return f"that takes longer than {LONGEST_COUNT_S} s" if code == TIMED_OUT else without_values(exc)
    return counted
