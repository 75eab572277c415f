"""Whole partitions: whether one can be dropped instead of emptied, and the steps of that.

ALTER TABLE … DETACH PARTITION … CONCURRENTLY is two transactions. What is between them, and between detaching and the
drop, is known from lowtide.detaching.
"""

from dataclasses import dataclass

import asyncpg

from db.batches import Change
from db.targets import Eligible, literal, quoted
from db.triggers import on_delete

NAMED = "partition "  # of the names of counters
OLD_TRANSACTION = "1 minute"
LONGEST_WAIT = "10 minutes"  # of a DETACH, for others' transactions


@dataclass(frozen=True)
class Partition:
    """Names are quoted, with their schemas."""

    oid: int
    name: str
    parent: str
    parent_oid: int
    bound: str  # FOR VALUES …


@dataclass(frozen=True)
class Detaching:
    """A partition that was on its way out when its run ended. `state`: waiting, attached, pending, detached, gone."""

    partition: Partition
    checks: list[str]
    state: str


# A partition of ranges of the policy's column whose upper bound is no later than the cutoff: no row can enter it that
# would not be eligible. Dropping does what a DELETE does only where nobody looks at its single rows: no trigger, no
# rule, no foreign key, no publication.
DROPPABLE = f"""
    SELECT c.oid::bigint AS oid, format('%I.%I', cn.nspname, c.relname) AS name,
           format('%I.%I', pn.nspname, p.relname) AS parent, p.oid::bigint AS parent_oid,
           pg_get_expr(c.relpartbound, c.oid) AS bound
    FROM pg_class c JOIN pg_namespace cn ON cn.oid = c.relnamespace
    JOIN pg_inherits h ON h.inhrelid = c.oid AND NOT h.inhdetachpending
    JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
    JOIN pg_partitioned_table t ON t.partrelid = p.oid
    JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum = t.partattrs[0] AND a.attname = $2
    WHERE c.oid = $1::oid AND c.relkind = 'r' AND t.partstrat = 'r' AND t.partnatts = 1 AND t.partdefid = 0
      AND (SELECT count(*) FROM pg_inherits o WHERE o.inhparent = p.oid) > 1
      AND NOT EXISTS (SELECT FROM pg_inherits o WHERE o.inhparent = p.oid AND o.inhdetachpending)
      AND pg_has_role(c.relowner, 'USAGE') AND pg_has_role(p.relowner, 'USAGE')
      AND NOT c.relhasrules AND NOT {on_delete("c.oid")}
      AND NOT EXISTS (
          SELECT FROM pg_constraint f WHERE f.contype = 'f'
            AND (f.confrelid = ANY(lowtide.above(c.oid)) OR f.conrelid = c.oid))
      AND NOT EXISTS (
          SELECT FROM pg_publication b WHERE b.puballtables
          UNION ALL SELECT FROM pg_publication_rel r WHERE r.prrelid = ANY(lowtide.above(c.oid))
          UNION ALL SELECT FROM pg_publication_tables v
          JOIN pg_namespace vn ON vn.nspname = v.schemaname
          JOIN pg_class vc ON vc.relnamespace = vn.oid AND vc.relname = v.tablename
          WHERE vc.oid = ANY(lowtide.above(c.oid)))
"""
# FOR VALUES FROM (…) TO ('2026-11-01 00:00:00+00'); numbers stand without quotes. MAXVALUE is no value.
UPPER = """
    SELECT CASE WHEN upper <> 'MAXVALUE' THEN {upper} <= {before} ELSE false END
    FROM (SELECT (regexp_match($1::text, ' TO \\(''?([^'')]*)''?\\)$'))[1] AS upper) bound
"""
# A clone of a database has the same oids.
HERE = "(SELECT oid FROM pg_database WHERE datname = current_database())"
# Who reads or writes it, and has for long: detaching would wait for the end of that transaction. Prepared transactions
# have no process, and of other roles' sessions one may not be told since when: those count as long.
IN_USE = f"""
    SELECT EXISTS (
        SELECT FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
        WHERE l.database = {HERE} AND l.relation = ANY(lowtide.above($1::oid))
          AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND coalesce(a.xact_start < now() - $2::text::interval, true)
    )
"""
# Who reads or writes it by its own name, and so is not waited for before ACCESS EXCLUSIVE is asked for: others would
# wait behind that. Of a parallel query the leader has the parent's lock. The server's own VACUUM gives way by itself.
READ_BY_NAME = f"""
    SELECT EXISTS (
        SELECT FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
        WHERE l.database = {HERE} AND l.relation = $1::oid AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
          AND NOT EXISTS (
              SELECT FROM pg_locks p
              WHERE p.database = l.database AND p.relation = $2::oid AND p.pid = coalesce(a.leader_pid, l.pid))
    )
"""
NOTE = """
    INSERT INTO lowtide.detaching (partition, partition_name, parent, parent_name, bound, checks, run)
    SELECT $1::bigint::oid, $2, $3::bigint::oid, $4, $5,
           ARRAY(SELECT conname::text FROM pg_constraint WHERE conrelid = $1::bigint::oid AND contype = 'c'), $6
    ON CONFLICT (partition) DO UPDATE SET run = excluded.run, begun_at = excluded.begun_at
"""
# Of the table itself, or of one of its partitioned partitions, however they are called by now; or of all tables. What a
# run is at work on is its own affair. One that is attached may have a DETACH of a worker that is gone before it, which
# waits no longer than LONGEST_WAIT.
NOTED = """
    SELECT d.partition::bigint AS oid, coalesce(format('%I.%I', n.nspname, c.relname), d.partition_name) AS name,
           coalesce(format('%I.%I', o.nspname, p.relname), d.parent_name) AS parent, d.parent::bigint AS parent_oid,
           d.bound, d.checks,
           CASE WHEN c.oid IS NULL OR p.oid IS NULL THEN 'gone' WHEN h.inhrelid IS NULL THEN 'detached'
                WHEN h.inhdetachpending THEN 'pending' WHEN d.begun_at < now() - $2::text::interval THEN 'attached'
                ELSE 'waiting' END AS state
    FROM lowtide.detaching d
    LEFT JOIN pg_class p ON p.oid = d.parent LEFT JOIN pg_namespace o ON o.oid = p.relnamespace
    LEFT JOIN pg_class c ON c.oid = d.partition LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_inherits h ON h.inhrelid = d.partition AND h.inhparent = p.oid
    LEFT JOIN lowtide.run r ON r.id = d.run
    WHERE ($1::text::regclass = ANY(lowtide.above(p.oid)) OR ($1 IS NULL AND (
        r.state IS DISTINCT FROM 'running' OR r.lease_until < clock_timestamp())))
    ORDER BY d.begun_at
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


async def is_read_by_name(connection: asyncpg.Connection, partition: Partition) -> bool:
    """Whether a transaction uses it that does not use the table that it is a part of."""
    read: bool = await connection.fetchval(READ_BY_NAME, partition.oid, partition.parent_oid)
    return read


async def note(connection: asyncpg.Connection, partition: Partition, *, run_id: str) -> None:
    """Before it is detached."""
    given = (partition.oid, partition.name, partition.parent_oid, partition.parent, partition.bound, run_id)
    await connection.execute(NOTE, *given)


async def forget(connection: asyncpg.Connection, partition: Partition) -> None:
    """It is gone, or attached."""
    await connection.execute("DELETE FROM lowtide.detaching WHERE partition = $1::bigint::oid", partition.oid)


async def detach(connection: asyncpg.Connection, partition: Partition) -> None:
    """Waits for transactions that use it, up to LONGEST_WAIT for each. Nobody waits behind those who use the table that
    it is a part of; behind those who use the partition by its own name others do."""
    await connection.execute(f"ALTER TABLE {partition.parent} DETACH PARTITION {partition.name} CONCURRENTLY")


async def finalize(connection: asyncpg.Connection, partition: Partition) -> None:
    """The second half of `detach`, after a crash between the two."""
    await connection.execute(f"ALTER TABLE {partition.parent} DETACH PARTITION {partition.name} FINALIZE")


def drop(partition: Partition, condition: str, *, before: str, most: int | None) -> Change:
    """Look at every row of the detached partition once more, then drop it: its rows are what changes.

    Raises LT412 where one of them must stay, or there are more than `most`. Others are kept from reading it for the
    moment of the drop alone.
    """
    limit = 2**62 if most is None else most
    counted = f"lowtide.count_detached({partition.oid}, {literal(condition)}, {limit})"
    return Change(
        f"SELECT FROM pg_catalog.generate_series(1, {counted})",
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


async def noted(connection: asyncpg.Connection, relation: str | None) -> list[Detaching]:
    """Partitions of the table that were on their way out when somebody stopped; None: of all tables, but for those that
    a run is at work on."""
    rows = await connection.fetch(NOTED, relation, LONGEST_WAIT)
    return [
        Detaching(
            Partition(row["oid"], row["name"], row["parent"], row["parent_oid"], row["bound"]),
            row["checks"],
            row["state"],
        )
        for row in rows
    ]
