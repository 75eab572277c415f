"""What goes into the task service and what comes out of it."""

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from db.fields import ActiveStatus, Description, Instant, Priority, QueriedId, Status, Title
from db.fields import Id as GivenId

# What a caller gave stays out of messages, which end in logs.
GIVEN = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
READ = ConfigDict(from_attributes=True, frozen=True)


class TaskCreate(BaseModel):
    """A new task. Whose it is says the actor; when it was made says the database."""

    model_config = GIVEN

    project_id: GivenId
    title: Title
    description: Description | None = None
    status: Status = "pending"
    priority: Priority = "medium"


class TaskUpdate(BaseModel):
    """Only what is given changes; None empties the description, and nothing else can be empty."""

    model_config = GIVEN

    title: Title | None = None
    description: Description | None = None
    status: Status | None = None
    priority: Priority | None = None

    @field_validator("title", "status", "priority", mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        if value is None:
            raise ValueError("can't be empty: leave it out to keep what stands there")
        return value

    @model_validator(mode="after")
    def _something(self) -> "TaskUpdate":
        if not self.model_fields_set:
            raise ValueError("nothing to change: give at least one field")
        return self

    def changes(self) -> dict[str, Any]:
        """Columns and their new values."""
        return self.model_dump(include=self.model_fields_set)


class TaskFilter(BaseModel):
    """Which active tasks: all conditions together; None asks for nothing."""

    model_config = GIVEN

    project_id: QueriedId | None = None
    status: ActiveStatus | None = None
    priority: Priority | None = None
    created_from: Instant | None = None
    created_before: Instant | None = None

    @field_validator("status", mode="before")
    @classmethod
    def _active(cls, value: object) -> object:
        if value == "deleted":
            raise ValueError("lists hold no deleted task: use `deleted` for those")
        return value


class TaskRead(BaseModel):
    """A row of public.task. Status and priority are text: a table that was there before lowtide may know others."""

    model_config = READ

    id: int
    title: str
    description: str | None
    status: str
    priority: str
    project_id: int
    created_by_id: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    status_before_delete: str | None


class ProjectRead(BaseModel):
    model_config = READ

    id: int
    name: str
    owner_id: int
    archived_at: datetime | None


class WorkerRead(BaseModel):
    model_config = READ

    id: int
    name: str


class TaskDetail(TaskRead):
    """A task with its project and its creator."""

    project: ProjectRead
    created_by: WorkerRead


Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """A part of a list. `offset` and `total` are of numbered pages; `next_cursor` is None on the last of the others."""

    model_config = ConfigDict(frozen=True)

    items: list[Item]
    limit: int
    offset: int | None = None
    total: int | None = None
    next_cursor: str | None = None
