"""Whole partitions: dropped where all of their rows are eligible, counted to the row, in the same ledger.

The intent is written down first; then the partition is detached, which waits for whoever uses it, and gives way where
others would wait for it; then one transaction keeps writers out, looks at every row again, drops it, and counts its
rows in the run. A row that must stay means: attached again, and purged row by row. So does a crash at any of these
steps.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg

from db import held, partitions
from db.batches import Batch
from db.engine import Database
from db.faults import server_message, sqlstate
from db.partitions import Detaching, Partition
from db.targets import Eligible
from jobs.failures import CANCELLED, LOCKED, Refused, Waiting, is_passing
from jobs.run import Run
from jobs.watch import watching

# Detaching waits for others' transactions, and gives way where somebody waits for it; the drop's own lock may not take
# long.
WAITING = {"statement_timeout": "0", "lock_timeout": partitions.LONGEST_WAIT.replace(" minutes", "min")}
LONGEST_DROP_S = 600
DROPPING = {"statement_timeout": f"{LONGEST_DROP_S}s", "lock_timeout": "500ms"}
GIVES_WAY_AFTER_S = 0.1
# How long a run waits for those who read the partition by its own name, before it purges row by row instead.
LONGEST_READ_S, ASKED_EVERY_S = 5.0, 0.25


class InTheWay(Waiting):
    """Partitions that we can't detach, or attach again, without holding up others: they are on their way out, and their
    rows are not seen through the table meanwhile."""

    def __init__(self, partitions: list[Partition]) -> None:
        names = ", ".join(partition.name for partition in partitions)
        super().__init__(f"{names} is in use by its own name: to wait there would hold up others")
        self.partitions = partitions


class PartitionAstray(Refused):
    """A partition that was detached can't be attached again."""


async def drop_whole(run: Run, eligible: Eligible, oid: int, *, cursor: dict[str, Any]) -> bool:
    """Whether the relation went as a whole; then the run is at the cursor. False: it has to be purged row by row.

    Raises InTheWay; and what the run's gate raises, when it is attached again.
    """
    async with run.database.tuned(**WAITING) as connection:
        partition = await partitions.droppable(connection, eligible, oid)
        if partition is None or await partitions.is_in_use(connection, partition):
            return False
        rows = await partitions.rows(connection, eligible)
        if not rows or (run.rows_left is not None and rows > run.rows_left):
            return False
        if not await _is_left_alone(run, connection, partition):
            return False
    begun = time.monotonic()
    try:
        await _detach(run, partition)
        if not await _is_still_time(run, partition):
            return False
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


async def _is_left_alone(run: Run, connection: asyncpg.Connection, partition: Partition) -> bool:
    """Whether nobody reads it by its own name, or has done with that soon."""
    deadline, told = time.monotonic() + LONGEST_READ_S, False
    while is_read := await partitions.is_read_by_name(connection, partition):
        told = True
        await run.tell(f"{partition.name} is in use by its own name: it is dropped when that is over")
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(ASKED_EVERY_S)
    if told:
        await run.tell(None)
    return not is_read


async def _is_still_time(run: Run, partition: Partition) -> bool:
    """To detach it may have taken long."""
    try:
        if run.may_work is not None:
            await run.may_work()
    except (Waiting, Refused):
        await bring_back(run.database, partition.parent)
        raise
    if run.spent:
        await bring_back(run.database, partition.parent)
    return not run.spent


async def _detach(run: Run, partition: Partition) -> None:
    await run.tell(f"{partition.name} is being detached, and waits for those who use it")
    async with run.database.tuned(**WAITING) as connection:
        await partitions.note(connection, partition, run_id=run.id)
        async with _giving_way(run.database, connection, partition):
            await partitions.detach(connection, partition)
    await run.tell(None)


@asynccontextmanager
async def _giving_way(database: Database, connection: asyncpg.Connection, partition: Partition) -> AsyncIterator[None]:
    """For a statement that may wait long for its locks. Raises InTheWay where others would have waited behind it: it is
    cancelled, and what it has done by then is found by `bring_back`."""
    async with watching(database, connection) as watch:
        watch.patience_s = GIVES_WAY_AFTER_S
        watch.begin(1)
        try:
            yield
        except asyncpg.QueryCanceledError as exc:
            if not watch.gave_way:
                raise
            raise InTheWay([partition]) from exc
        finally:
            await watch.end()


async def _drop(run: Run, partition: Partition, eligible: Eligible, cursor: dict[str, Any]) -> None:
    async with run.database.tuned(**DROPPING) as connection:
        # By itself the partition is under no hold of its table any more.
        holds = await held.columns(connection, [partition.name, partition.parent])
        unheld = f"{holds.unheld(partition.name)} AND {holds.unheld(partition.parent, partition.name)}"
        condition = replace(eligible, unheld=unheld).condition
        drop = partitions.drop(partition, condition, before=holds.before, most=run.rows_left)
        await run.batch(connection, [Batch(drop, cursor)])


async def bring_back(
    database: Database, relation: str | None, *, tell: Callable[[str | None], Awaitable[None]] | None = None
) -> list[str]:
    """Attach what earlier runs, or this one, have left detached of a table; None: of all tables, but for those that a
    run is at work on. Return the names of what is attached again. Raises PartitionAstray; InTheWay, once it has seen to
    all of them."""
    async with database.autocommit() as connection:
        if not (left := await partitions.noted(connection, relation)):
            return []
    brought: list[str] = []
    hindered: list[Partition] = []
    async with database.tuned(**WAITING) as connection:
        for noted in left:
            if noted.state in {"gone", "attached"}:
                await partitions.forget(connection, noted.partition)
            if noted.state not in {"pending", "detached"}:
                continue
            if tell is not None:
                await tell(f"{noted.partition.name} is being attached again, and waits for those who use it")
            try:
                if await _attach(database, connection, noted, relation):
                    brought.append(noted.partition.name)
            except InTheWay as exc:
                hindered += exc.partitions  # the others need not wait for it
    if tell is not None:
        await tell(None)
    if hindered:
        raise InTheWay(hindered)
    return brought


async def _attach(database: Database, connection: asyncpg.Connection, noted: Detaching, relation: str | None) -> bool:
    """False where somebody else was faster."""
    partition = noted.partition
    try:
        async with _giving_way(database, connection, partition):
            if noted.state == "pending":
                await partitions.finalize(connection, partition)
            await partitions.attach(connection, partition, noted.checks)
    except asyncpg.PostgresError as exc:
        if is_passing(exc):
            raise
        now = {each.partition.oid: each.state for each in await partitions.noted(connection, relation)}
        if now.get(partition.oid) not in {"pending", "detached"}:
            return False
        raise _astray(partition, server_message(exc)) from exc
    return True


def _astray(partition: Partition, told: str) -> PartitionAstray:
    return PartitionAstray(
        f"an earlier run has detached {partition.name} to drop it, and stopped; it can't be attached again: {told}. "
        f"Nothing was deleted, and its rows are all there. Mend that, and: ALTER TABLE {partition.parent} ATTACH "
        f"PARTITION {partition.name} {partition.bound};"
    )
