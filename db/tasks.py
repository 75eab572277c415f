"""What is said about tasks: bulk insert, verification, completion, and the walk through a project."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.batches import Change
from db.queryplans import Stated, stated
from db.sessions import execute

COLUMNS = ("id", "title", "description", "status", "priority", "project_id", "created_by_id")

RESERVE = text("""
    SELECT nextval(pg_get_serial_sequence('public.task', 'id')) AS id FROM generate_series(1, :count)
""")

# Who may act on a task: its creator, or the owner of its project. The order of the kinds is the order in which a
# caller learns about them: who may not act on a task learns nothing else about it.
KIND = """
    CASE WHEN ({actor} IN (t.created_by_id, p.owner_id)) IS NOT TRUE THEN 'forbidden'
         WHEN t.deleted_at IS NOT NULL OR t.status = 'deleted' THEN 'deleted'
         WHEN t.status = 'archived' OR p.archived_at IS NOT NULL THEN 'archived'
         WHEN t.status = 'completed' THEN 'already_completed'
         ELSE 'open' END
"""
KINDS = text(f"""
    SELECT kind, count(*) AS total, (array_agg(id ORDER BY id))[1:20] AS first_ids,
           hash_array_extended(array_agg(id ORDER BY id), 0) AS digest
    FROM (
        SELECT asked.id, CASE WHEN t.id IS NULL THEN 'missing' ELSE {KIND.format(actor=":actor")} END AS kind
        FROM unnest(CAST(:ids AS bigint[])) AS asked (id)
        LEFT JOIN public.task t ON t.id = asked.id
        LEFT JOIN public.project p ON p.id = t.project_id
    ) asked
    GROUP BY kind
""")
MAY_COMPLETE = """
    t.deleted_at IS NULL AND (t.status IN ('completed', 'archived', 'deleted')) IS NOT TRUE
    AND p.id = t.project_id AND p.archived_at IS NULL AND {actor} IN (t.created_by_id, p.owner_id)
"""
COMPLETE = text(f"""
    WITH completed AS (
        UPDATE public.task t SET status = 'completed', updated_at = now()
        FROM public.project p
        WHERE t.id = ANY(CAST(:ids AS bigint[])) AND {MAY_COMPLETE.format(actor=":actor")}
        RETURNING t.id
    )
    SELECT count(*) AS total, hash_array_extended(array_agg(id ORDER BY id), 0) AS digest FROM completed
""")
OPEN = f"""
    SELECT 1 FROM public.task t, public.project p WHERE t.id = ANY($1) AND {MAY_COMPLETE.format(actor="$2::bigint")}
"""
COMPLETE_CHUNK = f"""
    UPDATE public.task t SET status = 'completed', updated_at = now()
    FROM public.project p
    WHERE t.id = ANY($2) AND {MAY_COMPLETE.format(actor="(SELECT ($1::text[])[1]::bigint)")}
"""
# Counts and locks: what is counted here can't change before the update that follows in the same transaction.
COUNT_CHUNK = f"""
    SELECT coalesce(jsonb_object_agg(kind, total), '{{}}')
    FROM (
        SELECT kind, count(*) AS total
        FROM (
            SELECT {KIND.format(actor="(SELECT ($1::text[])[1]::bigint)")} AS kind
            FROM public.task t JOIN public.project p ON p.id = t.project_id
            WHERE t.id = ANY($2) ORDER BY t.id
            FOR NO KEY UPDATE OF t FOR SHARE OF p
        ) locked
        GROUP BY kind
    ) counted
"""
TO_ARCHIVE = "deleted_at IS NULL AND (status IN ('archived', 'deleted')) IS NOT TRUE"
RANGE = f"""
    project_id = ($1::text[])[1]::bigint AND id > ($1::text[])[2]::bigint AND id <= ($1::text[])[3]::bigint
    AND {TO_ARCHIVE}
"""
ARCHIVE_RANGE = f"UPDATE public.task SET status = 'archived', updated_at = now() WHERE {RANGE}"
LAST_OF_RANGE = """
    SELECT max(id) FROM (
        SELECT id FROM public.task WHERE project_id = $1 AND deleted_at IS NULL AND id > $2 ORDER BY id LIMIT $3
    ) walked
