"""purge-old-deleted: removes rows that were soft-deleted before a cutoff, for good.

Changes: deletes rows of the policy's table whose column is before the run's cutoff, which was frozen when the run was
created. Each batch repeats the whole condition, so a row that was restored a moment earlier survives, and commits with
the cursor behind it, so running again goes on where it stopped. It never touches a row without a date in the column.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field, Strict, model_validator

from db import leases
from db.leases import Wishes
from db.partitions import NAMED
from db.trees import CHILD
from jobs import audit, members
from jobs import pace as paces
from jobs.dry_run import count
from jobs.failures import ApprovalNeeded, NotFound, Waiting
from jobs.fields import BIGINT, Payload, Text
from jobs.health import Health
from jobs.policies import Policy
from jobs.run import Run, isoformat

# About 31 years: more would overflow what a duration can hold.
LONGEST_S = 10**9


class PurgeOldDeleted(Payload):
    policy: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    table: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    days: Annotated[int, Strict(), Field(ge=1, le=36_500)] | None = None
    dry_run: Annotated[bool, Strict()] = False
    pace: paces.Name | None = None
    max_rows: Annotated[int, Strict(), Field(ge=1, le=BIGINT)] | None = None
    max_seconds: Annotated[int, Strict(), Field(ge=1, le=LONGEST_S)] | None = None
    approve: Annotated[Text, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _one_of_policy_and_table(self) -> "PurgeOldDeleted":
        if self.policy is not None and self.table is not None:
            raise ValueError("give policy or table, not both")
        return self


async def purge_old_deleted(run: Run, payload: PurgeOldDeleted, *, policies: tuple[Policy, ...]) -> dict[str, Any]:
    policy = policy_for(payload, policies)
    keep = keep_for(payload, policy)
    wishes = Wishes(payload.pace or policy.pace.name, payload.max_rows, payload.max_seconds)
    async with run.database.sessions.begin() as session:
        if not payload.dry_run and (other := await leases.at_work_on(session, run.claim, target=policy.target.name)):
            raise Waiting(f"run {other} purges {policy.target.name} now: one at a time")
        cutoff, run.wishes = await leases.freeze(
            session, run.claim, keep=keep, policy=policy.name, target=policy.target.name, wishes=wishes
        )
    if payload.dry_run:
        return await count(run, policy.target, cutoff)
    return await _purge(run, policy, cutoff)


async def _purge(run: Run, policy: Policy, cutoff: datetime) -> dict[str, Any]:
    await audit.begin(run, policy, cutoff)
    health = Health(policy.target.relation, standbys=run.cursor.get("standbys"))
    outcome = await members.purge(run, policy, cutoff, health=health)
    result = {
        "purged": run.rows_done,
        "cutoff": isoformat(cutoff),
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


def policy_for(payload: PurgeOldDeleted, policies: tuple[Policy, ...]) -> Policy:
    wanted = payload.table or "task"
    for policy in policies:
        if payload.policy is None and wanted in (policy.target.table, policy.target.name):
            return policy
        if policy.name == payload.policy:
            return policy
    known = ", ".join(f"{policy.name} ({policy.target.name})" for policy in policies)
    asked = f"policy {payload.policy!r}" if payload.policy is not None else f"policy for table {wanted!r}"
    raise NotFound(f"there is no {asked}; known: {known}")


def keep_for(payload: PurgeOldDeleted, policy: Policy) -> timedelta:
    """Fewer days than the policy keeps would delete what it promises to keep: that needs an approval."""
    if payload.approve is not None:
        raise NotFound(f"there is no approval {payload.approve!r}; a payload can use one, never grant one")
    if payload.days is None:
        return policy.keep
    keep = timedelta(days=payload.days)
    if keep < policy.keep:
        raise ApprovalNeeded(
            f"policy {policy.name!r} keeps {policy.keep.days} days; deleting after {payload.days} needs an approval. "
            f"Nothing was deleted. Ask for {policy.keep.days} days or more"
        )
    return keep
