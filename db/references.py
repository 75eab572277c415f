"""The graph of foreign keys around a table: what points to its rows, and to the rows that go with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from db.targets import quoted

# pg_constraint.confdeltype
NO_ACTION, RESTRICT, CASCADE, SET_NULL, SET_DEFAULT = "a", "r", "c", "n", "d"


@dataclass(frozen=True)
class Reference:
    """A foreign key. A key of a partitioned table is one, whatever number of partitions it has."""

    constraint: str
    child: int  # oids of the tables
    parent: int
    schema: str  # of the child
    table: str
    columns: Sequence[str]
    parent_columns: Sequence[str]
    on_delete: str
    partitioned: bool
    acts: bool  # whether the child has triggers of its own for DELETE

    @property
    def relation(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    @property
    def rows(self) -> str:
        """FROM what: a foreign key holds for a table's own rows, and not for those of tables that inherit from it."""
        return self.relation if self.partitioned else f"ONLY {self.relation}"

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    def joined(self, child: str, parent: str) -> str:
        """That a row of the child, under this alias, points to one of the parent."""
        pairs = zip(self.columns, self.parent_columns, strict=True)
        return " AND ".join(f"{child}.{quoted(column)} = {parent}.{quoted(key)}" for column, key in pairs)


# DELETE is 8 of pg_trigger.tgtype (src/include/catalog/pg_trigger.h).
# The constraints that PostgreSQL makes for single partitions (conparentid) repeat what the whole one says.
ALL = """
    SELECT c.conname AS constraint, c.conrelid::bigint AS child, c.confrelid::bigint AS parent, n.nspname AS schema,
           t.relname AS table, c.confdeltype::text AS on_delete, t.relkind = 'p' AS partitioned,
           EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.conrelid AND g.tgtype & 8 = 8 AND NOT g.tgisinternal
                   AND g.tgenabled <> 'D') AS acts,
           (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(c.conkey) WITH ORDINALITY k (number, place)
            JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns,
           (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(c.confkey) WITH ORDINALITY k (number, place)
            JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number) AS parent_columns
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE c.contype = 'f' AND c.conparentid = 0 ORDER BY 1, 2
"""
# Of a relation: those above it, itself, and those below it, as far as they are one partitioned table.
FAMILY = """
    SELECT relid::oid::bigint FROM pg_partition_ancestors($1::oid)
    UNION SELECT relid::oid::bigint FROM pg_partition_tree($1::oid) UNION SELECT $1::bigint
"""
# A table and all that are partitions of it, or inherit from it.
BELOW = """
    WITH RECURSIVE tree (oid) AS (
        SELECT $1::text::regclass::oid UNION SELECT h.inhrelid FROM pg_inherits h JOIN tree ON h.inhparent = tree.oid
    )
    SELECT oid::bigint FROM tree
"""


async def all_of(connection: asyncpg.Connection) -> list[Reference]:
    """Every foreign key of the database."""
    return [Reference(**dict(row)) for row in await connection.fetch(ALL)]


async def family(connection: asyncpg.Connection, oid: int) -> set[int]:
    """The oids of the partitioned table that a relation is part of, or of the relation alone."""
    return {row[0] for row in await connection.fetch(FAMILY, oid)}


async def below(connection: asyncpg.Connection, table: str) -> set[int]:
    """The oids of all relations that a table's rows are in. Raises the server's UndefinedTable."""
    return {row[0] for row in await connection.fetch(BELOW, table)}
