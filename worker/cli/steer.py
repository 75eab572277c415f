"""`lowtide pace`, `pause`, `resume`, `cancel` and `retry`: what an operator does to a run from outside."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from db import plans, runs, steering
from db.engine import Database
from db.fields import BIGINT
from db.models import Run as Ledger
from jobs.catalog import PACED
from worker.cli import output, reports, session
from worker.cli.follow import read

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
Json = Annotated[bool, typer.Option("--json", help="Print the run as JSON.")]


class PaceName(StrEnum):
    GENTLE = "gentle"
    FULL = "full"


class NotToBeSteered(Exception):
    """The run has ended, or it is not in the state that this is for."""


def pace(
    run_id: Run,
    name: Annotated[PaceName | None, typer.Argument(metavar="[gentle|full]", help="How hard it may push.")] = None,
    max_rows: Annotated[int | None, typer.Option(min=1, max=BIGINT, help="At most so many rows in all.")] = None,
    max_seconds: Annotated[int | None, typer.Option(min=1, max=10**9, help="At most so many seconds in all.")] = None,
    as_json: Json = False,
) -> None:
    """Change the pace or the limits of a run that has not ended; it follows within one batch."""
    if name is None and max_rows is None and max_seconds is None:
        raise typer.BadParameter("give gentle or full, --max-rows or --max-seconds")

    async def changed() -> None:
        async with session.database(session.load()) as database:
            async with database.sessions.begin() as opened:
                done = await steering.wish(
                    opened, run_id, jobs=PACED, pace=name, max_rows=max_rows, max_seconds=max_seconds
                )
            set_to = [f"pace {name}"] if name is not None else []
            set_to += [f"at most {output.rows(max_rows)}"] if max_rows is not None else []
            set_to += [f"at most {max_seconds:,} s"] if max_seconds is not None else []
            refused = _only_for("a purge that has not ended")
            await _report(database, run_id, done=done, refused=refused, as_json=as_json, told=", ".join(set_to))
            approved = None if max_rows is None else await _approved_rows(database, run_id)
            if max_rows is not None and approved is not None and max_rows > approved:
                output.say(
                    f"note: run {run_id} is approved for {output.rows(approved)}; more than that does not go, whatever "
                    "its limit is"
                )

    asyncio.run(changed())


async def _approved_rows(database: Database, run_id: str) -> int | None:
    """None for a run without an approval, or without a plan that is still there."""
    async with database.sessions.begin() as opened:
        run = await runs.get(opened, run_id)
        approval = None if run is None else (run.payload or {}).get("approve")
        plan = await plans.get(opened, approval) if isinstance(approval, str) else None
    return None if plan is None else int(plan.counts["going"])


def pause(run_id: Run, as_json: Json = False) -> None:
    """Stop a run where it is, within one batch; `lowtide resume` lets it go on."""
    _steer(steering.pause, run_id, refused=_only_for("a queued or a running one"), as_json=as_json)


def cancel(run_id: Run, as_json: Json = False) -> None:
    """End a run, within one batch. What its committed batches have done stays."""
    _steer(steering.cancel, run_id, refused=_only_for("one that has not ended"), as_json=as_json)


def resume(run_id: Run, as_json: Json = False) -> None:
    """Let a paused run go on where it stopped."""
    _steer(steering.resume, run_id, refused=_only_for("a paused one"), rings=True, as_json=as_json)


def retry(
    run_id: Run,
    from_start: Annotated[bool, typer.Option("--from-start", help="Forget its cursor and its counters.")] = False,
    as_json: Json = False,
) -> None:
    """Let a failed or cancelled run go on where it stopped."""
    steer = partial(steering.retry, from_start=from_start)
    _steer(steer, run_id, refused=_not_retried, rings=True, as_json=as_json)


def _not_retried(run: Ledger) -> str:
    if run.state not in {"failed", "cancelled"}:
        return _only_for("a failed or a cancelled one")(run)
    if run.payload is None:
        return f"run {run.id} ({run.job}) was refused before it was one, and has no payload. Enqueue it anew, mended"
    return (
        f"run {run.id} ({run.job}) has an approval for a number of rows, and what it has deleted counts towards that. "
        f"Leave --from-start out: it goes on where it stopped"
    )


def _only_for(wanted: str) -> Callable[[Ledger], str]:
    return lambda run: f"run {run.id} ({run.job}) is {run.state}; this is for {wanted}"


Steer = Callable[[AsyncSession, str], Awaitable[bool]]


def _steer(steer: Steer, run_id: str, *, refused: Callable[[Ledger], str], rings: bool = False, as_json: bool) -> None:
    async def steered() -> None:
        settings = session.load()
        async with session.database(settings) as database:
            async with database.sessions.begin() as opened:
                done = await steer(opened, run_id)
            if done and rings and (why := await session.ring(settings, run_id)):
                output.say(f"warning: {why}. A worker finds the run at its next tick.")
            await _report(database, run_id, done=done, refused=refused, as_json=as_json)

    asyncio.run(steered())


async def _report(
    database: Database,
    run_id: str,
    *,
    done: bool,
    refused: Callable[[Ledger], str],
    as_json: bool,
    told: str = "",
) -> None:
    """`told` is what was set, where that does not show in the run's state."""
    run = await read(database, run_id)
    if not done:
        raise NotToBeSteered(refused(run))
    if as_json:
        output.print_json(reports.run_as_json(run))
    elif told:
        output.say(f"run {run_id} ({run.state}) has {told} now")
    elif run.requested_action is None:
        later = reports.note(run) if run.state == "queued" else ""
        output.say(f"run {run_id} is {run.state}{later and ', '}{later}")
    else:
        output.say(f"run {run_id} is {run.state}; its worker has been asked to {run.requested_action} it")
