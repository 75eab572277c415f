"""What a purge is asked for, and what its policy makes of it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from pydantic import Field, Strict, model_validator

from db.claims import Wishes
from db.fields import BIGINT, Days, Text
from jobs import pace as paces
from jobs.commands import lowtide
from jobs.failures import ApprovalNeeded, NotFound, OverBudget, PolicyBroken, PolicyUnclear
from jobs.fields import Payload
from jobs.policies import Broken, Policy, in_words

# About 31 years: more would overflow what a duration can hold.
LONGEST_S = 10**9
# The table of a payload that names neither policy nor table.
UNSAID = "task"


class PurgeOldDeleted(Payload):
    policy: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    table: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    days: Days | None = None
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

    @model_validator(mode="after")
    def _nothing_to_approve(self) -> "PurgeOldDeleted":
        if self.dry_run and self.approve is not None:
            raise ValueError("a dry run deletes nothing: leave approve out")
        return self


def policy_for(
    payload: PurgeOldDeleted, policies: tuple[Policy, ...], disabled: Mapping[str, Broken] | None = None
) -> Policy:
    """Raises NotFound, PolicyUnclear, PolicyBroken."""
    disabled = disabled or {}
    if payload.policy is not None:
        return policy_named(payload.policy, policies, disabled)
    table = payload.table or UNSAID
    named = _policies_of(table, policies, disabled)
    unsaid = "" if payload.table is not None else ", the one that is meant where neither policy nor table is given"
    if len(named) > 1:
        raise PolicyUnclear(
            f"table {table!r}{unsaid}{unsaid and ','} has several policies; name one: {', '.join(named)}"
        )
    if not named:
        raise NotFound(f"there is no policy for table {table!r}{unsaid}; known: {_told(policies, disabled)}")
    return policy_named(named[0], policies, disabled)


def policy_named(name: str, policies: tuple[Policy, ...], disabled: Mapping[str, Broken] | None = None) -> Policy:
    """Raises NotFound, PolicyBroken."""
    disabled = disabled or {}
    if name in disabled:
        raise PolicyBroken(f"policy {name} is disabled, and nothing was deleted: {disabled[name].reason}")
    for policy in policies:
        if policy.name == name:
            return policy
    raise NotFound(f"there is no policy {name!r}; known: {_told(policies, disabled)}")


def _told(policies: tuple[Policy, ...], disabled: Mapping[str, Broken]) -> str:
    told = ", ".join(f"{policy.name} ({policy.target.name})" for policy in policies)
    return told + "".join(f"; disabled: {broken}" for broken in disabled.values())


def _policies_of(table: str, policies: tuple[Policy, ...], disabled: Mapping[str, Broken]) -> list[str]:
    """A table without its schema may be of any. lowtide's own are asked for by the policy's name alone."""
    tables = {broken.name: broken.table for broken in disabled.values() if broken.table is not None}
    tables |= {policy.name: (policy.target.schema, policy.target.table) for policy in policies if not policy.is_own}
    return [name for name, (schema, of) in tables.items() if table in (of, f"{schema}.{of}")]


def keep_for(payload: PurgeOldDeleted, policy: Policy) -> timedelta:
    """Fewer days than the policy keeps would delete what it promises to keep: that needs an approval."""
    if payload.days is None:
        return policy.keep
    keep = timedelta(days=payload.days)
    if keep < policy.keep and payload.approve is None and not payload.dry_run:
        plan = lowtide("plan", policy.name, "--days", str(payload.days))
        raise ApprovalNeeded(
            f"policy {policy.name!r} keeps {in_words(policy.keep)}; deleting after {payload.days} days needs an "
            f"approval. Nothing was deleted. Ask for {in_words(policy.keep)} or more, or let {plan} "
            f"show what would go, and `lowtide approve PLAN` (the id that it prints) let it go"
        )
    return keep


def wishes_for(payload: PurgeOldDeleted, policy: Policy) -> Wishes:
    """The policy's budget; a payload can only ask for less. Raises OverBudget."""
    for name in ("max_rows", "max_seconds"):
        asked, given = getattr(payload, name), getattr(policy, name)
        if asked is not None and given is not None and asked > given:
            raise OverBudget(
                f"policy {policy.name!r} lets a run have {name} = {given:,} at most; the payload asks for {asked:,}. "
                "Nothing was deleted. Ask for less, or leave it out"
            )
    return Wishes(
        payload.pace or policy.pace.name,
        payload.max_rows or policy.max_rows,
        payload.max_seconds or policy.max_seconds,
    )
