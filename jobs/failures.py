"""Why a run does not succeed: facts for people, and the one classification of errors into passing and lasting.

Refused
  InvalidPayload   a field is missing, wrong or unknown
  NotFound         something that the payload names does not exist
  PolicyBroken     the policy is disabled: what the file or the database has against it
  PolicyUnclear    the table has several policies
  NotAllowed       the actor may not do this
  ProjectArchived  no task may enter an archived project
  TasksRefused     some of the tasks can't be completed, so none was
  ApprovalNeeded   it would delete what the policy keeps, or names a plan that nobody has approved
  ApprovalSpent    the approval was used by another run, or has ended
  PlanStale        the policy has changed since the plan was made, or it is too old, or it was altered
  OverBudget       the payload asks for more than the policy lets one run have
  TooMuchWouldGo   it would delete more than a mistake may, without an approval (jobs/blast.py)
  CountFailed      what it would delete could not be counted (jobs/blast.py)
  TasksMissing     the task tables are not in this database
  QueryPlanRefused a statement would read a large table from end to end (jobs/queryplans.py)
  RightsMissing    our role may not do to a table what the purge needs (jobs/rights.py)
  TableChanged     a column or the table itself is gone, or is something else by now (jobs/changed.py)
  WrongEpoch       the unit of a column of integers is not the policy's (jobs/epochs.py)
  NotATable        a view, a partitioned or a foreign table, one that others inherit from (jobs/scopes.py)
  RuleInTheWay     a rule says what DELETE means for the table (jobs/scopes.py)
  CountTookTooLong a dry run gave up counting (jobs/dry_run.py)
  HoldUnclear      nobody can say which rows a hold is over (db/held.py)
  GivenUp          one worker after the other has died of it
SliceOver          not a failure: the run goes back into the queue, to give others their turn
Waiting            not a failure: the run goes back into the queue until a trouble is over
Steered            not a failure: an operator has asked for the run to be paused or cancelled
"""

import asyncio
import traceback
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db.faults import HOLDS_CHANGED, server_message, sqlstate, without_values
from db.refusals import NotAllowed, NotFound, Refused

__all__ = ["NotAllowed", "NotFound", "Refused"]  # of db/refusals.py, and part of this family

TRACEBACK_FRAMES = 20
LOCKED = "55P03"
CANCELLED = "57014"
AWAY = ("08", "57P", "53300")  # SQLSTATEs of a server that takes no connection, or has ended one
LOST = OSError, EOFError, PoolTimeout, asyncio.TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError
PASSING = {
    "40001",
    "40P01",
    LOCKED,
    "57P01",
    "57P02",
    "57P03",
    "57P05",
    "53300",
    "25006",
    "25P03",
    "25P04",
    HOLDS_CHANGED,
}


class InvalidPayload(Refused):
    pass


class PolicyBroken(Refused):
    pass


class PolicyUnclear(Refused):
    pass


class ProjectArchived(Refused):
    pass


class TasksRefused(Refused):
    pass


class ApprovalNeeded(Refused):
    pass


class ApprovalSpent(Refused):
    pass


class PlanStale(Refused):
    pass


class OverBudget(Refused):
    pass


class TasksMissing(Refused):
    def __init__(self, told: str) -> None:
        super().__init__(f"{told}: the task tables are not in this database; run `lowtide migrate --with-tasks`")


class GivenUp(Refused):
    def __init__(self, times: int) -> None:
        super().__init__(
            f"its worker has died {times} times in a row while it worked on this run, or could not go on; see the "
            "workers' logs. `lowtide retry` tries again"
        )


class SliceOver(Exception):
    """The run's turn is over, or the worker is stopping; its cursor is committed."""


class Waiting(Exception):
    """PostgreSQL, or somebody else's lock, keeps the run from going on; the message says what."""


class Steered(Exception):
    """An operator has asked for the run to stop; its cursor is committed, and the ledger knows what becomes of it."""


def is_passing(error: BaseException) -> bool:
    """Whether the same work may succeed later, unchanged."""
    code = sqlstate(error)
    if code in {None, "0A000"} and "cached" in server_message(error):
        return True  # a prepared statement, and the table has changed: the server's words, or the driver's
    if code is None:
        lost_connection = isinstance(error, DBAPIError) and (
            error.connection_invalidated or isinstance(error, InterfaceError)
        )
        return lost_connection or isinstance(_driver_error(error), LOST)
    return code in PASSING or code.startswith("08")


def as_error(error: BaseException) -> dict[str, Any]:
    """The `error` column: for a refusal what happened and what to do, for the rest also where."""
    if isinstance(error, Refused):
        detail = {} if error.detail is None else {"detail": error.detail}
        return {"type": type(error).__name__, "message": str(error)} | detail
    code = sqlstate(error)
    # The frames alone: the last line of a traceback is the driver's whole message, with the failing row in it.
    frames = "".join(traceback.format_tb(error.__traceback__)[-TRACEBACK_FRAMES:])
    described = {"type": _name(error), "message": without_values(error), "traceback": frames}
    return described if code is None else described | {"sqlstate": code}


def _name(error: BaseException) -> str:
    """The driver's name for the error, which says more than SQLAlchemy's."""
    return type(_driver_error(error)).__name__


def _driver_error(error: BaseException) -> BaseException:
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig is not None else None
    return cause or error


def missing_tables(error: BaseException) -> str | None:
    """What the server says when a task table is what is missing; None for every other error."""
    told = server_message(error) if sqlstate(error) == "42P01" else ""
    return told if any(f'"public.{table}"' in told for table in ("worker", "project", "task")) else None
