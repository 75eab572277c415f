"""`lowtide schedules`: when policies purge by themselves; pause one, resume it, or run it now."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncSession

from db import clock, runs
from db import schedules as standing
from jobs.failures import NotFound
from jobs.policies import Policy
from jobs.purge_payload import PurgeOldDeleted, policy_for
from jobs.run import isoformat
from worker import settings as environment
from worker.cli import output, session
from worker.schedules import JOB, next_fire_time
from worker.settings import Settings

app = typer.Typer(help="When policies purge by themselves; pause one, resume it, or run it now.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="POLICY", help="The policy's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_them(as_json: Json = False) -> None:
    """List the policies that have a schedule, with the next time and whether it is paused."""

    settings = session.load()
    policies = session.policies(settings)

    async def listed() -> None:
        async with session.database(settings) as database, database.sessions.begin() as opened:
            now, pauses = await clock.now(opened), await standing.pauses(opened)
        found = [
            {
                "policy": policy.name,
                "schedule": policy.schedule,
                "timezone": policy.timezone,
                "next": isoformat(next_fire_time(policy, now=now)),
                "paused": pauses.get(policy.name, now) is None,
            }
            for policy in policies.every
            if policy.schedule is not None
        ]
        for broken in policies.broken:
            output.say(f"disabled: {broken}")
        if as_json:
            output.print_json(found)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("POLICY", "SCHEDULE", "ZONE", "NEXT", "PAUSED"):
            table.add_column(column, no_wrap=True)
        for each in found:
            table.add_row(*(str(value) for value in list(each.values())[:-1]), "yes" if each["paused"] else "no")
        output.print_table(table)

    asyncio.run(listed())


@app.command()
def pause(policy: Name) -> None:
    """Let the schedule make no runs until it is resumed. A run that it has made goes on."""
    by = f"operator:{environment.operator_name()}"
    _change(policy, lambda opened: standing.pause(opened, policy, by=by), done="paused")


@app.command()
def resume(policy: Name) -> None:
    """Let the schedule make runs again, from its next time on."""
    _change(policy, lambda opened: standing.resume(opened, policy), done="on")


@app.command()
def run(policy: Name) -> None:
    """Enqueue the policy's purge now, whatever its schedule says. Prints the run's id."""
    settings = session.load()
    _known(policy, settings)

    async def enqueued() -> None:
        async with session.database(settings) as database:
            async with database.sessions.begin() as opened:
                payload = json.dumps({"policy": policy})
                accepted = await runs.enqueue(opened, job=JOB, payload=payload, run_id=None, not_before=None)
            output.print_lines(accepted)
            if why := await session.ring(settings, accepted):
                output.say(f"warning: {why}. The run is in the ledger; a worker finds it at its next tick.")

    asyncio.run(enqueued())


def _change(policy: str, change: Callable[[AsyncSession], Awaitable[None]], *, done: str) -> None:
    settings = session.load()
    if _known(policy, settings).schedule is None:
        raise typer.BadParameter(f"policy {policy!r} has no schedule")

    async def changed() -> None:
        async with session.database(settings) as database, database.sessions.begin() as opened:
            await change(opened)
        output.say(f"schedule of {policy} is {done}")

    asyncio.run(changed())


def _known(name: str, settings: Settings) -> Policy:
    """Raises PolicyBroken."""
    policies = session.policies(settings)
    try:
        return policy_for(PurgeOldDeleted(policy=name), policies.every, policies.disabled())
    except (NotFound, ValidationError) as exc:
        known = ", ".join(policy.name for policy in policies.every)
        raise typer.BadParameter(f"there is no policy {name!r}; known: {known}") from exc
