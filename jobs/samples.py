"""A few of the rows that a purge would delete, for eyes at a terminal: never stored, never logged."""

from datetime import datetime

import asyncpg

from db import plans
from db.engine import Database
from db.faults import server_message
from jobs.failures import Refused
from jobs.policies import Policy
from jobs.scopes import Scopes

ROWS, COLUMNS, CHARACTERS = 5, 6, 40
LONGEST = "5s"


async def sample(database: Database, policy: Policy, cutoff: datetime) -> list[dict[str, str | None]] | str:
    """The oldest rows that would go, each a few columns cut to 40 characters; or why they can't be shown."""
    found: list[dict[str, str | None]] = []
    try:
        async with database.tuned(statement_timeout=LONGEST, default_transaction_read_only="on") as connection:
            for scope in await Scopes(policy, cutoff).all(connection):
                if len(found) < ROWS:
                    most = ROWS - len(found)
                    found += await plans.sample(
                        connection, scope.eligible, most=most, columns=COLUMNS, characters=CHARACTERS
                    )
    except (asyncpg.PostgresError, Refused) as exc:
        return server_message(exc)
    return found
