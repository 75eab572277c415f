"""What a purge says when its table changes under it: a column, the table itself, our rights on it."""

import contextlib

import asyncpg

from db import fitness
from db.columns import UnfitColumn
from db.faults import server_message, sqlstate
from jobs import children, rights
from jobs.commands import lowtide
from jobs.failures import Refused, missing_tables
from jobs.policies import Policy
from jobs.rights import RightsMissing
from jobs.run import Run

NO_RIGHT = "42501"
# undefined_table, undefined_column, undefined_function (an operator too), datatype_mismatch, invalid_schema_name
NOT_THERE = {"42P01", "42703", "42883", "42804", "3F000"}


class TableChanged(Refused):
    """What the run's statements are about is not there any more, or is something else."""


async def refusal(run: Run, policy: Policy, error: Exception) -> Refused | None:
    """In words, and what to do; None for an error of another kind. Of the open batch nothing stands."""
    code = sqlstate(error)
    unfit = isinstance(error, UnfitColumn) and run.rows_done > 0  # a slice that came later found it so
    if not unfit and (isinstance(error, Refused) or code not in NOT_THERE | {NO_RIGHT} or missing_tables(error)):
        return None
    told, target = server_message(error), policy.target
    went = "1 row is" if run.rows_done == 1 else f"{run.rows_done:,} rows are"
    gone = f"{went} gone, and counted" if run.rows_done else "Nothing was deleted"
    on = f"{lowtide('retry', run.id)} {'goes on where it stopped' if run.rows_done else 'tries again'}"
    detail = {"policy": policy.name, "table": target.name, "sqlstate": code}
    if code == NO_RIGHT:
        missing = await _missing(run, policy)
        advice = f"See `lowtide check` for what policy {policy.name} lacks." if missing is None else missing[1]
        return RightsMissing(f"{told}. {gone}. {advice} Then {on}", detail=detail)
    return TableChanged(
        f"{told}: {target.name} is not as the run found it, or a trigger on it fails. {gone}. See `lowtide check` for "
        f"what policy {policy.name} lacks now; then {on}",
        detail=detail,
    )


async def _missing(run: Run, policy: Policy) -> tuple[str, str] | None:
    """None where all is there that can be told: what a trigger may not do, for example."""
    async with run.database.autocommit() as connection:
        relations = await fitness.relations(connection, policy.target)
        if not any(relation.lacks for relation in relations):
            with contextlib.suppress(Refused, asyncpg.PostgresError):
                tree = await children.tree_of(connection, policy)
                relations = [] if tree is None else await fitness.children(connection, tree)
        return await rights.told(connection, relations)
