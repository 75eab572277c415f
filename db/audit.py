"""The audit: what was purged, by whom, under which rule. Rows are added, and never changed.

The database stamps each row with its time and its login. A run's begin is written by whoever holds its lease
(lowtide.audit_begin), its end by the database, in the transaction that ends it (trigger run_ended).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.claims import Claim
from db.faults import translated
from db.jsonb import as_jsonb

OPEN = text("""
    SELECT coalesce((SELECT event = 'begin' FROM lowtide.audit
                     WHERE run = :run AND event IN ('begin', 'end') ORDER BY id DESC LIMIT 1), false)
""")
BEGIN = text("""
    SELECT lowtide.audit_begin(:run, :token, :policy, :table, :policy_sha256, :cutoff, CAST(:detail AS jsonb))
""")
NOTE = text("""
    INSERT INTO lowtide.audit (event, run, policy, table_name, requested_by, policy_sha256, cutoff, detail)
    VALUES (:event, :run, :policy, :table, :requested_by, :policy_sha256, :cutoff, CAST(:detail AS jsonb))
""")
NEWEST = text("""
    SELECT * FROM lowtide.audit
    WHERE (CAST(:policy AS text) IS NULL OR policy = :policy) AND (CAST(:table AS text) IS NULL OR table_name = :table)
      AND (CAST(:run AS text) IS NULL OR run = :run) AND (CAST(:since AS timestamptz) IS NULL OR at >= :since)
    ORDER BY id DESC LIMIT :most
""")
NAMES = text("""
    SELECT coalesce(array_agg(DISTINCT policy) FILTER (WHERE policy IS NOT NULL), '{}') AS policies,
           coalesce(array_agg(DISTINCT table_name) FILTER (WHERE table_name IS NOT NULL), '{}') AS tables
    FROM lowtide.audit
""")


@dataclass(frozen=True)
class Entry:
    """A row of the audit. `role` is the login that wrote it."""

    id: int
    at: datetime
    event: str  # begin, end, hold, release, approve
    run: str | None
    policy: str | None
    table_name: str | None
    requested_by: str | None
    role: str
    policy_sha256: str | None
    cutoff: datetime | None
    detail: dict[str, Any]


async def is_open(session: AsyncSession, run_id: str) -> bool:
    """Whether the run has begun, and not ended since."""
    return bool((await session.execute(OPEN, {"run": run_id})).scalar_one())


async def begin(
    session: AsyncSession,
    claim: Claim,
    *,
    policy: str,
    table: str,
    policy_sha256: str,
    cutoff: datetime,
    detail: dict[str, Any],
) -> None:
    """Before the first delete, in a transaction that holds the run's row and is committed before that delete.

    `detail["range"]` is repeated at the end. Raises RunFenced.
    """
    values = {"run": claim.id, "token": claim.token, "policy": policy, "table": table, "policy_sha256": policy_sha256}
    with translated(claim.id):
        await session.execute(BEGIN, values | {"cutoff": cutoff, "detail": as_jsonb(detail)})


async def note(
    session: AsyncSession,
    event: str,
    *,
    requested_by: str,
    detail: dict[str, Any],
    run: str | None = None,
    policy: str | None = None,
    table: str | None = None,
    policy_sha256: str | None = None,
    cutoff: datetime | None = None,
) -> None:
    """Anything else worth knowing later, in the transaction of what it is about."""
    values = {"event": event, "requested_by": requested_by, "detail": as_jsonb(detail), "run": run, "policy": policy}
    await session.execute(NOTE, values | {"table": table, "policy_sha256": policy_sha256, "cutoff": cutoff})


async def newest(
    session: AsyncSession,
    *,
    policy: str | None = None,
    table: str | None = None,
    run: str | None = None,
    since: datetime | None = None,
    most: int,
) -> Sequence[Entry]:
    """The last rows, the newest first."""
    values = {"policy": policy, "table": table, "run": run}
    rows = await session.execute(NEWEST, values | {"since": since, "most": most})
    return [Entry(**row._mapping) for row in rows]


async def names(session: AsyncSession) -> tuple[set[str], set[str]]:
    """The policies and the tables that anything is on record of."""
    row = (await session.execute(NAMES)).one()
    return set(row.policies), set(row.tables)
