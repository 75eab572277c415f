"""A purge over all relations that a policy's table consists of, one after the other: partitions, tables that inherit.

The cursor: `member` is the oid of the relation that is worked on, `before_it` what came of those before it.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from db import estimates, relations
from db.estimates import Kept
from db.relations import Relation
from db.targets import Eligible, Target
from jobs import passes
from jobs.health import Health
from jobs.looks import LONGEST_LOOK_S, LookTookTooLong, looking
from jobs.partitions import InTheWay, bring_back, drop_whole
from jobs.passes import Outcome
from jobs.run import Run
from jobs.scopes import Scopes

MOST_REASONS = 5


@dataclass
class Total:
    """What came of all relations; the ways and the reasons of the first few."""

    over: dict[str, int] = field(default_factory=lambda: dict.fromkeys(passes.PASSED_OVER, 0))
    blocked_by: dict[str, int] = field(default_factory=dict)  # by constraint; a row may be kept by several
    remaining: bool = False
    reasons: list[str] = field(default_factory=list)
    passes: int = 0
    way: str | None = None
    members: int = 0
    left: list[int] = field(default_factory=list)  # oids of partitions that others were in the way of
    again: bool = False  # whether only those are left to be purged
    mutual: bool = False  # whether rows that stay may have been kept by rows of a relation that came later

    def add(self, relation: Relation, outcome: Outcome, *, alone: bool) -> None:
        for why, rows in outcome.over.items():
            self.over[why] += rows
        self.remaining = self.remaining or outcome.remaining
        self.passes = max(self.passes, outcome.passes)
        self.way = self.way or outcome.way
        self.members += 1
        if outcome.reason is not None and len(self.reasons) < MOST_REASONS:
            self.reasons.append(outcome.reason if alone else f"{relation.name}: {outcome.reason}")

    def leave(self, in_the_way: InTheWay) -> None:
        """Raises it where nothing else is left to do."""
        if self.again:
            raise in_the_way
        self.left = sorted({*self.left, *(partition.oid for partition in in_the_way.partitions)})

    def keep(self, kept: Kept | None) -> None:
        """None: they could not be counted."""
        if kept is None:
            self.reasons.append(
                f"to count what is kept takes longer than {LONGEST_LOOK_S} s: held and blocked are too low"
            )
            return
        self.over["held"] += kept.held
        self.over["blocked"] += kept.blocked
        for constraint, rows in kept.by.items():
            self.blocked_by[constraint] = self.blocked_by.get(constraint, 0) + rows


async def purge(run: Run, scopes: Scopes, *, health: Health) -> Total:
    """Delete what is eligible, from the run's cursor on."""
    policy = scopes.policy
    total = Total(**run.cursor.get("before_it", {}))
    await _bring_back(run, policy.target.relation, total)
    while (relation := await _present(run, policy.target, total)) is not None:
        if run.cursor.get("member") != relation.oid:
            run.cursor = {"member": relation.oid, "before_it": asdict(total)} | _lasting(run)
        async with run.database.autocommit() as connection:
            present = await scopes.of(connection, relation)
        behind = {"next": relation.oid + 1} | _lasting(run)
        whole = (
            relation.is_partition and not relation.is_all and policy.partitions == "drop" and "pass" not in run.cursor
        )
        if whole:
            if run.may_work is not None:
                await run.may_work()
            if not run.spent and await _went_whole(run, present.eligible, total, cursor=behind):
                await run.rest(0)
                continue
        outcome = await passes.purge(run, present, health=health)
        total.add(relation, outcome, alone=relation.name == policy.target.name)
        total.keep(await _kept(run, present.eligible))
        total.mutual = total.mutual or (present.mutual and not relation.is_all and total.over["blocked"] > 0)
        if relation.is_all or run.spent:
            break
        await run.keep(behind | {"before_it": asdict(total)})
    if total.left and not total.again and not run.spent:
        total.again = True
        await run.keep(_lasting(run) | {"next": 0, "before_it": asdict(total)})
        return await purge(run, scopes, health=health)
    if total.mutual and run.rows_done > 0:
        total.remaining = True
        total.reasons.append(
            "rows are kept by others of the same table, some of which may be gone by now: run it again"
        )
    return total


async def _bring_back(run: Run, relation: str, total: Total) -> None:
    """What others are in the way of comes last. Raises InTheWay where nothing else is left to do."""
    try:
        await bring_back(run.database, relation, tell=run.tell)
    except InTheWay as exc:
        if run.spent:  # whoever looks next brings it back
            total.remaining = True
            total.reasons.append(str(exc))
        else:
            total.leave(exc)


async def _went_whole(run: Run, eligible: Eligible, total: Total, *, cursor: dict[str, Any]) -> bool:
    """Whether the relation that the run is at is done with, or comes last. Raises as `_bring_back`, `drop_whole`."""
    try:
        return await drop_whole(run, eligible, run.cursor["member"], cursor=cursor | {"before_it": asdict(total)})
    except InTheWay as exc:
        total.leave(exc)
        await run.keep(cursor | {"before_it": asdict(total)})
        return True


async def _kept(run: Run, eligible: Eligible) -> Kept | None:
    if not eligible.kept:
        return Kept(0, 0, {})
    try:
        async with looking(run.database) as connection:
            return await estimates.kept(connection, eligible)
    except LookTookTooLong:
        return None


async def _present(run: Run, target: Target, total: Total) -> Relation | None:
    """The relation that the cursor is in, or the next one, where it is gone by now."""
    oid = run.cursor.get("next", run.cursor.get("member", 0))
    async with run.database.autocommit() as connection:
        if not total.again:
            return await relations.following(connection, target, oid=oid)
        for left in total.left:
            found = await relations.following(connection, target, oid=left) if left >= oid else None
            if found is not None and found.oid == left:
                return found
        return None


def _lasting(run: Run) -> dict[str, Any]:
    """What of the cursor holds for the whole run."""
    return {name: run.cursor[name] for name in ("standbys",) if name in run.cursor}
