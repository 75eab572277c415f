"""`lowtide migrate`: bring the schema up to date."""

import asyncio
from typing import Annotated

import typer

from db import migrate as migrations
from db import trigrams
from worker.cli import output, session


def migrate(
    with_tasks: Annotated[bool, typer.Option("--with-tasks", help="The task tables too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was applied as a JSON list.")] = False,
) -> None:
    """Create or update schema lowtide. Safe to repeat, and to run several times at once."""

    async def migrated() -> None:
        async with session.database(session.load(), ledger=False) as database:
            applied = await migrations.migrate(database.engine, with_tasks=with_tasks)
            async with database.autocommit() as connection:
                missing = await trigrams.missing(connection) if with_tasks else None
        if as_json:
            output.print_json(applied)
        else:
            output.say(f"applied: {', '.join(applied)}" if applied else "up to date")
        if missing is not None:
            output.say(missing)

    asyncio.run(migrated())
