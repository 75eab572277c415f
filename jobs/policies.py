"""Retention policies: which rows of which table go, when, and how old they must be."""

from dataclasses import dataclass
from datetime import timedelta

from db.targets import Target
from jobs.pace import GENTLE, Pace


@dataclass(frozen=True)
class Policy:
    """A retention rule for a table. Rows whose `target.column` is older than `keep` are eligible; NULL never is."""

    name: str
    target: Target
    keep: timedelta
    schedule: str | None = None  # a cron expression, in `timezone`; None: only when asked for
    timezone: str = "UTC"
    pace: Pace = GENTLE


OLD_DELETED_TASKS = Policy(
    name="old-deleted-tasks",
    target=Target(schema="public", table="task", column="deleted_at"),
    keep=timedelta(days=90),
    schedule="30 2 * * *",
)
DEFAULT = (OLD_DELETED_TASKS,)
