"""A policy as it stands: what its next purge would find, what the last one did, what the database has against it."""

from dataclasses import dataclass, replace

import asyncpg

from db import estimates, policyruns, relations
from db.engine import Database
from db.faults import server_message, sqlstate
from db.policyruns import LastRun
from db.targets import Target
from jobs.facts import Fact
from jobs.failures import AWAY
from jobs.inspection import GUARDED, STATEMENT_TIMEOUT, against, inspect
from jobs.policies import Broken, Policy
from jobs.survey import Survey, survey

MOST_NAMED = 5


@dataclass(frozen=True)
class Outlook:
    facts: list[Fact]
    broken: Broken | None
    survey: Survey | None  # None where it is broken
    last_run: LastRun | None = None
    index: str | None = None  # that finds its eligible rows

    @property
    def advice(self) -> list[str]:
        """What to do about what does not disable it, and will hurt."""
        hurts = [fact for fact in self.facts if fact.word == "warning" or fact.is_fault_of(*GUARDED)]
        return [f"{fact.about}: {fact}" for fact in hurts]


async def outlook(database: Database, policy: Policy) -> Outlook:
    """Raises what a lost connection raises."""
    facts = await inspect(database, policy, at_terminal=True)
    broken = against(policy, facts)
    found = Outlook(facts, broken, None if broken is not None else await survey(database, policy))
    try:
        async with database.tuned(statement_timeout=STATEMENT_TIMEOUT) as connection:
            found = replace(found, last_run=await policyruns.last(connection, policy=policy.name))
            if broken is None:
                found = replace(found, index=await _index(connection, policy.target))
    except asyncpg.PostgresError as exc:
        if str(sqlstate(exc)).startswith(AWAY):
            raise
        facts.append(Fact("last run", "warning", f"unknown: {server_message(exc)}"))
    return found


async def _index(connection: asyncpg.Connection, target: Target) -> str | None:
    """None where a relation of the table has none: an index on a table says nothing of those that inherit from it."""
    present = await relations.all_of(connection, target)
    found = [(await estimates.table(connection, relation.as_target(target))).index for relation in present]
    names = [name for name in found if name is not None]
    if len(names) < len(found):
        return None
    of_all = (await estimates.table(connection, target)).index
    return of_all or ", ".join(names[:MOST_NAMED]) or None
