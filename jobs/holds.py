"""What a purge knows of holds before it says anything to its tables."""

from collections.abc import Sequence

import asyncpg

from db import held, queryplans
from db.faults import server_message
from db.held import Held
from db.targets import quoted
from jobs.failures import Refused


class HoldUnclear(Refused):
    """Nobody can say which rows a hold is over, or our role may not ask."""


async def known(connection: asyncpg.Connection, relations: Sequence[str]) -> Held:
    """Of all tables whose rows go, by their quoted names. Raises HoldUnclear."""
    try:
        return await held.columns(connection, relations)
    except held.HoldUnclear as exc:
        raise HoldUnclear(str(exc)) from exc
    except asyncpg.InsufficientPrivilegeError as exc:
        role = quoted(await queryplans.role(connection))
        raise HoldUnclear(
            f"which rows are held can't be seen: {server_message(exc)}. Nothing was deleted. GRANT SELECT ON "
            f"lowtide.hold TO {role}; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO {role};"
        ) from exc
