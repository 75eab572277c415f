"""What a sweep is about: a table, and which of its rows are eligible. Everything that comes from it is quoted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Epoch = Literal["seconds", "milliseconds", "microseconds"]
PER_SECOND: dict[Epoch, int] = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000}
BIGINT = "bigint"
# The years 1 and 9999, in seconds since 1970.
EARLIEST_S, LATEST_S = -62_135_596_800, 253_402_300_799
TIMESTAMPTZ = "timestamp with time zone"


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

    @property
    def wanted_index(self) -> str:
        """The index that finds eligible rows, for people to create."""
        column = self.quoted_column
        return f"CREATE INDEX CONCURRENTLY ON {self.relation} ({column}) WHERE {column} IS NOT NULL;"


@dataclass(frozen=True)
class Eligible:
    """The eligible rows of a relation, at one cutoff: its own, or those of its partitions and heirs too."""

    target: Target
    kind: str  # the type that the column is compared as, as SQL: bigint for all integers
    before: str  # the cutoff as a value of that type, as text: rows below it are eligible
    unheld: str | None = None  # SQL that is true for rows that no hold keeps, and false for others; None: there is none
    blocked: Mapping[str, str] = field(default_factory=dict)  # the same of rows that others keep, by their constraints

    whole: bool = False

    @property
    def rows(self) -> str:
        """FROM what."""
        return self.target.relation if self.whole else f"ONLY {self.target.relation}"

    @property
    def condition(self) -> str:
        """The whole condition, in a form that no index can answer.

        `IS TRUE` keeps every index out of it, so that only a range of places can drive the scan.
        """
        return self._and_kept(f"({self.old}) IS TRUE", "({}) IS TRUE")

    @property
    def indexable(self) -> str:
        """The same condition as an index on the column can answer it."""
        return self._and_kept(self.old, "({})")

    @property
    def kept(self) -> list[str]:
        """SQL, each true for rows that stay although their time has come."""
        return ([] if self.unheld is None else [f"NOT ({self.unheld})"]) + list(self.blocked.values())

    @property
    def but_kept(self) -> str:
        """Rows that stay although their time has come."""
        where = "" if self.target.where is None else f" AND ({self.target.where})"
        return f"{self.old}{where} AND ({' OR '.join(f'({kept})' for kept in self.kept) or 'false'})"

    @property
    def least(self) -> str:
        """A value that no row is below, as text."""
        return str(-(2**63)) if self.kind == BIGINT else "-infinity"

    def value(self, sql: str) -> str:
        """SQL of a text, as a value of the column."""
        return f"({sql})::{self.kind}"

    def instant(self, sql: str) -> str:
        """SQL of a value of the column, as a timestamptz."""
        zone = literal(self.target.timezone)
        if self.target.epoch is not None:
            seconds = f"({sql})::float8 / {PER_SECOND[self.target.epoch]}"
            return f"to_timestamp(least(greatest({seconds}, {EARLIEST_S}), {LATEST_S}))"  # a number need be no time
        return sql if self.kind == TIMESTAMPTZ else f"(({sql})::timestamp AT TIME ZONE {zone})"

    @property
    def old(self) -> str:
        """That a row's time has come: what else keeps it is not asked."""
        return f"{self.target.quoted_column} < {self.value(literal(self.before))}"

    def _and_kept(self, condition: str, form: str) -> str:
        where = "" if self.target.where is None else " AND " + form.format(self.target.where)
        unheld = "" if self.unheld is None else f" AND {self.unheld}"
        return condition + where + unheld + "".join(f" AND ({kept}) IS NOT TRUE" for kept in self.blocked.values())


def quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def written(*parts: str) -> str:
    """A name as a policy file has it: a part with a dot or a quote in double quotes, so that no two are the same."""
    return ".".join(quoted(part) if "." in part or '"' in part else part for part in parts)
