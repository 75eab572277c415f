"""`lowtide schedules`: when policies purge by themselves; pause one, resume it, or run it now."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncSession

from db import clock, runs
from db import schedules as standing
from jobs.policies import Policy
from jobs.run import isoformat
from worker.cli import output, reports, session
from worker.cli.follow import read
from worker.schedules import JOB, next_fire_time

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
            _as_json(policy, now=now, paused=pauses.get(policy.name, now) is None)
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
def pause(policy: Name, as_json: Json = False) -> None:
    """Let the schedule make no runs until it is resumed. A run that it has made goes on."""
    by = session.operator()
    _change(policy, lambda opened: standing.pause(opened, policy, by=by), is_paused=True, as_json=as_json)


@app.command()
def resume(policy: Name, as_json: Json = False) -> None:
    """Let the schedule make runs again, from its next time on."""
    _change(policy, lambda opened: standing.resume(opened, policy), is_paused=False, as_json=as_json)


@app.command()
def run(policy: Name, as_json: Json = False) -> None:
    """Enqueue the policy's purge now, whatever its schedule says. Prints the run's id."""
    settings = session.load()
    session.policy(policy, session.policies(settings))

    async def enqueued() -> None:
        async with session.database(settings) as database:
            async with database.sessions.begin() as opened:
                payload = json.dumps({"policy": policy})
                by = session.operator()
                accepted = await runs.enqueue(opened, job=JOB, payload=payload, run_id=None, not_before=None, by=by)
            if as_json:
                output.print_json(reports.run_as_json(await read(database, accepted)))
            else:
                output.print_lines(accepted)
            if why := await session.ring(settings, accepted):
                output.say(f"warning: {why}. The run is in the ledger; a worker finds it at its next tick.")

    asyncio.run(enqueued())


def _change(name: str, change: Callable[[AsyncSession], Awaitable[None]], *, is_paused: bool, as_json: bool) -> None:
    settings = session.load()
    policy = session.policy(name, session.policies(settings))
    if policy.schedule is None:
        raise typer.BadParameter(f"policy {name!r} has no schedule", param_hint="POLICY")

    async def changed() -> None:
        async with session.database(settings) as database, database.sessions.begin() as opened:
            await change(opened)
            now = await clock.now(opened)
        if as_json:
            output.print_json(_as_json(policy, now=now, paused=is_paused))
        else:
            output.say(f"schedule of {name} is {'paused' if is_paused else 'on'}")

    asyncio.run(changed())


def _as_json(policy: Policy, *, now: datetime, paused: bool) -> dict[str, Any]:
    """Of a policy that has a schedule."""
    return {
        "policy": policy.name,
        "schedule": policy.schedule,
        "timezone": policy.timezone,
        "next": isoformat(next_fire_time(policy, now=now)),
        "paused": paused,
    }
