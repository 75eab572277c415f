"""What our role may not do to a policy's tables, though its purge needs it; and the GRANT that mends it."""

from collections.abc import Sequence

import asyncpg

from db import queryplans
from db.fitness import Relation
from db.targets import quoted
from jobs.failures import Refused

MOST_NAMED = 5


class RightsMissing(Refused):
    """Our role may not do to a table what the purge needs."""


async def told(connection: asyncpg.Connection, relations: Sequence[Relation]) -> tuple[str, str] | None:
    """What is missing, and the statements to run; None where nothing is."""
    lacking = [relation for relation in relations if relation.lacks]
    if not lacking:
        return None
    role = quoted(await queryplans.role(connection))
    missing = [f"{', '.join(relation.lacks)} on {relation.name}" for relation in lacking[:MOST_NAMED]]
    grants = dict.fromkeys(grant for relation in lacking[:MOST_NAMED] for grant in _grants(relation, role))
    more = f"; and {len(lacking) - MOST_NAMED} more" if len(lacking) > MOST_NAMED else ""
    return f"role {role} lacks {'; '.join(missing)}{more}", " ".join(grants)


async def require(connection: asyncpg.Connection, relations: Sequence[Relation]) -> None:
    """Raises RightsMissing."""
    if (missing := await told(connection, relations)) is not None:
        raise RightsMissing(f"{missing[0]}. Nothing was deleted. {missing[1]}")


def _grants(relation: Relation, role: str) -> list[str]:
    rights = ", ".join(right for right in relation.lacks if right != "USAGE")
    schema = [f"GRANT USAGE ON SCHEMA {quoted(relation.schema)} TO {role};"] if "USAGE" in relation.lacks else []
    return schema + ([f"GRANT {rights} ON {relation.quoted_name} TO {role};"] if rights else [])
