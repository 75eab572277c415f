"""The blast radius: whether a purge would delete more than a mistake may.

Two rules, and both let anything below 10,000 rows pass. Only exact counts decide, each bounded by what its rule needs
to know; the planner's estimates say at most how far to count. They were tried as evidence, with a margin and with
every row counted that was changed since the last ANALYZE: PostgreSQL's counter of changes lags by seconds, and a purge
right after a wrong UPDATE went through.
"""

import math
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg

from db import blast, estimates
from db.engine import Database
from db.faults import sqlstate, without_values
from db.targets import Target
from jobs.background import alongside
from jobs.commands import line, lowtide
from jobs.failures import Refused, is_passing
from jobs.policies import Policy
from jobs.run import Run
from jobs.scopes import Scope, Scopes

LEAST_ROWS = 10_000
# More than so many times what the last runs deleted is no ordinary night. Fewer runs than three have no usual size.
TIMES_THE_USUAL = 3
LAST_RUNS, FEWEST_RUNS = 7, 3
# Below the five minutes and a half after which a connection that does not answer is given up.
LONGEST_COUNT = timedelta(minutes=5)
# The table is counted at the same time as the eligible rows, by an estimate of what will be needed. Further off than
# so, it is counted anew.
AMPLE, FAR_OFF = 1.1, 4
# Both counts have a backend of their own already.
SERIAL = {"max_parallel_workers_per_gather": "0"}


class TooMuchWouldGo(Refused):
    """The purge would delete more than the policy lets go without an approval."""


class CountFailed(Refused):
    """What a purge would delete, or how large its table is, could not be counted: nothing is guessed."""


async def weigh(run: Run, scopes: Scopes, *, most: float) -> None:
    """Raises TooMuchWouldGo where a run of at most so many rows (infinite: without a limit) would delete too much,
    and CountFailed. What it has deleted already counts."""
    if most < LEAST_ROWS:
        return
    policy, done, left = scopes.policy, run.rows_done, most - run.rows_done
    counting = _Counting(run.database, policy)
    # Few rows are found by the index, whatever the statistics say of them.
    async with counting.connection("the eligible rows", enable_seqscan="off") as connection:
        every = [scope.at_most for scope in await scopes.all(connection)]
        expected = sum([await estimates.expected(connection, scope.eligible) for scope in every])
        if expected < LEAST_ROWS and done + await _eligible(connection, every, min(left, LEAST_ROWS)) < LEAST_ROWS:
            return
        earlier = await blast.earlier(connection, policy=policy.name, most=LAST_RUNS)
        nulls = await blast.never_eligible_expected(connection, policy.target)
    enough = min(left, _too_many(earlier) - done)  # one more would be refused all the same
    going = done + min(enough, max(expected, LEAST_ROWS))
    eligible, rows = await counting.both(every, enough, already=done, expected=going, nulls=nulls)
    require_little(
        policy, going=done + eligible, rows=None if rows is None else done + rows, earlier=earlier, done=done
    )


async def _eligible(connection: asyncpg.Connection, scopes: Sequence[Scope], most: float) -> int:
    """Count the eligible rows of all relations, up to `most`."""
    counted = 0
    for scope in scopes:
        if math.isinf(most):
            counted += await estimates.count_all(connection, scope.eligible)
        elif counted < most:
            counted += await estimates.count(connection, scope.eligible, most=_whole(most - counted))
    return counted


def require_little(policy: Policy, *, going: int, rows: int | None, earlier: Sequence[int], done: int = 0) -> None:
    """Raises TooMuchWouldGo. `rows` are those of the table; None where they make no difference. `done` are gone."""
    broken = broken_rule(policy, going=going, rows=rows, earlier=earlier)
    if broken is None:
        return
    told = "Nothing of it was deleted"
    if done:
        told = f"{done:,} of them are gone, from before that was so"
    detail = {"policy": policy.name, "table": policy.target.name, "would_go": going, "table_rows": rows}
    detail |= {"max_share": policy.max_share, "last_runs": list(earlier), "rule": broken[0]}
    detail["commands"] = [line("plan", policy.name), line("approve", "PLAN")]
    raise TooMuchWouldGo(
        f"policy {policy.name} would delete {broken[1]}. {told}. If that is right, "
        f"{lowtide('plan', policy.name)} shows what would go, and `lowtide approve PLAN` (the id that it prints) lets "
        "it go once",
        detail=detail,
    )


