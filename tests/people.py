"""Rows that most tests need: people, projects, tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

OWNER, CREATOR, STRANGER = 1, 2, 3
PROJECT, OTHER_PROJECT = 1, 2


@dataclass(frozen=True)
class Tasks:
    """Ids of one task of each kind that mark-completed tells apart, in PROJECT unless said otherwise."""

    open: int
    in_progress: int
    completed: int
    deleted: int
    archived: int
    others: int  # of OTHER_PROJECT, created and owned by STRANGER


async def people(sql: asyncpg.Connection) -> None:
    """OWNER owns PROJECT, STRANGER owns OTHER_PROJECT, CREATOR creates tasks."""
    await sql.execute("INSERT INTO worker (id, name) VALUES (1, 'owner'), (2, 'creator'), (3, 'stranger')")
    await sql.execute("INSERT INTO project (id, name, owner_id) VALUES (1, 'ours', 1), (2, 'theirs', 3)")


async def tasks(sql: asyncpg.Connection) -> Tasks:
    async def one(status: str, *, deleted: bool = False, project: int = PROJECT, creator: int = CREATOR) -> int:
        number: int = await sql.fetchval(
            "INSERT INTO task (title, status, deleted_at, project_id, created_by_id) "
            "VALUES ('a task', $1, CASE WHEN $2 THEN now() END, $3, $4) RETURNING id",
            status,
            deleted,
            project,
            creator,
        )
        return number

    return Tasks(
        open=await one("pending"),
        in_progress=await one("in_progress"),
        completed=await one("completed"),
        deleted=await one("deleted", deleted=True),
        archived=await one("archived"),
        others=await one("pending", project=OTHER_PROJECT, creator=STRANGER),
    )


async def many(sql: asyncpg.Connection, count: int, *, deleted_every: int = 0, days_ago: int = 100) -> None:
    """`count` tasks in PROJECT; every `deleted_every`-th was soft-deleted `days_ago` (0: none)."""
    await sql.execute(
        "INSERT INTO task (title, project_id, created_by_id, deleted_at) "
        "SELECT 'task ' || n, 1, 2, CASE WHEN $2 > 0 AND n % nullif($2, 0) = 0 THEN now() - make_interval(days => $3) "
        "END FROM generate_series(1, $1::int) n",
        count,
        deleted_every,
        days_ago,
    )
    await sql.execute("ANALYZE task")


async def run_row(sql: asyncpg.Connection, run_id: str) -> asyncpg.Record:
    """The ledger's row, json columns as text."""
    return await sql.fetchrow("SELECT * FROM lowtide.run WHERE id = $1", run_id)


async def statuses(sql: asyncpg.Connection, ids: Sequence[int]) -> list[str]:
    rows = await sql.fetch("SELECT status FROM task WHERE id = ANY($1) ORDER BY array_position($1, id)", ids)
    return [row["status"] for row in rows]
