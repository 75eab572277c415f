"""Schedules: when a policy's purge is due by the clock. The ledger makes each fire time one run over all workers."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from cronsim import CronSim

from db import clock, runs
from db.engine import Database
from db.faults import Conflict
from jobs.policies import Policy
from jobs.run import isoformat
from worker import wire

log = structlog.get_logger()

# A fire time that no worker saw is made up for within this time, and skipped after it: a purge that was meant for the
# night should not start in the morning.
LATEST = timedelta(hours=1)
# Later than this, it is made up for only where lowtide was in use at that time: the first start of a new installation
# missed nothing, and must not purge at once.
ON_TIME = timedelta(minutes=1)
JOB = "purge-old-deleted"


@dataclass(frozen=True)
class FireTime:
    policy: Policy
    at: datetime

    @property
    def run_id(self) -> str:
        return f"schedule:{self.policy.name}:{isoformat(self.at)}"


def last_fire_time(policy: Policy, *, now: datetime) -> FireTime | None:
    """The newest fire time at or before `now`, if it is not too late for it; in UTC."""
    if policy.schedule is None:
        return None
    zone = ZoneInfo(policy.timezone)
    newest = None
    # From a moment before the horizon, forward: cronsim knows what daylight saving does to a local time.
    for local in CronSim(policy.schedule, (now - LATEST).astimezone(zone)):
        if local > now:
            break
        newest = FireTime(policy, local.astimezone(UTC))
    return newest


async def fire(database: Database, policies: tuple[Policy, ...]) -> list[str]:
    """Write the runs that are due by the database's clock into the ledger; return the ids of the new ones."""
    async with database.sessions.begin() as session:
        now = await clock.now(session)
        found = [fired for policy in policies if (fired := last_fire_time(policy, now=now)) is not None]
        due = [fired for fired in found if now - fired.at < ON_TIME or await runs.was_in_use(session, at=fired.at)]
    return [fired.run_id for fired in due if await _accept(database, fired)]


async def _accept(database: Database, found: FireTime) -> bool:
    """In a transaction of its own, so that one policy never stops another."""
    try:
        async with database.sessions.begin() as session:
            is_new = await runs.accept(
                session,
                job=JOB,
                payload=wire.serialize({"policy": found.policy.name}).decode(),
                run_id=found.run_id,
                requested_by=f"schedule:{found.policy.name}",
                scheduled_for=found.at,
            )
    except Conflict:
        return False  # somebody has taken the id for other work; the first stands
    if is_new:
        log.info("schedule.fired", run=found.run_id)
    return is_new
