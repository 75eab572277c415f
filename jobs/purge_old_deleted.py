"""purge-old-deleted: removes rows that were soft-deleted before a cutoff, for good.

Changes: deletes rows of the policy's table whose column is before the run's cutoff, which was frozen when the run was
created. Each batch repeats the whole condition, so a row that was restored a moment earlier survives, and commits with
the cursor behind it, so running again goes on where it stopped. It never touches a row without a date in the column.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from db import leases, turns
from db.partitions import NAMED
from db.trees import CHILD
from jobs import audit, changed, epochs, members, plans
from jobs.background import alongside
from jobs.dry_run import count
from jobs.failures import PolicyBroken, Waiting
from jobs.gate import Gate
from jobs.health import Health
from jobs.hours import Clock, require_open, server_clock
from jobs.inspection import against, inspect
from jobs.policies import Broken, Policy
from jobs.purge_payload import PurgeOldDeleted, keep_for, policy_for, wishes_for
from jobs.run import Run, isoformat
from jobs.scopes import Scopes
from jobs.upkeep import after_purge


async def purge_old_deleted(
    run: Run,
    payload: PurgeOldDeleted,
    *,
    policies: tuple[Policy, ...],
    disabled: Mapping[str, Broken],
    clock: Clock = server_clock,
) -> dict[str, Any]:
    policy = await _policy(run, payload, policies, disabled)
    keep = keep_for(payload, policy)
    wishes = wishes_for(payload, policy)
    plan = None
    if payload.approve is not None:
        asked = None if payload.days is None else keep
        plan = await plans.use(run, payload.approve, policy, keep=asked)
        run.most_rows = plan.counts["going"]
        wishes = replace(wishes, max_rows=min(wishes.max_rows or run.most_rows, run.most_rows))
    now = await clock(run.database)
    if not payload.dry_run:
        require_open(policy, now=now())
    async with run.database.sessions.begin() as session:
        if not payload.dry_run and (other := await turns.at_work_on(session, run.claim, target=policy.target)):
            raise Waiting(f"run {other} purges {policy.target.name} now: one at a time")
        cutoff, run.wishes = await leases.freeze(
            session,
            run.claim,
            keep=keep,
            policy=policy.name,
            target=policy.target.name,
            wishes=wishes,
            cutoff=None if plan is None else plan.cutoff,
        )
    await epochs.require_fit(run, policy)
    if payload.dry_run:
        return await count(run, policy, cutoff, keep=keep)
    scopes = Scopes(policy, cutoff)
    run.may_work = Gate(run, scopes, now=now, limit=wishes.max_rows)
    try:
        # Counts and batches want a second connection: it is opened while the first one is at the questions before them.
        async with alongside(run.database.open_one_more()):
            await audit.begin(run, scopes)
            result = await _purge(run, scopes)
    except Exception as exc:
        if (refused := await changed.refusal(run, policy, exc)) is None:
            raise
        raise refused from exc
    if (upkeep := await after_purge(run, policy, now=now)) is not None:
        result["vacuum"] = upkeep
    return result


async def _policy(
    run: Run, payload: PurgeOldDeleted, policies: tuple[Policy, ...], disabled: Mapping[str, Broken]
) -> Policy:
    """What the database had against it at the last look, minutes ago, may be mended. Raises as `policy_for`."""
    try:
        return policy_for(payload, policies, disabled)
    except PolicyBroken:
        names = {policy.name for policy in policies}
        by_file = {name: broken for name, broken in disabled.items() if name not in names}
        policy = policy_for(payload, policies, by_file)
        broken = against(policy, await inspect(run.database, policy))
        return policy_for(payload, policies, {} if broken is None else {policy.name: broken})


async def _purge(run: Run, scopes: Scopes) -> dict[str, Any]:
    health = Health(scopes.policy.target.relation, standbys=run.cursor.get("standbys"))
    outcome = await members.purge(run, scopes, health=health)
    result = {
        "purged": run.rows_done,
        "cutoff": isoformat(scopes.cutoff),
        "batches": run.batches,
        "skipped": outcome.over,
        "remaining": outcome.remaining,
        "passes": outcome.passes,
        "pace": run.wishes.pace,
        "way": outcome.way,
    }
    if outcome.reasons:
        result["reason"] = "; ".join(outcome.reasons)
    for name, prefix in (("children", CHILD), ("partitions", NAMED)):
        if counted := {key.removeprefix(prefix): rows for key, rows in run.counters.items() if key.startswith(prefix)}:
            result[name] = counted
    if outcome.blocked_by:
        result["blocked_by"] = outcome.blocked_by
    if health.unknown:
        result["unknown"] = sorted(health.unknown)
    return result
