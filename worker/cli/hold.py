"""`lowtide hold`: rows that must not be purged, whatever a policy says."""

import asyncio
import sys
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from db import holds
from db.engine import Database
from db.holds import Hold
from jobs.run import isoformat
from worker import settings as environment
from worker.cli import output, session
from worker.cli.instants import instant

app = typer.Typer(help="Keep rows from being purged; list what is kept, and let it go again.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(
    table: Annotated[str, typer.Option(help="The table, e.g. public.task.")],
    column: Annotated[str, typer.Option("--where-column", help="The column that tells the rows, e.g. project_id.")],
    value: Annotated[str, typer.Option(help="Its value in the rows that must not be purged.")],
    reason: Annotated[str, typer.Option(help="Why, for whoever asks later.")],
    until: Annotated[str | None, typer.Option(help="When it ends by itself, e.g. 2030-12-31T00:00:00Z.")] = None,
) -> None:
    """Keep rows from being purged, from the moment this returns. Prints the hold's id."""
    ends = instant(until, option="--until")

    async def added() -> None:
        async with session.database(session.load()) as database:
            async with database.sessions.begin() as opened:
                hold_id = await holds.add(
                    opened, table=table, column=column, value=value, reason=reason, until=ends, by=_operator()
                )
            output.print_lines(str(hold_id))
            output.say(await _protects(database, hold_id, table, column))

    asyncio.run(added())


async def _protects(database: Database, hold_id: int, table: str, column: str) -> str:
    async with database.sessions.begin() as opened:
        place = await holds.place(opened, table=table, column=column)
        rows = await holds.protected(opened, hold_id, place)
    if rows is None:
        return f"hold {hold_id} is in force; how many rows it is over took too long to count"
    counted = f"{rows:,} or more rows" if rows == holds.MOST_COUNTED else f"{rows:,} {'row' if rows == 1 else 'rows'}"
    return f"hold {hold_id} is in force; it is over {counted} of {place.name} now"


@app.command("list")
def list_them(
    everything: Annotated[bool, typer.Option("--all", help="Expired and released ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List the holds in force, the newest first."""

    async def listed() -> None:
        async with session.database(session.load()) as database, database.sessions.begin() as opened:
            found = await holds.all(opened, ended=everything)
        if as_json:
            output.print_json([_as_json(hold) for hold in found])
        elif found:
            _print(list(found))
        else:
            output.say("no holds")

    asyncio.run(listed())


@app.command()
def release(
    hold_id: Annotated[int, typer.Argument(metavar="ID", min=1, help="The hold's id.")],
    reason: Annotated[str, typer.Option(help="Why, for whoever asks later.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """End a hold: its rows may be purged again. It stays on record."""
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("rows may be purged after this; without a terminal to ask at, add --yes")
    if not yes:
        typer.confirm(f"Rows of hold {hold_id} may be purged after this. Release it?", abort=True, err=True)

    async def released() -> None:
        async with session.database(session.load()) as database, database.sessions.begin() as opened:
            await holds.release(opened, hold_id, reason=reason, by=_operator())
        output.say(f"hold {hold_id} is released")

    asyncio.run(released())


def _operator() -> str:
    return f"operator:{environment.operator_name()}"


def _as_json(hold: Hold) -> dict[str, Any]:
    """Every field, instants in ISO 8601."""
    return {name: isoformat(value) if isinstance(value, datetime) else value for name, value in asdict(hold).items()}


def _print(found: list[Hold]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("HOLD", "TABLE", "COLUMN", "VALUE", "STATE", "UNTIL", "PLACED", "BY", "REASON"):
        table.add_column(column, no_wrap=True)
    for hold in found:
        until = "" if hold.until is None else f"{hold.until:%Y-%m-%d %H:%M}"
        name = (
            hold.table_name
            if hold.present_name in {hold.table_name, None}
            else f"{hold.table_name} (on {hold.present_name})"
        )
        cells = (str(hold.id), name, hold.column_name, hold.value, hold.state, until)
        told = (f"{hold.placed_at:%Y-%m-%d %H:%M}", hold.placed_by, hold.reason)
        table.add_row(*(output.plain(" ".join(cell.split())) for cell in (*cells, *told)))
    output.print_table(table)
