"""The tables as SQLModel sees them. The migrations make them; a test holds the two together."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Dialect, ForeignKey, Identity, Text, TypeDecorator, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.refusals import NaiveDatetime


class Timestamptz(TypeDecorator[datetime]):
    """A timestamptz. What has no time zone is refused: the driver would take it for the zone of this computer."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's
        if value is not None and value.utcoffset() is None:
            raise NaiveDatetime("datetime")
        return value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - as above
        """The driver gives `infinity` without a zone."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def _instant(*, default: bool = False) -> Any:  # noqa: ANN401 - SQLModel's Field() is typed as Any
    """A timestamptz column; with `default`, the database's clock fills it in."""
    if default:
        return Column(Timestamptz, nullable=False, server_default=func.now())
    return Column(Timestamptz, nullable=True)


def _id() -> Any:  # noqa: ANN401 - as above
    return Column(BigInteger, Identity(always=False), primary_key=True)


def _reference(column: str) -> Any:  # noqa: ANN401 - as above
    return Column(BigInteger, ForeignKey(column), nullable=False)


def _text(*, nullable: bool = False, default: str | None = None) -> Any:  # noqa: ANN401 - as above
    return Column(Text, nullable=nullable, server_default=default)


# Named, so that a service's own search_path can't lead to other tables than the jobs maintain.
PUBLIC = {"schema": "public"}


class Worker(SQLModel, table=True):
    """An actor: a person or agent who owns projects and creates tasks. Not a process."""

    __table_args__ = PUBLIC

    id: int | None = Field(default=None, sa_column=_id())
    name: str = Field(sa_column=_text())
    created_at: datetime | None = Field(default=None, sa_column=_instant(default=True))


class Project(SQLModel, table=True):
    __table_args__ = PUBLIC

    id: int | None = Field(default=None, sa_column=_id())
    name: str = Field(sa_column=_text())
    owner_id: int = Field(sa_column=_reference("public.worker.id"))
    archived_at: datetime | None = Field(default=None, sa_column=_instant())
    created_at: datetime | None = Field(default=None, sa_column=_instant(default=True))
    updated_at: datetime | None = Field(default=None, sa_column=_instant(default=True))


class Task(SQLModel, table=True):
    __table_args__ = PUBLIC

    id: int | None = Field(default=None, sa_column=_id())
    title: str = Field(sa_column=_text())
    description: str | None = Field(default=None, sa_column=_text(nullable=True))
    status: str = Field(default="pending", sa_column=_text(default="pending"))
    priority: str = Field(default="medium", sa_column=_text(default="medium"))
    project_id: int = Field(sa_column=_reference("public.project.id"))
    created_by_id: int = Field(sa_column=_reference("public.worker.id"))
    created_at: datetime | None = Field(default=None, sa_column=_instant(default=True))
    updated_at: datetime | None = Field(default=None, sa_column=_instant(default=True))
    deleted_at: datetime | None = Field(default=None, sa_column=_instant())
    status_before_delete: str | None = Field(default=None, sa_column=_text(nullable=True))


class Run(SQLModel, table=True):
    """The columns of the ledger that anyone may read. Lease, cursor and the rest are between lowtide and itself."""

    __table_args__ = {"schema": "lowtide"}

    id: str = Field(sa_column=Column(Text, primary_key=True))
    job: str = Field(sa_column=_text())
    payload: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True)))
    requested_by: str = Field(sa_column=_text())
    state: str = Field(default="queued", sa_column=_text(default="queued"))
    rows_done: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    rows_expected: int | None = Field(default=None, sa_column=Column(BigInteger))
    batches: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    attempt: int = Field(default=0, nullable=False, sa_column_kwargs={"server_default": "0"})
    pace: str | None = Field(default=None, sa_column=_text(nullable=True))
    max_rows: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    max_seconds: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    wait_reason: str | None = Field(default=None, sa_column=_text(nullable=True))
    requested_action: str | None = Field(default=None, sa_column=_text(nullable=True))
    result: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True)))
    error: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True)))
    scheduled_for: datetime | None = Field(default=None, sa_column=_instant())
    not_before: datetime | None = Field(default=None, sa_column=_instant(default=True))
    created_at: datetime | None = Field(default=None, sa_column=_instant(default=True))
    started_at: datetime | None = Field(default=None, sa_column=_instant())
    heartbeat_at: datetime | None = Field(default=None, sa_column=_instant())
    finished_at: datetime | None = Field(default=None, sa_column=_instant())