def broken_rule(policy: Policy, *, going: int, rows: int | None, earlier: Sequence[int]) -> tuple[str, str] | None:
    """The rule's name and what it has against it; None: it may go."""
    if going < LEAST_ROWS:
        return None
    table = policy.target.name
    if going >= _too_many(earlier):
        told = f"{going:,} rows of {table} or more: over {TIMES_THE_USUAL} times the {statistics.median(earlier):,.0f}"
        return "median", f"{told} rows that its last {len(earlier)} runs deleted, by their median"
    if rows is not None and going > policy.max_share * rows:
        share = f"{going / rows:.1%}" if rows else "all"
        return (
            "max_share",
            f"{going:,} of the {rows:,} rows of {table}: {share}, over its max_share of {_percent(policy)}",
        )
    return None


def _percent(policy: Policy) -> str:
    return f"{policy.max_share:.1%}"


def _too_many(earlier: Sequence[int]) -> float:
    """The least number of rows that breaks the rule of the median; infinite where there is no median."""
    if len(earlier) < FEWEST_RUNS:
        return math.inf
    return max(LEAST_ROWS, math.floor(TIMES_THE_USUAL * statistics.median(earlier)) + 1)


class _Counting:
    """Exact, bounded counts, with a time of their own."""

    def __init__(self, database: Database, policy: Policy) -> None:
        self._database = database
        self._policy = policy

    async def both(
        self, scopes: Sequence[Scope], most: float, *, already: int, expected: float, nulls: float
    ) -> tuple[int, int | None]:
        """Eligible rows, and as many of the table's as tell whether they are too large a share of it (None: they
        can't be). Two backends count at the same time: the other one as many rows as the estimates ask for, of those
        that are never eligible where there are enough. An index of live rows has them at hand, and they are fewer.

        `expected` (with those that are gone already) and `nulls` are the estimates.
        """
        share = self._policy.max_share
        if share >= 1:
            return await self._eligible(scopes, most), None
        others = AMPLE * expected * (1 - share) / share
        by_nulls = nulls >= others
        guess = others if by_nulls else AMPLE * expected / share
        counted: int | Exception = 0

        async def count_others() -> None:
            nonlocal counted
            try:
                counted = await (self._nulls(guess) if by_nulls else self._rows(guess))
            except Exception as exc:
                counted = exc

        async with alongside(count_others()) as counting:
            eligible = await self._eligible(scopes, most)
            needed = math.ceil((already + eligible) / share)
            if guess <= FAR_OFF * needed:
                await counting
                if isinstance(counted, Exception):
                    raise counted
                found = eligible + counted if by_nulls else counted
                if already + found >= needed:
                    return eligible, found
        return eligible, await self._rows(needed)

    async def _eligible(self, scopes: Sequence[Scope], most: float) -> int:
        async with self.connection("the eligible rows") as connection:
            return await _eligible(connection, scopes, most)

    async def _rows(self, most: float) -> int:
        async with self.connection("the rows") as connection:
            return await blast.rows(connection, self._policy.target, most=_whole(most))

    async def _nulls(self, most: float) -> int:
        async with self.connection("the rows") as connection:
            return await blast.never_eligible(connection, self._policy.target, most=_whole(most))

    @asynccontextmanager
    async def connection(self, what: str, **settings: str) -> AsyncIterator[asyncpg.Connection]:
        """For a count of `what`. Raises CountFailed."""
        begun = time.monotonic()
        longest = f"{LONGEST_COUNT.total_seconds():.0f}s"
        try:
            async with self._database.tuned(statement_timeout=longest, **SERIAL, **settings) as connection:
                yield connection
        except asyncpg.PostgresError as exc:
            in_time = time.monotonic() - begun < LONGEST_COUNT.total_seconds()
            if is_passing(exc) or (isinstance(exc, asyncpg.QueryCanceledError) and in_time):  # an operator's
                raise
            raise _count_failed(self._policy, self._policy.target, what, exc) from exc


def _count_failed(policy: Policy, target: Target, what: str, error: asyncpg.PostgresError) -> CountFailed:
    plan, told = lowtide("plan", policy.name), without_values(error)
    unknown = f"So nobody knows whether policy {policy.name} would delete too much, and nothing of it was deleted"
    advice = f"See what `where` of the policy makes of its rows; `lowtide explain` and {plan} show more"
    if isinstance(error, asyncpg.QueryCanceledError):
        told = f"not within {LONGEST_COUNT}"
        advice = (
            f"An index makes the count quick ({target.wanted_index}); {plan} takes more time, and "
            "`lowtide approve PLAN` (the id that it prints) lets it go once"
        )
    return CountFailed(
        f"{what} of {target.name} can't be counted: {told}. {unknown}. {advice}",
        detail={"policy": policy.name, "table": target.name, "sqlstate": sqlstate(error)},
    )


def _whole(most: float) -> int:
    return math.ceil(min(most, 2**62))
