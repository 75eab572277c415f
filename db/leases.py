"""A worker's right to a run: taken with a claim, kept with renewals, given up with the run's end or its return.

Whatever needs the right names the claim's token, and raises RunFenced when another worker holds the run by now. Nothing
here commits, waits or reads the client's clock.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from db.claims import Claim, Wishes, claimed, facts
from db.faults import RunFenced
from db.jsonb import as_jsonb

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
              rows_done, batches, attempt, pace, max_rows, max_seconds, requested_action,
              clock_timestamp() - started_at AS running_for
""")
STANDING = text("""
    SELECT ctid::text AS place, cursor, counters, rows_done, batches, pace, max_rows, max_seconds, requested_action
    FROM lowtide.run WHERE id = :id AND lease_token = :token AND state = 'running'
""")
HOLD = text("""
    SELECT requested_action FROM lowtide.run
    WHERE id = :id AND lease_token = :token AND state = 'running' FOR UPDATE
""")
RENEW = text("""
    UPDATE lowtide.run
    SET heartbeat_at = clock_timestamp(), lease_until = clock_timestamp() + CAST(:lease AS interval)
    WHERE id = :id AND lease_token = :token AND state = 'running'
    RETURNING requested_action
""")
FREEZE = text("""
    UPDATE lowtide.run
    SET cutoff = coalesce(
            CAST(:cutoff AS timestamptz),
            least(cutoff, created_at - CAST(:keep AS interval))  -- a policy may keep longer by now
        ),
        policy = :policy, target = :target,
        pace = coalesce(pace, :pace), max_rows = coalesce(max_rows, :max_rows),
        max_seconds = coalesce(max_seconds, :max_seconds)
    WHERE id = :id AND lease_token = :token AND state = 'running'
    RETURNING cutoff, pace, max_rows, max_seconds, requested_action
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
WAIT = text("""
    UPDATE lowtide.run
    SET wait_reason = :wait_reason, heartbeat_at = clock_timestamp(),
        lease_until = clock_timestamp() + CAST(:lease AS interval)
    WHERE id = :id AND lease_token = :token AND state = 'running'
    RETURNING pace, max_rows, max_seconds, requested_action
""")
PAUSE = text("""
    UPDATE lowtide.run
    SET state = CASE requested_action WHEN 'cancel' THEN 'cancelled' ELSE 'paused' END,
        finished_at = CASE requested_action WHEN 'cancel' THEN clock_timestamp() END,
        wait_reason = CASE requested_action WHEN 'cancel' THEN NULL ELSE :wait_reason END,
        target = NULL, lease_until = NULL, requested_action = NULL
    WHERE id = :id AND lease_token = :token AND state = 'running'
    RETURNING state
""")
# Where an operator has asked for something meanwhile, that is what becomes of the run.
PUT_BACK = text("""
    UPDATE lowtide.run
    SET state = CASE requested_action WHEN 'pause' THEN 'paused' WHEN 'cancel' THEN 'cancelled' ELSE 'queued' END,
        finished_at = CASE requested_action WHEN 'cancel' THEN clock_timestamp() END,
        requested_action = NULL, target = NULL, lease_until = NULL,
        not_before = clock_timestamp() + CAST(:delay AS interval),
        wait_reason = CASE requested_action WHEN 'pause' THEN 'paused by an operator' WHEN 'cancel' THEN NULL
                                            ELSE :wait_reason END,
        attempt = CASE WHEN batches > :batches_at_claim THEN 1 ELSE attempt + :attempts END,
        counters = lowtide.added(counters, CAST(:counted AS jsonb)),
        error = coalesce(CAST(:error AS jsonb), error)
    WHERE id = :id AND lease_token = :token AND state = 'running'
    RETURNING state
""")


async def claim(
    session: AsyncSession, run_id: str, *, jobs: Sequence[str], lease: timedelta, worker: str
) -> Claim | None:
    """Take a run that is due, or whose holder's lease has ended; None when there is nothing to take.

    Waits for the row's lock, within lock_timeout: a COMMIT of a former holder that is still in flight decides first.
    """
    values = {"id": run_id, "jobs": list(jobs), "lease": lease, "worker": worker}
    row = (await session.execute(CLAIM, values)).one_or_none()
    if row is None:
        return None
    return claimed(row._asdict())


async def hold(session: AsyncSession, claim: Claim) -> str | None:
    """Lock the run's row until the transaction ends, so that the lease can't pass to another meanwhile.

    Return what an operator has asked for.
    """
    row = await _held(session, HOLD, claim, {})
    action: str | None = row.requested_action
    return action


async def standing(session: AsyncSession, claim: Claim) -> Claim:
    """The claim as its batches have left it by now."""
    row = await _held(session, STANDING, claim, {})
    return replace(claim, **facts(row._asdict()))


async def renew(session: AsyncSession, claim: Claim, *, lease: timedelta) -> str | None:
    """Return what an operator has asked for."""
    row = await _held(session, RENEW, claim, {"lease": lease})
    action: str | None = row.requested_action
    return action


async def freeze(
    session: AsyncSession,
    claim: Claim,
    *,
    keep: timedelta,
    policy: str,
    target: str,
    wishes: Wishes,
    cutoff: datetime | None = None,
) -> tuple[datetime, Wishes]:
    """Store and return the cutoff and the wishes; what stands there already stands.

    The cutoff is the given one (an approved plan's), or `keep` before the run was created, by the database's clock.
    """
    values = {"keep": keep, "cutoff": cutoff, "policy": policy, "target": target, **asdict(wishes)}
    row = await _held(session, FREEZE, claim, values)
    frozen = facts(row._asdict())
    return frozen["cutoff"], frozen["wishes"]


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


async def wait(session: AsyncSession, claim: Claim, *, wait_reason: str | None, lease: timedelta) -> Wishes:
    """Say why the run waits, or with None that it goes on; return what an operator wishes by now."""
    row = await _held(session, WAIT, claim, {"wait_reason": wait_reason, "lease": lease})
    return Wishes(*row)


async def pause(session: AsyncSession, claim: Claim, *, wait_reason: str) -> str:
    """Until somebody resumes it, or for good where its cancel was asked for; return the state. The cursor is kept."""
    row = await _held(session, PAUSE, claim, {"wait_reason": wait_reason})
    state: str = row.state
    return state


async def put_back(
    session: AsyncSession,
    claim: Claim,
    *,
    delay: timedelta = timedelta(0),
    wait_reason: str | None = None,
    error: dict[str, Any] | None = None,
    counted: Mapping[str, int] | None = None,
) -> str:
    """Back to `queued` with the cursor kept, or to what an operator has asked for; return the state.

    With an `error` it has cost an attempt; where it got on since its claim, the first one. `counted` is added to the
    counters.
    """
    values = {"delay": delay, "wait_reason": wait_reason, "error": as_jsonb(error), "attempts": int(error is not None)}
    values |= {"batches_at_claim": claim.batches, "counted": json.dumps(counted or {})}
    row = await _held(session, PUT_BACK, claim, values)
    state: str = row.state
    return state


async def _held(session: AsyncSession, statement: TextClause, claim: Claim, values: dict[str, Any]) -> Any:  # noqa: ANN401 - a row of one of the statements above
    """The run's row, as the statement returns it. Raises RunFenced where the claim no longer stands."""
    row = (await session.execute(statement, _key(claim) | values)).one_or_none()
    if row is None:
        raise RunFenced(claim.id)
    return row


async def _fenced(session: AsyncSession, statement: Any, claim: Claim, **values: Any) -> None:  # noqa: ANN401 - a statement, and its parameters
    outcome: Any = await session.execute(statement, _key(claim) | values)
    if outcome.rowcount != 1:
        raise RunFenced(claim.id)


def _key(claim: Claim) -> dict[str, Any]:
    return {"id": claim.id, "token": claim.token}
