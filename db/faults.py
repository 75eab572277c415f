"""What PostgreSQL's errors mean to us: the one place where driver errors are translated."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError

from db.refusals import Conflict

UNFIT = {"22P02", "22P05", "22021", "22003", "22023", "54000", "54001"}
HOLDS_CHANGED = "LT411"  # of lowtide.under_holds: nothing of the batch stands, and new statements know the new holds
BLOCKED = {"23503", "23001"}  # another table refers to the row
NOT_MIGRATED = {"3F000", "42P01", "42883"}  # no such schema, table, function


class RunFenced(Exception):
    """Another worker holds the run by now: everything of this batch was rolled back, and we stop quietly."""


class UnfitPayload(Exception):
    """PostgreSQL's jsonb can't hold this payload (a NUL, a lone surrogate, nesting or a number beyond its limits)."""


def sqlstate(error: BaseException) -> str | None:
    """The five characters of PostgreSQL's error code; None when the error is not the server's."""
    if isinstance(error, DBAPIError):
        return getattr(error.orig, "sqlstate", None)
    return error.sqlstate if isinstance(error, asyncpg.PostgresError) else None


def server_message(error: BaseException) -> str:
    """What the server said, in a line: without the statement, its parameters and the failing row, all of which may
    hold what users keep private."""
    if isinstance(error, DBAPIError):
        return server_message(error.orig.__cause__ or error.orig) if error.orig else type(error).__name__
    told = str(error.args[0]) if isinstance(error, asyncpg.PostgresError) and error.args else str(error)
    return told.strip() or type(error).__name__


@contextmanager
def translated(run_id: str) -> Iterator[None]:
    """Turn the error codes of the ledger's own functions into Conflict and RunFenced."""
    try:
        yield
    except (DBAPIError, asyncpg.PostgresError) as exc:
        match sqlstate(exc):
            case "LT409":
                told = f'run "{run_id}" exists already, with another job or payload; the first one stands'
                raise Conflict(told, ids=[run_id]) from exc
            case "LT410":
                raise RunFenced(run_id) from exc
        raise


@contextmanager
def accepting(run_id: str) -> Iterator[None]:
    """`translated`, and what keeps a payload out of the ledger into UnfitPayload."""
    try:
        with translated(run_id):
            yield
    except (DBAPIError, asyncpg.PostgresError) as exc:
        if sqlstate(exc) in UNFIT:
            raise UnfitPayload(server_message(exc)) from exc
        raise


def without_values(error: BaseException) -> str:
    """As `server_message`, where it may show a value of somebody's row: all of class 22 (data exception)."""
    told = server_message(error)
    if not (sqlstate(error) or "").startswith("22"):
        return told
    return re.sub('".*"', '"…"', told, flags=re.DOTALL).partition(":")[0]
