"""Whether a policy's `epoch` is the unit that its column counts in. With a wrong one every row may look old.

Only the newest value is looked at: a table that is still written to has one near today. One that reads as long ago is
left alone, unless another unit puts it near today.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from db import estimates, relations
from db.newest import Newest, newest
from db.relations import ORDINARY
from db.targets import EARLIEST_S, LATEST_S, PER_SECOND, Epoch, Target
from jobs.facts import Fact
from jobs.failures import Refused, is_passing
from jobs.policies import Policy
from jobs.queryplans import SMALL_BLOCKS
from jobs.run import Run

# What reads as a time before or after these is no time of a table that is in use.
EARLIEST, LATEST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
NEAR = timedelta(days=10 * 365)
SECONDS_A_YEAR = 31_556_952
LONGEST_LOOK = "2s"


class WrongEpoch(Refused):
    """In the policy's unit the column's newest value is far from any time that makes sense, in another it is near."""


@dataclass(frozen=True)
class Misread:
    """A newest value, and the unit that fits it better than the policy's."""

    newest: int
    unit: Epoch
    fitting: Epoch

    def told(self, target: Target) -> str:
        return (
            f"the newest value of {target.name}.{target.column} is {self.newest}: in {self.unit} that is "
            f"{_in_words(self.newest, self.unit)}, in {self.fitting} {_in_words(self.newest, self.fitting)}"
        )

    @property
    def advice(self) -> str:
        return f'Write epoch = "{self.fitting}" in the policy'


def misread(value: int, unit: Epoch, *, now: datetime) -> Misread | None:
    """None where the policy's unit makes sense of it, or no other does."""
    if EARLIEST.timestamp() <= value / PER_SECOND[unit] <= LATEST.timestamp():
        return None
    for other, per_second in PER_SECOND.items():
        if abs(value / per_second - now.timestamp()) <= NEAR.total_seconds():
            return Misread(value, unit, other)
    return None


async def look(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    """Nothing where it is unknown."""
    target = policy.target
    if target.epoch is None:
        return []
    found = await _newest(connection, target)
    if found.value is None:
        return []
    wrong = misread(found.value, target.epoch, now=found.now)
    if wrong is not None:
        return [Fact("epoch", "fault", wrong.told(target), wrong.advice)]
    return [Fact("epoch", "ok", f"the newest value reads as {_in_words(found.value, target.epoch)}")]


async def require_fit(run: Run, policy: Policy) -> None:
    """Raises WrongEpoch, and what a lost connection raises. What can't be told in its time is no reason to refuse."""
    if policy.target.epoch is None:
        return
    try:
        async with run.database.tuned(statement_timeout=LONGEST_LOOK, enable_seqscan="off") as connection:
            facts = await look(connection, policy)
    except asyncpg.PostgresError as exc:
        if is_passing(exc):
            raise
        return
    for fact in facts:
        if fact.word == "fault":
            gone = f"{run.rows_done:,} rows are gone, and no more go" if run.rows_done else "Nothing was deleted"
            raise WrongEpoch(f"{fact.told}. {gone}. {fact.advice}, and restart the workers")


async def _newest(connection: asyncpg.Connection, target: Target) -> Newest:
    read: list[Target] = []
    seen: list[Target] = []
    for relation in await relations.all_of(connection, target):
        if relation.kind == ORDINARY:
            own = relation.as_target(target)
            table = await estimates.table(connection, own)
            is_quick = table.index is not None or table.blocks <= SMALL_BLOCKS
            (read if is_quick else seen).append(own)
    return await newest(connection, read=read, seen=seen)


def _in_words(value: int, unit: Epoch) -> str:
    seconds = value / PER_SECOND[unit]
    if EARLIEST_S <= seconds <= LATEST_S:
        return str((datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).date())
    return f"the year {1970 + seconds / SECONDS_A_YEAR:,.0f}"
