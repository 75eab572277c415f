"""The database's clock: the only one that decides what is old."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession


async def now(session: AsyncSession) -> datetime:
    instant: datetime = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return instant
