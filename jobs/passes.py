"""Pass after pass over a relation until nothing is eligible. Later passes are for rows that moved or were locked."""

from dataclasses import dataclass

import asyncpg

from db import estimates, leases
from db.targets import Eligible
from jobs.blocks import Blocks
from jobs.health import Health
from jobs.looks import LONGEST_LOOK_S, LookTookTooLong, looking
from jobs.queryplans import guard
from jobs.run import Run
from jobs.scopes import Scope
from jobs.sweep import sweep
from jobs.values import Values
from jobs.ways import AHEAD_ROWS, choose, counter, statements_of

MOST_PASSES = 5
PASSED_OVER = ("locked", "held", "blocked", "slow")
KEPT = ("held", "blocked")  # by rules: another run would not delete them either


@dataclass(frozen=True)
class Outcome:
    """`remaining` is whether rows are left that another run could delete, `reason` why."""

    remaining: bool
    reason: str | None
    passes: int
    over: dict[str, int]  # how many rows were passed over, by the reasons of PASSED_OVER
    way: str


async def purge(run: Run, scope: Scope, *, health: Health) -> Outcome:
    """Delete what is eligible of one relation, from the run's cursor on."""
    eligible, left = scope.eligible, None
    while True:
        if await _begins_anew(run, eligible):
            await _begin(run, scope, left, health)
        way = Blocks if run.cursor["way"] == "blocks" else Values
        try:
            await sweep(run, way(scope, among_locks=run.cursor["pass"] > 1), health=health)
            left = await _left(run, scope)
        except LookTookTooLong:
            told = f"to look for what is left takes longer than {LONGEST_LOOK_S} s"
            return _outcome(run, told, over=_left_behind(run, *PASSED_OVER))
        if left == 0:
            return _outcome(run, None, over={})
        freed = scope.mutual and _removed(run) > 0
        if left == sum((kept := _left_behind(run, *KEPT)).values()) and not freed:
            return _outcome(run, None, over=kept)
        if reason := _why_no_more(run, left, freed=freed):
            return _outcome(run, reason, over=_left_behind(run, *PASSED_OVER))
        run.cursor = run.cursor | {"ended": True}


def _outcome(run: Run, reason: str | None, *, over: dict[str, int]) -> Outcome:
    number, over = run.cursor["pass"], dict.fromkeys(PASSED_OVER, 0) | over
    return Outcome(reason is not None, reason, number, over, run.cursor["told"])


def _left_behind(run: Run, *reasons: str) -> dict[str, int]:
    """How many rows the present pass left behind, by reason."""
    return {why: run.counters.get(counter(run, why), 0) for why in reasons}


async def _begins_anew(run: Run, eligible: Eligible) -> bool:
    """At the start, after a pass, and where a rewrite of the table (VACUUM FULL) has moved every row."""
    if "pass" not in run.cursor or "ended" in run.cursor:
        return True
    async with run.database.autocommit() as connection:
        table = await estimates.table(connection, eligible.target)
    return table.filenode != int(run.cursor["filenode"])


async def _begin(run: Run, scope: Scope, left: int | None, health: Health) -> None:
    """Choose the way, and where it ends as the table is now. The cursor is committed with the pass's first batch."""
    if "pass" in run.cursor:
        way, told = run.cursor["way"], run.cursor["told"]
    else:
        way, told = await _choose(run, scope)
    async with run.database.autocommit() as connection:
        # A slice that comes later must not take a standby that is gone for one that never was.
        standbys = run.cursor["standbys"] if "standbys" in run.cursor else await health.remember(connection)
        table = await estimates.table(connection, scope.eligible.target)
    start = Blocks.start(blocks=table.blocks) if way == "blocks" else Values.start()
    if "ended" in run.cursor and left != AHEAD_ROWS:  # few are left, as far as anybody knows
        way, start = "index", Values.start_by_places(scope.eligible)
    run.cursor = start | {
        "member": run.cursor["member"],
        "before_it": run.cursor["before_it"],
        "pass": run.cursor.get("pass", 0) + 1,
        "way": way,
        "told": told,
        "filenode": table.filenode,
        "next_xid": table.next_xid if table.acts_alone else None,
        "rows_before": run.rows_done,
        "batches_before": run.batches,
        "standbys": standbys,
    }


