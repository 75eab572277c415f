"""Bring the schema up to date: branch `lowtide` (the ledger) always, branch `tasks` when asked for."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

# Any number, as long as every version of lowtide uses the same one.
MIGRATORS_LOCK = 0x6C6F_7774_6964_65


class NewerLedger(Exception):
    """A newer lowtide has migrated this database."""


@cache
def _known() -> frozenset[str]:
    """Every revision of this program."""
    return frozenset(each.revision for each in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    # Alembic reads % as the start of an interpolation; a folder may have one in its name.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


async def migrate(engine: AsyncEngine, *, with_tasks: bool) -> list[str]:
    """Apply what is missing, in one transaction; return the names of the revisions that were applied.

    Safe to repeat, and to run several times at once: the advisory lock comes before anything else, so a second
    migrator waits, and then finds nothing to do.
    Raises MisfitTables when tables of our names exist and are not ours.
    """
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL lock_timeout = 0"))
        await connection.execute(text("SET LOCAL statement_timeout = 0"))
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATORS_LOCK})
        # IF NOT EXISTS would ask for the right to create schemas even where this one is there.
        if (await connection.execute(text("SELECT to_regnamespace('lowtide')"))).scalar_one() is None:
            await connection.execute(text("CREATE SCHEMA lowtide"))
        return await connection.run_sync(_upgrade, ("lowtide", "tasks") if with_tasks else ("lowtide",))


def _upgrade(connection: Connection, branches: tuple[str, ...]) -> list[str]:
    config = _config()
    config.attributes["connection"] = connection
    before = _applied(connection)
    if newer := sorted(before - _known()):
        raise NewerLedger(f"this database has revision {newer[-1]}, which a newer lowtide has applied; use that one")
    for branch in branches:
        command.upgrade(config, f"{branch}@head")
    return sorted(_with_ancestors(_applied(connection)) - _with_ancestors(before))


def _applied(connection: Connection) -> set[str]:
    if connection.execute(text("SELECT to_regclass('lowtide.migration')")).scalar_one() is None:
        return set()
    return set(connection.execute(text("SELECT version_num FROM lowtide.migration")).scalars())


def _with_ancestors(revisions: set[str]) -> set[str]:
    """The database remembers the newest of each branch alone."""
    script = ScriptDirectory.from_config(_config())
    return {each.revision for newest in revisions for each in script.iterate_revisions(newest, "base")}


@cache
def heads() -> Mapping[str, str]:
    """The newest revision of each branch that this program knows."""
    script = ScriptDirectory.from_config(_config())
    revisions = {label: revision for revision in script.walk_revisions() for label in revision.branch_labels}
    return {label: script.get_revisions(f"{label}@head")[0].revision for label in revisions}


async def pending(session: AsyncSession) -> list[str]:
    """Branches that this database does not have in the newest revision: none, `lowtide`, `tasks` or both."""
    standing = await session.execute(text("SELECT to_regclass('lowtide.migration')"))
    if standing.scalar_one() is None:
        return ["lowtide", "tasks"]
    applied = set((await session.execute(text("SELECT version_num FROM lowtide.migration"))).scalars())
    newer = {revision.partition("_")[0] for revision in applied - _known()}  # by a newer lowtide: nothing is missing
    return [branch for branch, head in heads().items() if head not in applied and branch not in newer]
