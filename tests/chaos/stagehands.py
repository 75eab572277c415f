"""Worker processes to be killed and stopped, and work for all four jobs with the questions that check it."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from tests import people
from tests.chaos.scale import LEASE_S
from tests.eventually import eventually
from worker.embedded import Companion

CREATED, MARKED, ARCHIVED, PURGED = 300, 300, 600, 600


def worker(database_url: str, redis_url: str, **settings: str) -> Companion:
    given = {"lease": str(LEASE_S), "tick": "0.2", "slice": "0.5"} | settings
    return Companion(database_url=database_url, redis_url=redis_url, **given)


@asynccontextmanager
async def two_workers(database_url: str, redis_url: str) -> AsyncIterator[list[Companion]]:
    async with worker(database_url, redis_url) as first, worker(database_url, redis_url) as second:
        yield [first, second]


async def kill(companion: Companion, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(companion.pid, number)
    await companion.exited.wait()


@dataclass(frozen=True)
class Act:
    """One round of all four jobs over rows of its own; ids and titles carry its number."""

    number: int

    def id_of(self, job: str) -> str:
        return f"{job}-{self.number}"

    @property
    def ids(self) -> list[str]:
        return [self.id_of(job) for job in ("create", "mark", "archive", "purge")]

    async def enqueue(self, sql: asyncpg.Connection) -> None:
        """Set the stage, and enqueue, in one transaction: either all of it is there or nothing."""
        async with sql.transaction():
            project: int = await sql.fetchval("INSERT INTO project (name, owner_id) VALUES ('act', 1) RETURNING id")
            await self._tasks(sql, project, MARKED, "marked")
            to_archive: int = await sql.fetchval("INSERT INTO project (name, owner_id) VALUES ('old', 1) RETURNING id")
            await self._tasks(sql, to_archive, ARCHIVED, "archived")
            await self._tasks(sql, project, PURGED, "purged", deleted=True)
            marked = await sql.fetchval("SELECT array_agg(id) FROM task WHERE title = $1", self._title("marked"))
            tasks = [{"title": self._title("created")} for _ in range(CREATED)]
            for job, run_id, payload in (
                ("create-batch", "create", {"project_id": project, "created_by_id": 2, "tasks": tasks}),
                ("mark-completed", "mark", {"task_ids": marked, "requested_by": 1, "on_invalid": "skip"}),
                ("archive-project", "archive", {"project_id": to_archive, "requested_by": 1}),
                ("purge-old-deleted", "purge", {}),
            ):
                await sql.execute("SELECT lowtide.enqueue($1, $2, $3)", job, json.dumps(payload), self.id_of(run_id))

    async def _tasks(
        self, sql: asyncpg.Connection, project: int, count: int, title: str, *, deleted: bool = False
    ) -> None:
        await sql.execute(
            "INSERT INTO task (title, project_id, created_by_id, deleted_at) "
            "SELECT $1, $2, 2, CASE WHEN $3 THEN now() - interval '100 days' END FROM generate_series(1, $4::int)",
            self._title(title),
            project,
            deleted,
            count,
        )

    def _title(self, title: str) -> str:
        return f"{title} {self.number}"

    async def ended(self, sql: asyncpg.Connection, *, within_s: float = 30) -> None:
        all_ended = "SELECT bool_and(finished_at IS NOT NULL) FROM lowtide.run WHERE id = ANY($1)"
        try:
            await eventually(lambda: sql.fetchval(all_ended, self.ids), within_s=within_s)
        except AssertionError as exc:
            standing = await sql.fetch(
                "SELECT id, state, attempt, rows_done, wait_reason, not_before, lease_until, worker, now() "
                "FROM lowtide.run WHERE id = ANY($1) AND finished_at IS NULL",
                self.ids,
            )
            sessions = await sql.fetch(
                "SELECT pid, state, wait_event, left(query, 80) AS query, xact_start FROM pg_stat_activity "
                "WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()"
            )
            raise AssertionError(f"not ended: {standing}; open: {sessions}") from exc

    async def check(self, sql: asyncpg.Connection) -> None:
        """The effect stands once, and the ledger's counters are what really changed."""
        rows = await sql.fetch("SELECT id, state, rows_done, error::text FROM lowtide.run WHERE id = ANY($1)", self.ids)
        assert {row["id"]: row["state"] for row in rows} == dict.fromkeys(self.ids, "succeeded"), rows
        done = {row["id"].split("-")[0]: row["rows_done"] for row in rows}
        found = await sql.fetchrow(
            "SELECT count(*) FILTER (WHERE title = $1) AS create, "
            "count(*) FILTER (WHERE title = $2 AND status = 'completed') AS mark, "
            "count(*) FILTER (WHERE title = $3 AND status = 'archived') AS archive, "
            "count(*) FILTER (WHERE title = $4) AS purge_left FROM task",
            *(self._title(title) for title in ("created", "marked", "archived", "purged")),
        )
        assert dict(found) == {"create": CREATED, "mark": MARKED, "archive": ARCHIVED, "purge_left": 0}
        assert done == {"create": CREATED, "mark": MARKED, "archive": ARCHIVED, "purge": PURGED}


async def set_up(sql: asyncpg.Connection) -> None:
    """People, and a purge slow enough to be met at work."""
    await people.people(sql)
    await sql.execute("DROP INDEX IF EXISTS task_title_trigrams, task_description_trigrams")
    await sql.execute("SELECT setval('worker_id_seq', 100), setval('project_id_seq', 100)")
    await slow_deletes(sql)


async def slow_deletes(sql: asyncpg.Connection) -> None:
    """A millisecond for each row that is deleted: a purge can be met at work, however fast the machine."""
    await sql.execute(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(0.001); RETURN NULL; END'; "
        "CREATE TRIGGER linger AFTER DELETE ON task FOR EACH ROW EXECUTE FUNCTION linger()"
    )


async def at_work(sql: asyncpg.Connection, run_id: str) -> None:
    """The run has committed batches, and has not ended."""
    await eventually(lambda: sql.fetchval("SELECT batches > 1 FROM lowtide.run WHERE id = $1", run_id))


async def pause(seconds: float) -> None:
    """Not for a condition: the moment of a fault is drawn by chance."""
    await asyncio.sleep(seconds)
