"""The way for rare rows: ranges of the column's values, as its index has them. Its cost follows the eligible rows.

The index says, without the table, which values lie some rows apart; windows begin and end there. The lower bound moves
on, so dead entries are not read again. Where a range between two such values is too much for one batch (many rows with
one value, slow rows), its rows are listed by their places, and deleted in chunks.

The cursor: `lower` is where the next window begins. While a range is worked on by places, `upper` is its end, and
`after` the place that it has come to.
"""

import itertools
from bisect import bisect_right
from typing import Any, NamedTuple

from db import windows
from db.targets import Eligible
from db.windows import Bound, Look, Place, Span
from jobs.looks import looking
from jobs.run import Run
from jobs.scopes import Scope
from jobs.ways import AHEAD_ROWS, STEP_ROWS, Purge
from jobs.window import BY_INDEX, Window

BEFORE_ALL = Place(0)


class Stretch(NamedTuple):
    """A range of values between two that the index told, and about how many rows it has."""

    span: Span
    rows: int


class Values(Purge):
    """The unit is a row."""

    first, largest = STEP_ROWS, 5000
    settings = BY_INDEX

    def __init__(self, scope: Scope, *, among_locks: bool = False) -> None:
        super().__init__(scope, among_locks)
        self._ahead: dict[Bound | None, int] = {}  # by its lower bound, where in `_stretches` one is
        self._stretches: list[Stretch] = []
        self._listed: tuple[Span, Place] | None = None  # of what, and from where on, `_places` is the list
        self._places: list[Place] = []

    @staticmethod
    def start() -> dict[str, Any]:
        """The cursor of a pass that begins."""
        return {"lower": None, "upper": None, "after": None}

    @staticmethod
    def start_by_places(eligible: Eligible) -> dict[str, Any]:
        """The cursor of a pass over few rows, wherever they are. It comes to count in `listed` how many those were."""
        all_of_them = Span(Bound(eligible.least, inclusive=True), Bound(eligible.before, inclusive=False))
        return {"lower": all_of_them.lower, "upper": all_of_them.upper, "after": BEFORE_ALL, "listed": 0}

    async def windows(self, run: Run, size: int, *, most: int) -> list[Window]:
        most = most if run.rows_left is None else 1
        while not run.spent:
            if run.cursor["after"] is not None:
                if (chunks := await self._chunks(run, size, most=most)) or "listed" in run.cursor:
                    return chunks
                run.cursor = run.cursor | _at(_behind(Bound(*run.cursor["upper"])))
            position = await self._position(run)
            if position is None:
                break
            if ranges := self._ranges(run, position, size, most=most):
                return ranges
            span = self._stretches[position].span
            run.cursor = run.cursor | {"lower": span.lower, "upper": span.upper, "after": BEFORE_ALL}
        return []

    async def _position(self, run: Run) -> int | None:
        """Which of the stretches ahead is next; None at the end of the walk."""
        lower = None if run.cursor["lower"] is None else Bound(*run.cursor["lower"])
        if lower not in self._ahead:
            async with run.database.tuned(**BY_INDEX) as connection:
                look = await windows.look(connection, self.scope.eligible, lower=lower, step=STEP_ROWS, most=AHEAD_ROWS)
            self._stretches = stretches(look, more=look.rows == AHEAD_ROWS, before=self.scope.eligible.before)
            self._ahead = {stretch.span.lower: number for number, stretch in enumerate(self._stretches)}
            if self._stretches:
                self._ahead[lower] = 0
        return self._ahead.get(lower)

    def _ranges(self, run: Run, position: int, size: int, *, most: int) -> list[Window]:
        """As many whole stretches a window as it may have rows; none where the first one has more."""
        ranges: list[Window] = []
        while len(ranges) < most and position < len(self._stretches):
            last, rows = position, 0
            while last < len(self._stretches) and rows + self._stretches[last].rows <= size:
                rows += self._stretches[last].rows
                last += 1
            if last == position:
                break
            span = Span(self._stretches[position].span.lower, self._stretches[last - 1].span.upper)
            part, cursor = windows.within(self.scope.eligible, span), _at(_behind(span.upper))
            ranges.append(self.window(run, part, units=rows, most=None, cursor=cursor))
            position = last
        return ranges

    async def _chunks(self, run: Run, size: int, *, most: int) -> list[Window]:
        """Of the range that the cursor is in, by places; none at its end."""
        span = Span(Bound(*run.cursor["lower"]), Bound(*run.cursor["upper"]))
        after = Place(*run.cursor["after"])
        start = await self._list(run, span, after)
        chunks = [self._places[at : at + size] for at in range(start, len(self._places), size)][:most]
        return [
            self.window(run, windows.listed(chunk), units=len(chunk), most=len(chunk), cursor={"after": chunk[-1]})
            for chunk in chunks
        ]

    async def _list(self, run: Run, span: Span, after: Place) -> int:
        """Have `_places` hold what comes after a place; return where that begins in it."""
        if self._listed is not None and self._listed[0] == span and self._listed[1] <= after:
            start = bisect_right(self._places, after)
            if start < len(self._places) or len(self._places) < AHEAD_ROWS:
                return start
        async with looking(run.database, **BY_INDEX) as connection:
            self._places = await windows.places(connection, self.scope.eligible, span, after=after, most=AHEAD_ROWS)
        self._listed = (span, after)
        if "listed" in run.cursor:
            run.cursor = run.cursor | {"listed": run.cursor["listed"] + len(self._places)}
        return 0


def stretches(look: Look, *, more: bool, before: str) -> list[Stretch]:
    """What lies between the values. One that came several times in a row is a stretch of its own.

    With `more` rows behind the look, what lies behind its last value is left to the next one, which begins there.
    """
    values = [(value, len(list(group))) for value, group in itertools.groupby(look.values)]
    found = []
    for (value, times), following in zip(values, [*values[1:], None], strict=False):
        lower = Bound(value, inclusive=True)
        if times > 1:
            found.append(Stretch(Span(lower, lower), times * STEP_ROWS))
            lower = _behind(lower)
        if following is not None or not more:
            end = before if following is None else following[0]
            found.append(Stretch(Span(lower, Bound(end, inclusive=False)), STEP_ROWS))
    return found


def _behind(bound: Bound) -> Bound:
    """The lower bound of what comes after this upper one."""
    return Bound(bound.value, inclusive=not bound.inclusive)


def _at(lower: Bound) -> dict[str, Any]:
    return {"lower": lower, "upper": None, "after": None}
