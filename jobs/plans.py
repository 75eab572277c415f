"""Plans and approvals: what a dry run has counted, who lets it go, and the one run that may then delete it.

A plan is made by every dry run, in the transaction that ends it. An approval lasts an hour and is used once: the run
that names it takes it, with the plan's cutoff and at most its rows, in a transaction that holds the plan's row.
"""

import json
from datetime import timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from db import audit, plans, runs
from db.models import Run as Row
from db.plans import Plan
from jobs.commands import lowtide
from jobs.failures import ApprovalNeeded, ApprovalSpent, NotAllowed, NotFound, PlanStale
from jobs.policies import Policy
from jobs.run import Run, isoformat

APPROVAL_LASTS = timedelta(hours=1)
# What was counted longer ago says little of the table today.
OLDEST_PLAN = timedelta(hours=24)
JOB = "purge-old-deleted"


async def store(session: AsyncSession, run_id: str, policy: Policy, **facts: Any) -> None:  # noqa: ANN401 - `keep`, `cutoff` and `counts`
    """In the transaction that ends the dry run."""
    hashed = _digest(policy.digest, target=policy.target.name, **facts)
    await plans.store(
        session,
        run_id=run_id,
        policy=policy.name,
        policy_sha256=policy.digest,
        target=policy.target.name,
        plan_sha256=hashed,
        **facts,
    )


def _digest(policy_sha256: str, **facts: Any) -> str:  # noqa: ANN401 - what the plan is about
    """Over policy, table, keep, cutoff and counts."""
    said = {"policy_sha256": policy_sha256} | facts
    return sha256(json.dumps(said, sort_keys=True, default=_said).encode()).hexdigest()


def _said(value: Any) -> Any:  # noqa: ANN401 - a duration, or an instant
    return value.total_seconds() if isinstance(value, timedelta) else isoformat(value)


async def require_fresh(
    session: AsyncSession, plan_id: str, policies: tuple[Policy, ...], *, lock: bool = False
) -> tuple[Plan, Policy, Row]:
    """A plan that may be approved, its policy, and its dry run. Raises NotFound, NotAllowed, ApprovalSpent, PlanStale.

    With `lock`, nobody else approves it until the transaction ends.
    """
    run = await runs.get(session, plan_id)
    if run is None:
        raise NotFound(f'there is no run "{plan_id}"; `lowtide plan POLICY` makes a plan, and prints its id')
    if run.job != JOB or not (run.payload or {}).get("dry_run"):
        raise NotAllowed(f'run "{plan_id}" ({run.job}) is no dry run: only a plan can be approved, see `lowtide plan`')
    if run.state != "succeeded":
        raise NotAllowed(f'plan "{plan_id}" is {run.state}: only one that has succeeded can be approved')
    plan = await plans.get(session, plan_id, lock=lock)
    if plan is None:
        raise NotFound(f'dry run "{plan_id}" has left no plan; make a new one with `lowtide plan`')
    policy = _require_unchanged(plan, policies)
    if plan.approved_by is not None:
        raise ApprovalSpent(_spent(plan))
    if plan.age > OLDEST_PLAN:
        raise PlanStale(f"plan {plan_id!r} is older than {_hours(OLDEST_PLAN)}; {_anew(plan)}")
    if refused := (run.result or {}).get("refused"):
        raise NotAllowed(f"the purge of plan {plan_id!r} would be refused: {refused}. Mend that, and {_anew(plan)}")
    if not plan.counts["going"]:
        raise NotAllowed(f"plan {plan_id!r} counted no row that would go: there is nothing to approve")
    return plan, policy, run


