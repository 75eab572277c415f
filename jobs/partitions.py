"""Whole partitions: dropped where all of their rows are eligible, counted to the row, in the same ledger.

The intent is written down first; then the partition is detached, which waits for whoever uses it and keeps nobody
waiting; then one transaction keeps writers out, looks at every row again, drops it, and counts its rows in the run. A
row that must stay means: attached again, and purged row by row. So does a crash at any of these steps.
"""

import time
from dataclasses import replace
from typing import Any

import asyncpg

from db import held, partitions
from db.batches import Batch
from db.engine import Database
from db.faults import server_message, sqlstate
from db.partitions import Partition
from db.targets import Eligible
from jobs.failures import CANCELLED, LOCKED, Refused, is_passing
from jobs.run import Run

# Detaching waits for others' transactions, and keeps nobody waiting; the drop's own lock may not take long.
WAITING = {"statement_timeout": "0", "lock_timeout": partitions.LONGEST_WAIT.replace(" minutes", "min")}
LONGEST_DROP_S = 600
DROPPING = {"statement_timeout": f"{LONGEST_DROP_S}s", "lock_timeout": "2s"}


class PartitionAstray(Refused):
    """A partition that was detached can't be attached again."""


async def drop_whole(run: Run, eligible: Eligible, oid: int, *, cursor: dict[str, Any]) -> bool:
    """Whether the relation went as a whole; then the run is at the cursor. False: it has to be purged row by row."""
    async with run.database.tuned(**WAITING) as connection:
        partition = await partitions.droppable(connection, eligible, oid)
        if partition is None or await partitions.is_in_use(connection, partition):
            return False
        rows = await partitions.rows(connection, eligible)
        if not rows or (run.rows_left is not None and rows > run.rows_left):
            return False
    begun = time.monotonic()
    try:
        await _detach(run, partition)
        begun = time.monotonic()
        await _drop(run, partition, eligible, cursor)
    except asyncpg.PostgresError as exc:
        by_hand = sqlstate(exc) == CANCELLED and time.monotonic() - begun < LONGEST_DROP_S
        if by_hand or (is_passing(exc) and sqlstate(exc) != LOCKED):
            raise  # it is attached again when the run goes on
        await run.look_again()
        await bring_back(run.database, partition.parent)
        return False
    return True


async def _detach(run: Run, partition: Partition) -> None:
    async with run.database.tuned(**WAITING) as connection:
        await partitions.note(connection, partition, run_id=run.id)
        await partitions.detach(connection, partition)


async def _drop(run: Run, partition: Partition, eligible: Eligible, cursor: dict[str, Any]) -> None:
    async with run.database.tuned(**DROPPING) as connection:
        # By itself the partition is under no hold of its table any more.
        holds = await held.columns(connection, [partition.name, partition.parent])
        unheld = f"{holds.unheld(partition.name)} AND {holds.unheld(partition.parent, partition.name)}"
        condition = replace(eligible, unheld=unheld).condition
        drop = partitions.drop(partition, condition, before=holds.before, most=run.rows_left)
        await run.batch(connection, [Batch(drop, cursor)])


async def bring_back(database: Database, relation: str | None) -> list[str]:
    """Attach what earlier runs, or this one, have left detached of a table; None: of all tables, but for those that a
    run is at work on. Return the names of what is attached again. Raises PartitionAstray."""
    async with database.autocommit() as connection:
        if not (left := await partitions.noted(connection, relation)):
            return []
    brought: list[str] = []
    async with database.tuned(**WAITING) as connection:
        for noted in left:
            if noted.state in {"gone", "attached"}:
                await partitions.forget(connection, noted.partition)
            if noted.state not in {"pending", "detached"}:
                continue
            try:
                if noted.state == "pending":
                    await partitions.finalize(connection, noted.partition)
                await partitions.attach(connection, noted.partition, noted.checks)
            except asyncpg.PostgresError as exc:
                if is_passing(exc):
                    raise
                now = {each.partition.oid: each.state for each in await partitions.noted(connection, relation)}
                if now.get(noted.partition.oid) not in {"pending", "detached"}:
                    continue  # somebody else was faster
                raise _astray(noted.partition, server_message(exc)) from exc
            brought.append(noted.partition.name)
    return brought


def _astray(partition: Partition, told: str) -> PartitionAstray:
    return PartitionAstray(
        f"an earlier run has detached {partition.name} to drop it, and stopped; it can't be attached again: {told}. "
        f"Nothing was deleted, and its rows are all there. Mend that, and: ALTER TABLE {partition.parent} ATTACH "
        f"PARTITION {partition.name} {partition.bound};"
    )