"""
COUNT_TO_ARCHIVE = text(f"SELECT count(*) FROM public.task WHERE project_id = :project_id AND {TO_ARCHIVE}")


@dataclass(frozen=True)
class Kind:
    """How many of the asked ids are of one kind, the first 20 of them, and a digest of all."""

    total: int
    first_ids: list[int]
    digest: int


@dataclass(frozen=True)
class Completed:
    """How many tasks were completed, and a digest of their ids; None of none."""

    total: int
    digest: int | None

    def are(self, asked: Kind | None) -> bool:
        """Whether these very tasks were asked for. As many are not enough: between a look at them and their change
        one may have gone, and another one come."""
        return (self.total, self.digest) == ((0, None) if asked is None else (asked.total, asked.digest))


async def reserve_ids(session: AsyncSession, *, count: int) -> list[int]:
    """Ids from the table's own sequence, in ascending order; gaps where others drew at the same time."""
    return list((await execute(session, RESERVE, {"count": count})).scalars())


async def insert(session: AsyncSession, records: Iterable[Sequence[object]]) -> None:
    """COPY the records, in the order of COLUMNS, inside the session's transaction.

    SQLAlchemy sends BEGIN with the first statement of a transaction, so one must have run before: a COPY without it
    would stand after a rollback.
    """
    raw = await (await session.connection()).get_raw_connection()
    driver: asyncpg.Connection = raw.driver_connection
    if not driver.is_in_transaction():
        raise RuntimeError("COPY outside of a transaction: run a statement in the session first")
    await driver.copy_records_to_table("task", schema_name="public", columns=COLUMNS, records=records)


async def kinds(session: AsyncSession, ids: Sequence[int], *, actor: int) -> dict[str, Kind]:
    """Sort the ids by what mark-completed can do with them.

    Keys: open, already_completed, missing, deleted, archived, forbidden; only those that occur.
    """
    rows = await execute(session, KINDS, {"ids": list(ids), "actor": actor})
    return {row.kind: Kind(row.total, row.first_ids, row.digest) for row in rows}


async def complete(session: AsyncSession, ids: Sequence[int], *, actor: int) -> Completed:
    """Complete those of the tasks that are open and that the actor may act on."""
    row = (await execute(session, COMPLETE, {"ids": list(ids), "actor": actor})).one()
    return Completed(row.total, row.digest)


def complete_chunk(ids: Sequence[int], *, actor: int) -> Change:
    """`complete` as a batch that also counts the kinds of the others."""
    return Change(COMPLETE_CHUNK, args=(str(actor),), ids=ids, before=COUNT_CHUNK)


def archive_range(project_id: int, *, after: int, last: int) -> Change:
    """Archive the project's tasks with ids above `after`, up to and with `last`."""
    return Change(ARCHIVE_RANGE, args=(str(project_id), str(after), str(last)))


async def last_of_range(connection: asyncpg.Connection, project_id: int, *, after: int, most: int) -> int | None:
    """The id that ends a range of at most `most` tasks of the project above `after`; None when there are none."""
    last: int | None = await connection.fetchval(LAST_OF_RANGE, project_id, after, most)
    return last


def stated_skipping(ids: Sequence[int], *, actor: int) -> list[Stated]:
    """What mark-completed with "skip" says, for EXPLAIN, of one window."""
    window = complete_chunk(ids, actor=actor)
    parameters = [list(window.args), list(ids)]
    verification = Stated("verification", COUNT_CHUNK, parameters, writes=True)
    reads = OPEN.replace("$2", "($1::text[])[1]").replace("ANY($1)", "ANY($2)")
    return [verification, Stated("window", window.statement, parameters, writes=True, reads=reads)]


def stated_marking(ids: Sequence[int], *, actor: int) -> list[Stated]:
    """What mark-completed says, for EXPLAIN."""
    completing = stated("completion", COMPLETE, ids=list(ids), actor=actor, writes=True)
    return [stated("verification", KINDS, ids=list(ids), actor=actor), replace(completing, reads=OPEN)]


def stated_archiving(project_id: int, *, most: int) -> list[Stated]:
    """What archive-project says, for EXPLAIN, of a window from the project's first task on."""
    window = archive_range(project_id, after=0, last=most)
    reads = f"SELECT 1 FROM public.task WHERE {RANGE}"
    return [
        Stated("end of a window", LAST_OF_RANGE, [project_id, 0, most]),
        Stated("window", window.statement, [list(window.args)], writes=True, reads=reads),
        stated("count", COUNT_TO_ARCHIVE, project_id=project_id),
    ]


async def count_to_archive(session: AsyncSession, project_id: int) -> int:
    count: int = (await execute(session, COUNT_TO_ARCHIVE, {"project_id": project_id})).scalar_one()
    return count
