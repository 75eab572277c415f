"""What is said for every message, on the driver's connection: each call is a transaction of its own, in one round trip.

The statements are those of db/runs.py and db/leases.py. A session around them costs more than they do.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql import asyncpg as dialects

from db import leases, runs
from db.claims import Claim, claimed
from db.faults import RunFenced, accepting
from db.jsonb import as_jsonb


class _Statement:
    """With the names of its parameters in the driver's order."""

    def __init__(self, statement: TextClause) -> None:
        dialect: Any = dialects.dialect  # untyped
        compiled: Any = statement.compile(dialect=dialect())
        self.text = str(compiled)
        self._names: Sequence[str] = compiled.positiontup or ()

    def values(self, given: dict[str, Any]) -> list[Any]:
        return [given[name] for name in self._names]


ACCEPT = _Statement(runs.ACCEPT)
CLAIM = _Statement(leases.CLAIM)
FINISH = _Statement(leases.FINISH)


async def accept(connection: asyncpg.Connection, *, job: str, payload: str, run_id: str, requested_by: str) -> None:
    """As `runs.accept`."""
    given: dict[str, Any] = {"job": job, "payload": payload, "id": run_id, "requested_by": requested_by}
    given |= {"not_before": None, "scheduled_for": None, "wake": False}
    with accepting(run_id):
        await connection.execute(ACCEPT.text, *ACCEPT.values(given))


async def claim(
    connection: asyncpg.Connection, run_id: str, *, jobs: Sequence[str], lease: timedelta, worker: str
) -> Claim | None:
    """As `leases.claim`."""
    given = {"id": run_id, "jobs": list(jobs), "lease": lease, "worker": worker}
    row = await connection.fetchrow(CLAIM.text, *CLAIM.values(given))
    return None if row is None else claimed(row)


async def succeed(connection: asyncpg.Connection, claim: Claim, *, result: dict[str, Any]) -> None:
    """As `leases.finish`, of a run whose changes are committed. Raises RunFenced."""
    given = {"id": claim.id, "token": claim.token, "state": "succeeded", "result": as_jsonb(result)}
    given |= {"error": None, "payload": None, "rows": 0, "batches": 0}
    if await connection.execute(FINISH.text, *FINISH.values(given)) != "UPDATE 1":
        raise RunFenced(claim.id)
