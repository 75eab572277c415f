"""What a purge knows of holds before it says anything to its tables."""

from collections.abc import Sequence

import asyncpg

from db import held
from db.held import Held
from jobs.failures import Refused


class HoldUnclear(Refused):
    """Nobody can say which rows a hold is over."""


async def known(connection: asyncpg.Connection, relations: Sequence[str]) -> Held:
    """Of all tables whose rows go, by their quoted names. Raises HoldUnclear."""
    try:
        return await held.columns(connection, relations)
    except held.HoldUnclear as exc:
        raise HoldUnclear(str(exc)) from exc
