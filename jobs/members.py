"""A purge over all relations that a policy's table consists of, one after the other: partitions, tables that inherit.

The cursor: `member` is the oid of the relation that is worked on, `before_it` what came of those before it.
"""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from db import columns, relations
from db.columns import UnfitColumn
from db.relations import Relation
from db.targets import Eligible, Target
from jobs import passes
from jobs.failures import Refused
from jobs.health import Health
from jobs.passes import Outcome
from jobs.policies import Policy
from jobs.run import Run
from jobs.ways import NotATable

MOST_REASONS = 5
ORDINARY = "r"


@dataclass
class Total:
    """What came of all relations; the ways and the reasons of the first few."""

    over: dict[str, int] = field(default_factory=lambda: dict.fromkeys(passes.PASSED_OVER, 0))
    remaining: bool = False
    reasons: list[str] = field(default_factory=list)
    passes: int = 0
    way: str | None = None
    members: int = 0

    def add(self, relation: Relation, outcome: Outcome, *, alone: bool) -> None:
        for why, rows in outcome.over.items():
            self.over[why] += rows
        self.remaining = self.remaining or outcome.remaining
        self.passes = max(self.passes, outcome.passes)
        self.way = self.way or outcome.way
        self.members += 1
        if outcome.reason is not None and len(self.reasons) < MOST_REASONS:
            self.reasons.append(outcome.reason if alone else f"{relation.name}: {outcome.reason}")


async def purge(run: Run, policy: Policy, cutoff: datetime, *, health: Health) -> Total:
    """Delete what is eligible, from the run's cursor on."""
    total = Total(**run.cursor.get("before_it", {}))
    while (relation := await _present(run, policy.target)) is not None:
        if run.cursor.get("member") != relation.oid:
            run.cursor = {"member": relation.oid, "before_it": asdict(total)} | _lasting(run)
        async with run.database.autocommit() as connection:
            eligible = await resolved(connection, relation, policy.target, cutoff)
        outcome = await passes.purge(run, eligible, health=health)
        total.add(relation, outcome, alone=relation.name == policy.target.name)
        await run.keep({"next": relation.oid + 1, "before_it": asdict(total)} | _lasting(run))
        if run.spent:
            break
    return total


async def _present(run: Run, target: Target) -> Relation | None:
    """The relation that the cursor is in, or the next one, where it is gone by now."""
    oid = run.cursor.get("next", run.cursor.get("member", 0))
    async with run.database.autocommit() as connection:
        return await relations.following(connection, target, oid=oid)


def _lasting(run: Run) -> dict[str, Any]:
    """What of the cursor holds for the whole run."""
    return {name: run.cursor[name] for name in ("standbys",) if name in run.cursor}


async def resolved(connection: asyncpg.Connection, relation: Relation, target: Target, cutoff: datetime) -> Eligible:
    """The eligible rows of this relation. Raises NotATable, Refused."""
    if relation.kind != ORDINARY:
        raise NotATable(f"{relation.name} {KINDS.get(relation.kind, 'is no table')}: rows can't be purged there")
    try:
        return await columns.eligible(connection, relation.as_target(target), cutoff=cutoff)
    except UnfitColumn as exc:
        raise Refused(str(exc)) from exc


KINDS = {
    "v": "is a view",
    "m": "is a materialized view: REFRESH brings its rows back",
    "f": "is a foreign table: purge where its rows are stored",
    "S": "is a sequence",
    "c": "is a composite type",
}
