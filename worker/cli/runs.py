"""`lowtide runs` and `lowtide show`: what the ledger says."""

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from db import runs as ledger
from jobs.catalog import PAYLOADS
from worker.cli import output, reports, session
from worker.cli.follow import follow, read


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


def runs(
    state: Annotated[State | None, typer.Option(help="Only runs in this state.")] = None,
    job: Annotated[str | None, typer.Option(help="Only runs of this job.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List runs, the newest first."""

    async def listed() -> None:
        async with session.database(session.load()) as database, database.sessions.begin() as opened:
            found = await ledger.newest(opened, state=state, job=job, most=limit, with_payload=as_json)
            along = await ledger.along(opened, [run.id for run in found])
        if not found and job is not None and job not in PAYLOADS:
            output.say(f"there is no job {job!r}; known: {', '.join(PAYLOADS)}")
        if as_json:
            output.print_json([reports.run_as_json(run) for run in found])
        elif found:
            reports.print_runs(found, along)
        else:
            output.say("no runs")

    asyncio.run(listed())


def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
    follow_it: Annotated[bool, typer.Option("--follow", help="Watch it until it has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show everything about a run."""

    async def shown() -> None:
        async with session.database(session.load()) as database:
            run = await (follow(database, run_id, tells=True) if follow_it else read(database, run_id))
            async with database.sessions.begin() as opened:
                along = await ledger.along(opened, [run_id])
        if as_json:
            output.print_json(reports.run_as_json(run))
        else:
            reports.print_run(run, along.get(run_id, 0))
        if follow_it and run.state != "succeeded":
            raise typer.Exit(1)

    asyncio.run(shown())
