"""What the service takes and gives, beside the schemas that it shares with lowtide."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from db.fields import MOST_IDS, Id
from db.schemas import TaskFilter


# One model for all parameters of a query: what it does not know is refused, a misspelt filter too.
class Listing(TaskFilter):
    limit: int = 50

    @property
    def where(self) -> TaskFilter:
        """The filter alone: a cursor belongs to one, and would not fit to another."""
        return TaskFilter(**{name: getattr(self, name) for name in TaskFilter.model_fields})


class Numbered(Listing):
    offset: int = 0


class Feed(Listing):
    cursor: str | None = None


class Search(Feed):
    q: str


class Finish(BaseModel):
    model_config = ConfigDict(extra="forbid")

    task_ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_IDS)]


class RunError(BaseModel):
    """Without the traceback, which is for operators."""

    type: str
    message: str


class RunRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    job: str
    state: str
    rows_done: int
    wait_reason: str | None
    result: dict[str, Any] | None
    error: RunError | None
