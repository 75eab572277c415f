"""What a purge must know of holds: which columns they are over, and the condition that leaves held rows alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import asyncpg

from db.faults import server_message
from db.refusals import Refused
from db.targets import literal, quoted

# Up to so many holds, their values are hashed anew for each statement: 0.2 µs each, and 50 ns a row. Beyond, that alone
# would fill a gentle batch, whatever its size: each row is looked up in an index instead, for 1 µs.
MOST_HASHED = 2000
# Types of which two values are equal where their texts are, and what makes the text. Elsewhere a look-up by text could
# miss a held row; these functions take no other type, so a column whose type is changed meanwhile is an error.
TEXT_OF = {
    "int2": "int2out",
    "int4": "int4out",
    "int8": "int8out",
    "uuid": "uuid_out",
    "text": "textout",
    "varchar": "varcharout",
}


class HoldUnclear(Refused):
    """A hold is over a column that is gone, or holds a value that the column's type can't be: no row is safe."""


@dataclass(frozen=True)
class HeldColumn:
    """A column of a table that holds are over. `homes` are the oids under which lowtide.hold has it."""

    name: str
    type: str  # its base type, without a length or a precision, which would change a value that is cast
    equals: str  # the schema of the type's own operator
    homes: tuple[int, ...]
    text_of: str | None = None  # the function of TEXT_OF where rows are looked up by it

    def unheld(self, row: str) -> str:
        """A condition over a row of the name `row`. It can neither become a join nor drive the scan."""
        column = f"{row}.{quoted(self.name)}"
        if self.text_of is not None:
            asked = f'h.value COLLATE "C" = pg_catalog.{self.text_of}({column})::text COLLATE "C"'
            return f"(SELECT true FROM lowtide.hold h WHERE {self.active} AND {asked} LIMIT 1) IS NULL"
        values = f"SELECT {self.value} FROM lowtide.hold h WHERE {self.active}"
        return f"({column} OPERATOR({quoted(self.equals)}.=) ANY ({values})) IS NOT TRUE"

    @property
    def active(self) -> str:
        return _active(self.homes, self.name)

    @property
    def value(self) -> str:
        """Of a hold on this column: no other's is cast, whatever the order in which conditions are looked at."""
        return f"CASE WHEN h.column_name = {literal(self.name)} THEN h.value::{self.type} END"


@dataclass(frozen=True)
class Held:
    """What the statements over some tables know of holds. Tables go by the names that `columns` was given."""

    tables: Mapping[str, int]  # their oids
    known: tuple[str, ...]  # as lowtide.held_columns has them
    columns: Mapping[str, Sequence[HeldColumn]]

    @property
    def before(self) -> str:
        """What each batch says first (`Change.before`): a query of no counters. Raises LT411 where the holds are
        over other columns by now: `columns` knows them, and the statements are made anew."""
        # By their names, as the statements go by names: a table that has taken another's place has its own holds.
        tables = ", ".join(f"{literal(name)}::regclass::oid" for name in self.tables)
        known = ", ".join(map(literal, self.known))
        return f"SELECT lowtide.under_holds(ARRAY[{tables}]::oid[], ARRAY[{known}]::text[])"

    def unheld(self, relation: str, alias: str | None = None) -> str:
        """The condition that excludes held rows of a table. `alias`, quoted, is its name in the statement."""
        conditions = [column.unheld(alias or relation) for column in self.columns[relation]]
        return " AND ".join(conditions) or "true"


PAIRS = """
    SELECT given, oid::bigint, lowtide.held_columns(lowtide.family(ARRAY[oid])) AS pairs
    FROM (SELECT given, given::regclass::oid AS oid FROM unnest($1::text[]) given) tables
"""
# A domain has the operators of the type below it. Without one in pg_catalog the type has its own, as citext has.
TYPES = """
    SELECT asked.oid::bigint, asked.name, format_type(base.oid, -1) AS type, base.typname, coalesce((
               SELECT s.nspname FROM pg_operator o JOIN pg_namespace s ON s.oid = o.oprnamespace
               WHERE o.oprname = '=' AND o.oprleft = base.oid AND o.oprright = base.oid LIMIT 1
           ), 'pg_catalog') AS equals, coalesce(l.collisdeterministic, true) AS deterministic
    FROM unnest($1::oid[], $2::text[]) asked (oid, name)
    JOIN pg_attribute a ON a.attrelid = asked.oid AND a.attname = asked.name AND a.attnum > 0 AND NOT a.attisdropped
    CROSS JOIN LATERAL (
        WITH RECURSIVE below (oid) AS (
            SELECT a.atttypid UNION SELECT t.typbasetype FROM below JOIN pg_type t USING (oid) WHERE t.typtype = 'd'
        )
        SELECT t.oid, t.typname FROM below JOIN pg_type t USING (oid) WHERE t.typtype <> 'd'
    ) base
    LEFT JOIN pg_collation l ON l.oid = a.attcollation
"""


