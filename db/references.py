"""The graph of foreign keys around a table: what points to its rows, and to the rows that go with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from db.targets import quoted, written
from db.triggers import on_delete

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
    comparisons: Sequence[str]  # of each pair, as the foreign key makes it: {parent} and {child} are the two
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
        """As a policy declares it."""
        return written(self.schema, self.table)

    def joined(self, child: str, parent: str) -> str:
        """That a row of the child, under this alias, points to one of the parent."""
        pairs = zip(self.comparisons, self.columns, self.parent_columns, strict=True)
        return " AND ".join(
            comparison.replace("{child}", f"{child}.{quoted(column)}", 1).replace(
                "{parent}", f"{parent}.{quoted(key)}", 1
            )
            for comparison, column, key in pairs
        )


@dataclass(frozen=True)
class Graph:
    """Every foreign key of the database, and the oids of all relations that one table's rows are in."""

    references: Sequence[Reference]
    whole: frozenset[int]


# The constraints that PostgreSQL makes for single partitions (conparentid) repeat what the whole one says.
# One that is NOT ENFORCED (PostgreSQL 18) does nothing on DELETE.
# A foreign key compares with operators of its own, whatever `=` is under a search path: citext has one in its schema.
# Where two columns have two collations neither is meant, unless one is named: that of the child, whose index is asked.
ALL = f"""
    SELECT c.conname AS constraint, c.conrelid::bigint AS child, c.confrelid::bigint AS parent, n.nspname AS schema,
           t.relname AS table,
           CASE WHEN to_jsonb(c) ->> 'conenforced' = 'false' THEN '{NO_ACTION}' ELSE c.confdeltype::text END
               AS on_delete, t.relkind = 'p' AS partitioned,
           {on_delete("c.conrelid")} AS acts,
           k.columns, k.parent_columns, k.comparisons
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
    CROSS JOIN LATERAL (
        SELECT array_agg(a.attname::text ORDER BY place) AS columns,
               array_agg(b.attname::text ORDER BY place) AS parent_columns,
               array_agg(format(
                   '{{parent}}%s OPERATOR(%I.%s) {{child}}%s%s',
                   CASE WHEN o.oprleft <> b.atttypid AND l.typtype <> 'p' THEN '::' || format_type(o.oprleft, NULL) END,
                   s.nspname, o.oprname,
                   CASE WHEN o.oprright <> a.atttypid AND r.typtype <> 'p'
                        THEN '::' || format_type(o.oprright, NULL) END,
                   CASE WHEN a.attcollation <> b.attcollation
                        THEN (SELECT format(' COLLATE %I.%I', x.nspname, collname) FROM pg_collation y
                              JOIN pg_namespace x ON x.oid = y.collnamespace
                              WHERE y.oid = CASE WHEN d.collisdeterministic THEN a.attcollation
                                                 ELSE b.attcollation END) END
               ) ORDER BY place) AS comparisons
        FROM unnest(c.conkey, c.confkey, c.conpfeqop) WITH ORDINALITY pairs (own, other, operator, place)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = own
        JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = other
        LEFT JOIN pg_collation d ON d.oid = b.attcollation
        JOIN pg_operator o ON o.oid = operator JOIN pg_namespace s ON s.oid = o.oprnamespace
        JOIN pg_type l ON l.oid = o.oprleft JOIN pg_type r ON r.oid = o.oprright
    ) k
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


async def graph(connection: asyncpg.Connection, table: str) -> Graph:
    """Around a table, quoted. Raises the server's UndefinedTable."""
    every = [Reference(**dict(row)) for row in await connection.fetch(ALL)]
    return Graph(every, frozenset(row[0] for row in await connection.fetch(BELOW, table)))


async def family(connection: asyncpg.Connection, oid: int) -> set[int]:
    """The oids of the partitioned table that a relation is part of, or of the relation alone."""
    return {row[0] for row in await connection.fetch(FAMILY, oid)}
