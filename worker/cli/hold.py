"""`lowtide hold`: rows that must not be purged, whatever a policy says."""

import asyncio
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from db import holds
from db.fields import BIGINT
from db.holds import Hold
from jobs import tablenames
from jobs.run import isoformat
from worker.cli import ask, output, session
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
    as_json: Json = False,
) -> None:
    """Keep rows from being purged, from the moment this returns. Prints the hold's id."""
    ends, table = instant(until, option="--until"), tablenames.unquoted(table)

    async def added() -> None:
        async with session.database(session.load()) as database:
            async with database.sessions.begin() as opened:
                hold_id = await holds.add(
                    opened, table=table, column=column, value=value, reason=reason, until=ends, by=session.operator()
                )
            if not as_json:
                output.print_lines(str(hold_id))  # at once: the hold stands, however long the count takes
            async with database.sessions.begin() as opened:
                place = await holds.place(opened, table=table, column=column)
                rows, hold = await holds.protected(opened, hold_id, place), await holds.get(opened, hold_id)
            if as_json:
                output.print_json(_as_json(hold) | _counted(rows))
            else:
                output.say(f"hold {hold_id} is in force; {_protects(rows, place.name)}")

    asyncio.run(added())


def _protects(rows: int | str, name: str) -> str:
    if isinstance(rows, str):
        return f"how many rows of {name} it is over can't be counted: {rows}"
    counted = f"{rows:,} or more rows" if rows == holds.MOST_COUNTED else output.rows(rows)
    return f"it is over {counted} of {name} now"


def _counted(rows: int | str) -> dict[str, Any]:
    if isinstance(rows, str):
        return {"rows": None, "rows_or_more": False, "rows_unknown": rows}
    return {"rows": rows, "rows_or_more": rows == holds.MOST_COUNTED, "rows_unknown": None}


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
    hold_id: Annotated[int, typer.Argument(metavar="ID", min=1, max=BIGINT, help="The hold's id.")],
    reason: Annotated[str, typer.Option(help="Why, for whoever asks later.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: Json = False,
) -> None:
    """End a hold: its rows may be purged again. It stays on record."""
    ask.require_somebody(yes=yes, about=f"rows of hold {hold_id} may be purged after this")
    if not ask.is_agreed(f"Rows of hold {hold_id} may be purged after this. Release it?", yes=yes):
        output.say("nothing was changed")
        raise typer.Exit(1)

    async def released() -> None:
        async with session.database(session.load()) as database, database.sessions.begin() as opened:
            await holds.release(opened, hold_id, reason=reason, by=session.operator())
            hold = await holds.get(opened, hold_id)
        if as_json:
            output.print_json(_as_json(hold))
        else:
            output.say(f"hold {hold_id} is released")

    asyncio.run(released())


def _as_json(hold: Hold) -> dict[str, Any]:
    """Every field, instants in ISO 8601."""
    return {name: isoformat(value) if isinstance(value, datetime) else value for name, value in asdict(hold).items()}


def _print(found: list[Hold]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("HOLD", "TABLE", "COLUMN", "VALUE", "STATE", "UNTIL (UTC)", "PLACED (UTC)", "BY", "REASON"):
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
