"""What a purge would do: an exact count in one snapshot. Nothing changes but the run itself."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from db import columns, estimates
from db.faults import server_message
from db.queryplans import Stated
from db.targets import Target
from jobs.failures import Refused
from jobs.queryplans import QueryPlanRefused, RightsMissing, guard
from jobs.run import Run, isoformat
from jobs.ways import choose, statements_of

LONGEST_COUNT = timedelta(minutes=30)
# Rows per second of the record in docs/benchmarks.md, rounded down, for a table that no run has purged yet.
RECORDED_SPEED = {"full": 500_000.0, "gentle": 100_000.0}


class CountTookTooLong(Refused):
    pass


async def _why_refused(connection: asyncpg.Connection, target: Target, statements: Sequence[Stated]) -> str | None:
    """Why the purge itself would not begin; None: it would."""
    try:
        async with connection.transaction():  # a savepoint: what fails in it does not end the count
            await guard(connection, target, statements)
    except (QueryPlanRefused, RightsMissing) as exc:
        return str(exc)
    return None


async def count(run: Run, target: Target, cutoff: datetime) -> dict[str, Any]:
    """On a connection of its own, read only; the heartbeat and the result go over others."""
    pace = run.wishes.pace or "full"
    async with run.database.tuned(statement_timeout=f"{LONGEST_COUNT.total_seconds():.0f}s") as connection:
        speed = await estimates.usual_speed(connection, target, pace=pace)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                table = await estimates.table(connection, target)
                eligible = await columns.eligible(connection, target, cutoff=cutoff)
                choice = await choose(connection, eligible, table)
                refused = await _why_refused(connection, target, statements_of(eligible, choice.way))
                census = await estimates.census(connection, eligible, within=2 * LONGEST_COUNT)
        except asyncpg.QueryCanceledError as exc:
            raise CountTookTooLong(
                f"counting the eligible rows of {target.name}: {server_message(exc)} (a count may take {LONGEST_COUNT})"
            ) from exc
    refusal = {} if refused is None else {"refused": refused}
    return refusal | {
        "dry_run": True,
        "purged": 0,
        "eligible": census.eligible,
        "bytes": census.bytes,
        "cutoff": isoformat(cutoff),
        "oldest": census.oldest,
        "newest": census.newest,
        "pace": pace,
        "way": choice.told,
        "seconds": round(census.eligible / (speed or RECORDED_SPEED[pace]), 1),
        "seconds_from": "the benchmark's speed" if speed is None else "the speed of earlier runs",
    }
