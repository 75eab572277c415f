"""Holds on tasks, for those who remove tasks in a transaction of their own."""

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from db import held
from db.faults import HOLDS_CHANGED, sqlstate
from db.refusals import Conflict

TASKS = '"public"."task"'


async def unheld(session: AsyncSession) -> str:
    """A condition that is false for held tasks. Until the transaction ends, no other hold is placed on tasks.

    Raises Conflict where one was placed at this very moment.
    """
    driver: asyncpg.Connection = (await (await session.connection()).get_raw_connection()).driver_connection
    holds = await held.columns(driver, [TASKS])
    try:
        await session.execute(text(holds.before))
    except DBAPIError as exc:
        if sqlstate(exc) != HOLDS_CHANGED:
            raise
        raise Conflict("holds on tasks are being placed at this moment; nothing was changed: try again") from exc
    return holds.unheld(TASKS)
