"""Looks at what a purge would do or has left: they read, for a minute at most, and then stay without an answer."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from db.engine import Database

# A look at what is left reads dead entries too, a few million a second. Where it takes longer, nobody looks.
LONGEST_LOOK_S = 60


class LookTookTooLong(Exception):
    """What it would have told stays unknown."""


@asynccontextmanager
async def looking(database: Database, **settings: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection for one such statement. Raises LookTookTooLong when its time is up; an operator's cancel before that
    comes through as it is."""
    begun = time.monotonic()
    try:
        async with database.tuned(statement_timeout=f"{LONGEST_LOOK_S}s", **settings) as connection:
            yield connection
    except asyncpg.QueryCanceledError as exc:
        if time.monotonic() - begun < LONGEST_LOOK_S:
            raise
        raise LookTookTooLong from exc