async def columns(connection: asyncpg.Connection, relations: Sequence[str]) -> Held:
    """What holds are over those tables (quoted names), those of their partitioned tables and parents included.

    Raises HoldUnclear, and the server's UndefinedTable.
    """
    try:
        rows = await connection.fetch(PAIRS, relations)
    except asyncpg.InsufficientPrivilegeError as exc:
        within = connection.is_in_transaction()  # which takes no question any more
        role = "this session's role" if within else quoted(await connection.fetchval("SELECT current_user"))
        raise HoldUnclear(
            f"which rows are held can't be seen: {server_message(exc)}. Nothing was deleted. GRANT SELECT ON "
            f"lowtide.hold TO {role}; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO {role};"
        ) from exc
    homes: dict[tuple[int, str], list[int]] = {}
    for row in rows:
        for pair in row["pairs"]:
            home, _, name = pair.partition(".")
            homes.setdefault((row["oid"], name), []).append(int(home))
    types = await _types(connection, list(homes))
    found: dict[int, list[HeldColumn]] = {}
    asked: dict[tuple[object, ...], HeldColumn | None] = {}  # the partitions of a table ask the same
    for (oid, name), at in homes.items():
        given = types.get((oid, name))
        key = (name, *at, *(() if given is None else (given["type"], given["deterministic"])))
        if key not in asked:
            asked[key] = await _column(connection, name, tuple(at), given)
        if (column := asked[key]) is not None:
            found.setdefault(oid, []).append(column)
    return Held(
        tables={row["given"]: row["oid"] for row in rows},
        known=tuple(sorted({pair for row in rows for pair in row["pairs"]})),
        columns={row["given"]: tuple(found.get(row["oid"], ())) for row in rows},
    )


async def _types(connection: asyncpg.Connection, asked: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Any]:
    if not asked:
        return {}
    rows = await connection.fetch(TYPES, [oid for oid, _ in asked], [name for _, name in asked])
    return {(row["oid"], row["name"]): row for row in rows}


async def _column(
    connection: asyncpg.Connection,
    name: str,
    homes: tuple[int, ...],
    given: Any,  # noqa: ANN401 - a row of TYPES
) -> HeldColumn | None:
    """None where none of the holds counts any more. Each one's value is cast once here, so that no batch fails."""
    if given is None:
        await _require_expired(connection, name, homes)
        return None
    column = HeldColumn(name, given["type"], given["equals"], homes)
    try:
        holds, as_printed = await connection.fetchrow(
            f"SELECT count(*), bool_and(h.value = ({column.value})::text) FROM lowtide.hold h WHERE {column.active}"
        )
    except asyncpg.DataError as exc:
        raise HoldUnclear(
            f"a hold on column {name} can't be compared with it any more: {server_message(exc)}. Nothing was deleted. "
            "Its type has changed: see `lowtide hold list`, place that hold anew, and release the old one"
        ) from exc
    if holds <= MOST_HASHED or not as_printed or not given["deterministic"]:
        return column
    return replace(column, text_of=TEXT_OF.get(given["typname"]))


async def _require_expired(connection: asyncpg.Connection, name: str, homes: tuple[int, ...]) -> None:
    """Raises HoldUnclear where a hold on that column, which is gone, still counts."""
    first = await connection.fetchrow(
        f"SELECT id, table_name FROM lowtide.hold h WHERE {_active(homes, name)} ORDER BY id LIMIT 1"
    )
    if first is not None:
        raise HoldUnclear(
            f"hold {first['id']} is on column {name} of {first['table_name']}, which has no such column any more. "
            "Nothing was deleted. Where it has another name now, place the hold anew under that; then "
            f"`lowtide hold release {first['id']}`"
        )


def _active(homes: Sequence[int], name: str) -> str:
    oids = ",".join(map(str, homes))
    return (
        f"h.relation = ANY ('{{{oids}}}'::oid[]) AND h.column_name = {literal(name)} "
        "AND h.released_at IS NULL AND (h.until IS NULL OR h.until > now())"
    )
