"""Batches: each a window's change and the run's cursor, in one transaction; several of them in one round trip."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg

from db.claims import Claim, Wishes
from db.faults import translated

BATCHES = "CALL lowtide.batches($1, $2, $3::text::jsonb, $4, $5::text::tid, NULL, $6::text::jsonb)"


@dataclass(frozen=True)
class Change:
    """What one window does. `$1` is `args` (text[]) and `$2` is `ids` (bigint[]) in all three statements."""

    statement: str
    args: Sequence[str] = ()
    ids: Sequence[int] = ()
    before: str | None = None  # a query that returns counters as a jsonb object, run before the change
    after: str | None = None  # the same, run after it


@dataclass(frozen=True)
class Batch:
    """A change, and where the run stands when it is committed; None: where it stood, as something before is open."""

    change: Change
    cursor: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        change = self.change
        return {
            "change": change.statement,
            "args": list(change.args),
            "ids": list(change.ids),
            "before": change.before,
            "after": change.after,
            "cursor": self.cursor,
        }


@dataclass(frozen=True)
class Done:
    """What a batch did, and how long its transaction was."""

    changed: int
    seconds: float
    counted: dict[str, int] = field(default_factory=dict)


async def commit(
    connection: asyncpg.Connection,
    claim: Claim,
    batches: Sequence[Batch],
    *,
    place: str,
    wishes: Wishes,
    lease: timedelta,
) -> tuple[list[Done], str, Wishes]:
    """Commit one batch after the other, each with its cursor, counters, heartbeat and lease.

    Return what was done, the place of the run's row, and what an operator wishes by now; where that is something new,
    the batches after it are left. `connection` is in autocommit. Raises RunFenced when the lease has passed to another,
    and whatever a change raises: the batches before stand then, and nothing of that one.
    """
    given = json.dumps([batch.as_json() for batch in batches])
    with translated(claim.id):
        row = await connection.fetchrow(BATCHES, claim.id, claim.token, given, lease, place, json.dumps(asdict(wishes)))
    done = [Done(**one) for one in row["done"]]
    return done, "({},{})".format(*row["place"]), Wishes(**row["wishes"])
