"""How long the statements of a task service took: as data, and as a log event."""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import CursorResult, Executable, Row
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

from db.batches import Change
from db.sessions import execute

# The one logger in db/. The standard library's: a service that shares db/ has logging of its own, and structlog would
# print where nobody has configured it.
LOG = logging.getLogger("lowtide.tasks")
KEPT = 1000

Found = TypeVar("Found")


@dataclass(frozen=True)
class Timing:
    """A statement: from its sending to its last row, and how many rows it returned or changed. `holds` is all that is
    asked about holds before a removal, which takes at least two."""

    name: str
    seconds: float
    rows: int


class TimedSession:
    """A session whose statements are measured. `timings` are the newest KEPT."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self.timings: deque[Timing] = deque(maxlen=KEPT)

    async def rows(self, name: str, statement: Executable) -> Sequence[Row[Any]]:
        """What a statement returns."""
        return await self.call(name, _rows(self.session, statement), rows=len)

    async def changed(self, name: str, statement: Executable | Change) -> int:
        """How many rows a statement changed."""
        return await self.call(name, _changed(self.session, statement), rows=int)

    async def call(self, name: str, doing: Awaitable[Found], *, rows: Callable[[Found], int]) -> Found:
        """What everything that is said to PostgreSQL goes through."""
        begun = time.perf_counter()
        with _as_sqlalchemy_s():
            found = await doing
        timing = Timing(name, time.perf_counter() - begun, rows(found))
        self.timings.append(timing)
        LOG.debug("task.statement", extra={"statement": name, "seconds": timing.seconds, "rows": timing.rows})
        return found


@contextmanager
def _as_sqlalchemy_s() -> Iterator[None]:
    """What was said past SQLAlchemy, as COPY is, fails as all else does; without the failing row, which may hold what
    users keep private."""
    try:
        yield
    except asyncpg.PostgresError as exc:
        exc.detail = None
        raise _kind(exc)(None, None, exc, hide_parameters=True) from exc
    except asyncpg.InterfaceError as exc:
        raise InterfaceError(None, None, exc, hide_parameters=True) from exc


def _kind(error: asyncpg.PostgresError) -> type[DBAPIError]:
    """The same that SQLAlchemy takes."""
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return IntegrityError
    return ProgrammingError if isinstance(error, asyncpg.SyntaxOrAccessError) else DBAPIError


async def _rows(session: AsyncSession, statement: Executable) -> Sequence[Row[Any]]:
    return (await execute(session, statement)).all()


async def _changed(session: AsyncSession, statement: Executable | Change) -> int:
    if isinstance(statement, Change):
        connection = await session.connection()
        return (await connection.exec_driver_sql(statement.statement, (list(statement.args),))).rowcount
    outcome = await execute(session, statement)
    if not isinstance(outcome, CursorResult):
        raise TypeError("not a statement that changes rows")
    return outcome.rowcount
