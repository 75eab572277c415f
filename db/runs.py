"""The ledger's rows: how a run gets in, and how it is looked at.

Nothing here commits, waits or reads the client's clock. What a worker does with a run that it holds is in db/leases.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col, select

from db.faults import accepting
from db.jsonb import as_jsonb
from db.models import Run
from db.trees import CHILD

# Of the counters' names: how many rows of which other table went along.
COUNTED_ALONG = f"{CHILD}%"
FINISHED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Glance:
    """What decides whether a doorbell has work."""

    job: str
    state: str
    due_in: timedelta  # until it may be claimed; zero or less: now
    result: dict[str, Any] | None
    error: dict[str, Any] | None


ACCEPT = text("""
    SELECT is_new FROM lowtide.accept(
        :job, CAST(:payload AS jsonb), :id, CAST(:not_before AS timestamptz), :wake, :requested_by,
                          CAST(:scheduled_for AS timestamptz))
""")
ENQUEUE = text("""
    SELECT lowtide.enqueue(:job, CAST(:payload AS jsonb), :id, coalesce(CAST(:not_before AS timestamptz), now()))
""")
ENQUEUE_BY = text("""
    SELECT accepted FROM lowtide.accept(
        :job, CAST(:payload AS jsonb), :id, coalesce(CAST(:not_before AS timestamptz), now()), true, :by)
""")
REJECT = text("""
    INSERT INTO lowtide.run (id, job, requested_by, state, error, finished_at)
    VALUES (:id, :job, :requested_by, 'failed', CAST(:error AS jsonb), clock_timestamp())
    ON CONFLICT (id) DO NOTHING
""")
GLANCE = text("""
    SELECT job, state, result, error,
           (CASE state WHEN 'running' THEN lease_until ELSE not_before END) - clock_timestamp() AS due_in
    FROM lowtide.run WHERE id = :id
""")
PARK = text("""
    UPDATE lowtide.run SET wait_reason = :wait_reason
    WHERE id = :id AND state = 'queued' AND wait_reason IS DISTINCT FROM :wait_reason
""")
PARK_UNKNOWN = text("""
    UPDATE lowtide.run SET wait_reason = 'no worker here knows job ''' || left(job, 100) || ''''
    WHERE state = 'queued' AND not_before <= clock_timestamp() AND job <> ALL(:jobs) AND wait_reason IS NULL
    RETURNING id
""")
ALONG = text("""
    SELECT id, sum(counted.value::bigint)::bigint AS rows FROM lowtide.run, jsonb_each_text(counters) counted
    WHERE id = ANY(:ids) AND counted.key LIKE :counted GROUP BY id
""")
DUE = text("""
    SELECT id FROM lowtide.run
    WHERE job = ANY(:jobs) AND state IN ('queued', 'running')
      AND (CASE state WHEN 'running' THEN lease_until ELSE not_before END) <= clock_timestamp()
    ORDER BY not_before, id LIMIT :most
""")


async def accept(
    session: AsyncSession,
    *,
    job: str,
    payload: str,
    run_id: str,
    requested_by: str,
    not_before: datetime | None = None,
    scheduled_for: datetime | None = None,
) -> bool:
    """Write the run into the ledger unless it stands there already; return whether it is new.

    Raises Conflict when it stands there with another job or payload, UnfitPayload when jsonb can't hold it.
    """
    values = {"job": job, "payload": payload, "id": run_id, "not_before": not_before, "wake": False}
    values |= {"requested_by": requested_by, "scheduled_for": scheduled_for}
    with accepting(run_id):
        is_new: bool = (await session.execute(ACCEPT, values)).scalar_one()
    return is_new


async def enqueue(
    session: AsyncSession,
    *,
    job: str,
    payload: str,
    run_id: str | None,
    not_before: datetime | None,
    by: str | None = None,
) -> str:
    """Call `lowtide.enqueue` as any service would. Raises as `accept` does.

    `by` is who asked, where that is not the payload's actor, nor the login.
    """
    values = {"job": job, "payload": payload, "id": run_id, "not_before": not_before}
    statement, asked = (ENQUEUE, {}) if by is None else (ENQUEUE_BY, {"by": by})
    with accepting(run_id or ""):
        enqueued: str = (await session.execute(statement, values | asked)).scalar_one()
    return enqueued


async def reject(session: AsyncSession, *, run_id: str, job: str, error: dict[str, Any], requested_by: str) -> None:
    """Record a run that failed before it could be accepted. A run of this id that stands already is left alone."""
    values = {"id": run_id, "job": job, "error": as_jsonb(error), "requested_by": requested_by}
    await session.execute(REJECT, values)


async def glance(session: AsyncSession, run_id: str) -> Glance | None:
    row = (await session.execute(GLANCE, {"id": run_id})).one_or_none()
    return None if row is None else Glance(**row._mapping)


async def park(session: AsyncSession, run_id: str, *, wait_reason: str) -> None:
    """Say why a queued run waits. It stays queued, for a worker that can do it."""
    await session.execute(PARK, {"id": run_id, "wait_reason": wait_reason})


async def park_unknown(session: AsyncSession, *, jobs: Sequence[str]) -> list[str]:
    """Say of each run that is due and that nobody here can do why it waits; return the ids of those."""
    return list((await session.execute(PARK_UNKNOWN, {"jobs": list(jobs)})).scalars())


async def due(session: AsyncSession, *, jobs: Sequence[str], most: int) -> list[str]:
    """Ids of runs that may be claimed now, the longest due first."""
    return list((await session.execute(DUE, {"jobs": list(jobs), "most": most})).scalars())


# A payload can have 32 MiB: what only wants to know how a run stands does without it.
WITHOUT_PAYLOAD = defer(Run.payload, raiseload=True)  # type: ignore[arg-type]  # SQLModel types a column as its value


async def get(session: AsyncSession, run_id: str) -> Run | None:
    return await session.get(Run, run_id, populate_existing=True)


async def standing(session: AsyncSession, run_id: str) -> Run | None:
    """The run without its payload."""
    return await session.get(Run, run_id, populate_existing=True, options=[WITHOUT_PAYLOAD])


async def along(session: AsyncSession, run_ids: Sequence[str]) -> dict[str, int]:
    """How many rows of other tables went with those of these runs; of which none did are left out."""
    found = await session.execute(ALONG, {"ids": list(run_ids), "counted": COUNTED_ALONG})
    return {row.id: row.rows for row in found}


async def newest(
    session: AsyncSession, *, state: str | None, job: str | None, most: int, with_payload: bool
) -> list[Run]:
    statement = select(Run).order_by(col(Run.created_at).desc(), col(Run.id).desc()).limit(most)
    if state is not None:
        statement = statement.where(Run.state == state)
    if job is not None:
        statement = statement.where(Run.job == job)
    if not with_payload:
        statement = statement.options(WITHOUT_PAYLOAD)
    return list((await session.execute(statement)).scalars())
