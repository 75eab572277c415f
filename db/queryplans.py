"""What EXPLAIN says of a statement, and what the catalog says of indexes that are missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql import asyncpg as dialect

from db.targets import Target, quoted

LONGEST_READ = "10s"


@dataclass(frozen=True)
class Stated:
    """A statement that a job runs. `reads` is the SELECT of the same rows, for one that writes."""

    name: str
    sql: str
    parameters: Sequence[Any] = ()
    writes: bool = False
    reads: str | None = None


def stated(name: str, statement: TextClause, *, writes: bool = False, **values: Any) -> Stated:  # noqa: ANN401 - parameters
    """A statement with named parameters, as the driver gets it."""
    compiled = statement.compile(dialect=dialect.dialect())  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects
    names: Sequence[str] = compiled.positiontup or ()
    return Stated(name, str(compiled), [values[name] for name in names], writes=writes)


async def explain(connection: asyncpg.Connection, given: Stated) -> dict[str, Any]:
    """The query plan as it would be now, without running anything."""
    return dict((await connection.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) {given.sql}", *given.parameters))[0])


async def explain_and_run(connection: asyncpg.Connection, given: Stated) -> dict[str, Any] | None:
    """With actual rows, times and buffers; None for a statement that writes and has no SELECT of the same rows.

    Never for what writes: taken back, it would have moved sequences and grown the table all the same.
    """
    sql = given.reads if given.writes else given.sql
    if sql is None:
        return None
    async with connection.transaction(readonly=True):
        await connection.execute(f"SET LOCAL statement_timeout = '{LONGEST_READ}'")
        return dict(
            (await connection.fetchval(f"EXPLAIN (ANALYZE, VERBOSE, BUFFERS, FORMAT JSON) {sql}", *given.parameters))[0]
        )


async def blocks_of(connection: asyncpg.Connection, relation: str) -> int:
    """The length of the table's file, in blocks."""
    blocks: int = await connection.fetchval(
        "SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint", relation
    )
    return blocks


INVALID = """
    SELECT i.oid::regclass::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
    WHERE x.indrelid = $1::text::regclass AND a.attname = $2 AND NOT x.indisvalid ORDER BY 1 LIMIT 1
"""


async def invalid_index(connection: asyncpg.Connection, target: Target) -> str | None:
    """An index on the target's column that was never finished (CREATE INDEX CONCURRENTLY failed)."""
    name: str | None = await connection.fetchval(INVALID, target.relation, target.column)
    return name


@dataclass(frozen=True)
class Reference:
    """A foreign key to the table whose columns no valid index begins with: each deleted row reads all of `relation`."""

    constraint: str
    relation: str
    columns: list[str]
    blocks: int

    @property
    def wanted_index(self) -> str:
        return f"CREATE INDEX CONCURRENTLY ON {self.relation} ({', '.join(map(quoted, self.columns))});"


# The first columns of an index serve in any order. A partial one serves where it leaves out nothing but NULLs.
UNINDEXED = """
    SELECT c.conname AS constraint, format('%I.%I', n.nspname, t.relname) AS relation,
           (SELECT array_agg(a.attname::text ORDER BY k.place)
            FROM unnest(c.conkey) WITH ORDINALITY k (number, place)
            JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns,
           (pg_relation_size(c.conrelid) / current_setting('block_size')::bigint)::bigint AS blocks
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE c.contype = 'f' AND c.confrelid = $1::text::regclass AND NOT EXISTS (
        SELECT FROM pg_index x WHERE x.indrelid = c.conrelid AND x.indisvalid
          AND (x.indpred IS NULL OR pg_get_expr(x.indpred, x.indrelid) ~ '^[(].+ IS NOT NULL[)]$')
          AND (SELECT array_agg(k.number ORDER BY k.number)
               FROM unnest(x.indkey::int2[]) WITH ORDINALITY k (number, place) WHERE k.place <= cardinality(c.conkey))
              = (SELECT array_agg(number ORDER BY number) FROM unnest(c.conkey) k (number))
    )
    ORDER BY 2, 1
"""


async def unindexed_references(connection: asyncpg.Connection, relation: str) -> list[Reference]:
    return [Reference(**dict(row)) for row in await connection.fetch(UNINDEXED, relation)]
