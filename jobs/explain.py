"""The statements that a job would run for a payload, explained and judged. Nothing is changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from db import actors, columns, estimates, projects, queryplans, tasks
from db.queryplans import Stated
from db.verdicts import Verdict, judge
from jobs.archive_project import ArchiveProject
from jobs.create_batch import CreateBatch
from jobs.failures import Refused
from jobs.fields import Payload
from jobs.mark_completed import MarkCompleted
from jobs.policies import Policy
from jobs.purge_payload import PurgeOldDeleted, keep_for, policy_for
from jobs.queryplans import guard, require_rights
from jobs.ways import choose, statements_of

# What a window of archive-project covers in a few milliseconds.
ROWS = 100


@dataclass(frozen=True)
class Explained:
    """`plan` is PostgreSQL's, as in EXPLAIN (FORMAT JSON). `ran` is that of EXPLAIN ANALYZE: of the statement, or of
    the SELECT of the same rows where it writes; None where there is none."""

    statement: Stated
    plan: dict[str, Any]
    ran: dict[str, Any] | None
    verdict: Verdict


async def explain(
    connection: asyncpg.Connection, payload: Payload, *, policies: tuple[Policy, ...]
) -> tuple[list[Explained], str | None]:
    """Each statement, and why the run itself would be refused (None: it would not).

    `connection` is in autocommit. Raises NotFound for a policy or table that nobody knows, RightsMissing.
    """
    statements = await _statements(connection, payload, policies)
    if isinstance(payload, PurgeOldDeleted):
        await require_rights(connection, policy_for(payload, policies).target, statements)
    explained = [await _explained(connection, each) for each in statements]
    if isinstance(payload, PurgeOldDeleted):
        policy = policy_for(payload, policies)
        try:
            keep_for(payload, policy)
            await guard(connection, policy.target, statements)
        except Refused as exc:
            return explained, str(exc)
    return explained, None


async def _explained(connection: asyncpg.Connection, given: Stated) -> Explained:
    plan = await queryplans.explain(connection, given)
    ran = await queryplans.explain_and_run(connection, given)
    return Explained(given, plan, ran, await judge(connection, ran or plan))


async def _statements(
    connection: asyncpg.Connection, payload: Payload, policies: tuple[Policy, ...]
) -> Sequence[Stated]:
    match payload:
        case CreateBatch():
            return [actors.stated_existence(payload.created_by_id), projects.stated_joining(payload.project_id)]
        case MarkCompleted():
            ids, actor = sorted(payload.task_ids), payload.requested_by
            if payload.on_invalid == "skip":
                return [actors.stated_existence(actor), *tasks.stated_skipping(ids[:ROWS], actor=actor)]
            return [actors.stated_existence(actor), *tasks.stated_marking(ids, actor=actor)]
        case ArchiveProject():
            return [
                projects.stated_closing(payload.project_id),
                *tasks.stated_archiving(payload.project_id, most=ROWS),
            ]
        case PurgeOldDeleted():
            return await _of_purge(connection, policy_for(payload, policies), payload.days)
    raise TypeError(payload)


async def _of_purge(connection: asyncpg.Connection, policy: Policy, days: int | None) -> Sequence[Stated]:
    keep = policy.keep if days is None else timedelta(days=days)
    cutoff = await estimates.cutoff(connection, keep=keep)
    table = await estimates.table(connection, policy.target)
    eligible = await columns.eligible(connection, policy.target, cutoff=cutoff)
    choice = await choose(connection, eligible, table)
    return statements_of(eligible, choice.way)
