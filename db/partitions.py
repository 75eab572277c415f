"""Whole partitions: whether one can be dropped instead of emptied, and the steps of that.

ALTER TABLE … DETACH PARTITION … CONCURRENTLY is two transactions. What is between them, and between detaching and the
drop, is known from lowtide.detaching.
"""

from dataclasses import dataclass

import asyncpg

from db.batches import Change
from db.targets import Eligible, literal, quoted

NAMED = "partition "  # of the names of counters
OLD_TRANSACTION = "1 minute"


@dataclass(frozen=True)
class Partition:
    """Names are quoted, with their schemas."""

    oid: int
    name: str
    parent: str
    bound: str  # FOR VALUES …


@dataclass(frozen=True)
class Detaching:
    """A partition that was on its way out when its run ended. `state`: attached, pending, detached, gone."""

    partition: Partition
    checks: list[str]
    state: str


# A partition of ranges of the policy's column whose upper bound is no later than the cutoff: no row can enter it that
# would not be eligible. Dropping does what a DELETE does only where nobody looks at its single rows: no trigger, no
# rule, no foreign key, no publication. DELETE is 8 of pg_trigger.tgtype (src/include/catalog/pg_trigger.h).
DROPPABLE = """
    SELECT c.oid::bigint AS oid, format('%I.%I', cn.nspname, c.relname) AS name,
           format('%I.%I', pn.nspname, p.relname) AS parent, pg_get_expr(c.relpartbound, c.oid) AS bound
    FROM pg_class c JOIN pg_namespace cn ON cn.oid = c.relnamespace
    JOIN pg_inherits h ON h.inhrelid = c.oid AND NOT h.inhdetachpending
    JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
    JOIN pg_partitioned_table t ON t.partrelid = p.oid
    JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum = t.partattrs[0] AND a.attname = $2
    WHERE c.oid = $1::oid AND c.relkind = 'r' AND t.partstrat = 'r' AND t.partnatts = 1 AND t.partdefid = 0
      AND (SELECT count(*) FROM pg_inherits o WHERE o.inhparent = p.oid) > 1
      AND NOT EXISTS (SELECT FROM pg_inherits o WHERE o.inhparent = p.oid AND o.inhdetachpending)
      AND pg_has_role(c.relowner, 'USAGE') AND pg_has_role(p.relowner, 'USAGE')
      AND NOT c.relhasrules AND NOT EXISTS (
          SELECT FROM pg_trigger g
          WHERE g.tgrelid = c.oid AND g.tgtype & 8 = 8 AND NOT g.tgisinternal AND g.tgenabled <> 'D')
      AND NOT EXISTS (
          SELECT FROM pg_constraint f WHERE f.contype = 'f' AND f.confrelid = ANY(lowtide.above(c.oid)))
      AND NOT EXISTS (
          SELECT FROM pg_publication b WHERE b.puballtables
          UNION ALL SELECT FROM pg_publication_rel r WHERE r.prrelid = ANY(lowtide.above(c.oid))
          UNION ALL SELECT FROM pg_publication_tables v
          WHERE (v.schemaname, v.tablename) = (cn.nspname, c.relname))
"""
# FOR VALUES FROM (…) TO ('2026-11-01 00:00:00+00'); numbers stand without quotes. MAXVALUE is no value.
UPPER = """
    SELECT CASE WHEN upper <> 'MAXVALUE' THEN {upper} <= {before} ELSE false END
    FROM (SELECT (regexp_match($1::text, ' TO \\(''?([^'')]*)''?\\)$'))[1] AS upper) bound
"""
# Who reads or writes it, and has for long: detaching would wait for the end of that transaction.
IN_USE = """
    SELECT EXISTS (
        SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.relation = ANY(lowtide.above($1::oid)) AND l.pid <> pg_backend_pid()
          AND a.xact_start < now() - $2::text::interval
    )
"""
NOTE = """
    INSERT INTO lowtide.detaching (partition, partition_name, parent, bound, checks, run)
    SELECT $1::bigint::oid, $2, $3, $4,
           ARRAY(SELECT conname::text FROM pg_constraint WHERE conrelid = $1::bigint::oid AND contype = 'c'), $5
    ON CONFLICT (partition) DO NOTHING
"""
# By the parent's name: of the table itself, or of one of its partitioned partitions.
NOTED = """
    SELECT d.partition::bigint AS oid, d.partition_name AS name, d.parent, d.bound, d.checks,
           CASE WHEN c.oid IS NULL THEN 'gone' WHEN h.inhrelid IS NULL THEN 'detached'
                WHEN h.inhdetachpending THEN 'pending' ELSE 'attached' END AS state
    FROM lowtide.detaching d
    JOIN pg_class p ON p.oid = to_regclass(d.parent)
    LEFT JOIN pg_class c ON c.oid = d.partition
    LEFT JOIN pg_inherits h ON h.inhrelid = d.partition AND h.inhparent = p.oid
    WHERE $1::text::regclass = ANY(lowtide.above(p.oid)) ORDER BY d.begun_at
"""
ADDED_CHECKS = """
    SELECT conname FROM pg_constraint WHERE conrelid = $1::bigint::oid AND contype = 'c' AND conname <> ALL($2::text[])
"""


