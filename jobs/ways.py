"""How a purge walks its table: by ranges of places where eligible rows are dense, by lists where they are rare."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from db import estimates, windows
from db.batches import Change
from db.engine import Database
from db.estimates import Table
from db.queryplans import Stated
from db.targets import Target
from db.windows import Listing, Place
from jobs.failures import Refused
from jobs.run import Run
from jobs.sweep import Window

# MaxHeapTuplesPerPage of PostgreSQL at its block size of 8 kB: (8192 - 24) / (24 + 4).
POINTERS = 291
# Below this share of eligible rows a block, looking them up costs less than reading every block. Measured: a block that
# is read for nothing takes 5 to 10 µs, a row that is looked up 10 to 20 µs more than one that is met.
DENSE = 0.5
# Below so many blocks (8 MB) nothing is worth a decision.
SMALL_BLOCKS = 1000
# How many rows one look lists: of many rows with one value, the next list reads again those that this one has deleted.
LIST_ROWS = 20_000
# And the first one, after which they grow twofold: nothing is deleted before it is there.
FIRST_LIST_ROWS = 4000


ORDINARY = "r"


class NotATable(Refused):
    pass


@dataclass(frozen=True)
class Choice:
    """The way, why in a sentence, and how many rows are eligible (None: nobody knows)."""

    way: str
    told: str
    expected: int | None


async def choose(connection: asyncpg.Connection, target: Target, table: Table, *, cutoff: datetime) -> Choice:
    """From the planner's statistics; an exact count by index decides where they say that eligible rows are rare.

    Raises NotATable for views, partitioned and foreign tables.
    """
    if table.kind != ORDINARY:
        raise NotATable(f"{target.name} is no ordinary table (relkind {table.kind!r}): this version purges no other")
    expected = None if table.rows is None else await estimates.expected(connection, target, cutoff=cutoff)
    if table.index is None:
        return _blocks(table, expected, f"no index on {target.column} finds eligible rows")
    if table.blocks < SMALL_BLOCKS:
        return _blocks(table, expected, "a small table")
    most = int(table.blocks * DENSE)
    if expected is None or expected < most:
        counted = await estimates.count(connection, target, cutoff=cutoff, most=most)
        if counted < most:
            share = f" ({counted / table.rows:.2%})" if table.rows else ""
            told = f"lists by index {table.index}: {counted:,} rows{share} are eligible, in {table.blocks:,} blocks"
            return Choice("lists", told, counted)
        return _blocks(table, None, f"more than {most:,} rows are eligible")
    return _blocks(table, expected, None)


def _blocks(table: Table, expected: int | None, why: str | None) -> Choice:
    if table.rows and expected is not None:
        told = f"block ranges: {min(expected / table.rows, 1):.0%} of {table.blocks:,} blocks' rows eligible"
    else:
        told = f"block ranges: {table.blocks:,} blocks"
    return Choice("blocks", told if why is None else f"{told} ({why})", expected)


def statements_of(target: Target, way: str, cutoff: datetime) -> list[Stated]:
    """What a purge says, for EXPLAIN."""
    return windows.stated(target, way=way, blocks=32, rows=Lists.first, cutoff=cutoff, most=LIST_ROWS)


def counter(run: Run, why: str) -> str:
    """Of rows that the present pass leaves behind: `locked`, `slow`, or `touched` (perhaps locked)."""
    return f"{why}_in_pass_{run.cursor['pass']}"


@dataclass(frozen=True)
class Purge:
    """What both ways delete: the target's rows before the cutoff."""

    target: Target
    cutoff: datetime

    async def aclose(self) -> None:
        """Nothing is under way after it."""