async def approve(
    session: AsyncSession, plan_id: str, policies: tuple[Policy, ...], *, by: str, run_id: str
) -> dict[str, Any]:
    """Approve a plan and enqueue the purge as run `run_id`, both or neither. Raises as `require_fresh`."""
    plan, policy, dry_run = await require_fresh(session, plan_id, policies, lock=True)
    until = await plans.approve(session, plan_id, by=by, lasts=APPROVAL_LASTS)
    asked = dry_run.payload or {}
    payload = {"policy": policy.name, "approve": plan_id} | ({"pace": asked["pace"]} if asked.get("pace") else {})
    await runs.accept(session, job=JOB, payload=json.dumps(payload), run_id=run_id, requested_by=by)
    told = {"plan": plan_id, "run": run_id, "going": plan.counts["going"], "approval_until": isoformat(until)}
    await audit.note(
        session,
        "approve",
        requested_by=by,
        detail=told | {"plan_sha256": plan.plan_sha256},
        run=run_id,
        policy=policy.name,
        table=plan.target,
        policy_sha256=policy.digest,
        cutoff=plan.cutoff,
    )
    told |= {"policy": policy.name, "table": plan.target, "cutoff": isoformat(plan.cutoff), "approved_by": by}
    return told


async def use(run: Run, plan_id: str, policy: Policy, *, keep: timedelta | None) -> Plan:
    """Take an approval for the run, for good; the same run may take it again after a crash.

    `keep` is what the payload asks for, where it does. Raises NotFound, NotAllowed, ApprovalNeeded, ApprovalSpent and
    PlanStale.
    """
    async with run.transaction() as session:
        plan = await plans.get(session, plan_id, lock=True)
        if plan is None:
            raise NotFound(f"there is no approval {plan_id!r}; a payload can use one, never grant one")
        if plan.policy != policy.name:
            raise NotAllowed(f"plan {plan_id!r} is one of policy {plan.policy!r}, not of {policy.name!r}")
        if keep not in {None, plan.keep}:
            raise NotAllowed(f"plan {plan_id!r} is for what is older than {plan.keep.days} days; leave `days` out")
        if plan.approved_by is None:
            raise ApprovalNeeded(
                f"plan {plan_id!r} has not been approved. Nothing was deleted. {lowtide('approve', plan_id)} does it"
            )
        _require_unchanged(plan, (policy,))
        if plan.used_by_run is None and not plan.expired:
            await plans.use(session, plan_id, by=run.id)
        elif plan.used_by_run != run.id or plan.used_before:
            raise ApprovalSpent(_spent(plan))
        return plan


def _require_unchanged(plan: Plan, policies: tuple[Policy, ...]) -> Policy:
    policy = next((each for each in policies if each.name == plan.policy), None)
    if policy is None:
        raise NotFound(f"plan {plan.run_id!r} is one of policy {plan.policy!r}, which is not there any more")
    if policy.digest != plan.policy_sha256:
        told = f"policy {plan.policy!r} has changed since plan {plan.run_id!r} was made, or a worker has an older file"
        raise PlanStale(f"{told}. Nothing was deleted; {_anew(plan)}")
    facts = {"target": plan.target, "keep": plan.keep, "cutoff": plan.cutoff, "counts": plan.counts}
    if _digest(plan.policy_sha256, **facts) != plan.plan_sha256:
        raise PlanStale(f"plan {plan.run_id!r} is not what its dry run has written. Nothing was deleted; {_anew(plan)}")
    return policy


def _spent(plan: Plan) -> str:
    if plan.used_by_run is not None:
        return (
            f"the approval of plan {plan.run_id!r} was used by run {plan.used_by_run!r}, and works once; {_anew(plan)}"
        )
    if plan.expired:
        return f"the approval of plan {plan.run_id!r} has ended after {_hours(APPROVAL_LASTS)}, unused; {_anew(plan)}"
    return f"plan {plan.run_id!r} has been approved already, by {plan.approved_by}; `lowtide runs` shows its purge"


def _anew(plan: Plan) -> str:
    return f"make a new one with {lowtide('plan', plan.policy)}"


def _hours(length: timedelta) -> str:
    hours = length // timedelta(hours=1)
    return "an hour" if hours == 1 else f"{hours} hours"
