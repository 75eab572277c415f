"""A worker's right to a run: taken with a claim, kept with renewals, given up with the run's end or its return.

Whatever needs the right names the claim's token, and raises RunFenced when another worker holds the run by now. Nothing
here commits, waits or reads the client's clock.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.faults import RunFenced
from db.jsonb import as_jsonb


@dataclass(frozen=True)
class Claim:
    """A run that is ours until `lease` has passed without a renewal."""

    id: str
    job: str
    payload: str  # JSON text: parsed once, by what validates it
    token: int
    place: str  # the row's ctid, where the next batch looks for it first
    cursor: dict[str, Any]
    counters: dict[str, int]
    rows_done: int
    batches: int
    attempt: int
    pace: str | None
    running_for: timedelta


CLAIM = text("""
    UPDATE lowtide.run
    SET state = 'running', lease_token = lease_token + 1, lease_until = clock_timestamp() + CAST(:lease AS interval),
        attempt = attempt + CASE WHEN started_at IS NULL OR state = 'running' THEN 1 ELSE 0 END,
        started_at = coalesce(started_at, clock_timestamp()), heartbeat_at = clock_timestamp(),
        wait_reason = NULL, worker = :worker
    WHERE id = :id AND job = ANY(:jobs) AND (
        (state = 'queued' AND not_before <= clock_timestamp())
        OR (state = 'running' AND lease_until < clock_timestamp()))
    RETURNING id, job, payload::text AS payload, lease_token AS token, ctid::text AS place, cursor, counters,
              rows_done, batches, attempt, pace,
              clock_timestamp() - started_at AS running_for
""")
HOLD = text("""
    SELECT 1 FROM lowtide.run WHERE id = :id AND lease_token = :token AND state = 'running' FOR UPDATE
""")
RENEW = text("""
    UPDATE lowtide.run
    SET heartbeat_at = clock_timestamp(), lease_until = clock_timestamp() + CAST(:lease AS interval)
    WHERE id = :id AND lease_token = :token AND state = 'running'
""")
FREEZE = text("""
    UPDATE lowtide.run
    SET cutoff = coalesce(cutoff, created_at - CAST(:keep AS interval)), policy = :policy, target = :target,
        pace = coalesce(pace, :pace)
    WHERE id = :id AND lease_token = :token AND state = 'running'
    RETURNING cutoff
""")
ADVANCE = text("""
    UPDATE lowtide.run SET cursor = CAST(:cursor AS jsonb), rows_expected = coalesce(:rows_expected, rows_expected)
    WHERE id = :id AND lease_token = :token AND state = 'running'
""")
FINISH = text("""
    UPDATE lowtide.run
    SET state = :state, result = CAST(:result AS jsonb), error = CAST(:error AS jsonb),
        payload = coalesce(CAST(:payload AS jsonb), payload),
        rows_done = rows_done + :rows, batches = batches + :batches,
        finished_at = clock_timestamp(), heartbeat_at = clock_timestamp(), lease_until = NULL, wait_reason = NULL,
        requested_action = NULL
    WHERE id = :id AND lease_token = :token AND state = 'running'
""")
PUT_BACK = text("""
    UPDATE lowtide.run
    SET state = 'queued', lease_until = NULL, not_before = clock_timestamp() + CAST(:delay AS interval),
        wait_reason = :wait_reason, attempt = attempt + :attempts, error = coalesce(CAST(:error AS jsonb), error)
    WHERE id = :id AND lease_token = :token AND state = 'running'
""")


async def claim(
    session: AsyncSession, run_id: str, *, jobs: Sequence[str], lease: timedelta, worker: str
) -> Claim | None:
    """Take a run that is due, or whose holder's lease has ended; None when there is nothing to take.

    Waits for the row's lock, within lock_timeout: a COMMIT of a former holder that is still in flight decides first.
    """
    values = {"id": run_id, "jobs": list(jobs), "lease": lease, "worker": worker}
    row = (await session.execute(CLAIM, values)).one_or_none()
    return None if row is None else Claim(**row._mapping)


async def hold(session: AsyncSession, claim: Claim) -> None:
    """Lock the run's row until the transaction ends, so that the lease can't pass to another meanwhile."""
    if (await session.execute(HOLD, _key(claim))).one_or_none() is None:
        raise RunFenced(claim.id)


async def renew(session: AsyncSession, claim: Claim, *, lease: timedelta) -> None:
    await _fenced(session, RENEW, claim, lease=lease)


async def freeze(
    session: AsyncSession,
    claim: Claim,
    *,
    keep: timedelta,
    policy: str,
    target: str,
    pace: str,
) -> datetime:
    """Store and return the cutoff: `keep` before the run was created, by the database's clock. The first one stands."""
    values = {"keep": keep, "policy": policy, "target": target, "pace": pace}
    frozen = (await session.execute(FREEZE, _key(claim) | values)).scalar_one_or_none()
    if frozen is None:
        raise RunFenced(claim.id)
    cutoff: datetime = frozen
    return cutoff


async def advance(
    session: AsyncSession, claim: Claim, *, cursor: dict[str, Any], rows_expected: int | None = None
) -> None:
    """Move the cursor without a batch, in the transaction of what it stands for."""
    await _fenced(session, ADVANCE, claim, cursor=json.dumps(cursor), rows_expected=rows_expected)


async def finish(
    session: AsyncSession,
    claim: Claim,
    *,
    state: str,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    payload: str | None = None,
    rows: int = 0,
    batches: int = 0,
) -> None:
    """End the run, in the transaction of its last change where there is one. `payload` replaces the stored one."""
    values = {"state": state, "result": as_jsonb(result), "error": as_jsonb(error), "payload": payload}
    await _fenced(session, FINISH, claim, **values, rows=rows, batches=batches)


async def put_back(
    session: AsyncSession,
    claim: Claim,
    *,
    delay: timedelta = timedelta(0),
    wait_reason: str | None = None,
    error: dict[str, Any] | None = None,
) -> None:
    """Back to `queued` with the cursor kept. With an `error` it has cost an attempt."""
    values = {"delay": delay, "wait_reason": wait_reason, "error": as_jsonb(error), "attempts": int(error is not None)}
    await _fenced(session, PUT_BACK, claim, **values)


async def _fenced(session: AsyncSession, statement: Any, claim: Claim, **values: Any) -> None:  # noqa: ANN401 - a statement, and its parameters
    outcome: Any = await session.execute(statement, _key(claim) | values)
    if outcome.rowcount != 1:
        raise RunFenced(claim.id)


def _key(claim: Claim) -> dict[str, Any]:
    return {"id": claim.id, "token": claim.token}
