"""What the server makes of a policy's `where`: parsed, explained, and its functions looked up. Nothing is executed."""

import asyncpg

from db import fitness
from db.faults import server_message, sqlstate
from db.relations import ORDINARY
from db.targets import Target
from jobs.expression import called
from jobs.facts import Fact
from jobs.failures import AWAY, CANCELLED, LOCKED
from jobs.policies import Policy


async def look(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    if policy.target.where is None:
        return []
    if (refused := await _refused(connection, policy.target)) is not None:
        return [refused]
    if names := await fitness.volatile(connection, called(policy.target.where)):
        told = f"{', '.join(f'{name}()' for name in names)} may give another answer each time it is asked"
        advice = "Write it without, or mark a function of yours STABLE where it is"
        return [Fact("where", "warning", f"{told}: a plan's count says nothing of the purge", advice)]
    return [Fact("where", "ok", "one condition")]


async def _refused(connection: asyncpg.Connection, target: Target) -> Fact | None:
    try:
        if await fitness.parse_condition(connection, target):
            return Fact("where", "fault", "PostgreSQL refuses it: it has a parameter", "Write the value itself")
        await fitness.explain_condition(connection, target)
    except asyncpg.InsufficientPrivilegeError as exc:
        return Fact("rights", "fault", f"where: {server_message(exc)}", "GRANT it to this role, or write another where")
    except asyncpg.PostgresError as exc:
        advice = "Write one condition about the table's columns"
        return Fact("where", "fault", f"PostgreSQL refuses it: {_told(exc)}", advice)
    return await _refused_below(connection, target)


async def _refused_below(connection: asyncpg.Connection, target: Target) -> Fact | None:
    """Each relation is purged by its own name: the table's is none that its statements know."""
    below = [each for each in await fitness.relations(connection, target) if each.kin == "below"]
    leaf = next((each for each in below if each.kind == ORDINARY), None)
    if leaf is None:
        return None
    try:
        await fitness.explain_condition(connection, leaf.as_target(target), only=True)
    except asyncpg.PostgresError as exc:
        told = f"PostgreSQL refuses it for {leaf.name}, which is purged by its own name: {_told(exc)}"
        return Fact("where", "fault", told, "Name the table's columns without the table's name")
    return None


def _told(error: asyncpg.PostgresError) -> str:
    """Raises what says nothing of the condition."""
    code = str(sqlstate(error))
    if code in {CANCELLED, LOCKED} or code.startswith(AWAY):
        raise error
    return server_message(error)