async def _choose(run: Run, scope: Scope) -> tuple[str, str]:
    """The way and why, once; onlookers are told how many rows to expect. Raises QueryPlanRefused before any delete."""
    async with run.database.autocommit() as connection:
        table = await estimates.table(connection, scope.eligible.target)
        choice = await choose(connection, scope.eligible, table)
        statements = statements_of(scope.eligible, choice.way)
        await guard(connection, scope.eligible.target, statements, tree=scope.pointing)
    expected = None if choice.expected is None else run.rows_done + choice.expected
    async with run.database.sessions.begin() as session:
        await leases.advance(session, run.claim, cursor=run.cursor, rows_expected=expected)
    return choice.way, choice.told


async def _left(run: Run, scope: Scope) -> int | None:
    """How many rows are eligible after a pass, AHEAD_ROWS at most; None where the next pass looks for them.

    Raises LookTookTooLong.
    """
    over = _left_behind(run, *PASSED_OVER)
    listed = AHEAD_ROWS if scope.mutual else run.cursor.get("listed", AHEAD_ROWS)
    if listed == _removed(run) + sum(over.values()):
        return sum(over.values())  # the list was all there was, and each of its rows is deleted or passed over
    if _left_behind(run, "touched")["touched"] and not run.spent:
        return None  # the next pass begins with a list of them
    async with run.database.autocommit() as connection:
        if scope.tree is None and await _nobody_wrote(connection, run, scope.eligible):
            return 0
    async with looking(run.database) as connection:
        return await estimates.count(connection, scope.eligible, most=AHEAD_ROWS)


async def _nobody_wrote(connection: asyncpg.Connection, run: Run, eligible: Eligible) -> bool:
    """Whether every transaction id that was used since the pass began is of one of its batches.

    Then no row has moved, none has become eligible, and the pass has met all there were: the look at the end, which
    costs up to a third of the pass, has nothing to find. Whoever else writes, anywhere in the server, uses an id, and
    none was open when the pass began. Our own DELETE may write more than it says, by a trigger, a rule or a cascade:
    then the cursor has no id, and whoever makes one meanwhile uses an id too. A row passed over and a limit leave rows
    behind all the same; and a `where` may depend on more than the table.
    """
    if run.wishes.max_rows is not None or run.spent or eligible.target.where is not None or eligible.kept:
        return False
    if any(_left_behind(run, *PASSED_OVER, "touched").values()):
        return False
    if run.cursor["next_xid"] is None or (next_xid := await estimates.next_xid(connection)) is None:
        return False
    ours: int = run.batches - run.cursor["batches_before"]
    return next_xid - int(run.cursor["next_xid"]) == ours


def _removed(run: Run) -> int:
    """How many rows the present pass has deleted."""
    return run.rows_done - int(run.cursor["rows_before"])


def _why_no_more(run: Run, left: int | None, *, freed: bool) -> str | None:
    """Why rows are left; None when another pass is worth it. `freed`: what has kept some may be gone by now."""
    over = _left_behind(run, *PASSED_OVER, "touched")
    removed = _removed(run)
    if run.spent:
        return "the limit of the run (max_rows, max_seconds) is reached"
    known = left == sum(over.values()) and not freed
    if (removed > 0 or over["touched"]) and not known and run.cursor["pass"] < MOST_PASSES:
        return None
    reasons = (
        (over["slow"] > 0, f"{over['slow']} rows take longer than a batch may, and were passed over"),
        (over["blocked"] > 0, f"{over['blocked']} rows are kept by others that point to them"),
        (over["locked"] > 0, f"{over['locked']} rows are locked by others"),
        (
            removed == 0,
            "eligible rows are left that a DELETE does not remove; look for a trigger or a rule on the table",
        ),
        (True, f"rows keep becoming eligible or moving: {run.cursor['pass']} passes"),
    )
    return next(reason for holds, reason in reasons if holds)
