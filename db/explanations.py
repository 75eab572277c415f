"""EXPLAIN ANALYZE of a statement in a session's own transaction, with a verdict, and nothing of it left."""

from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import ClauseElement
from sqlalchemy.ext.asyncio import AsyncSession

from db import queryplans, trigrams
from db.batches import Change
from db.queryplans import LONGEST_READ_MS, Stated, stated
from db.verdicts import Scan, Verdict, judge, scans, searches, with_reason

TASKS = '"public"."task"'


@dataclass(frozen=True)
class Explained:
    """`plan` is what EXPLAIN (ANALYZE, VERBOSE, BUFFERS, FORMAT JSON) says; `milliseconds` is None where the statement
    took too long and was stopped."""

    sql: str
    plan: dict[str, Any]
    scans: list[Scan]
    milliseconds: float | None
    verdict: Verdict


async def explained(
    session: AsyncSession, statement: ClauseElement | Change, *, longest_ms: int = LONGEST_READ_MS
) -> Explained:
    await session.flush()
    driver = (await (await session.connection()).get_raw_connection()).driver_connection
    if not isinstance(driver, asyncpg.Connection):
        raise TypeError("explain needs a connection of asyncpg's")
    given = _stated(statement)
    plan = await queryplans.explain_and_undo(driver, given, longest_ms=longest_ms)
    verdict = await judge(driver, plan)
    if searches(plan, TASKS) and (told := await trigrams.missing(driver)):
        verdict = with_reason(verdict, "fair", told)
    return Explained(given.sql, plan, scans(plan), plan.get("Execution Time"), verdict)


def _stated(statement: ClauseElement | Change) -> Stated:
    if isinstance(statement, Change):
        return Stated("statement", statement.statement, [list(statement.args)])
    return stated("statement", statement)