class Blocks(Purge):
    """Ranges of the table's places: each block is read once, whatever the key.

    The unit is a line pointer. Below one block a window starts at the next eligible row.
    """

    first, largest = 32 * POINTERS, 4096 * POINTERS
    among_locks = False

    async def windows(self, run: Run, size: int, *, most: int) -> list[Window]:
        cursor, end = run.cursor, run.cursor["end"]
        if cursor["block"] >= end or run.spent:
            return []
        if size < POINTERS or cursor["pointer"] > 0:
            return [await self._within_block(run, size)]
        ahead: list[Window] = []
        while cursor["block"] < end and len(ahead) < (most if run.rows_left is None else 1):
            first = Place(cursor["block"])
            last = Place(min(first.block + size // POINTERS, end))
            ahead.append(self._range(run, first, last, (last.block - first.block) * POINTERS))
            cursor = ahead[-1].cursor
        return ahead

    async def _within_block(self, run: Run, size: int) -> Window:
        first, next_block = Place(run.cursor["block"], run.cursor["pointer"]), Place(run.cursor["block"] + 1)
        async with run.database.autocommit() as connection:
            found = await windows.first_eligible(
                connection, self.target, first=first, last=next_block, cutoff=self.cutoff
            )
        if found is None:
            return self._range(run, first, next_block, POINTERS)
        last = Place(found.block, found.pointer + size)
        return self._range(run, found, last if last.pointer <= POINTERS else next_block, size)

    def _range(self, run: Run, first: Place, last: Place, units: int) -> Window:
        rows_left = run.rows_left
        most = rows_left if rows_left is not None and rows_left < units else None

        def delete(skip_locked: str | None = None) -> Change:
            return windows.delete_range(
                self.target, first=first, last=last, cutoff=self.cutoff, most=most, skip_locked=skip_locked
            )

        # To find out which rows are locked costs as much as to delete them. The first pass leaves them to the next.
        leaves_them = run.cursor["pass"] == 1 and most is None
        past_locks = (
            windows.delete_untouched(
                self.target, first=first, last=last, cutoff=self.cutoff, counter=counter(run, "touched")
            )
            if leaves_them
            else delete(counter(run, "locked"))
        )
        return Window(
            delete(),
            cursor=run.cursor | {"block": last.block, "pointer": last.pointer},
            units=units,
            past_locks=past_locks,
            past_locks_counts=not leaves_them,
            past_all=windows.pass_over(counter(run, "slow")),
        )


class Lists(Purge):
    """Eligible rows as an index finds them, a list at a time, in chunks that are deleted by place.

    A list starts at the value where the last one ended, so dead entries before it are not read again. After a crash the
    list is made again. The unit is a row.
    """

    first, largest = 50, 5000

    def __init__(self, target: Target, cutoff: datetime, *, found: Listing | None = None) -> None:
        """`found` is all that is left, where that is known already."""
        super().__init__(target, cutoff)
        self.among_locks = found is not None  # a pass has left them
        self._places = [] if found is None else found.places
        self._offset: int | None = None if found is None else 0  # the cursor's "done" when the list was made
        self._more = found is None
        self._bounds: dict[str, str | None] = {}
        self._met: set[tuple[int, int]] = set()
        self._most = min(FIRST_LIST_ROWS, LIST_ROWS)
        self._ahead: asyncio.Task[Listing] | None = None

    async def aclose(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def windows(self, run: Run, size: int, *, most: int) -> list[Window]:
        if self._offset is None or run.cursor["done"] < self._offset:  # at the start, or back in a list before this one
            self._bounds = {"since": run.cursor["since"], "beyond": run.cursor["beyond"]}
            self._offset, self._places, self._met, self._more = run.cursor["done"], [], set(), True
            await self.aclose()
        while not run.spent:
            position = run.cursor["done"] - self._offset
            if position < len(self._places):
                return self._chunks(run, position, size, most=most)
            if not self._more:
                return []
            self._offset = run.cursor["done"]
            await self._list(run)
        return []

    def _chunks(self, run: Run, position: int, size: int, *, most: int) -> list[Window]:
        if run.rows_left is not None:
            return [self._chunk(run, position, min(size, run.rows_left))]
        starts = range(position, len(self._places), size)
        return [self._chunk(run, start, size) for start in starts[:most]]

    def _chunk(self, run: Run, position: int, count: int) -> Window:
        chunk = self._places[position : position + count]
        cursor = run.cursor | {"done": (self._offset or 0) + position + len(chunk)}
        if position + len(chunk) == len(self._places):
            cursor |= self._bounds
        ctids = [f"({block},{pointer})" for block, pointer in chunk]
        return Window(
            windows.delete_listed(self.target, ctids, cutoff=self.cutoff),
            cursor=cursor,
            units=len(chunk),
            past_locks=windows.delete_listed(
                self.target, ctids, cutoff=self.cutoff, skip_locked=counter(run, "locked")
            ),
            past_all=windows.pass_over(counter(run, "slow")),
        )

    async def _list(self, run: Run) -> None:
        """The next list. Rows of its first value that are there still (locked ones) were in the last one already."""
        listing = await (self._ahead or self._find(run.database, self._most))
        self._ahead = None
        self._places = [place for place in listing.places if place not in self._met]
        self._more = len(listing.places) == self._most
        if not self._more:
            return
        # A list that brings nothing new is full of rows that can't be deleted: what lies beyond them comes first.
        last, none_new = listing.last, not self._places
        self._bounds = {"since": None, "beyond": last} if none_new else {"since": last, "beyond": None}
        self._met = listing.at_last
        self._most = min(2 * self._most, LIST_ROWS)
        # While this list is deleted the next one is made: reading the rows' blocks is most of either. Not where one
        # value fills lists: what is not deleted yet would be all that the next one finds.
        if len(listing.at_last) < len(listing.places) // 2 and run.rows_left is None:
            self._ahead = asyncio.create_task(self._find(run.database, self._most))

    async def _find(self, database: Database, most: int) -> Listing:
        async with database.autocommit() as connection:
            return await windows.eligible_rows(connection, self.target, cutoff=self.cutoff, most=most, **self._bounds)
