"""Scenes of a purge as Hypothesis draws them: tables, what points to what, holds, and a policy.

Everything is small: what is many elsewhere is few here, as the test makes the sizes of batches small too.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from hypothesis import strategies as st

from db.targets import Epoch
from jobs.pace import Name as PaceName
from jobs.policies import Children

# Instants at which clocks are changed. Lord Howe's go by half an hour.
CHANGES = {
    "UTC": (datetime(2025, 6, 15, 12, tzinfo=UTC),),
    "Europe/Berlin": (datetime(2025, 10, 26, 1, tzinfo=UTC), datetime(2025, 3, 30, 1, tzinfo=UTC)),
    "America/New_York": (datetime(2025, 11, 2, 6, tzinfo=UTC), datetime(2025, 3, 9, 7, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2025, 4, 5, 15, tzinfo=UTC), datetime(2025, 10, 4, 15, 30, tzinfo=UTC)),
}
MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000  # µs
BEFORE_ALL, AFTER_ALL = "before all", "after all"  # infinity, or the ends of a bigint
# Of a row's age; None is NULL. More than half of what is drawn is overdue.
OVERDUE = (-DAY, -400 * DAY, -2 * HOUR, -HOUR, -30 * MINUTE, -1, BEFORE_ALL)
AGES = (*OVERDUE, -DAY, -DAY, None, 0, 1, 30 * MINUTE, HOUR, DAY, AFTER_ALL)
NOTES = (None, "k", "it's", "100%", "")
WHERES = (None, "{a} <> 1", "{note} IS NULL OR {note} <> 'k'", "{note} LIKE '%' AND {a} IN (0, 2)")
ON_DELETE = ("NO ACTION", "RESTRICT", "CASCADE", "SET NULL")
DEFERRED = ("", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED")
PARTITIONED = ("range", "default", "hash", "list", "sub")
LEAVES = 3  # of a partitioned table; and so many tables has one that others inherit from, itself included
LEAST_ROWS, MOST_ROWS, MOST_EDGES = 8, 20, 5


@dataclass(frozen=True)
class Column:
    """The policy's: its type, and whose clock it follows, or what it counts."""

    type: str
    timezone: str = "UTC"
    epoch: Epoch | None = None


@dataclass(frozen=True)
class Row:
    """`ups` say which row of the other table the foreign keys of this one point to, modulo how many those are."""

    age: int | str | None
    place: int  # in which list partition, or which of the tables that inherit
    note: str | None
    ups: tuple[int | None, ...]


@dataclass(frozen=True)
class Table:
    """The first one is the policy's."""

    layout: str  # plain, heirs, or one of PARTITIONED; range, default and sub are the policy's table's alone
    key: str  # none, int, bigint, uuid, composite
    primary: bool  # rather than a unique constraint
    generated: bool
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Edge:
    """A foreign key. An end that is a leaf is that of a partition alone, or of a table that inherits."""

    child: int
    parent: int
    on_delete: str
    deferred: str
    child_leaf: int | None
    parent_leaf: int | None


@dataclass(frozen=True)
class Hold:
    """On the value that a row has in a column; or, past the end of the rows, on one that no row has."""

    table: int
    leaf: int | None
    column: str
    row: int
    state: str  # active, expired, released


@dataclass(frozen=True)
class Scene:
    cutoff: datetime
    column: Column
    tables: tuple[Table, ...]
    edges: tuple[Edge, ...]
    declared: tuple[Children | None, ...]  # of each table, where that is a valid declaration
    bare: bool  # declared without the schema
    holds: tuple[Hold, ...]
    where: str | None
    odd_names: bool
    triggers: str | None  # BEFORE or AFTER
    partitions: Literal["drop", "delete"]
    pace: PaceName
    max_rows: int | None
    index: bool
    along: int  # how many rows may go along with one in its own transaction
    window: int  # how many rows a batch has at most


