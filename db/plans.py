"""Plans as the ledger keeps them: made by a dry run, approved by somebody, used by one run."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.targets import Eligible, quoted


@dataclass(frozen=True)
class Plan:
    """`counts` has `eligible`, `going` (at most so many of them go in one run), `rows` (of the table) and more."""

    run_id: str
    policy: str
    policy_sha256: str
    target: str
    keep: timedelta
    cutoff: datetime
    counts: dict[str, Any]
    plan_sha256: str
    age: timedelta
    approved_by: str | None
    approval_until: datetime | None
    expired: bool  # whether its approval has ended
    used_by_run: str | None
    used_before: bool  # by a run that had the same id, and is not in the ledger any more


STORE = text("""
    INSERT INTO lowtide.plan (run_id, policy, policy_sha256, target, keep, cutoff, counts, plan_sha256)
    VALUES (:run_id, :policy, :policy_sha256, :target, :keep, :cutoff, CAST(:counts AS jsonb), :plan_sha256)
""")
COLUMNS = """
    SELECT run_id, policy, policy_sha256, target, keep, cutoff, counts, plan_sha256,
           clock_timestamp() - made_at AS age, approved_by, approval_until,
           coalesce(approval_until <= clock_timestamp(), false) AS expired, used_by_run,
           EXISTS (SELECT FROM lowtide.run r WHERE r.id = used_by_run AND r.created_at > used_at) AS used_before
    FROM lowtide.plan WHERE run_id = :run_id
"""
GET, LOCK = text(COLUMNS), text(f"{COLUMNS} FOR UPDATE")
APPROVE = text("""
    UPDATE lowtide.plan
    SET approved_by = :by, approved_at = clock_timestamp(),
        approval_until = clock_timestamp() + CAST(:lasts AS interval)
    WHERE run_id = :run_id RETURNING approval_until
""")
USE = text("UPDATE lowtide.plan SET used_by_run = :by, used_at = clock_timestamp() WHERE run_id = :run_id")
# The primary key, the policy's column, and a few more: words first, by which people know a row.
SHOWN = """
    SELECT a.attname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_index x ON x.indrelid = a.attrelid AND x.indisprimary
    WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY coalesce(a.attnum = ANY(x.indkey), false) DESC, a.attname = $2 DESC, t.typcategory IN ('S', 'E') DESC,
             a.attnum
    LIMIT $3
"""


async def store(
    session: AsyncSession,
    *,
    run_id: str,
    policy: str,
    policy_sha256: str,
    target: str,
    keep: timedelta,
    cutoff: datetime,
    counts: dict[str, Any],
    plan_sha256: str,
) -> None:
    """In the transaction that ends the dry run."""
    values = {"run_id": run_id, "policy": policy, "policy_sha256": policy_sha256, "target": target, "keep": keep}
    values |= {"cutoff": cutoff, "counts": json.dumps(counts), "plan_sha256": plan_sha256}
    await session.execute(STORE, values)


async def get(session: AsyncSession, run_id: str, *, lock: bool = False) -> Plan | None:
    """With `lock`, nobody else approves or uses it until the transaction ends."""
    row = (await session.execute(LOCK if lock else GET, {"run_id": run_id})).one_or_none()
    return None if row is None else Plan(**row._mapping)


async def approve(session: AsyncSession, run_id: str, *, by: str, lasts: timedelta) -> datetime:
    """Return when the approval ends."""
    values = {"run_id": run_id, "by": by, "lasts": lasts}
    until: datetime = (await session.execute(APPROVE, values)).scalar_one()
    return until


async def use(session: AsyncSession, run_id: str, *, by: str) -> None:
    """`by` is the run that purges."""
    await session.execute(USE, {"run_id": run_id, "by": by})


async def sample(
    connection: asyncpg.Connection, eligible: Eligible, *, most: int, columns: int, characters: int
) -> list[dict[str, str | None]]:
    """The oldest eligible rows: a few columns as text, cut."""
    target = eligible.target
    found = await connection.fetch(SHOWN, target.relation, target.column, columns)
    names = [quoted(row["attname"]) for row in found]
    shown = ", ".join(f"left({name}::text, {characters:d}) AS {name}" for name in names)
    rows = await connection.fetch(
        f"SELECT {shown} FROM (SELECT * FROM {eligible.rows} WHERE {eligible.indexable} "
        f"ORDER BY {target.quoted_column} LIMIT $1) oldest",
        most,
    )
    return [dict(row) for row in rows]
