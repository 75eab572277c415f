"""How a statement is executed in a session that may be somebody else's."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Executable, Result, text
from sqlalchemy.ext.asyncio import AsyncSession

from db.refusals import Conflict

ISOLATION = text("SELECT current_setting('transaction_isolation')")


async def execute(
    session: AsyncSession, statement: Executable, parameters: Mapping[str, Any] | None = None
) -> Result[Any]:
    """SQLAlchemy's own `execute`: sqlmodel's AsyncSession warns whoever calls its, and where warnings are errors, ends
    it."""
    return await AsyncSession.execute(session, statement, parameters)


async def require_read_committed(session: AsyncSession) -> None:
    """Raises Conflict in a transaction whose snapshot is older than the statement: what others have committed since is
    not seen in it, and can't be kept."""
    isolation = (await execute(session, ISOLATION)).scalar_one()
    if isolation not in {"read committed", "read uncommitted"}:
        raise Conflict(
            f"this needs a transaction at READ COMMITTED, and this one is at {isolation.upper()}: it would not see "
            "what others have committed since it began. Nothing was changed"
        )
