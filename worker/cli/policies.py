"""`lowtide policies`: each retention rule, what its next purge would find, and what stands against it."""

import asyncio
import math
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from db import clock
from db import schedules as standing
from jobs.outlook import Outlook, outlook
from jobs.policies import Broken, Policy, in_words
from jobs.run import isoformat
from jobs.survey import MOST_ROWS
from worker.cli import output, session
from worker.schedules import next_fire_time

UNKNOWN: dict[str, Any] = dict.fromkeys(
    (
        *("table", "column", "where", "keep", "schedule", "timezone", "next_run", "paused", "eligible"),
        *("eligible_or_more", "oldest_eligible_s", "last_run", "index"),
    )
)


def policies(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False) -> None:
    """List the policies: eligible rows now, last and next run, index, advice. Exit 1 where one is disabled."""
    settings = session.load()
    known = session.policies(settings)

    async def listed() -> list[dict[str, Any]]:
        async with session.database(settings) as database:
            async with database.sessions.begin() as opened:
                now, pauses = await clock.now(opened), await standing.pauses(opened)
            found = [_shown(policy, await outlook(database, policy), now=now, pauses=pauses) for policy in known.valid]
        return found + [_broken(broken) for broken in known.broken]

    found = asyncio.run(listed())
    if as_json:
        output.print_json(found)
    else:
        for each in found:
            output.print_lines(*_lines(each))
    if any(each["disabled"] is not None for each in found):
        raise typer.Exit(1)


def _shown(policy: Policy, found: Outlook, *, now: datetime, pauses: dict[str, datetime | None]) -> dict[str, Any]:
    overdue = None if found.survey is None else found.survey.overdue
    advice = found.advice
    if found.survey is not None and found.survey.why_unknown is not None:
        advice = [*advice, f"eligible rows are unknown: {found.survey.why_unknown}"]
    return {
        "name": policy.name,
        "disabled": None if found.broken is None else found.broken.reason,
        "table": policy.target.name,
        "column": policy.target.column,
        "where": policy.target.where,
        "keep": in_words(policy.keep),
        "schedule": policy.schedule,
        "timezone": policy.timezone,
        "next_run": None if policy.schedule is None else isoformat(next_fire_time(policy, now=now)),
        "paused": policy.schedule is not None and pauses.get(policy.name, now) is None,
        "eligible": None if overdue is None else overdue.rows,
        "eligible_or_more": overdue is not None and overdue.rows >= MOST_ROWS,
        "oldest_eligible_s": None if overdue is None else _finite(overdue.oldest_age_s),
        "last_run": None
        if found.last_run is None
        else {
            "id": found.last_run.id,
            "state": found.last_run.state,
            "at": isoformat(found.last_run.at),
            "rows": found.last_run.rows,
            "way": found.last_run.way,
        },
        "index": found.index,
        "advice": advice,
    }


def _finite(age_s: float) -> float | str:
    """JSON has no infinity, which is the age of a row from `-infinity`."""
    return round(age_s, 1) if math.isfinite(age_s) else "infinity"


def _broken(broken: Broken) -> dict[str, Any]:
    table = None if broken.table is None else ".".join(broken.table)
    return UNKNOWN | {"name": broken.name, "disabled": broken.reason, "table": table, "advice": []}


def _lines(each: dict[str, Any]) -> list[str]:
    lines = [output.printable(each["name"])]
    if each["disabled"] is not None:
        lines.append(f"  disabled   {output.printable(each['disabled'])}")
    if each["column"] is not None:
        where = "" if each["where"] is None else f" where {each['where']}"
        rule = f"{each['table']}.{each['column']}, kept {each['keep']}{where}"
        lines.append(f"  rule       {output.printable(rule)}")
        lines += [f"  eligible   {_eligible(each)}", f"  last run   {_last(each['last_run'])}"]
        lines += [f"  next run   {_next(each)}", f"  index      {output.printable(each['index'] or 'none')}"]
    return [*lines, *(f"  advice     {output.printable(told)}" for told in each["advice"]), ""]


def _eligible(each: dict[str, Any]) -> str:
    if each["eligible"] is None:
        return "unknown"
    rows = f"{output.rows(each['eligible'])}{' or more' if each['eligible_or_more'] else ''}"
    age = each["oldest_eligible_s"]
    if not each["eligible"]:
        return rows
    return f"{rows}, the oldest {'from before all dates' if age == 'infinity' else f'{_age(age)} old'}"


def _age(seconds: float) -> str:
    hours = timedelta(hours=seconds // 3600)
    return in_words(hours if hours < timedelta(days=2) else timedelta(days=hours.days))


def _last(run: dict[str, Any] | None) -> str:
    if run is None:
        return "none yet"
    way = "" if run["way"] is None else f", by {output.printable(run['way'])}"
    return f"{run['state']} at {run['at']}: {output.rows(run['rows'])}{way} ({output.printable(run['id'])})"


def _next(each: dict[str, Any]) -> str:
    if each["schedule"] is None:
        return "only when asked for"
    told = f"{each['next_run']} ({each['schedule']}, {each['timezone']})"
    return f"paused, else {told}" if each["paused"] else told
