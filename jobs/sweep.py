"""The one loop that changes rows in bulk: window by window, each a batch of its own, each row read once.

A way says what the windows are (jobs/window.py). The loop sizes them to the pace's target time, commits each with its
cursor, passes over rows that others hold, takes back what takes too long, and gives way in between. Purge, archive and
mark-completed all walk with it.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace

import asyncpg

from db import blocking
from db.batches import Batch, Done
from db.faults import BLOCKED, sqlstate
from db.trees import TOO_LARGE, stays
from jobs.failures import LOCKED, Waiting
from jobs.health import Health
from jobs.lanes import Committed, Lane, open_lane, share
from jobs.looks import LookTookTooLong, looking
from jobs.pace import BY_NAME, FULL, GENTLE, Pace, Rest, Sizer
from jobs.run import Run
from jobs.window import BY_INDEX, Branch, Way, Window

# After a batch that met a lock, so many more pass over locks from the start: each lock that is met costs a wait.
PAST_LOCKS_FOR = 64
# After an error among several batches, so many more go one after the other: perhaps the lanes met each other's locks.
ONE_LANE_FOR = 64
# A window that still meets a lock after so many attempts in a row: it is the table that is locked.
MOST_LOCKS_MET = 3
# A single row can't be halved: it gets so many times the time of a batch, then it is passed over.
PATIENCE_WITH_ONE = 10
# How much of a sleep that lasted too long is made up for.
DEBT_S = 0.02
LOOK_EVERY_S = 1.0
REPEATED = BLOCKED | {TOO_LARGE}
# Of rows that hang on a single one, so many go in one batch at first, and at most.
FIRST_DRAIN, LARGEST_DRAIN = 200, 5000
LONGEST_WAIT_S = 60.0


async def sweep(run: Run, way: Way, *, health: Health | None = None) -> None:
    """Walk from the run's cursor to the end, at the run's pace, which may change meanwhile.

    Raises SliceOver between two batches when the run's turn has ended, Waiting when PostgreSQL is not well for long.
    """
    async with AsyncExitStack() as stack:
        walk = _Walk(run, way, health, stack)
        while await walk.step():
            pass


class _Walk:
    def __init__(self, run: Run, way: Way, health: Health | None, stack: AsyncExitStack) -> None:
        self._run = run
        self._way = way
        self._health = health
        self._stack = stack  # where the lanes are open
        self._lanes: list[Lane] = []
        size = min(run.cursor.get("size", way.first), way.largest)  # what slices before have learned
        self._sizer = Sizer(target_s=_pace(run).target_s, first=size, largest=way.largest)
        self._rest = Rest(time.monotonic(), debt_s=DEBT_S)
        self._look_at = time.monotonic()
        self._past_locks_for = PAST_LOCKS_FOR if way.among_locks else 0
        self._one_lane_for = 0
        self._at_once = 1  # grows with the windows: several of a size that does not fit yet would be for nothing
        self._patience = run.cursor.get("patience", 1)
        self._locks_met = 0
        self._drain_sizer: Sizer | None = None  # while more hangs on the row at the cursor than one batch may take

    async def step(self) -> bool:
        """One round trip on each lane; False at the end of the walk."""
        if self._run.may_work is not None:
            await self._run.may_work()
        await self._until_well()
        pace = _pace(self._run)
        self._sizer.target_s = pace.target_s
        most = min(self._at_once, pace.batches_at_once * pace.lanes)
        windows = await self._way.windows(self._run, self._sizer.size, most=most)
        if not windows:
            return False
        if self._drain_sizer is not None and windows[0].units == 1 and windows[0].branch is not None:
            worked_s = await self._drain(windows[0], windows[0].branch, self._drain_sizer)
            await self._run.rest(self._rest.after(worked_s, time.monotonic(), share=pace.share))
            return True
        self._drain_sizer = None
        lanes = pace.lanes
        counts = windows[0].past_locks_counts or windows[0].further is not None
        if self._one_lane_for > 0 or (self._past_locks_for > 0 and counts):
            lanes, windows = 1, windows[: pace.batches_at_once]
        worked_s = await (self._commit_alone(windows[0]) if len(windows) == 1 else self._commit(windows, lanes))
        await self._run.rest(self._rest.after(worked_s, time.monotonic(), share=pace.share))
        return True

    async def _commit(self, windows: list[Window], lanes: int) -> float:
        """Return the seconds of work. What fails among several is tried again alone: what was committed stands.

        Only the first lane's windows move the run's cursor, which nothing that is open ever lies before: after a crash
        the others' are walked again, and find nothing.
        """
        begun = time.monotonic()
        on = [await self._lane(number) for number in range(min(lanes, len(windows)))]
        done, outcomes = await share(windows, on, self._on)
        for lane, outcome in zip(on, outcomes, strict=True):
            if outcome is not None and not (
                isinstance(outcome, asyncpg.PostgresError) and _may_be_repeated(outcome, lane)
            ):
                raise outcome
        if not any(outcomes):
            whole = sum(map(len, done)) == len(windows)
            return self._learn(done, behind=windows[-1] if whole else done[0][-1][0] if done[0] else None)
        if self._past_locks_for <= 0 and any(map(_met_a_lock, outcomes)):
            self._past_locks_for = PAST_LOCKS_FOR  # somebody's row, most likely
        else:
            self._at_once, self._one_lane_for = 1, ONE_LANE_FOR
        await self._run.look_again()
        return time.monotonic() - begun

    async def _commit_alone(self, window: Window) -> float:
        """What fails is tried past locks, then with half of the rows; a single row is passed over in the end."""
        lane = await self._lane(0)
        begun, before = time.monotonic(), self._run.batches
        try:
            return self._learn_of(window, await self._on(lane, [window]))
        except asyncpg.PostgresError as exc:
            took_s = time.monotonic() - begun
            if not _may_be_repeated(exc, lane):
                raise
            if _met_a_lock(exc) and window.past_locks is not None and self._locks_met < MOST_LOCKS_MET:
                self._past_locks_for, self._one_lane_for = PAST_LOCKS_FOR, 0  # it is somebody else's
                self._locks_met += 1
                return took_s + await self._commit_alone(window)
            await self._run.look_again()
            if self._run.batches == before:  # a cancel can come too late: after the COMMIT
                await self._make_do(window, exc, lane, took_s)
            return took_s

    async def _make_do(self, window: Window, error: asyncpg.PostgresError, lane: Lane, took_s: float) -> None:
        """The batch was taken back: the next one is smaller, or leaves out the one row that can't be had."""
        if sqlstate(error) == TOO_LARGE and window.units == 1 and window.branch is not None:
            if (stays := await self._stays(window.branch)) is not None:
                await self._pass_over(window, stays)
            else:
                self._drain_sizer = Sizer(target_s=_pace(self._run).target_s, first=FIRST_DRAIN, largest=LARGEST_DRAIN)
            return
        why = "slow" if lane.took_back(error) else "locked" if _met_a_lock(error) else "blocked"
        if why != "slow" and window.pass_over is None:
            raise error
        if why == "locked" and await self._is_locked(window):
            raise error
        if window.units > 1:
            self._sizer.was_too_long(took_s, window.units) if why == "slow" else self._sizer.halve(window.units)
        elif why == "slow" and self._patience < PATIENCE_WITH_ONE:
            self._patience = PATIENCE_WITH_ONE  # one row can't be halved: it gets more time instead, once
        elif window.pass_over is None:
            raise error
        else:
            await self._pass_over(window, why)
            return
        # Also for the next slice, which may come before any batch has fitted.
        await self._run.keep(self._run.cursor | {"size": self._sizer.size, "patience": self._patience})

    async def _pass_over(self, window: Window, why: str) -> None:
        if window.pass_over is not None:
            over = replace(window, change=window.pass_over(why), past_locks=None)
            self._learn_of(over, await self._on(await self._lane(0), [over]))

    async def _stays(self, branch: Branch) -> str | None:
        """Why a row stays that much hangs on. Of that nothing may go before all of it was looked at."""
        try:
            async with looking(self._run.database, **BY_INDEX) as connection:
                return await stays(connection, branch.look)
        except LookTookTooLong:
            return "slow"

    async def _drain(self, window: Window, branch: Branch, sizer: Sizer) -> float:
        """Delete some of what hangs on a single row; the cursor stays, until all of it is gone or the row must stay."""
        lane, size = await self._lane(0), sizer.size
        batch = Batch(branch.drain(size), cursor=None)
        begun = time.monotonic()
        try:
            done = await lane.commit(self._run, [batch], pace=_pace(self._run), patience=self._patience)
        except asyncpg.PostgresError as exc:
            took_s = time.monotonic() - begun
            if not _may_be_repeated(exc, lane):
                raise
            await self._run.look_again()
            if lane.took_back(exc) and size > 1:
                sizer.was_too_long(took_s, size)
                return took_s
            self._drain_sizer = None
            await self._make_do(replace(window, branch=None), exc, lane, took_s)
            return took_s
        drained = done[0].counted.pop("drained", 0)
        sizer.took((done[0].seconds, size))
        if drained > 0:
            return done[0].seconds
        self._drain_sizer = None
        if any(done[0].counted.values()):  # it was counted as one that stays
            await self._run.keep(window.cursor)
            return done[0].seconds
        return done[0].seconds + await self._commit_alone(replace(window, change=branch.at_once, past_locks=None))

    async def _is_locked(self, window: Window) -> bool:
        """Whether it is the table that is locked, rather than a row of it, or of one that goes along."""
        if window.relation is None:
            return True
        async with self._run.database.autocommit() as second:
            return await blocking.is_locked(second, window.relation)

    async def _on(self, lane: Lane, windows: list[Window]) -> list[Done]:
        past_locks = self._past_locks_for > 0
        changes = [
            (window.past_locks if past_locks else None)
            or (window.further if lane is not self._lanes[0] else None)
            or window.change
            for window in windows
        ]
        learned = {"size": self._sizer.size, "patience": 1}
        cursors = [window.cursor | learned if lane is self._lanes[0] else None for window in windows]
        batches = [Batch(change, cursor) for change, cursor in zip(changes, cursors, strict=True)]
        return await lane.commit(self._run, batches, pace=_pace(self._run), patience=self._patience)

    async def _lane(self, number: int) -> Lane:
        while len(self._lanes) <= number:
            opened = open_lane(self._run.database, self._way.settings)
            self._lanes.append(await self._stack.enter_async_context(opened))
        return self._lanes[number]

    def _learn_of(self, window: Window, done: list[Done]) -> float:
        return self._learn([list(zip([window], done, strict=False))], behind=window if done else None)

    def _learn(self, lanes: list[Committed], *, behind: Window | None) -> float:
        """Go on behind the last window before which nothing is open (None: from where it was); return the seconds of
        work of the lane that worked longest."""
        for committed in lanes:
            self._sizer.took(*((did.seconds, window.units) for window, did in committed))
        if behind is not None:
            self._run.cursor = behind.cursor
        batches = sum(map(len, lanes))
        self._past_locks_for -= batches
        self._one_lane_for -= batches
        self._at_once, self._patience, self._locks_met = 2 * batches, 1, 0
        return max(sum(did.seconds for _, did in committed) for committed in lanes)

    async def _until_well(self) -> None:
        """Wait, outside of any transaction, while PostgreSQL is in trouble; the gentle pace alone does.

        Each look tells onlookers why, keeps the lease, and hears what an operator wishes by now.
        """
        if self._health is None or time.monotonic() < self._look_at:
            return
        begun, waited = time.monotonic(), False
        while (trouble := await self._trouble(self._health)) is not None:
            waited = True
            await self._run.wait(trouble)
            if time.monotonic() - begun >= LONGEST_WAIT_S or self._run.turn_over():
                raise Waiting(trouble)
            await asyncio.sleep(LOOK_EVERY_S)
        if waited:
            await self._run.wait(None)
        self._look_at = time.monotonic() + LOOK_EVERY_S

    async def _trouble(self, health: Health) -> str | None:
        if _pace(self._run) is not GENTLE or self._run.spent:
            return None
        async with self._run.database.autocommit() as second:
            return await health.trouble(second)


def _met_a_lock(outcome: object) -> bool:
    return isinstance(outcome, asyncpg.PostgresError) and sqlstate(outcome) == LOCKED


def _may_be_repeated(error: asyncpg.PostgresError, lane: Lane) -> bool:
    """It met a lock, was taken back, or met a row that others refer to, or too many of them: the statement is right."""
    return _met_a_lock(error) or lane.took_back(error) or sqlstate(error) in REPEATED


def _pace(run: Run) -> Pace:
    return FULL if run.wishes.pace is None else BY_NAME[run.wishes.pace]
