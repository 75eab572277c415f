"""Retention policies: which rows of which table go, when, how old they must be, and what a run may do at most."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import time, timedelta
from hashlib import sha256
from typing import Literal

from db.targets import Target
from jobs.pace import GENTLE, Pace

OWN_SCHEMA = "lowtide"
# What becomes of rows of other tables that point to a row: they go with it, or keep it.
Children = Literal["delete", "block"]


@dataclass(frozen=True)
class Hours:
    """When a run may work, by the clock of the policy's timezone. `end` before `start` goes over midnight."""

    start: time
    end: time


@dataclass(frozen=True)
class Policy:
    """A retention rule for a table. Rows whose `target.column` is older than `keep` are eligible; NULL never is."""

    name: str
    target: Target
    keep: timedelta
    schedule: str | None = None  # a cron expression, in `timezone`; None: only when asked for
    timezone: str = "UTC"
    pace: Pace = GENTLE
    children: Mapping[str, Children] = field(default_factory=dict)  # by table, as `table` or `schema.table`
    max_share: float = 0.6  # more of the table's rows (and 10,000) go only with an approval
    hours: Hours | None = None
    max_rows: int | None = None  # of one run; what is left goes in the next
    max_seconds: int | None = None
    partitions: Literal["drop", "delete"] = "drop"  # what becomes of a partition whose rows are all eligible
    vacuum_share: float | None = 0.1  # VACUUM after a purge where more of the rows are dead; None: never

    @property
    def is_own(self) -> bool:
        """Whether it is one of OWN: no policy of a file can be for a table of this schema."""
        return self.target.schema == OWN_SCHEMA

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of every field as JSON with sorted keys: what the audit remembers of the rule.

        Of the pace its name: what that means is not the policy's to say.
        """
        fields = asdict(self) | {"pace": self.pace.name}
        return sha256(json.dumps(fields, sort_keys=True, default=_canonical).encode()).hexdigest()


def _canonical(value: object) -> object:
    match value:
        case timedelta():
            return value.total_seconds()
        case time():
            return value.isoformat()
    raise TypeError(f"a policy's field of type {type(value).__name__} has no place in its digest")


OLD_DELETED_TASKS = Policy(
    name="old-deleted-tasks",
    target=Target(schema="public", table="task", column="deleted_at"),
    keep=timedelta(days=90),
    schedule="30 2 * * *",
)
DEFAULT = (OLD_DELETED_TASKS,)


def _own(name: str, table: str, column: str, *, days: int, schedule: str, where: str | None = None) -> Policy:
    target = Target(OWN_SCHEMA, table, column, where=where)
    return Policy(name, target, timedelta(days=days), schedule=schedule, max_share=1)


# What lowtide keeps of itself, whatever the file says. Of what failed somebody may still want to know why. The audit
# and the holds stay.
OWN = (
    _own("lowtide-runs", "run", "finished_at", days=30, schedule="10 4 * * *", where="state <> 'failed'"),
    _own("lowtide-failed-runs", "run", "finished_at", days=90, schedule="15 4 * * *", where="state = 'failed'"),
    _own("lowtide-plans", "plan", "made_at", days=30, schedule="20 4 * * *"),
)


@dataclass(frozen=True)
class Broken:
    """A policy that can't be used: it does nothing, and the others stand."""

    name: str  # or what it is called without one: "number 3", by its place in the file
    reason: str  # and what to do
    table: tuple[str, str] | None = None  # schema and table, where that much could be read
    is_named: bool = True  # whether `name` is its own

    def __str__(self) -> str:
        return f"policy {self.name}: {self.reason}"


@dataclass(frozen=True)
class Policies:
    """What the policy file says."""

    valid: tuple[Policy, ...]
    broken: tuple[Broken, ...] = ()

    @property
    def every(self) -> tuple[Policy, ...]:
        """With lowtide's own: all that can be run."""
        return (*self.valid, *OWN)

    def disabled(self) -> dict[str, Broken]:
        """By name, for those who run them: what the database has against others comes and goes (worker/lookout.py).

        What has no name nobody can run: another policy may have the one that it is called by.
        """
        return {broken.name: broken for broken in self.broken if broken.is_named}


def in_words(keep: timedelta) -> str:
    """A policy's `keep`, for people."""
    hours = keep // timedelta(hours=1)
    number, unit = (hours, "hour") if hours % 24 else (hours // 24, "day")
    return f"{number:,} {unit}{'' if number == 1 else 's'}"
