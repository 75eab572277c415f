"""Which relations a table's rows are in: itself, its partitions' leaves, the tables that inherit from it."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import asyncpg

from db.targets import Target
from db.triggers import delete_rule

ORDINARY, PARTITIONED = "r", "p"
# By pg_class.relkind: what a purge deletes nothing from, and what to do instead.
NO_TABLES = {
    "v": ("is a view", "Name the table that its rows are in"),
    "m": ("is a materialized view", "Purge the tables that it is made from, and REFRESH it"),
    "f": ("is a foreign table", "Purge where its rows are stored"),
    "S": ("is a sequence", "Name a table"),
    "i": ("is an index", "Name its table"),
    "I": ("is an index", "Name its table"),
    "c": ("is a type", "Name a table"),
    "t": ("holds long values of another table", "Name that one"),
}


@dataclass(frozen=True)
class Relation:
    """`kind` is pg_class.relkind: r is an ordinary table, f a foreign one; a partitioned table itself has no rows."""

    oid: int
    schema: str
    table: str
    kind: str
    is_partition: bool
    is_all: bool  # whether it is the whole table: nothing is below it
    rule: str | None = None  # one that says what DELETE means for it

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    def as_target(self, target: Target) -> Target:
        """The same rule, for this relation's own rows."""
        return replace(target, schema=self.schema, table=self.table)


# By their oids, so that one that is added meanwhile comes behind those that are done.
# A partition that is being detached belongs to nobody: pg_inherits has it still.
FROM = f"""
    WITH RECURSIVE tree (oid) AS (
        SELECT $1::text::regclass::oid
        UNION SELECT h.inhrelid FROM pg_inherits h JOIN tree ON h.inhparent = tree.oid WHERE NOT h.inhdetachpending
    )
    SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS table, c.relkind::text AS kind,
           c.relispartition AS is_partition, {delete_rule("c.oid")} AS rule,
           c.oid = $1::text::regclass AND NOT c.relhassubclass AS is_all
    FROM tree JOIN pg_class c ON c.oid = tree.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid::bigint >= $2::bigint AND (c.relkind <> 'p') ORDER BY c.oid::bigint LIMIT $3
"""
NAMES = """
    SELECT c.oid::bigint AS oid, format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY($1::oid[])
"""


def no_table(kind: str) -> tuple[str, str] | None:
    """Why nothing can be deleted from what is of this kind, and what to do instead; None of a table."""
    return None if kind in {ORDINARY, PARTITIONED} else NO_TABLES.get(kind, ("is no table", "Name one"))


async def following(connection: asyncpg.Connection, target: Target, *, oid: int) -> Relation | None:
    """The first of the relations from this oid on; None behind the last. Raises the server's UndefinedTable."""
    row = await connection.fetchrow(FROM, target.relation, oid, 1)
    return None if row is None else Relation(**dict(row))


async def all_of(connection: asyncpg.Connection, target: Target) -> list[Relation]:
    """All that there are now. Raises the server's UndefinedTable."""
    return [Relation(**dict(row)) for row in await connection.fetch(FROM, target.relation, 0, None)]


async def names(connection: asyncpg.Connection, oids: Collection[int]) -> dict[int, str]:
    """Quoted, with their schemas, of those that are there."""
    if not oids:
        return {}
    return {row["oid"]: row["name"] for row in await connection.fetch(NAMES, list(oids))}
