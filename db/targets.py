"""What a sweep is about: a table, and which of its rows are eligible. Everything that comes from it is quoted."""

from dataclasses import dataclass
from typing import Literal

Epoch = Literal["seconds", "milliseconds", "microseconds"]


@dataclass(frozen=True)
class Target:
    """Whose rows, and which: those whose `column` is before the cutoff, and for which `where` holds."""

    schema: str
    table: str
    column: str
    where: str | None = None  # SQL from the policy file, never from a payload
    epoch: Epoch | None = None  # what a column of integers counts since 1970
    timezone: str = "UTC"  # whose clock a column of dates, or of timestamps without a zone, follows

    @property
    def relation(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def quoted_column(self) -> str:
        return quoted(self.column)

    def eligible(self, cutoff: str) -> str:
        """The whole eligibility condition, in a form that no index can answer. `cutoff` is SQL of a timestamptz.

        `IS TRUE` keeps every index out of it, so that only a range of places can drive the scan; the sub-select makes
        the cast of the cutoff happen once, not for each row.
        """
        condition = f"({self.quoted_column} < (SELECT {cutoff})) IS TRUE"
        return condition if self.where is None else f"{condition} AND ({self.where}) IS TRUE"

    def indexable(self, cutoff: str) -> str:
        """The same condition as an index on the column can answer it."""
        condition = f"{self.quoted_column} < {cutoff}"
        return condition if self.where is None else f"{condition} AND ({self.where})"

    @property
    def wanted_index(self) -> str:
        """The index that finds eligible rows, for people to create."""
        column = self.quoted_column
        return f"CREATE INDEX CONCURRENTLY ON {self.relation} ({column}) WHERE {column} IS NOT NULL;"


def quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
