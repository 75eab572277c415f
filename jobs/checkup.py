"""What `lowtide check` finds in PostgreSQL, apart from policies."""

from datetime import UTC, datetime, timedelta

import asyncpg

from db import migrate, pooler, server
from db.engine import Database
from db.server import About
from db.targets import quoted
from jobs.facts import Fact

POSTGRESQL, LEDGER, TASKS, WORKERS = "PostgreSQL", "ledger", "task tables", "workers"
OLDEST = 140_000
CLOCKS_APART = timedelta(seconds=2)
ROLES = "See docs/roles.sql"
# By setting, the value that does harm, what it does, and what to do.
HARMFUL = {
    "autovacuum": ("off", "dead rows stay, and so does the space of purged ones", "ALTER SYSTEM SET autovacuum = on;"),
    "track_counts": ("off", "autovacuum does not know what to do", "ALTER SYSTEM SET track_counts = on;"),
    "fsync": ("off", "a crash of the machine destroys the database", "ALTER SYSTEM SET fsync = on;"),
    "full_page_writes": ("off", "a crash can tear pages", "ALTER SYSTEM SET full_page_writes = on;"),
}
NEEDED = {
    "run": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "paused_schedule": ("SELECT", "INSERT", "UPDATE"),
    "migration": ("SELECT",),
    "hold": ("SELECT",),
    "audit": ("SELECT",),
    "plan": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "detaching": ("SELECT", "INSERT", "DELETE"),
}


async def checkup(database: Database) -> list[Fact]:
    """On a session that stays (`session`). Raises what a lost connection raises."""
    async with database.autocommit() as connection:
        asked = datetime.now(UTC)
        about = await server.about(connection)
        facts = [*_server(about, database.address.server), *_clock(about.now, asked, datetime.now(UTC))]
        facts += await _settings(connection)
    return facts + await _ledger(database, about)


async def session(database: Database) -> Fact:
    """Whether it stays with its process: what else is asked would stumble otherwise. Raises what the driver raises."""
    if not await pooler.is_transactional(database.address):
        return Fact(POSTGRESQL, "ok", "a session stays with its process: direct, or through a session pooler")
    told = "a transaction pooler stands between: what a session sets, prepares and listens to gets lost there"
    return Fact(POSTGRESQL, "fault", told, "Connect directly, or through a pool in session mode")


def _server(about: About, where: str) -> list[Fact]:
    told = f"{about.version} at {where}, role {about.role}"
    facts = [Fact(POSTGRESQL, "ok", told)]
    if about.number < OLDEST:
        facts = [Fact(POSTGRESQL, "fault", f"{told}: too old", "lowtide needs PostgreSQL 14 or newer")]
    if about.is_standby:
        told = "this server is a standby, which takes no change"
        facts.append(Fact(POSTGRESQL, "fault", told, "Name the primary in LOWTIDE_DATABASE_URL"))
    if not about.may_monitor:
        told = f"role {about.role} can't see standbys, old snapshots and the WAL archive: a gentle purge won't wait"
        unseen = Fact(POSTGRESQL, "warning", f"{told} for them", f"GRANT pg_monitor TO {quoted(about.role)};")
        facts.append(unseen.of_operator if about.is_operator else unseen)
    return facts


def _clock(server_time: datetime, asked: datetime, answered: datetime) -> list[Fact]:
    """The server's clock was read between the two; only the server's decides what is old."""
    apart = max(server_time - answered, asked - server_time)
    if apart <= CLOCKS_APART:
        return []
    ahead = "ahead of" if server_time > answered else "behind"
    told = f"the server's clock is {apart.total_seconds():,.1f} s {ahead} this machine's"
    return [Fact(POSTGRESQL, "note", told, "The server's decides; let NTP set both")]


async def _settings(connection: asyncpg.Connection) -> list[Fact]:
    found = await server.settings(connection, *HARMFUL)
    return [
        Fact(POSTGRESQL, "warning", f"{name} is {bad}: {harm}", f"{advice} SELECT pg_reload_conf();")
        for name, (bad, harm, advice) in HARMFUL.items()
        if found.get(name) == bad
    ]


async def _ledger(database: Database, about: About) -> list[Fact]:
    if about.may_use_schema is None:
        return [Fact(LEDGER, "fault", "there is no schema lowtide in this database", "lowtide migrate")]
    role = quoted(about.role)
    if not about.may_use_schema:
        told = f"role {about.role} may not use schema lowtide"
        return [Fact(LEDGER, "fault", told, f"{ROLES}, or GRANT USAGE ON SCHEMA lowtide TO {role};")]
    async with database.sessions.begin() as opened:
        pending = await migrate.pending(opened)
    if "lowtide" in pending:
        return [Fact(LEDGER, "fault", "is older than this program", "lowtide migrate")]
    async with database.autocommit() as connection:
        rights = await _rights(connection, role)
        workers = await _workers(connection, is_named=database.address.names_application)
    if about.is_operator and rights.word == "fault":
        rights = rights.of_operator
    return [rights, *_tasks(about, has_tables="tasks" not in pending), *workers]


async def _workers(connection: asyncpg.Connection, *, is_named: bool) -> list[Fact]:
    """With `is_named`, the URL calls all sessions alike, most likely the workers' too: nobody can tell."""
    if is_named:
        return []
    if number := await server.listeners(connection):
        return [Fact(WORKERS, "ok", f"{number:,} {'listens' if number == 1 else 'listen'} in this database")]
    told = "none seems to run: no session called lowtide listener is connected to this database"
    advice = "`lowtide worker` starts one. One whose URL has an application_name is not seen here"
    return [Fact(WORKERS, "note", told, advice)]


async def _rights(connection: asyncpg.Connection, role: str) -> Fact:
    lacking = await server.lacking(connection, NEEDED)
    grants = [f"GRANT {', '.join(rights)} ON lowtide.{table} TO {role};" for table, rights in lacking.items()]
    if await server.routines_refused(connection):
        grants.append(f"GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO {role};")
    if not grants:
        return Fact(LEDGER, "ok", "up to date, and ours to use")
    return Fact(LEDGER, "fault", f"role {role} lacks rights in schema lowtide", f"{ROLES}, or {' '.join(grants)}")


def _tasks(about: About, *, has_tables: bool) -> list[Fact]:
    if not has_tables:
        told = "not in this database: the jobs on tasks fail, policies for other tables work"
        return [Fact(TASKS, "note", told, "lowtide migrate --with-tasks makes them")]
    if not about.has_trigrams:
        told = "pg_trgm is not here, so titles and descriptions have no index for searching"
        return [Fact(TASKS, "note", told, "CREATE EXTENSION pg_trgm; and the indexes by hand")]
    return [Fact(TASKS, "ok", "up to date")]
