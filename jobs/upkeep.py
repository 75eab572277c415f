"""VACUUM after a purge, where the share of dead rows asks for it. What goes wrong with it is told, and fails nothing.

It comes after the run's last batch, at a pace that leaves the disk to others, and holds no lock that a reader or a
writer would feel. It is begun once: a run that was interrupted in it leaves the rest to autovacuum.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

import asyncpg
import structlog

from db import relations, upkeep
from db.faults import server_message
from db.partitions import NAMED
from db.targets import Target
from db.upkeep import Space
from jobs.background import alongside
from jobs.failures import LOST
from jobs.hours import OutsideHours, require_open
from jobs.policies import Policy
from jobs.run import Run

log = structlog.get_logger()

# Of a few dead rows nobody feels anything.
LEAST_DEAD_ROWS = 1000
COST_DELAY = "2ms"
LONGEST_S = 6 * 3600
LOOK_EVERY_S = 1.0
BEGUN = "vacuum"


class OutOfTime(Exception):
    """The run has taken as long as it may (max_seconds)."""


async def after_purge(run: Run, policy: Policy, *, now: Callable[[], datetime]) -> dict[str, Any] | None:
    """Vacuum what needs it of the policy's relations; return what was done, by relation, for the result.

    None where the policy never wants it, or nothing was deleted. Raises Steered and RunFenced: meanwhile the run is
    held, tells onlookers what it does, and hears its operator.
    """
    dropped = sum(rows for name, rows in run.counters.items() if name.startswith(NAMED))
    if policy.vacuum_share is None or run.rows_done == dropped:
        return None
    interrupted = BEGUN in run.cursor
    try:
        async with run.database.autocommit() as connection:
            present = await relations.all_of(connection, policy.target)
    except (asyncpg.PostgresError, *LOST) as exc:
        return {policy.target.name: _not_done(server_message(exc))}
    told = {}
    for relation in present:
        target = relation.as_target(policy.target)
        try:
            told[target.name] = await _looked_after(run, policy, target, now, interrupted=interrupted)
        except (OutsideHours, OutOfTime, asyncpg.PostgresError, *LOST) as exc:
            told[target.name] = _not_done(server_message(exc))
    return told


async def _looked_after(
    run: Run, policy: Policy, target: Target, now: Callable[[], datetime], *, interrupted: bool
) -> dict[str, Any]:
    async with run.database.autocommit() as connection:
        space = await upkeep.space(connection, target)
    if policy.vacuum_share is None or space.dead_rows < LEAST_DEAD_ROWS or space.dead_share < policy.vacuum_share:
        return _not_done(f"{space.dead_rows:,} of its rows are dead, {space.dead_share:.1%}: too few for it")
    if interrupted:
        return _not_done("interrupted: its worker stopped meanwhile; autovacuum does the rest")
    await run.keep(run.cursor | {BEGUN: target.name})
    return await _vacuumed(run, policy, target, space, now)


def _not_done(reason: str) -> dict[str, Any]:
    return {"done": False, "reason": reason}


async def _vacuumed(
    run: Run, policy: Policy, target: Target, before: Space, now: Callable[[], datetime]
) -> dict[str, Any]:
    begun = time.monotonic()
    try:
        warnings = await _held(run, policy, target, now)
    except (OutsideHours, OutOfTime, asyncpg.PostgresError, *LOST) as exc:
        warnings = [server_message(exc)]
    told: dict[str, Any] = {"done": not warnings, "seconds": round(time.monotonic() - begun, 2)}
    if warnings:
        log.warning("vacuum.not_done", run=run.id, table=target.name, why=warnings)
        told["reason"] = "; ".join(warnings)
    told["dead_share"] = round(before.dead_share, 4)
    told["before"] = asdict(before)
    try:
        async with run.database.autocommit() as connection:
            told["after"] = asdict(await upkeep.space(connection, target))
    except asyncpg.UndefinedTableError:
        told["after"] = None
    return told


async def _held(run: Run, policy: Policy, target: Target, now: Callable[[], datetime]) -> list[str]:
    """VACUUM in a task of its own; once a second the run is held, and the hours are looked at. Return its warnings."""
    heard: list[str] = []

    async def vacuum() -> None:
        heard.extend(await _vacuum(run, target))

    async with alongside(vacuum()) as vacuuming:
        while not vacuuming.done():
            require_open(policy, now=now())
            if run.out_of_time:
                raise OutOfTime(f"the run has taken its {run.wishes.max_seconds} s (max_seconds)")
            await run.tell(f"VACUUM of {target.name}, after the purge")
            await asyncio.wait([vacuuming], timeout=LOOK_EVERY_S)
        vacuuming.result()
    return heard


async def _vacuum(run: Run, target: Target) -> list[str]:
    settings = {"vacuum_cost_delay": COST_DELAY, "statement_timeout": f"{LONGEST_S}s", "client_min_messages": "warning"}
    async with run.database.tuned(**settings) as connection, _warnings(connection) as warnings:
        await upkeep.vacuum(connection, target, within_s=LONGEST_S + 60)
        await asyncio.sleep(0)  # the driver hands them over in the loop's next turn
        return list(warnings)


@asynccontextmanager
async def _warnings(connection: asyncpg.Connection) -> AsyncIterator[list[str]]:
    heard: list[str] = []

    def hear(_: object, message: asyncpg.PostgresLogMessage) -> None:
        heard.append(str(message))

    connection.add_log_listener(hear)
    try:
        yield heard
    finally:
        connection.remove_log_listener(hear)
