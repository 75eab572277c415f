"""`lowtide dev`: everything running on this machine, kept in a folder."""

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer

from db import engine
from db import migrate as migrations
from worker import process
from worker import settings as environment
from worker.cli import output
from worker.embedded import EmbeddedError, Postgres, Valkey


def dev(
    folder: Annotated[Path, typer.Option(help="Where the servers keep their data.")] = Path(".lowtide"),
) -> None:
    """Start PostgreSQL and Valkey, migrate, and run a worker, until Ctrl-C."""
    raise typer.Exit(asyncio.run(_dev(folder)))


async def _dev(folder: Path) -> int:
    async with Postgres(folder / "postgres") as postgres, Valkey(folder / "valkey") as valkey:
        database = engine.connect(postgres.url)
        await migrations.migrate(database.engine, with_tasks=True)
        await database.close()
        output.print_lines(f"LOWTIDE_DATABASE_URL={postgres.url}", f"LOWTIDE_REDIS_URL={valkey.url}")
        output.say(
            "Export these two lines in another shell to use them there. Ctrl-C stops everything; the data stays."
        )
        settings = environment.load(database_url=postgres.url, redis_url=valkey.url)
        working = asyncio.create_task(process.work(settings))
        ends = [asyncio.create_task(server.exited.wait()) for server in (postgres, valkey)]
        done, _ = await asyncio.wait([working, *ends], return_when=asyncio.FIRST_COMPLETED)
        for task in (working, *ends):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
        if working not in done:
            raise EmbeddedError(f"a server has ended by itself; its log is in {folder}")
        return working.result()
