"""What a purge writes down before it deletes. The database writes its end, in the transaction that ends the run."""

import asyncpg

from db import audit, queryplans, surveys
from db.faults import server_message, sqlstate, without_values
from db.targets import quoted
from jobs.failures import Refused, is_passing
from jobs.run import Run, isoformat
from jobs.scopes import Scopes

NO_RIGHT = "42501"
# The oldest row is there for the audit alone: where no index tells it at once, it stays unknown.
LONGEST_LOOK = "2s"


class AuditRefused(Refused):
    """The begin of a purge can't be written down: it may not begin."""


async def begin(run: Run, scopes: Scopes) -> None:
    """Once a run, or once more where an ended one is tried again; committed before the first delete.

    Raises AuditRefused, and whatever else keeps the row from being written.
    """
    policy = scopes.policy
    try:
        async with run.database.sessions.begin() as session:
            if await audit.is_open(session, run.id):
                return
        told = {
            "range": await _range(run, scopes),
            "where": policy.target.where,
            "pace": run.wishes.pace,
            "purged_before": run.rows_done,
        }
        async with run.transaction() as session:
            await audit.begin(
                session,
                run.claim,
                policy=policy.name,
                table=policy.target.name,
                policy_sha256=policy.digest,
                cutoff=scopes.cutoff,
                detail=told,
            )
    except Exception as exc:
        if sqlstate(exc) != NO_RIGHT:
            raise
        raise await _refused(run, exc) from exc


async def _refused(run: Run, error: Exception) -> AuditRefused:
    async with run.database.autocommit() as connection:
        role = quoted(await queryplans.role(connection))
    return AuditRefused(
        f"a purge is written down before it begins, and this one can't be: {server_message(error)}. Nothing was "
        f"deleted. GRANT SELECT ON lowtide.audit TO {role}; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO {role};"
    )


async def _range(run: Run, scopes: Scopes) -> dict[str, str | None]:
    """Between which values of the policy's column every row lies that can go: from the oldest there is up to, not
    with, the cutoff."""
    before = {"column": scopes.policy.target.column, "before": isoformat(scopes.cutoff)}
    try:
        async with run.database.tuned(statement_timeout=LONGEST_LOOK, enable_seqscan="off") as connection:
            return before | {"from": await surveys.oldest(connection, await scopes.whole(connection))}
    except asyncpg.PostgresError as exc:
        if is_passing(exc):
            raise
        return before | {"from": None, "from_unknown": without_values(exc)}
