"""How PostgreSQL is set up, and what our role may do in schema lowtide."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from db.engine import LISTENER

SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])"
# Of docs/roles.sql: whoever looks at runs and steers them, and does none of the worker's work.
IS_OPERATOR = """
    coalesce(pg_has_role(to_regrole('lowtide_operator'), 'MEMBER'), false)
    AND NOT coalesce(pg_has_role(to_regrole('lowtide_worker'), 'MEMBER'), false)
"""
ABOUT = f"""
    SELECT current_setting('server_version_num')::int AS number,
           split_part(current_setting('server_version'), ' ', 1) AS version, current_user::text AS role,
           pg_is_in_recovery() AS is_standby, clock_timestamp() AS now,
           pg_has_role('pg_monitor', 'USAGE') AS may_monitor, {IS_OPERATOR} AS is_operator,
           EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') AS has_trigrams,
           (SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = 'lowtide') AS may_use_schema
"""
LACKING = """
    SELECT c.relname::text AS table, array_agg(wanted.privilege ORDER BY wanted.privilege) AS rights
    FROM unnest($1::text[], $2::text[]) AS wanted (relation, privilege)
    JOIN pg_class c ON c.relname = wanted.relation AND c.relnamespace = to_regnamespace('lowtide')
    WHERE NOT has_table_privilege(c.oid, wanted.privilege) GROUP BY 1 ORDER BY 1
"""
ROUTINES = """
    SELECT count(*) FROM pg_proc
    WHERE pronamespace = to_regnamespace('lowtide') AND NOT has_function_privilege(oid, 'EXECUTE')
"""
LISTENERS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1
"""


@dataclass(frozen=True)
class About:
    number: int  # 180003 is 18.3
    version: str
    role: str
    is_standby: bool
    now: datetime
    may_monitor: bool
    has_trigrams: bool
    may_use_schema: bool | None  # None: there is no schema lowtide
    is_operator: bool = False  # a member of lowtide_operator, and not of lowtide_worker: the worker's may do more


async def about(connection: asyncpg.Connection) -> About:
    return About(**dict(await connection.fetchrow(ABOUT)))


async def is_operator(connection: asyncpg.Connection) -> bool:
    """As `About.is_operator`."""
    found: bool = await connection.fetchval(f"SELECT {IS_OPERATOR}")
    return found


async def settings(connection: asyncpg.Connection, *names: str) -> dict[str, str]:
    """Those that this version of the server has."""
    return {row["name"]: row["setting"] for row in await connection.fetch(SETTINGS, names)}


async def lacking(connection: asyncpg.Connection, needed: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """By table of schema lowtide, which of the needed rights our role lacks. A table that is not there lacks none."""
    pairs = [(table, right) for table, rights in needed.items() for right in rights]
    rows = await connection.fetch(LACKING, [table for table, _ in pairs], [right for _, right in pairs])
    return {row["table"]: row["rights"] for row in rows}


async def routines_refused(connection: asyncpg.Connection) -> int:
    """How many of the functions of schema lowtide our role may not call."""
    number: int = await connection.fetchval(ROUTINES)
    return number


async def listeners(connection: asyncpg.Connection) -> int:
    """How many workers listen in this database, but for those whose URL names their sessions otherwise."""
    number: int = await connection.fetchval(LISTENERS, LISTENER)
    return number
