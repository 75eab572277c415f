"""Holds on tasks, for those who remove tasks in a transaction of their own."""

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from db import held
from db.faults import HOLDS_CHANGED, sqlstate
from db.refusals import Conflict
from db.sessions import require_read_committed

TASKS = '"public"."task"'


async def unheld(session: AsyncSession) -> str:
    """A condition that is false for held tasks. Until the transaction ends, no other hold is placed on tasks.

    Raises Conflict where one was placed at this very moment, and in a transaction that would not see the newest.
    """
    await require_read_committed(session)
    connection = await session.connection()
    driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
    holds = await held.columns(driver, [TASKS])
    try:
        await connection.exec_driver_sql(holds.before)
    except DBAPIError as exc:
        if sqlstate(exc) != HOLDS_CHANGED:
            raise
        raise Conflict("holds on tasks are being placed at this moment; nothing was changed: try again") from exc
    return holds.unheld(TASKS)