async def droppable(connection: asyncpg.Connection, eligible: Eligible, oid: int) -> Partition | None:
    """The relation as a partition that can go as a whole, as far as the catalog tells; None where its rows must."""
    row = await connection.fetchrow(DROPPABLE, oid, eligible.target.column)
    if row is None:
        return None
    over = UPPER.format(upper=eligible.value("upper"), before=eligible.value(literal(eligible.before)))
    return Partition(**dict(row)) if await connection.fetchval(over, row["bound"]) else None


async def rows(connection: asyncpg.Connection, eligible: Eligible) -> int | None:
    """How many it has; None where one of them must stay."""
    stays = f"SELECT EXISTS (SELECT FROM {eligible.rows} WHERE ({eligible.condition}) IS NOT TRUE)"
    if await connection.fetchval(stays):
        return None
    counted: int = await connection.fetchval(f"SELECT count(*) FROM {eligible.rows}")
    return counted


async def is_in_use(connection: asyncpg.Connection, partition: Partition) -> bool:
    """Whether a transaction that is older than a minute uses it, or the table that it is a part of."""
    used: bool = await connection.fetchval(IN_USE, partition.oid, OLD_TRANSACTION)
    return used


async def note(connection: asyncpg.Connection, partition: Partition, *, run_id: str) -> None:
    """Before it is detached."""
    await connection.execute(NOTE, partition.oid, partition.name, partition.parent, partition.bound, run_id)


async def forget(connection: asyncpg.Connection, partition: Partition) -> None:
    """It is gone, or attached."""
    await connection.execute("DELETE FROM lowtide.detaching WHERE partition = $1::bigint::oid", partition.oid)


async def detach(connection: asyncpg.Connection, partition: Partition) -> None:
    """Waits for transactions that use it, as long as it takes; keeps nobody waiting meanwhile."""
    await connection.execute(f"ALTER TABLE {partition.parent} DETACH PARTITION {partition.name} CONCURRENTLY")


async def finalize(connection: asyncpg.Connection, partition: Partition) -> None:
    """The second half of `detach`, after a crash between the two."""
    await connection.execute(f"ALTER TABLE {partition.parent} DETACH PARTITION {partition.name} FINALIZE")


def drop(partition: Partition, condition: str, *, before: str) -> Change:
    """Look at every row of the detached partition once more, then drop it: its rows are what changes.

    Raises LT412 where one of them must stay. Others are kept from reading it for the moment of the drop alone.
    """
    counted = f"lowtide.count_detached({partition.oid}, {literal(condition)})"
    return Change(
        f"SELECT FROM generate_series(1, {counted})",
        before=before,
        after=f"SELECT lowtide.drop_detached({partition.oid}, {literal(NAMED)})",
    )


async def attach(connection: asyncpg.Connection, partition: Partition, checks: list[str]) -> None:
    """As it was, without the CHECK constraint that detaching has added; and forget it."""
    async with connection.transaction():
        await connection.execute(f"ALTER TABLE {partition.parent} ATTACH PARTITION {partition.name} {partition.bound}")
        for row in await connection.fetch(ADDED_CHECKS, partition.oid, checks):
            await connection.execute(f"ALTER TABLE {partition.name} DROP CONSTRAINT {quoted(row['conname'])}")
        await forget(connection, partition)


async def noted(connection: asyncpg.Connection, relation: str) -> list[Detaching]:
    """Partitions of the table that were on their way out when somebody stopped."""
    return [
        Detaching(Partition(row["oid"], row["name"], row["parent"], row["bound"]), row["checks"], row["state"])
        for row in await connection.fetch(NOTED, relation)
    ]
