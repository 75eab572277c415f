"""How a statement is executed in a session that may be somebody else's."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Executable, Result
from sqlalchemy.ext.asyncio import AsyncSession


async def execute(
    session: AsyncSession, statement: Executable, parameters: Mapping[str, Any] | None = None
) -> Result[Any]:
    """SQLAlchemy's own `execute`: sqlmodel's AsyncSession warns whoever calls its, and where warnings are errors, ends
    it."""
    return await AsyncSession.execute(session, statement, parameters)
