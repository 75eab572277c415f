"""What a policy's next purge would find, seen in passing: bounded in rows and in time, and never by reading a table."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from db import estimates, relations, surveys
from db.engine import Database
from db.faults import server_message
from db.targets import Eligible
from jobs.failures import Refused
from jobs.policies import Policy
from jobs.queryplans import SMALL_BLOCKS
from jobs.scopes import Scopes

MOST_ROWS = 1_000_000
# Each is a dozen questions to the catalog. What of more is held or blocked takes too long to be told every 5 minutes.
MOST_RELATIONS = 100
# For each question. What an index that is not cached can't say in that time stays unknown.
STATEMENT_TIMEOUT = "2s"


@dataclass(frozen=True)
class Overdue:
    """Rows that a purge would delete now."""

    rows: int  # MOST_ROWS means: that many or more
    oldest_age_s: float  # since the date in the oldest row's column; 0 where no row is eligible


@dataclass(frozen=True)
class Survey:
    overdue: Overdue | None  # None: unknown, and `why_unknown` says why
    last_success: datetime | None
    why_unknown: str | None = None


async def survey(
    database: Database, policy: Policy, *, most_rows: int = MOST_ROWS, statement_timeout: str = STATEMENT_TIMEOUT
) -> Survey:
    """Raises what a lost connection raises; what the server has against a question is in the survey."""
    async with database.tuned(statement_timeout=statement_timeout, enable_seqscan="off") as connection:
        overdue, last_success, why = None, None, None
        try:
            last_success = await surveys.last_success(connection, policy=policy.name)
            why = await _why_unread(connection, policy)
            if why is None:
                overdue = await _overdue(connection, policy, most_rows)
        except asyncpg.PostgresError as exc:
            why = server_message(exc)
    return Survey(overdue, last_success, why)


async def _why_unread(connection: asyncpg.Connection, policy: Policy) -> str | None:
    """What only reading much of a table would tell, and what to do. A partitioned table has no blocks of its own."""
    unindexed = 0
    for relation in await relations.all_of(connection, policy.target):
        if (told := relations.no_table(relation.kind)) is not None:
            return f"{relation.name} {told[0]}"
        own = relation.as_target(policy.target)
        table = await estimates.table(connection, own)
        unindexed += table.blocks if table.index is None else 0
        if unindexed > SMALL_BLOCKS:
            return f"no index finds them; {own.wanted_index}"
    return None


async def _overdue(connection: asyncpg.Connection, policy: Policy, most_rows: int) -> Overdue:
    """Without the rows that are held or blocked; with them, where those can't be told from the others in time."""
    cutoff = await estimates.cutoff(connection, keep=policy.keep)
    scopes = Scopes(policy, cutoff)
    whole = await scopes.whole(connection)
    try:
        return await _counted(connection, await _unkept(connection, scopes) or [whole], most_rows)
    except (Refused, asyncpg.PostgresError):  # children that nobody declared, a child without an index, a right
        return await _counted(connection, [whole], most_rows)


async def _unkept(connection: asyncpg.Connection, scopes: Scopes) -> list[Eligible]:
    """Of each relation by itself, as the purge has them; empty where there is none, or there are too many."""
    present = await relations.all_of(connection, scopes.policy.target)
    if len(present) > MOST_RELATIONS:
        return []
    return [(await scopes.of(connection, relation)).at_most.eligible for relation in present]


async def _counted(connection: asyncpg.Connection, eligible: list[Eligible], most_rows: int) -> Overdue:
    oldest = await surveys.oldest_age_s(connection, eligible)
    rows = await surveys.count(connection, eligible, most=most_rows)
    return Overdue(rows, 0.0 if oldest is None else oldest)
