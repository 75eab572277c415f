"""Which way a purge walks its table: by ranges of blocks where eligible rows are dense, by index where they are rare.

jobs/blocks.py and jobs/values.py are the two; what they have in common is here.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import asyncpg

from db import estimates, windows
from db.batches import Change
from db.estimates import Table
from db.queryplans import Stated
from db.targets import Eligible
from db.trees import ALL, Limits
from db.windows import Part
from jobs.run import Run
from jobs.scopes import Scope
from jobs.window import BY_INDEX, Branch, Window

# Below this share of eligible rows a block, looking them up costs less than reading every block. Measured: a block that
# is read for nothing takes 5 to 10 µs, a row that is looked up 10 to 20 µs more than one that is met.
DENSE = 0.5
# Below so many blocks (8 MB) nothing is worth a decision.
SMALL_BLOCKS = 1000
# How many rows are looked at ahead, and how far apart the values are that windows may begin at: an index tells them
# without the table, ten million a second.
AHEAD_ROWS, STEP_ROWS = 20_000, 50
Name = Literal["blocks", "index"]


@dataclass(frozen=True)
class Choice:
    """The way, why in a sentence, and how many rows are eligible (None: nobody knows)."""

    way: Name
    told: str
    expected: int | None


async def choose(connection: asyncpg.Connection, eligible: Eligible, table: Table) -> Choice:
    """From the planner's statistics; an exact count by index decides where they say that eligible rows are rare."""
    target = eligible.target
    expected = None if table.rows is None else await estimates.expected(connection, eligible)
    if table.index is None:
        return _blocks(table, expected, f"no index on {target.column} finds eligible rows")
    if table.blocks < SMALL_BLOCKS:
        return _blocks(table, expected, "a small table")
    most = int(table.blocks * DENSE)
    if expected is None or expected < most:
        counted = await estimates.count(connection, eligible, most=most)
        if counted < most:
            share = f" ({counted / table.rows:.2%})" if table.rows else ""
            told = f"windows of index {table.index}: {counted:,} rows{share} are eligible, in {table.blocks:,} blocks"
            return Choice("index", told, counted)
        return _blocks(table, None, f"more than {most:,} rows are eligible")
    return _blocks(table, expected, None)


def _blocks(table: Table, expected: int | None, why: str | None) -> Choice:
    if table.rows and expected is not None:
        told = f"block ranges: {min(expected / table.rows, 1):.0%} of {table.blocks:,} blocks' rows eligible"
    else:
        told = f"block ranges: {table.blocks:,} blocks"
    return Choice("blocks", told if why is None else f"{told} ({why})", expected)


def statements_of(eligible: Eligible, way: Name) -> list[Stated]:
    """What a purge says, for EXPLAIN."""
    left = estimates.stated_count(eligible, most=AHEAD_ROWS)
    if way == "blocks":
        return [*windows.stated_range(eligible, blocks=32), left]
    look = windows.stated_look(eligible, step=STEP_ROWS, most=AHEAD_ROWS, settings=BY_INDEX)
    return [*windows.stated_values(eligible, settings=BY_INDEX), look, left]


def counter(run: Run, why: str) -> str:
    """Of rows of this relation that the present pass leaves behind: `locked`, `slow`, `blocked`, or `touched` (windows
    of which locked rows may be left)."""
    return f"{why}_in_pass_{run.cursor['pass']}_of_{run.cursor['member']}"


@dataclass
class Purge:
    """What both ways delete: eligible rows, a part of the table at a time."""

    scope: Scope
    among_locks: bool = False  # a pass has left rows, locked ones most likely

    def window(self, run: Run, part: Part, *, units: int, most: int | None, cursor: dict[str, Any]) -> Window:
        """`units` is the part's size, `most` how many rows it can have (None: nobody knows)."""
        limit = run.rows_left if run.rows_left is not None and (most is None or run.rows_left < most) else None
        past_locks = self._delete(run, part, limit, skip_locked=True)
        # The first pass, on several lanes, may walk a window twice: it notes that rows may be left. Later ones count.
        counts = run.cursor["pass"] > 1 or limit is not None
        return Window(
            self._delete(run, part, limit),
            further=None if self.scope.tree is None else self._delete(run, part, limit, counts=False),
            cursor=run.cursor | cursor,
            units=units,
            past_locks=windows.counting_locked(past_locks, self.scope.eligible, part, counter(run, "locked"))
            if counts
            else windows.noting(past_locks, counter(run, "touched")),
            past_locks_counts=counts,
            branch=self._branch(run, part),
            pass_over=lambda why: windows.pass_over(counter(run, why)),
            relation=self.scope.eligible.target.relation,
        )

    def _delete(
        self, run: Run, part: Part, limit: int | None, *, skip_locked: bool = False, counts: bool = True
    ) -> Change:
        scope = self.scope
        if scope.tree is None:
            change = windows.delete(scope.eligible, part, most=limit, skip_locked=skip_locked)
        else:
            limits = Limits(_kept(run) if counts else {}, rows=limit, skip_locked=skip_locked)
            change = scope.tree.purge(scope.eligible, part, run.cursor["member"], limits=limits)
        return replace(change, before=scope.before)

    def _branch(self, run: Run, part: Part) -> Branch | None:
        scope, tree, oid, kept = self.scope, self.scope.tree, run.cursor["member"], _kept(run)
        if tree is None:
            return None

        def drain(along: int) -> Change:
            limits = Limits(kept, rows=1, along=along)
            return replace(tree.drain(scope.eligible, part, oid, limits=limits), before=scope.before)

        at_once = tree.purge(scope.eligible, part, oid, limits=Limits(kept, rows=1, along=ALL))
        return Branch(tree.look(scope.eligible, part, oid), drain, replace(at_once, before=scope.before))


def _kept(run: Run) -> dict[str, str]:
    """Under which names a single row is counted that must stay."""
    return {why: counter(run, why) for why in ("held", "blocked")}
