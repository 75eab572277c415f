"""What EXPLAIN says of a statement, and what the catalog says of indexes that are missing."""

import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg
from asyncpg.transaction import Transaction
from sqlalchemy import ClauseElement
from sqlalchemy.dialects.postgresql import asyncpg as dialect
from sqlalchemy.sql.compiler import SQLCompiler

from db.targets import Target, quoted

LONGEST_READ_MS = 10_000


@dataclass(frozen=True)
class Stated:
    """A statement that a job runs. `reads` is the SELECT of the same rows, for one that writes."""

    name: str
    sql: str
    parameters: Sequence[Any] = ()
    writes: bool = False
    reads: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)  # under which it runs


def stated(name: str, statement: ClauseElement, *, writes: bool = False, **values: Any) -> Stated:  # noqa: ANN401 - parameters
    """A statement of SQLAlchemy's as the driver gets it; `values` of those named parameters that have none yet.

    Values go through their columns' types, as when it is run: a datetime without a zone is refused.
    """
    compiled = statement.compile(dialect=dialect.dialect())  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects
    if not isinstance(compiled, SQLCompiler):
        raise TypeError(f"{name}: nothing that EXPLAIN takes")
    expanded = compiled.construct_expanded_state({**compiled.params, **values})  # a list after IN: one for each
    types: dict[str, Any] = {**compiled._bind_processors, **expanded.processors}  # noqa: SLF001 - nothing public has them
    parameters = [
        types[each](expanded.parameters[each]) if each in types else expanded.parameters[each]
        for each in expanded.positiontup or ()
    ]
    return Stated(name, expanded.statement, parameters, writes=writes)


async def explain(connection: asyncpg.Connection, given: Stated) -> dict[str, Any]:
    """The query plan as it would be now, without running anything."""
    return (await explain_each(connection, [given]))[0]


async def explain_each(connection: asyncpg.Connection, statements: Sequence[Stated]) -> list[dict[str, Any]]:
    """The same of several, those under the same settings together."""
    found: list[dict[str, Any]] = []
    for settings, alike in itertools.groupby(statements, key=lambda given: given.settings):
        async with connection.transaction(readonly=True):
            await _set_local(connection, settings)
            for given in alike:
                asked = f"EXPLAIN (VERBOSE, FORMAT JSON) {given.sql}"
                found.append(dict((await connection.fetchval(asked, *given.parameters))[0]))
    return found


async def explain_and_run(connection: asyncpg.Connection, given: Stated) -> dict[str, Any] | None:
    """With actual rows, times and buffers; None for a statement that writes and has no SELECT of the same rows.

    Never for what writes: taken back, it would have moved sequences and grown the table all the same. What takes
    longer than LONGEST_READ_MS is stopped: then the query plan without them, and that time as `Stopped After`.
    """
    sql = given.reads if given.writes else given.sql
    if sql is None:
        return None
    return await _measured(
        connection, replace(given, sql=sql), connection.transaction(readonly=True), longest_ms=LONGEST_READ_MS
    )


async def explain_and_undo(connection: asyncpg.Connection, given: Stated, *, longest_ms: int) -> dict[str, Any]:
    """As `explain_and_run`, and of a statement that writes too: always taken back.

    In a transaction that is open it is a savepoint, so what was locked is free again. Sequences have moved and the
    table has grown all the same. What takes longer than `longest_ms` is stopped.
    """
    return await _measured(connection, given, connection.transaction(), longest_ms=longest_ms)


async def _measured(
    connection: asyncpg.Connection, given: Stated, transaction: Transaction, *, longest_ms: int
) -> dict[str, Any]:
    begun = time.monotonic()
    try:
        async with _undone(transaction):
            await _set_local(connection, {**given.settings, "statement_timeout": str(longest_ms)})
            asked = f"EXPLAIN (ANALYZE, VERBOSE, BUFFERS, FORMAT JSON) {given.sql}"
            return dict((await connection.fetchval(asked, *given.parameters))[0])
    except asyncpg.QueryCanceledError:
        if (time.monotonic() - begun) * 1000 < longest_ms:  # an operator's
            raise
    return await explain(connection, given) | {"Stopped After": longest_ms}


