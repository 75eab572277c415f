"""What the catalog says of a policy's table and column, and what the server makes of its `where`. Nothing is executed
but what the planner folds: immutable functions of constants, and stable ones for its estimates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import asyncpg

from db.targets import Target, quoted
from db.trees import Tree
from db.triggers import delete_rule


@dataclass(frozen=True)
class Relation:
    """`kin` is what it is to the policy's table: itself, below it (its rows are the table's too), above it, or pointing
    to it: by rows that go along, or that keep what they point to."""

    kin: Literal["itself", "below", "above", "goes along", "keeps"]
    schema: str
    table: str
    kind: str  # of pg_class.relkind
    is_temporary: bool
    lacks: list[str]  # rights of our role that a purge needs; of what keeps rows only to read it
    row_security: bool  # whether policies of the table would hide rows from us
    rule: str | None  # one that says what DELETE means for it; None, too, of what keeps rows

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def quoted_name(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    def as_target(self, target: Target) -> Target:
        """The same rule, for this relation's own rows."""
        return replace(target, schema=self.schema, table=self.table)


@dataclass(frozen=True)
class Column:
    type: str  # of a domain, what it is made of
    generated: str  # of pg_attribute.attgenerated: "" is an ordinary column, "v" a virtual one


@dataclass(frozen=True)
class Named:
    """A table or a column; `quoted_name` is in quotes where that is needed, a table's with its schema."""

    name: str
    quoted_name: str
    schema: str | None = None  # of a table
    is_date: bool = False  # of a column


FACTS = f"""
    kin.kin, n.nspname AS schema, c.relname AS table, c.relkind::text AS kind,
           c.relpersistence = 't' AS is_temporary, row_security_active(c.oid) AS row_security,
           CASE WHEN kin.kin <> 'keeps' THEN {delete_rule("c.oid")} END AS rule,
           array_remove(ARRAY[
               CASE WHEN NOT has_schema_privilege(n.oid, 'USAGE') THEN 'USAGE' END,
               CASE WHEN NOT has_any_column_privilege(c.oid, 'SELECT') THEN 'SELECT' END,
               CASE WHEN kin.kin <> 'keeps' AND NOT has_any_column_privilege(c.oid, 'UPDATE') THEN 'UPDATE' END,
               CASE WHEN kin.kin <> 'keeps' AND NOT has_table_privilege(c.oid, 'DELETE') THEN 'DELETE' END
           ], NULL) AS lacks
"""
# By names, not by regclass: that would ask for USAGE of the schema. A partition that is being detached is none.
RELATIONS = f"""
    WITH RECURSIVE given AS (
        SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1::text AND c.relname = $2::text
    ), below (oid) AS (
        SELECT oid FROM given
        UNION SELECT h.inhrelid FROM pg_inherits h JOIN below ON h.inhparent = below.oid WHERE NOT h.inhdetachpending
    ), above (oid) AS (
        SELECT oid FROM given UNION SELECT h.inhparent FROM pg_inherits h JOIN above ON h.inhrelid = above.oid
    ), kin AS (
        SELECT 'itself' AS kin, oid FROM given
        UNION ALL SELECT 'below', oid FROM below WHERE oid NOT IN (SELECT oid FROM given)
        UNION ALL SELECT 'above', oid FROM above WHERE oid NOT IN (SELECT oid FROM given)
    )
    SELECT {FACTS}
    FROM kin JOIN pg_class c ON c.oid = kin.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    ORDER BY kin.kin = 'itself' DESC, c.oid
"""
CHILDREN = f"""
    WITH kin AS (SELECT 'goes along' AS kin, unnest($1::oid[]) AS oid UNION ALL SELECT 'keeps', unnest($2::oid[]))
    SELECT {FACTS}
    FROM kin JOIN pg_class c ON c.oid = kin.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    ORDER BY kin.kin, c.oid
"""
# Some thousand names are compared in a few hundredths of a second. A partition is meant by nobody who does not name it.
TABLES = """
    SELECT n.nspname::text AS schema, c.relname::text AS name, format('%I.%I', n.nspname, c.relname) AS quoted_name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'lowtide')
      AND (NOT c.relispartition OR lower(c.relname) = lower($2::text))
    ORDER BY lower(c.relname) = lower($2::text) DESC, n.nspname = $1::text DESC, 1, 2 LIMIT 5000
"""
COLUMN = """
    WITH RECURSIVE base (oid) AS (
        SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = $1::text::regclass AND a.attname = $2::text
        UNION SELECT t.typbasetype FROM pg_type t JOIN base ON base.oid = t.oid WHERE t.typtype = 'd'
    )
    SELECT format_type(t.oid, NULL) AS type, a.attgenerated::text AS generated
    FROM pg_attribute a, base JOIN pg_type t ON t.oid = base.oid AND t.typtype <> 'd'
    WHERE a.attrelid = $1::text::regclass AND a.attname = $2::text AND a.attnum > 0 AND NOT a.attisdropped
"""
COLUMNS = """
    SELECT attname::text AS name, quote_ident(attname) AS quoted_name,
           atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype) AS is_date
    FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# By name alone: of those with the same name, whatever they take, one is enough.
VOLATILE = """
    SELECT DISTINCT format('%I', p.proname)
    FROM unnest($1::text[], $2::text[]) asked (schema, name)
    JOIN pg_proc p ON p.proname = asked.name JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.provolatile = 'v'
      AND CASE WHEN asked.schema IS NULL THEN pg_function_is_visible(p.oid) ELSE n.nspname = asked.schema END
    ORDER BY 1
