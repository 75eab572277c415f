"""What a sweep walks over: windows, as a way cuts a table into them (ranges of places, of keys, chunks of ids)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from db.batches import Change
from db.windows import Part
from jobs.run import Run

# A window never reads a table from end to end, whatever statistics of another day promise.
BY_INDEX: Mapping[str, str] = {"enable_seqscan": "off"}


@dataclass(frozen=True)
class Branch:
    """What hangs on a window's single row, where that is more than one batch may take."""

    look: Part  # a query: why the row must stay
    drain: Callable[[int], Change]  # deletes so many rows of it, from the far end
    at_once: Change  # deletes all of it: rows that point to each other in a circle have no far end


@dataclass(frozen=True)
class Window:
    """What one batch covers, and where the next one starts."""

    change: Change
    cursor: dict[str, Any]
    units: int  # its size, in the way's unit
    past_locks: Change | None = None  # the same window, passing over rows that others hold
    past_locks_counts: bool = True  # what it passes over: walked again, it would count twice
    further: Change | None = None  # the same on a further lane, where the window may be walked again: counts nothing
    branch: Branch | None = None  # for a single row
    pass_over: Callable[[str], Change] | None = None  # for a single row: changes nothing, and counts it under a reason
    relation: str | None = None  # the table, where its own lock is told from those of rows


class Way(Protocol):
    """How a table is walked. Sizes are in the way's own unit, of which a row takes at least one."""

    first: int
    largest: int
    among_locks: bool  # whether rows that others hold are to be expected from the start

    @property
    def settings(self) -> Mapping[str, str]:
        """Of the server, while it executes the windows."""

    async def windows(self, run: Run, size: int, *, most: int) -> list[Window]:
        """The window at the run's cursor, and those after it that are known already; empty at the end of the walk.

        More than one only where a window that is walked again finds nothing, and counts nothing.
        """
