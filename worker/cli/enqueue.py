"""`lowtide enqueue`: one-off work from a terminal."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from db import runs
from db.engine import Database
from jobs.catalog import PACED
from worker import wire
from worker.cli import output, payloads, reports, session
from worker.cli.follow import follow, read
from worker.cli.instants import instant


def enqueue(
    job: Annotated[str, typer.Argument(help=f"One of {payloads.JOBS}.")],
    payload: Annotated[str | None, typer.Option(help="The payload, a JSON object.")] = None,
    payload_file: Annotated[str | None, typer.Option(help="A file with the payload; - is standard input.")] = None,
    run_id: Annotated[str | None, typer.Option("--id", help="The run's id; the same id runs once.")] = None,
    not_before: Annotated[str | None, typer.Option(help="When it may start, e.g. 2026-12-24T02:30:00Z.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress; exit 0 when it succeeded, 1 if not.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> None:
    """Write a run into the ledger and wake a worker. Prints the run's id."""
    payloads.require_job(job)
    if run_id is not None and not wire.is_name(run_id):
        raise typer.BadParameter("a run id has 1 to 200 printable characters", param_hint="--id")
    checked = payloads.checked(job, payloads.text(payload, payload_file))
    asyncio.run(_enqueue(job, checked, run_id, instant(not_before, option="--not-before"), wait=wait, as_json=as_json))


async def _enqueue(
    job: str, payload: str, run_id: str | None, not_before: datetime | None, *, wait: bool, as_json: bool
) -> None:
    settings = session.load()
    async with session.database(settings) as database:
        async with database.sessions.begin() as opened:
            # A task job's payload names the actor on whose behalf it is done.
            by = session.operator() if job in PACED else None
            accepted = await runs.enqueue(opened, job=job, payload=payload, run_id=run_id, not_before=not_before, by=by)
        if not as_json:
            output.print_lines(accepted)
        due = not_before is None or not_before <= datetime.now(UTC)
        if due and (why := await session.ring(settings, accepted)):
            output.say(f"warning: {why}. The run is in the ledger; a worker finds it at its next tick.")
        await _report(database, accepted, wait=wait, as_json=as_json)


async def _report(database: Database, run_id: str, *, wait: bool, as_json: bool) -> None:
    if wait:
        run = await follow(database, run_id, tells=True)
        output.say(reports.outcome(run))
    elif not as_json:
        return
    else:
        run = await read(database, run_id)
    if as_json:
        output.print_json(reports.run_as_json(run))
    if wait and run.state != "succeeded":
        raise typer.Exit(1)
