"""Why an operation is refused: errors that callers handle. Nothing was changed where one is raised.

Refused
  NotFound         something that was named does not exist, or is deleted
  NotAllowed       the actor may not do this
  Conflict         it can't be done to what stands there now
  InvalidInput     a value that nothing can be done with; `field` names it
    NaiveDatetime  a point in time without a time zone
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import DontWrapMixin

MOST_NAMED = 20  # ids or fields, in one message


class Refused(Exception):
    """The work can't be done as asked: nothing was changed, and nothing is tried again.

    `ids` are those that it is about: of tasks, projects, workers or runs, as the message says; the first 20 of many.
    """

    def __init__(self, message: str, *, detail: dict[str, Any] | None = None, ids: Sequence[int | str] = ()) -> None:
        super().__init__(message)
        self.detail = detail
        self.ids = list(ids)


class NotFound(Refused):
    pass


class NotAllowed(Refused):
    pass


class Conflict(Refused):
    pass


class InvalidInput(Refused):
    """`field` is the argument or column, `problem` what is wrong with it. The value is not shown."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", detail={"field": field, "problem": problem})
        self.field = field
        self.problem = problem


class NaiveDatetime(InvalidInput, DontWrapMixin):
    """Which point in time it means would depend on the zone of whoever reads it."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "a point in time needs a time zone: datetime.now(UTC), not datetime.now()")
