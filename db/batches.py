"""One call of `lowtide.batch`: a window's change and the run's cursor, in one transaction of one round trip."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from db.faults import translated
from db.leases import Claim

BATCH = """
SELECT changed, counted::text, requested_action, pace, here::text
FROM lowtide.batch($1, $2, $3::text::tid, $4, $5, $6, $7::text::jsonb, $8, $9, $10)
"""


@dataclass(frozen=True)
class Change:
    """What one window does. `$1` is `args` (text[]) and `$2` is `ids` (bigint[]) in all three statements."""

    statement: str
    args: Sequence[str] = ()
    ids: Sequence[int] = ()
    before: str | None = None  # a query that returns counters as a jsonb object, run before the change
    after: str | None = None  # the same, run after it


@dataclass(frozen=True)
class Done:
    changed: int
    counted: dict[str, int]
    requested_action: str | None
    pace: str | None
    place: str


async def commit(
    connection: asyncpg.Connection,
    claim: Claim,
    change: Change,
    *,
    place: str,
    cursor: dict[str, Any],
    lease: timedelta,
) -> Done:
    """Execute the change, and write cursor, counters, heartbeat and lease with it.

    `connection` is in autocommit. Raises RunFenced, with nothing changed, when the lease has passed to another.
    """
    with translated(claim.id):
        row = await connection.fetchrow(
            BATCH,
            claim.id,
            claim.token,
            place,
            change.statement,
            list(change.args),
            list(change.ids),
            json.dumps(cursor),
            lease,
            change.before,
            change.after,
        )
    return Done(row["changed"], json.loads(row["counted"]), row["requested_action"], row["pace"], row["here"])
