"""`lowtide worker`: consume."""

import asyncio
from typing import Annotated

import typer

from worker import process, telemetry
from worker.cli import session


def worker(
    burst: Annotated[bool, typer.Option("--burst", help="End when nothing is due; exit 1 if a run failed.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log each batch.")] = False,
) -> None:
    """Consume runs until SIGTERM, which ends the open batch and hands the runs back."""
    telemetry.configure(verbose=verbose)
    raise typer.Exit(asyncio.run(process.work(session.load(), burst=burst)))
