"""Scenes of a purge, drawn by Hypothesis: tables, what points to what, holds, and a policy.

Everything is small: what is many elsewhere is few here, as the test makes the sizes of batches small too.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
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
LEAST_ROWS, MOST_ROWS, MOST_EDGES = 6, 20, 6


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
class Ways:
    """How the scene is played."""

    bare: bool  # children are declared without their schema
    where: str | None
    odd_names: bool
    triggers: str | None  # BEFORE or AFTER
    partitions: Literal["drop", "delete"]
    pace: PaceName
    max_rows: int | None  # of a first run
    index: bool  # the table is walked by one
    along: int  # how many rows may go along with one in its own transaction
    window: int  # how many rows a batch has at most


@dataclass(frozen=True)
class Scene:
    cutoff: datetime
    column: Column
    tables: tuple[Table, ...]
    edges: tuple[Edge, ...]
    declared: tuple[Children | None, ...]  # of each table, where that is a valid declaration
    holds: tuple[Hold, ...]
    ways: Ways


def _column(chance: Random) -> Column:
    kind = chance.choice(("timestamptz", "timestamp", "date", "bigint"))
    if kind == "bigint":
        return Column(kind, epoch=chance.choice(("seconds", "milliseconds", "microseconds")))
    return Column(kind, "UTC" if kind == "timestamptz" else chance.choice(tuple(CHANGES)))


def _row(chance: Random) -> Row:
    ups = tuple(chance.choice((None, *[chance.randrange(MOST_ROWS)] * 7)) for _ in range(MOST_EDGES))
    return Row(chance.choice(AGES), chance.randrange(LEAVES), chance.choice(NOTES), ups)


def _table(chance: Random, rows: tuple[Row, ...], *, first: bool) -> Table:
    layouts = ("plain", "heirs", *PARTITIONED) if first else ("plain", "plain", "hash", "list", "heirs")
    keys = ("int", "bigint", "uuid", "composite", "int", "composite", "none" if first else "uuid")
    return Table(chance.choice(layouts), chance.choice(keys), chance.random() < 0.5, chance.random() < 0.3, rows)


def _edge(chance: Random, tables: int, *, first: bool) -> Edge:
    """The first one points to the policy's table, the others as often to it as to its children."""
    leaves = [chance.randrange(LEAVES) if chance.random() < 0.3 else None for _ in range(2)]
    child = chance.choice((1, 2, 3, 1, 2, 3, 0)) % tables
    parent = 0 if first else chance.choice((0, 0, 1, 1, 2, 3)) % tables
    return Edge(child, parent, chance.choice(ON_DELETE), chance.choice(DEFERRED), *leaves)


def _hold(chance: Random, tables: int) -> Hold:
    leaf = chance.randrange(LEAVES) if chance.random() < 0.3 else None
    state = chance.choice(("active", "active", "expired", "released"))
    return Hold(
        chance.randrange(tables), leaf, chance.choice(("id", "a", "note", "ts")), chance.randrange(MOST_ROWS + 2), state
    )


WAYS = st.builds(
    Ways,
    bare=st.booleans(),
    where=st.sampled_from(WHERES),
    odd_names=st.booleans(),
    triggers=st.sampled_from((None, "BEFORE", "AFTER")),
    partitions=st.sampled_from(("delete", "drop")),
    pace=st.sampled_from(("full", "gentle")),
    max_rows=st.none() | st.integers(1, 5),
    index=st.booleans(),
    along=st.sampled_from((1000, 3, 1)),
    window=st.sampled_from((1000, 2, 1)),
)


@st.composite
def scenes(draw: st.DrawFn, salt: str) -> Scene:
    """How many there are of what, and the ways, are Hypothesis's to choose and to shrink. What each is like comes from
    a number, the ways and the salt: drawn one by one they would be alike too often, as Hypothesis likes to repeat
    itself.
    """
    ways, seed = draw(WAYS), draw(st.integers(0, 2**32 - 1))

    def chance(*what: object) -> Random:
        return Random(f"{salt} {seed} {ways} {what}")

    count = draw(st.sampled_from((2, 3, 4, 1)))
    sizes = [draw(st.integers(LEAST_ROWS, MOST_ROWS)) for _ in range(count)]
    rows = [tuple(_row(chance("row", number, row)) for row in range(size)) for number, size in enumerate(sizes)]
    column = _column(chance("column"))
    kinds: tuple[Children | None, ...] = ("delete", "delete", "block", None)
    around = timedelta(minutes=chance("minutes").choice((0, -120, -90, -60, -30, 30, 60, 90, 120)))
    around += timedelta(microseconds=chance("µs").choice((0, 1, 500_000, -1)))
    return Scene(
        cutoff=chance("change").choice(CHANGES[column.timezone]) + around,
        column=column,
        tables=tuple(_table(chance("table", number), each, first=number == 0) for number, each in enumerate(rows)),
        edges=tuple(_edge(chance("edge", n), count, first=n == 0) for n in range(draw(st.integers(1, MOST_EDGES)))),
        declared=tuple(chance("declared", number).choice(kinds) for number in range(count)),
        holds=tuple(_hold(chance("hold", number), count) for number in range(draw(st.integers(0, 3)))),
        ways=ways,
    )
