"""The hours in which a policy may work, by the wall clock of its timezone: daylight saving moves them with it."""

import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from db import clock
from db.engine import Database
from jobs.failures import Waiting
from jobs.policies import Hours, Policy

# What tells the time from now on, without asking for it again.
Clock = Callable[[Database], Awaitable[Callable[[], datetime]]]

MINUTE = timedelta(minutes=1)
# Hours that fall into a spring night's gap open the night after; beyond that there is nothing to look for.
LONGEST_REST = timedelta(days=8)


class OutsideHours(Waiting):
    """It is not the policy's time. `opens_in` is when it is again."""

    def __init__(self, policy: Policy, hours: Hours, opens_in: timedelta) -> None:
        told = f"{hours.start:%H:%M}-{hours.end:%H:%M} {policy.timezone}"
        super().__init__(f"outside the hours {told} of policy {policy.name}")
        self.opens_in = opens_in


def is_open(hours: Hours, zone: ZoneInfo, *, now: datetime) -> bool:
    """Whether the clock on the wall shows a time of these hours. In autumn it may do so twice, in spring never.

    Hours that end when they begin are the whole day.
    """
    shown = now.astimezone(zone).time()
    if hours.start < hours.end:
        return hours.start <= shown < hours.end
    return shown >= hours.start or shown < hours.end


def next_opening(hours: Hours, zone: ZoneInfo, *, now: datetime) -> datetime:
    """The first full minute from `now` on that lies in the hours.

    Minute by minute: so nothing has to be known of gaps and of hours that come twice. A day of it takes 2 ms.
    """
    minute = now.replace(second=0, microsecond=0)
    while not is_open(hours, zone, now=minute) or minute < now:
        minute += MINUTE
        if minute - now > LONGEST_REST:
            raise ValueError(f"the hours {hours.start} to {hours.end} never come")
    return minute


def require_open(policy: Policy, *, now: datetime) -> None:
    """Raises OutsideHours."""
    if policy.hours is None:
        return
    zone = ZoneInfo(policy.timezone)
    if not is_open(policy.hours, zone, now=now):
        raise OutsideHours(policy, policy.hours, next_opening(policy.hours, zone, now=now) - now)


async def server_clock(database: Database) -> Callable[[], datetime]:
    """The database's clock, asked once: what a slice needs to know the time without asking for it."""
    async with database.sessions.begin() as session:
        told = await clock.now(session)
    asked_at = time.monotonic()
    return lambda: told + timedelta(seconds=time.monotonic() - asked_at)