"""


async def relations(connection: asyncpg.Connection, target: Target) -> list[Relation]:
    """The table first; empty where there is none."""
    return [Relation(**dict(row)) for row in await connection.fetch(RELATIONS, target.schema, target.table)]


async def children(connection: asyncpg.Connection, tree: Tree) -> list[Relation]:
    """The tables that point to a policy's table, and their partitions."""
    along, keeping = (
        {oid for edge in tree.edges if edge.deletes == deletes for oid in tree.families[edge.reference.child]}
        for deletes in (True, False)
    )
    rows = await connection.fetch(CHILDREN, list(along), list(keeping - along))
    return [Relation(**dict(row)) for row in rows]


async def tables(connection: asyncpg.Connection, target: Target) -> list[Named]:
    """Those that may be meant by the target's name: of its schema first, the first few thousand."""
    return [Named(**dict(row)) for row in await connection.fetch(TABLES, target.schema, target.table)]


async def column(connection: asyncpg.Connection, target: Target) -> Column | None:
    row = await connection.fetchrow(COLUMN, target.relation, target.column)
    return None if row is None else Column(**dict(row))


async def named_columns(connection: asyncpg.Connection, target: Target) -> list[Named]:
    return [Named(**dict(row)) for row in await connection.fetch(COLUMNS, target.relation)]


async def knows_timezone(connection: asyncpg.Connection, timezone: str) -> bool:
    try:
        await connection.fetchval("SELECT now() AT TIME ZONE $1::text", timezone)
    except asyncpg.InvalidParameterValueError:
        return False
    return True


async def volatile(connection: asyncpg.Connection, names: Sequence[tuple[str | None, str]]) -> list[str]:
    """Which of those functions, by schema (None: as the search path finds it) and name, may answer anew each time."""
    rows = await connection.fetch(VOLATILE, [schema for schema, _ in names], [name for _, name in names])
    return [row[0] for row in rows]


async def parse_condition(connection: asyncpg.Connection, target: Target) -> int:
    """Let the server parse `where` between two words, in no parentheses of ours: a closing one of its own fits to
    nothing there. Returns how many parameters it has; raises what the server has against it. Nothing is executed."""
    prepared = await connection.prepare(f"SELECT FROM {target.relation} WHERE CASE WHEN {target.where}\nTHEN true END")
    return len(prepared.get_parameters())


async def explain_condition(connection: asyncpg.Connection, target: Target, *, only: bool = False) -> dict[str, Any]:
    """As it stands in a purge, with `only` of the relation's own rows. Raises what the server has against it."""
    async with connection.transaction(readonly=True):
        explained = await connection.fetchval(
            f"EXPLAIN (FORMAT JSON) SELECT FROM {'ONLY ' if only else ''}{target.relation} "
            f"WHERE {target.quoted_column} IS NOT NULL AND ({target.where})"
        )
        return dict(explained[0])
