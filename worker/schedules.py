"""Schedules: when a policy's purge is due by the clock. The ledger makes each fire time one run over all workers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from cronsim import CronSim

from db import clock, runs
from db import schedules as standing
from db.engine import Database
from db.refusals import Conflict
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
# What was missed longer ago is not told.
TOLD = timedelta(days=1)
JOB = "purge-old-deleted"


@dataclass(frozen=True)
class FireTime:
    policy: Policy
    at: datetime

    @property
    def run_id(self) -> str:
        return f"schedule:{self.policy.name}:{isoformat(self.at)}"

    def is_paused(self, pauses: Mapping[str, datetime | None]) -> bool:
        """Whether its schedule is paused, or was when this time came."""
        if self.policy.name not in pauses:
            return False
        resumed = pauses[self.policy.name]
        return resumed is None or self.at <= resumed


def last_fire_time(policy: Policy, *, now: datetime) -> FireTime | None:
    """The newest fire time at or before `now`, if it is not too late for it; in UTC."""
    return _newest(policy, since=now - LATEST, now=now)


def _newest(policy: Policy, *, since: datetime, now: datetime) -> FireTime | None:
    if policy.schedule is None:
        return None
    newest = None
    for instant in _fire_times(policy, policy.schedule, after=since):
        if instant > now:
            break
        newest = FireTime(policy, instant)
    return newest


def _fire_times(policy: Policy, schedule: str, *, after: datetime) -> Iterator[datetime]:
    """In UTC, from the first one after `after` on. Forward: cronsim knows what daylight saving does to a local time.

    Of an hour that autumn repeats it takes the first one, also where `after` is in the second: what it then tells for a
    time that has been is left out.
    """
    for local in CronSim(schedule, after.astimezone(ZoneInfo(policy.timezone))):
        if (instant := local.astimezone(UTC)) > after:
            yield instant


def next_fire_time(policy: Policy, *, now: datetime) -> datetime:
    """The first fire time after `now`, in UTC, of a policy that has a schedule."""
    if policy.schedule is None:
        raise ValueError(f"policy {policy.name} has no schedule")
    return next(_fire_times(policy, policy.schedule, after=now))


async def fire(database: Database, policies: tuple[Policy, ...]) -> list[str]:
    """Write the runs that are due by the database's clock into the ledger; return the ids of the new ones."""
    async with database.sessions.begin() as session:
        now = await clock.now(session)
        found = [fired for policy in policies if (fired := last_fire_time(policy, now=now)) is not None]
        pauses = await standing.pauses(session) if found else {}
        due = [
            fired
            for fired in found
            if not fired.is_paused(pauses)
            and (now - fired.at < ON_TIME or await standing.was_in_use(session, at=fired.at))
        ]
    return [fired.run_id for fired in due if await _accept(database, fired)]


async def tell_missed(database: Database, policies: tuple[Policy, ...]) -> list[FireTime]:
    """Log the fire times of the last day that nobody saw and that it is too late for by now; return them."""
    async with database.sessions.begin() as session:
        now = await clock.now(session)
        pauses = await standing.pauses(session)
        missed = []
        for policy in policies:
            found = _newest(policy, since=now - TOLD, now=now)
            if found is None or now - found.at < LATEST or found.is_paused(pauses):
                continue
            if await standing.was_in_use(session, at=found.at) and not await standing.has_run(session, found.run_id):
                missed.append(found)
    for found in missed:
        log.warning("schedule.missed", policy=found.policy.name, at=isoformat(found.at), now=isoformat(now))
    return missed


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
