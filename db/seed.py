"""A task table to look at: what the demo and the benchmarks start from. Only ever for a database made for it."""

from dataclasses import dataclass

import asyncpg

# Tasks of the project that is archived, and of those that are marked, come from the part that is not deleted.
DELETED_DAYS_AGO = 100

PEOPLE = """
    INSERT INTO public.worker (name) VALUES ('Ada'), ('Grace'), ('Linus')
"""
PROJECTS = """
    INSERT INTO public.project (name, owner_id)
    SELECT 'Project ' || n, 1 + n % 2 FROM generate_series(1, 20) n
"""
# Every second task, or every $4-th, was soft-deleted, at times of one day unrelated to its place; all are
# spread over the projects and over a year. Titles have about 20 characters, descriptions about 80.
TASKS = """
    INSERT INTO public.task (title, description, status, status_before_delete, priority, project_id, created_by_id,
                             created_at, updated_at, deleted_at)
    SELECT 'Call back no. ' || n,
           CASE WHEN n % $3 = 0 THEN 'As agreed on the phone: look into it, write down what was found, tell ' || n END,
           CASE WHEN n % $4 = 0 THEN 'deleted' ELSE 'pending' END,
           CASE WHEN n % $4 = 0 THEN 'pending' END,
           (ARRAY['low', 'medium', 'high'])[1 + n % 3], 1 + (n / 2) % 20, 1 + (n / 2) % 2,
           created, created,
           CASE WHEN n % $4 = 0
                THEN now() - make_interval(
                    days => $2 + CASE WHEN n % $5 = 0 THEN 300 ELSE 0 END, secs => n * 7919 % 86400000 / 1000.0) END
    FROM generate_series(1, $1::bigint) n, LATERAL (SELECT now() - make_interval(days => 101 + n::int % 264)) c(created)
"""
INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename = 'task' AND indexname <> 'task_pkey' ORDER BY indexname
"""


@dataclass(frozen=True)
class Counts:
    tasks: int
    deleted: int


async def fill(
    connection: asyncpg.Connection,
    *,
    tasks: int,
    describe_every: int = 1,
    deleted_every: int = 2,
    older_every: int | None = None,
) -> Counts:
    """Fill empty task tables: 3 workers, 20 projects, `tasks` tasks of which every second is soft-deleted.

    Of the soft-deleted ones every `older_every`-th task was so 300 days earlier.
    Every `describe_every`-th task has a description; its trigrams are most of the time that this takes.

    Indexes are dropped and built again, and the foreign keys' triggers are off meanwhile: the rows are right by
    construction. Needs a superuser. Leaves the table vacuumed and analyzed.
    """
    indexes = await connection.fetch(INDEXES)
    await connection.execute("SET session_replication_role = replica; SET maintenance_work_mem = '512MB'")
    for index in indexes:
        await connection.execute(f'DROP INDEX public."{index["indexname"]}"')
    await connection.execute(PEOPLE)
    await connection.execute(PROJECTS)
    await connection.execute(TASKS, tasks, DELETED_DAYS_AGO, describe_every, deleted_every, older_every)
    for index in indexes:
        await connection.execute(index["indexdef"])
    await connection.execute("RESET session_replication_role; RESET maintenance_work_mem")
    await connection.execute("VACUUM (ANALYZE) public.task")
    row = await connection.fetchrow("SELECT count(*) AS tasks, count(deleted_at) AS deleted FROM public.task")
    return Counts(row["tasks"], row["deleted"])


LIVE_TASKS = """
    SELECT array_agg(id) FROM (
        SELECT id FROM public.task WHERE project_id = $1 AND deleted_at IS NULL ORDER BY id LIMIT $2
    ) live
"""
EVIDENCE = """
    SELECT count(*) FILTER (WHERE deleted_at < now() - interval '90 days') AS overdue,
           count(*) FILTER (WHERE deleted_at IS NULL) AS live,
           count(*) FILTER (WHERE status = 'completed') AS completed,
           count(*) FILTER (WHERE project_id = $1 AND status = 'archived') AS archived,
           count(*) FILTER (WHERE project_id = $1 AND deleted_at IS NULL AND status <> 'archived') AS not_archived,
           count(*) FILTER (WHERE title LIKE 'Created by the demo %') AS created
    FROM public.task
"""


READ = "SELECT title FROM public.task WHERE id = $1"
TOUCH = "UPDATE public.task SET priority = 'high' WHERE id = $1"


async def use(connection: asyncpg.Connection, task_id: int, *, write: bool) -> None:
    """What some other program does with a task: a point read, or a point update."""
    await connection.execute(TOUCH if write else READ, task_id)


async def live_tasks(connection: asyncpg.Connection, *, project_id: int, most: int) -> list[int]:
    ids: list[int] = await connection.fetchval(LIVE_TASKS, project_id, most)
    return ids


async def evidence(connection: asyncpg.Connection, *, archived_project: int) -> dict[str, int]:
    """What stands in the table, counted row by row: not what any run says of itself."""
    return dict(await connection.fetchrow(EVIDENCE, archived_project))
