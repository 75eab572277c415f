"""`lowtide audit`: what was purged, by whom, under which rule; and who placed and released holds."""

import asyncio
import contextlib
import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from db import audit as entries
from db.audit import Entry
from db.trees import CHILD
from jobs import tablenames
from jobs.policyfile import PolicyFileBroken
from jobs.run import isoformat
from worker.cli import output, reports, session
from worker.cli.instants import instant
from worker.settings import Settings

HASH_SHOWN = 12


def audit(
    policy: Annotated[str | None, typer.Option(help="Only of this policy.")] = None,
    table: Annotated[str | None, typer.Option(help="Only of this table, e.g. public.task.")] = None,
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from then on, e.g. 2026-01-01T00:00:00Z.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List what was purged, by whom, under which rule, the newest first."""
    begins = instant(since, option="--since")
    table = None if table is None else tablenames.recorded(table)

    async def listed() -> None:
        settings = session.load()
        async with session.database(settings) as database, database.sessions.begin() as opened:
            found = await entries.newest(opened, policy=policy, table=table, run=run, since=begins, most=limit)
            unknown = [] if found else _unknown(settings, await entries.names(opened), policy, table)
        for told in unknown:
            output.say(told)
        if as_json:
            output.print_json([_as_json(entry) for entry in found])
        elif found:
            _print(list(found))
        else:
            output.say("nothing is on record")

    asyncio.run(listed())


def _unknown(
    settings: Settings, recorded: tuple[set[str], set[str]], policy: str | None, table: str | None
) -> list[str]:
    """What was asked about that neither the policy file knows nor the audit: a slip of the pen, most likely."""
    policies, tables = recorded
    with contextlib.suppress(PolicyFileBroken):  # then the audit alone says what there is
        every = session.policies(settings).every
        policies, tables = policies | {each.name for each in every}, tables | {each.target.name for each in every}
    told = []
    if policy is not None and policy not in policies:
        told.append(f"there is no policy {policy!r}; known: {', '.join(sorted(policies))}")
    if table is not None and table not in tables:
        told.append(f"there is no policy for table {table!r}; known tables: {', '.join(sorted(tables))}")
    return told


def _as_json(entry: Entry) -> dict[str, Any]:
    """Every field, instants in ISO 8601."""
    return {name: isoformat(value) if isinstance(value, datetime) else value for name, value in asdict(entry).items()}


def _print(found: list[Entry]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("AT (UTC)", "EVENT", "TABLE", "POLICY", "RULE", "RUN", "REQUESTED BY", "ROLE", "WHAT"):
        table.add_column(column, no_wrap=True)
    for entry in found:
        cells = (entry.table_name, entry.policy, (entry.policy_sha256 or "")[:HASH_SHOWN], entry.run)
        who = (entry.requested_by, entry.role, _what(entry))
        at = f"{entry.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(*(output.plain(" ".join((cell or "").split())) for cell in (at, entry.event, *cells, *who)))
    output.print_table(table)


def _what(entry: Entry) -> str:
    """The one thing worth knowing of it, in a line."""
    told = entry.detail
    match entry.event:
        case "begin":
            found = told.get("range", {})
            return f"{found.get('column')} from {found.get('from') or '?'} to before {found.get('before')}"
        case "end":
            along = reports.went_along(_along(told))
            return ", ".join(filter(None, (told.get("state"), output.rows(told.get("purged", 0)), along)))
        case "approve":
            going, until = output.rows(told.get("going", 0)), told.get("approval_until")
            return f"plan {told.get('plan')} may go: {going} at most, begun before {until}"
        case "hold" | "release":
            return f"hold {told.get('hold')}: {told.get('column')} = {told.get('value')}: {told.get('reason')}"
    return json.dumps(told, ensure_ascii=False)


def _along(told: dict[str, Any]) -> int:
    """Rows of other tables: by name in a result, among the counters of a run that has none."""
    counters = told.get("counters") or {}
    named = told.get("children") or {key: rows for key, rows in counters.items() if key.startswith(CHILD)}
    return sum(named.values())
