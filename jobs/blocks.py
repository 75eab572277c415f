"""The way for dense tables: ranges of blocks, each read once, whatever the key."""

from collections.abc import Mapping
from typing import Any

from db import windows
from db.windows import Place
from jobs.run import Run
from jobs.ways import Purge
from jobs.window import BY_INDEX, Window

# MaxHeapTuplesPerPage of PostgreSQL at its block size of 8 kB: (8192 - 24) / (24 + 4).
POINTERS = 291
# Windows are read in their order, which the operating system reads ahead by itself; handing blocks to the server's I/O
# workers (PostgreSQL 18) costs small windows more than it brings: 60 blocks 4.8 ms instead of 2.3 ms.
IN_ORDER: Mapping[str, str] = {"effective_io_concurrency": "0"}


class Blocks(Purge):
    """The unit is a line pointer. Below one block a window starts at the next eligible row."""

    first, largest = 32 * POINTERS, 4096 * POINTERS

    @property
    def settings(self) -> Mapping[str, str]:
        """What goes along is found by an index, whatever statistics of another day promise."""
        return IN_ORDER if self.scope.tree is None else {**IN_ORDER, **BY_INDEX}

    @staticmethod
    def start(*, blocks: int) -> dict[str, Any]:
        """The cursor of a pass that begins. What is added behind `end` meanwhile is not eligible."""
        return {"block": 0, "pointer": 0, "end": blocks}

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
            found = await windows.first_eligible(connection, self.scope.eligible, first=first, last=next_block)
        if found is None:
            return self._range(run, first, next_block, POINTERS)
        last = Place(found.block, found.pointer + size)
        return self._range(run, found, last if last.pointer <= POINTERS else next_block, size)

    def _range(self, run: Run, first: Place, last: Place, units: int) -> Window:
        cursor = {"block": last.block, "pointer": last.pointer}
        return self.window(run, windows.between(first, last), units=units, most=units, cursor=cursor)
