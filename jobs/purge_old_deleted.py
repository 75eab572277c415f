"""purge-old-deleted: removes rows that were soft-deleted before a cutoff, for good.

Changes: deletes rows of the policy's table whose column is before the run's cutoff, which was frozen when the run was
created. Each batch repeats the whole condition, so a row that was restored a moment earlier survives, and commits with
the cursor behind it, so running again goes on where it stopped. It never touches a row without a date in the column.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import asyncpg
from pydantic import Field, Strict, model_validator

from db import leases
from db import sweep as statements
from db.sweep import Target
from jobs import pace as paces
from jobs.failures import ApprovalNeeded, NotFound
from jobs.fields import BIGINT, Payload, Text
from jobs.policies import Policy
from jobs.run import Run, isoformat
from jobs.sweep import Window, sweep

MOST_PASSES = 5
# MaxHeapTuplesPerPage of PostgreSQL at its block size of 8 kB: (8192 - 24) / (24 + 4).
MOST_ROWS_IN_BLOCK = 291


class PurgeOldDeleted(Payload):
    policy: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    table: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    days: Annotated[int, Strict(), Field(ge=1, le=36_500)] | None = None
    dry_run: Annotated[bool, Strict()] = False
    pace: paces.Name | None = None
    max_rows: Annotated[int, Strict(), Field(ge=1, le=BIGINT)] | None = None
    max_seconds: Annotated[int, Strict(), Field(ge=1, le=BIGINT)] | None = None
    approve: Annotated[Text, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _one_of_policy_and_table(self) -> "PurgeOldDeleted":
        if self.policy is not None and self.table is not None:
            raise ValueError("give policy or table, not both")
        return self


async def purge_old_deleted(run: Run, payload: PurgeOldDeleted, *, policies: tuple[Policy, ...]) -> dict[str, Any]:
    policy = _policy_for(payload, policies)
    keep = _keep_for(payload, policy)
    pace = paces.BY_NAME[run.claim.pace or payload.pace or policy.pace.name]
    async with run.transaction() as session:
        cutoff = await leases.freeze(
            session,
            run.claim,
            keep=keep,
            policy=policy.name,
            target=policy.target.name,
            pace=pace.name,
        )
    await _expect(run, policy.target, cutoff)
    if payload.dry_run:
        return await _count(run, policy.target, cutoff)
    budget = Budget(payload.max_rows, None if payload.max_seconds is None else timedelta(seconds=payload.max_seconds))
    return await _purge(run, policy.target, cutoff, pace=pace, budget=budget)


def _policy_for(payload: PurgeOldDeleted, policies: tuple[Policy, ...]) -> Policy:
    wanted = payload.table or "task"
    for policy in policies:
        if payload.policy is None and wanted in (policy.target.table, policy.target.name):
            return policy
        if policy.name == payload.policy:
            return policy
    known = ", ".join(f"{policy.name} ({policy.target.name})" for policy in policies)
    asked = f"policy {payload.policy!r}" if payload.policy is not None else f"policy for table {wanted!r}"
    raise NotFound(f"there is no {asked}; known: {known}")


def _keep_for(payload: PurgeOldDeleted, policy: Policy) -> timedelta:
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


async def _expect(run: Run, target: Target, cutoff: datetime) -> None:
    """Tell onlookers how many rows to expect, once."""
    if run.cursor:
        return
    async with run.database.autocommit() as connection:
        expected = await statements.expected(connection, target, cutoff=cutoff)
    async with run.transaction() as session:
        await leases.advance(session, run.claim, cursor={}, rows_expected=expected)


async def _count(run: Run, target: Target, cutoff: datetime) -> dict[str, Any]:
    async with run.database.autocommit() as connection:
        census = await statements.census(connection, target, cutoff=cutoff)
    return {
        "dry_run": True,
        "purged": 0,
        "eligible": census.eligible,
        "cutoff": isoformat(cutoff),
        "oldest": census.oldest,
        "newest": census.newest,
    }


@dataclass(frozen=True)
class Budget:
    """What one run may do at most; None is no limit."""

    rows: int | None
    time: timedelta | None

    def rows_left(self, run: Run) -> int | None:
        return None if self.rows is None else max(self.rows - run.rows_done, 0)

    def spent(self, run: Run) -> bool:
        return self.rows_left(run) == 0 or (self.time is not None and run.running_for >= self.time)


async def _purge(run: Run, target: Target, cutoff: datetime, *, pace: paces.Pace, budget: Budget) -> dict[str, Any]:
    """Pass after pass over the table until nothing is eligible. Later passes are for rows that moved or were locked."""
    reason = None
    while True:
        if "pass" not in run.cursor:
            run.cursor = await _new_pass(run, target, number=1)
        blocks = Blocks(target, cutoff, budget)
        await sweep(run, blocks, pace=pace)
        async with run.database.autocommit() as connection:
            remaining = await statements.any_left(connection, target, cutoff=cutoff)
        number, removed = run.cursor["pass"], run.rows_done - run.cursor["rows_before"]
        if not remaining:
            break
        if reason := _why_no_more(run, budget, number=number, removed=removed):
            break
        run.cursor = await _new_pass(run, target, number=number + 1)
    return {
        "purged": run.rows_done,
        "cutoff": isoformat(cutoff),
        "batches": run.batches,
        "skipped": {"locked": run.counters.get(_locked_in(number), 0) if remaining else 0, "held": 0, "blocked": 0},
        "remaining": remaining,
        "passes": number,
        "pace": pace.name,
        "way": f"block ranges: {run.cursor['end']:,} blocks of {target.name}",
    } | ({} if reason is None else {"reason": reason})


def _why_no_more(run: Run, budget: Budget, *, number: int, removed: int) -> str | None:
    """Why rows are left; None when another pass is worth it."""
    if budget.spent(run):
        return "the limit of the payload (max_rows, max_seconds) is reached"
    if locked := run.counters.get(_locked_in(number), 0):
        return f"{locked} rows are locked by others" if removed == 0 or number >= MOST_PASSES else None
    if removed == 0:
        return "eligible rows are left that a DELETE does not remove; look for a trigger on the table"
    return f"rows keep becoming eligible or moving: {MOST_PASSES} passes" if number >= MOST_PASSES else None


async def _new_pass(run: Run, target: Target, *, number: int) -> dict[str, Any]:
    """A cursor at the first block, with the table's end as it is now. It is committed with the pass's first batch."""
    async with run.database.autocommit() as connection:
        heap = await statements.heap(connection, target)
    return {"pass": number, "block": 0, "end": heap.blocks, "filenode": heap.filenode, "rows_before": run.rows_done}


def _locked_in(number: int) -> str:
    return f"locked_in_pass_{number}"


class Blocks:
    """Ranges of the table's blocks: each block is read once, whatever the key."""

    smallest, first, largest = 1, 16, 4096

    def __init__(self, target: Target, cutoff: datetime, budget: Budget) -> None:
        self._target = target
        self._cutoff = cutoff
        self._budget = budget

    async def window(self, connection: asyncpg.Connection, run: Run, size: int) -> Window | None:  # noqa: ARG002 - Way's
        first, end = run.cursor["block"], run.cursor["end"]
        if first >= end or self._budget.spent(run):
            return None
        last = min(first + size, end)
        rows_left = self._budget.rows_left(run)
        most = rows_left if rows_left is not None and rows_left < size * MOST_ROWS_IN_BLOCK else None
        bounds = {"first": first, "last": last, "cutoff": self._cutoff, "most": most}
        return Window(
            statements.delete_blocks(self._target, **bounds),
            cursor=run.cursor | {"block": last},
            past_locks=statements.delete_blocks(self._target, **bounds, skip_locked=_locked_in(run.cursor["pass"])),
        )
