"""Whether a transaction pooler stands between us and PostgreSQL: then our session is another one each time."""

import asyncio

import asyncpg

from db import engine
from db.engine import Address

TIMES = 3
ANSWER_WITHIN_S = 5.0


async def is_transactional(address: Address) -> bool:
    """Whether a connection changes its server process between two transactions, or shares it with another connection.

    A pooler that takes turns gives the first connection another process each time. One that prefers the process that
    was used last gives it to the second connection. Without a pooler, or with one of sessions, both keep theirs.
    Raises what the driver raises.
    """
    first = await engine.open_bare(address)
    try:
        second = await engine.open_bare(address)
        try:
            return await _shared(first, second)
        finally:
            second.terminate()
    finally:
        first.terminate()


async def _shared(first: asyncpg.Connection, second: asyncpg.Connection) -> bool:
    for _ in range(TIMES):
        before = await _process(first)
        if await _process(first) != before:
            return True
        async with second.transaction():
            others = await _process_here(second)
            if others == before:
                return True
            try:
                after = await asyncio.wait_for(_process(first), ANSWER_WITHIN_S)
            except TimeoutError:  # the pooler has no other process to give
                return True
            if after != before:
                return True
    return False


async def _process(connection: asyncpg.Connection) -> int:
    """In a transaction of its own: what follows may meet another process."""
    async with connection.transaction():
        return await _process_here(connection)


async def _process_here(connection: asyncpg.Connection) -> int:
    number: int = await connection.fetchval("SELECT pg_backend_pid()")
    return number
