"""What a refusal looks like over HTTP: {"error": {"type", "message", "ids"}}, and never what the caller has sent."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db.faults import sqlstate
from db.refusals import Conflict, InvalidInput, NotAllowed, NotFound, Refused

STATUSES = {NotFound: 404, NotAllowed: 403, Conflict: 409, InvalidInput: 422}
# Somebody's lock, a deadlock, a server that is starting or has no connection left: all before the commit.
PASSING = {"55P03", "40P01", "40001", "53300", "57P03"}
MOST_NAMED = 20
LONGEST_FIELD = 100


def install(app: FastAPI) -> None:
    app.exception_handler(Refused)(refused)
    app.exception_handler(RequestValidationError)(invalid)
    app.exception_handler(DBAPIError)(failed)
    app.exception_handler(PoolTimeout)(busy)
    app.exception_handler(ConnectionRefusedError)(busy)  # no connection could be made


async def refused(_: Request, exc: Refused) -> JSONResponse:
    status = next((status for kind, status in STATUSES.items() if isinstance(exc, kind)), 400)
    fields = {"fields": [exc.detail]} if isinstance(exc, InvalidInput) else {}
    return _error(status, type(exc).__name__, str(exc), ids=exc.ids, **fields)


async def invalid(_: Request, exc: RequestValidationError) -> JSONResponse:
    """What does not fit the schemas. FastAPI's own answer would hold the input, a title of 1 MB too."""
    faults = exc.errors()
    fields = [{"field": _field(fault["loc"]), "problem": fault["msg"]} for fault in faults[:MOST_NAMED]]
    message = f"{len(faults)} of the given values can't be taken"
    return _error(422, InvalidInput.__name__, message, ids=[], fields=fields)


async def failed(request: Request, exc: DBAPIError) -> JSONResponse:
    """The rest is raised again: FastAPI answers 500 and nothing else. A connection that breaks at the commit belongs to
    it, because nobody knows then whether the change stands."""
    if sqlstate(exc) in PASSING:
        return await busy(request, exc)
    raise exc


async def busy(_: Request, __: Exception) -> JSONResponse:
    answer = _error(503, "Busy", "the database is busy or away: ask again in a moment", ids=[])
    answer.headers["Retry-After"] = "1"
    return answer


def _field(place: Sequence[int | str]) -> str:
    """For example body.0.title. Cut, because the name of an unknown field is as long as its author likes."""
    return ".".join(str(part) for part in place)[:LONGEST_FIELD]


def _error(status: int, kind: str, message: str, **more: Any) -> JSONResponse:  # noqa: ANN401 - what JSON can hold
    return JSONResponse({"error": {"type": kind, "message": message} | more}, status_code=status)