def _columns() -> st.SearchStrategy[Column]:
    zoned = st.builds(Column, st.sampled_from(("timestamp", "date")), st.sampled_from(tuple(CHANGES)))
    counted = st.builds(
        Column, st.just("bigint"), st.just("UTC"), st.sampled_from(("seconds", "milliseconds", "microseconds"))
    )
    return st.just(Column("timestamptz")) | zoned | counted


def _rows() -> st.SearchStrategy[tuple[Row, ...]]:
    ups = st.tuples(*[st.sampled_from((*range(MOST_ROWS), None))] * MOST_EDGES)
    row = st.builds(Row, st.sampled_from(AGES), st.integers(0, LEAVES - 1), st.sampled_from(NOTES), ups)
    return st.lists(row, min_size=LEAST_ROWS, max_size=MOST_ROWS).map(tuple)


def _tables(*layouts: str, keys: tuple[str, ...]) -> st.SearchStrategy[Table]:
    return st.builds(Table, st.sampled_from(layouts), st.sampled_from(keys), st.booleans(), st.booleans(), _rows())


def _edges(tables: int) -> st.SearchStrategy[tuple[Edge, ...]]:
    """The first one points to the policy's table, the others as often to it as to its children."""
    leaf = st.sampled_from((None, None, None, None, *range(LEAVES)))
    child = st.sampled_from([number % tables for number in (1, 2, 3, 1, 2, 3, 0)])
    parent = st.sampled_from([number % tables for number in (1, 0, 2, 0, 1, 0, 3)])
    how = st.sampled_from(ON_DELETE), st.sampled_from(DEFERRED), leaf, leaf
    first, further = st.builds(Edge, child, st.just(0), *how), st.builds(Edge, child, parent, *how)
    return st.tuples(st.tuples(first), st.lists(further, max_size=MOST_EDGES - 1).map(tuple)).map(
        lambda both: sum(both, ())
    )


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    root = draw(
        _tables("plain", "heirs", *PARTITIONED, keys=("int", "bigint", "uuid", "composite", "int", "composite", "none"))
    )
    child = _tables("plain", "hash", "list", "heirs", keys=("int", "uuid", "composite"))
    tables = (root, *draw(st.lists(child, min_size=1, max_size=3)))
    column = draw(_columns())
    change = draw(st.sampled_from(CHANGES[column.timezone]))
    hold = st.builds(
        Hold,
        st.integers(0, len(tables) - 1),
        st.none() | st.integers(0, LEAVES - 1),
        st.sampled_from(("id", "a", "note", "ts")),
        st.integers(0, MOST_ROWS),
        st.sampled_from(("active", "active", "expired", "released")),
    )
    kinds: list[Children | None] = ["delete", "delete", "block", None]
    return Scene(
        cutoff=change + timedelta(microseconds=draw(st.sampled_from((0, 1, 500_000, -1)))) + draw(_around()),
        column=column,
        tables=tables,
        edges=draw(_edges(len(tables))),
        declared=tuple(draw(st.sampled_from(kinds)) for _ in tables),
        bare=draw(st.booleans()),
        holds=draw(st.lists(hold, max_size=3).map(tuple)),
        where=draw(st.sampled_from(WHERES)),
        odd_names=draw(st.booleans()),
        triggers=draw(st.sampled_from((None, "BEFORE", "AFTER"))),
        partitions=draw(st.sampled_from(("delete", "drop"))),
        pace=draw(st.sampled_from(("full", "gentle"))),
        max_rows=draw(st.none() | st.integers(1, 5)),
        index=draw(st.booleans()),
        along=draw(st.sampled_from((1000, 3, 1))),
        window=draw(st.sampled_from((1000, 2, 1))),
    )


def _around() -> st.SearchStrategy[timedelta]:
    return st.sampled_from([timedelta(minutes=minutes) for minutes in (0, -120, -90, -60, -30, 30, 60, 90, 120)])