@asynccontextmanager
async def _undone(transaction: Transaction) -> AsyncIterator[None]:
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def _set_local(connection: asyncpg.Connection, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        await connection.execute(f"SET LOCAL {name} = '{value}'")


async def role(connection: asyncpg.Connection) -> str:
    name: str = await connection.fetchval("SELECT current_user")
    return name


async def blocks_of(connection: asyncpg.Connection, relation: str) -> int:
    """The length of the table's file, in blocks."""
    blocks: int = await connection.fetchval(
        "SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint", relation
    )
    return blocks


@dataclass(frozen=True)
class InvalidIndex:
    """An index that queries don't use: `building` while CREATE INDEX CONCURRENTLY is at work, else what it left."""

    name: str
    building: bool


# Of other roles' sessions one sees only that they build an index, not which: then it may be this one.
INVALID = """
    SELECT format('%I.%I', n.nspname, i.relname) AS name, EXISTS (
        SELECT FROM pg_stat_progress_create_index p
        WHERE p.datname = current_database() AND coalesce(p.index_relid, i.oid) = i.oid
    ) AS building
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
    WHERE x.indrelid = $1::text::regclass AND NOT x.indisvalid
      AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text)
           FROM unnest(x.indkey::int2[]) WITH ORDINALITY k (number, place)
           JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
           WHERE k.place <= cardinality($2::text[]))
          = (SELECT array_agg(name ORDER BY name) FROM unnest($2::text[]) name)
    ORDER BY building DESC, 1 LIMIT 1
"""


async def invalid_index(connection: asyncpg.Connection, relation: str, columns: Sequence[str]) -> InvalidIndex | None:
    """One that begins with the columns, in any order."""
    row = await connection.fetchrow(INVALID, relation, columns)
    return None if row is None else InvalidIndex(**dict(row))


def narrowed_index(target: Target) -> str:
    """The index of the target's eligible rows alone, its own condition included. That has to be immutable."""
    column = target.quoted_column
    return f"CREATE INDEX CONCURRENTLY ON {target.relation} ({column}) WHERE {column} IS NOT NULL AND ({target.where});"


@dataclass(frozen=True)
class Reference:
    """A foreign key whose columns no valid index begins with: each deleted row of `parent` reads all of `relation`."""

    constraint: str
    relation: str
    columns: list[str]
    blocks: int
    parent: str  # whose rows go: the table, or one whose rows go along with it

    @property
    def wanted_index(self) -> str:
        return f"CREATE INDEX CONCURRENTLY ON {self.relation} ({', '.join(map(quoted, self.columns))});"


# The first columns of an index serve in any order. A partial one serves where it leaves out nothing but NULLs of them.
# Only these two kinds find a key at once: BRIN reads ranges of blocks.
UNINDEXED = """
    WITH RECURSIVE going (relid) AS (
        SELECT r::regclass::oid FROM unnest($1::text[]) r
        UNION SELECT c.conrelid FROM pg_constraint c JOIN going ON c.confrelid = relid
        WHERE c.contype = 'f' AND c.confdeltype = 'c'
    )
    SELECT c.conname AS constraint, format('%I.%I', n.nspname, t.relname) AS relation,
           (SELECT array_agg(a.attname::text ORDER BY k.place)
            FROM unnest(c.conkey) WITH ORDINALITY k (number, place)
            JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns,
           (pg_relation_size(c.conrelid) / current_setting('block_size')::bigint)::bigint AS blocks,
           c.confrelid::regclass::text AS parent
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE c.contype = 'f' AND c.confrelid IN (SELECT relid FROM going) AND NOT EXISTS (
        SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam
        WHERE x.indrelid = c.conrelid AND x.indisvalid AND m.amname IN ('btree', 'hash')
          AND x.indnkeyatts >= cardinality(c.conkey)
          AND (x.indpred IS NULL OR EXISTS (
              SELECT FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey)
                AND pg_get_expr(x.indpred, x.indrelid) = format('(%I IS NOT NULL)', a.attname)))
          AND (SELECT array_agg(k.number ORDER BY k.number)
               FROM unnest(x.indkey::int2[]) WITH ORDINALITY k (number, place) WHERE k.place <= cardinality(c.conkey))
              = (SELECT array_agg(number ORDER BY number) FROM unnest(c.conkey) k (number))
    )
    ORDER BY 2, 1
"""


async def unindexed_references(connection: asyncpg.Connection, relations: Sequence[str]) -> list[Reference]:
    return [Reference(**dict(row)) for row in await connection.fetch(UNINDEXED, relations)]
