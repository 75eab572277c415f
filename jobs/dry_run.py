"""What a purge would do: exact counts in one snapshot, kept as a plan. Nothing changes but the run and its plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from db import blast, branches, estimates, relations
from db.branches import Branch, Branches
from db.estimates import Census, Kept
from db.faults import server_message
from db.queryplans import Stated
from db.relations import Relation
from db.targets import Target
from db.trees import Tree
from db.walks import Walk
from jobs import plans
from jobs.blast import LAST_RUNS, broken_rule
from jobs.children import ChildrenUndeclared
from jobs.failures import Refused
from jobs.policies import Policy, in_words
from jobs.queryplans import QueryPlanRefused, guard
from jobs.rights import RightsMissing
from jobs.run import Run, isoformat
from jobs.scopes import Scope, Scopes
from jobs.ways import choose, statements_of

LONGEST_COUNT = timedelta(minutes=30)
# Rows per second of the record in docs/benchmarks.md, rounded down, for a table that no run has purged yet.
RECORDED_SPEED = {"full": 500_000.0, "gentle": 100_000.0}
EVERY_ROW = 2**62


class CountTookTooLong(Refused):
    pass


async def _why_refused(
    connection: asyncpg.Connection, target: Target, statements: Sequence[Stated], tree: Tree | None
) -> str | None:
    """Why the purge itself would not begin; None: it would."""
    try:
        async with connection.transaction():  # a savepoint: what fails in it does not end the count
            await guard(connection, target, statements, tree=tree)
    except (QueryPlanRefused, RightsMissing) as exc:
        return str(exc)
    return None


async def count(run: Run, policy: Policy, cutoff: datetime, *, keep: timedelta) -> dict[str, Any]:
    """End the run with what was counted, and with its plan. Raises CountTookTooLong.

    On a connection of its own, read only; the heartbeat and the result go over others.
    """
    async with run.database.tuned(statement_timeout=f"{LONGEST_COUNT.total_seconds():.0f}s") as connection:
        try:
            counts, result = await _counted(connection, run, policy, cutoff, keep=keep)
        except asyncpg.QueryCanceledError as exc:
            raise CountTookTooLong(
                f"counting the rows of {policy.target.name}: {server_message(exc)} (a count may take {LONGEST_COUNT})"
            ) from exc
    result |= {"policy": policy.name, "table": policy.target.name, "plan": run.id}
    async with run.transaction() as session:
        await plans.store(session, run.id, policy, keep=keep, cutoff=cutoff, counts=counts)
        await run.succeed(session, result)
    return result


@dataclass(frozen=True)
class _Look:
    """At one relation. `refused` is why the purge would not begin there."""

    census: Census
    branch: Branch | None
    kept: Kept
    way: str
    refused: str | None


async def _counted(
    connection: asyncpg.Connection, run: Run, policy: Policy, cutoff: datetime, *, keep: timedelta
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the plan is about, and the run's result."""
    pace, target = run.wishes.pace or "full", policy.target
    speed = await estimates.usual_speed(connection, target, pace=pace)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        scopes = Scopes(policy, cutoff)
        present = await relations.all_of(connection, target)
        found = [await _look(connection, relation, scopes) for relation in present]
        hanging = await _hanging(connection, found)
        rows = await blast.rows(connection, target, most=EVERY_ROW)
        earlier = await blast.earlier(connection, policy=policy.name, most=LAST_RUNS)
    eligible = hanging.going
    going = eligible if run.wishes.max_rows is None else min(eligible, run.wishes.max_rows)
    counts: dict[str, Any] = {"eligible": eligible, "going": going, "rows": rows, "children": dict(hanging.along)}
    counts["held"] = hanging.held + sum(look.kept.held for look in found)
    counts["blocked"] = hanging.blocked + sum(look.kept.blocked for look in found)
    refused = next((look.refused for look in found if look.refused is not None), None)
    more: dict[str, Any] = {} if refused is None else {"refused": refused}
    if not hanging.is_exact:
        more["children_at_least"] = True
    result = counts | {
        "dry_run": True,
        "purged": 0,
        "share": round(going / rows, 4) if rows else 0.0,
        "needs_approval": _needs_approval(policy, keep, broken_rule(policy, going=going, rows=rows, earlier=earlier)),
        "bytes": sum(look.census.bytes for look in found),
        "cutoff": isoformat(cutoff),
        "oldest": min((look.census.oldest for look in found if look.census.oldest), default=None),
        "newest": max((look.census.newest for look in found if look.census.newest), default=None),
        "pace": pace,
        "way": found[0].way if found else None,
        "seconds": _seconds(going, sum(hanging.along.values()), speed=speed, pace=pace),
        "seconds_from": "the benchmark's speed" if speed is None else "the speed of earlier runs",
    }
    return counts, more | result


async def _hanging(connection: asyncpg.Connection, found: list[_Look]) -> Branches:
    """What goes along, and what stays for what hangs on it: looked at for all relations together."""
    given = [look.branch for look in found if look.branch is not None]
    if len(given) < len(found) or not any(branch.hangs for branch in given):
        return Branches(sum(look.census.eligible for look in found), 0, 0, {})
    walk = Walk(given)
    if walk.is_needed and (walked := await walk.take(connection)) is not None:
        return walked
    hanging = Branches(0, 0, 0, {}, is_exact=not walk.is_needed)
    for branch in given:
        hanging = hanging.with_more(await branch.take(connection))
    return hanging


def _seconds(going: int, along: int, *, speed: float | None, pace: str) -> float:
    """The speed of earlier runs is that of the table's own rows, with whatever went along."""
    return round((going + along) / RECORDED_SPEED[pace] if speed is None else going / speed, 1)


def _needs_approval(policy: Policy, keep: timedelta, broken: tuple[str, str] | None) -> str | None:
    less = f"the policy keeps {in_words(policy.keep)}, and this {in_words(keep)}" if keep < policy.keep else None
    return "; ".join(filter(None, (less, None if broken is None else broken[1]))) or None


async def _look(connection: asyncpg.Connection, relation: Relation, scopes: Scopes) -> _Look:
    scope, undeclared = await _scope(connection, relation, scopes)
    eligible = scope.eligible
    choice = await choose(connection, eligible, await estimates.table(connection, eligible.target))
    refused = await _why_refused(connection, eligible.target, statements_of(eligible, choice.way), scope.pointing)
    census = await estimates.census(connection, eligible, within=2 * LONGEST_COUNT)
    kept = await estimates.kept(connection, eligible)
    branch = None
    if scope.pointing is not None:
        branch = await branches.branch(connection, scope.pointing, eligible, relation.oid)
    return _Look(census, branch, kept, choice.told, "; ".join(filter(None, (refused, undeclared))) or None)


async def _scope(connection: asyncpg.Connection, relation: Relation, scopes: Scopes) -> tuple[Scope, str | None]:
    """What would go of it, and why nothing would as long as the policy does not declare its children."""
    try:
        return await scopes.of(connection, relation), None
    except ChildrenUndeclared as exc:
        return Scope(await scopes.rows(connection, relation), before=""), str(exc)
