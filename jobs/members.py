"""A purge over all relations that a policy's table consists of, one after the other: partitions, tables that inherit.

The cursor: `member` is the oid of the relation that is worked on, `before_it` what came of those before it.
"""

from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import asyncpg

from db import columns, estimates, held, relations
from db.estimates import Kept
from db.relations import Relation
from db.targets import Eligible, Target
from jobs import children, passes
from jobs.health import Health
from jobs.looks import LONGEST_LOOK_S, LookTookTooLong, looking
from jobs.partitions import bring_back, drop_whole
from jobs.passes import Outcome
from jobs.policies import Policy
from jobs.run import Run
from jobs.ways import NotATable, Scope

MOST_REASONS = 5
ORDINARY = "r"


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


async def purge(run: Run, policy: Policy, cutoff: datetime, *, health: Health) -> Total:
    """Delete what is eligible, from the run's cursor on."""
    total = Total(**run.cursor.get("before_it", {}))
    await bring_back(run.database, policy.target.relation)
    while (relation := await _present(run, policy.target)) is not None:
        if run.cursor.get("member") != relation.oid:
            run.cursor = {"member": relation.oid, "before_it": asdict(total)} | _lasting(run)
        async with run.database.autocommit() as connection:
            present = await scope(connection, relation, policy, cutoff)
        behind = {"next": relation.oid + 1} | _lasting(run)
        whole = (
            relation.is_partition and not relation.is_all and policy.partitions == "drop" and "pass" not in run.cursor
        )
        if whole:
            if run.may_work is not None:
                await run.may_work()
            if not run.spent and await drop_whole(
                run, present.eligible, relation.oid, cursor=behind | {"before_it": asdict(total)}
            ):
                await run.rest(0)
                continue
        outcome = await passes.purge(run, present, health=health)
        total.add(relation, outcome, alone=relation.name == policy.target.name)
        total.keep(await _kept(run, present.eligible))
        total.mutual = total.mutual or (present.mutual and not relation.is_all and total.over["blocked"] > 0)
        if relation.is_all or run.spent:
            break
        await run.keep(behind | {"before_it": asdict(total)})
    if total.mutual and run.rows_done > 0:
        total.remaining = True
        total.reasons.append(
            "rows are kept by others of the same table, some of which may be gone by now: run it again"
        )
    return total


async def _kept(run: Run, eligible: Eligible) -> Kept | None:
    if not eligible.kept:
        return Kept(0, 0, {})
    try:
        async with looking(run.database) as connection:
            return await estimates.kept(connection, eligible)
    except LookTookTooLong:
        return None


async def _present(run: Run, target: Target) -> Relation | None:
    """The relation that the cursor is in, or the next one, where it is gone by now."""
    oid = run.cursor.get("next", run.cursor.get("member", 0))
    async with run.database.autocommit() as connection:
        return await relations.following(connection, target, oid=oid)


def _lasting(run: Run) -> dict[str, Any]:
    """What of the cursor holds for the whole run."""
    return {name: run.cursor[name] for name in ("standbys",) if name in run.cursor}


async def resolved(connection: asyncpg.Connection, relation: Relation, target: Target, cutoff: datetime) -> Eligible:
    """The eligible rows of this relation. Raises NotATable, UnfitColumn."""
    if relation.kind != ORDINARY:
        raise NotATable(f"{relation.name} {KINDS.get(relation.kind, 'is no table')}: rows can't be purged there")
    return await columns.eligible(connection, relation.as_target(target), cutoff=cutoff)


async def scopes(connection: asyncpg.Connection, policy: Policy, cutoff: datetime) -> list[Scope]:
    """What goes of all relations, one after the other. Raises as `scope`."""
    return [await scope(connection, relation, policy, cutoff) for relation in await present(connection, policy.target)]


async def present(connection: asyncpg.Connection, target: Target) -> list[Relation]:
    """All relations that the table consists of now."""
    found: list[Relation] = []
    while following := await relations.following(connection, target, oid=found[-1].oid + 1 if found else 0):
        found.append(following)
    return found


async def scope(connection: asyncpg.Connection, relation: Relation, policy: Policy, cutoff: datetime) -> Scope:
    """What goes of this relation, and with it. Raises NotATable, ChildrenUndeclared, Refused."""
    eligible = await resolved(connection, relation, policy.target, cutoff)
    tree = await children.tree(connection, relation.oid, policy.children, table=policy.target.relation)
    holds = await held.columns(connection, [eligible.target.relation, *tree.along.values()])
    unheld = holds.unheld(eligible.target.relation)
    eligible = replace(
        eligible, whole=False, unheld=None if unheld == "true" else unheld, blocked=tree.blocked(eligible, relation.oid)
    )
    conditions = {oid: holds.unheld(name, "c") for oid, name in tree.along.items()}
    tree = replace(tree, held={oid: f"NOT ({sql})" for oid, sql in conditions.items() if sql != "true"})
    along = tree.count(eligible, relation.oid) if tree.along or tree.loosened else None
    return Scope(eligible, holds.before, tree if tree.needed else None, tree.mutual, along)


KINDS = {
    "v": "is a view",
    "m": "is a materialized view: REFRESH brings its rows back",
    "f": "is a foreign table: purge where its rows are stored",
    "S": "is a sequence",
    "c": "is a composite type",
}
