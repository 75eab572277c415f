"""archive-project: closes the project, archives what is not deleted, and keeps new tasks out."""

import asyncio

import asyncpg
import pytest

from jobs.endings import Again, Finished
from jobs.life import Life
from tests import people
from tests.ledger import accept, run


async def test_archives_every_task_that_is_not_deleted(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)

    ended = await run(life, "archive-project", project_id=people.PROJECT, requested_by=people.OWNER)

    assert ended.state == "succeeded"
    assert ended.result == {"archived": 3}
    asked = [tasks.open, tasks.in_progress, tasks.completed, tasks.deleted, tasks.others]
    assert await people.statuses(sql, asked) == ["archived", "archived", "archived", "deleted", "pending"]
    assert await sql.fetchval("SELECT archived_at IS NOT NULL FROM project WHERE id = 1")


async def test_an_archived_project_gives_up_its_leftovers_and_keeps_its_date(
    life: Life, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)
    await run(life, "archive-project", run_id="first", project_id=1, requested_by=people.OWNER)
    archived_at = await sql.fetchval("SELECT archived_at FROM project WHERE id = 1")
    await sql.execute("UPDATE task SET status = 'pending' WHERE id = $1", tasks.open)

    ended = await run(life, "archive-project", run_id="second", project_id=1, requested_by=people.OWNER)

    assert ended.result == {"archived": 1}
    assert await sql.fetchval("SELECT archived_at FROM project WHERE id = 1") == archived_at


@pytest.mark.parametrize(
    ("project", "actor", "kind"),
    [
        (99, people.OWNER, "NotFound"),
        (people.PROJECT, people.CREATOR, "NotAllowed"),
        (people.PROJECT, 99, "NotAllowed"),
    ],
)
async def test_only_the_owner_of_a_project_that_exists_may(
    life: Life, sql: asyncpg.Connection, project: int, actor: int, kind: str
) -> None:
    await people.people(sql)
    await people.tasks(sql)

    ended = await run(life, "archive-project", project_id=project, requested_by=actor)

    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["type"] == kind
    assert await sql.fetchval("SELECT count(*) FROM project WHERE archived_at IS NOT NULL") == 0
    assert await sql.fetchval("SELECT count(*) FROM task WHERE status = 'archived'") == 1


async def test_waits_for_an_insert_in_flight_and_archives_its_task_too(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    insert = sql.transaction()
    await insert.start()
    await sql.execute("INSERT INTO task (title, project_id, created_by_id) VALUES ('late', 1, 2)")
    await accept(life, "archive-project", "waits", project_id=1, requested_by=people.OWNER)

    first = await life.serve("waits")
    assert isinstance(first, Again)
    assert await _state(life, "waits") == ("queued", "others hold locks on what the run needs")
    await insert.commit()
    await asyncio.sleep(first.after.total_seconds())
    second = await life.serve("waits")

    assert isinstance(second, Finished)
    assert second.glance.result == {"archived": 1}


async def test_no_task_enters_an_archived_project_by_plain_sql(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    tasks = await people.tasks(sql)
    await run(life, "archive-project", project_id=1, requested_by=people.OWNER)

    with pytest.raises(asyncpg.CheckViolationError, match="project 1 is archived"):
        await sql.execute("INSERT INTO task (title, project_id, created_by_id) VALUES ('late', 1, 2)")
    with pytest.raises(asyncpg.CheckViolationError, match="project 1 is archived"):
        await sql.execute("UPDATE task SET project_id = 1 WHERE id = $1", tasks.others)
    with pytest.raises(asyncpg.SerializationError):
        await _insert_under_a_snapshot_from_before(life, sql)


async def _insert_under_a_snapshot_from_before(life: Life, sql: asyncpg.Connection) -> None:
    """REPEATABLE READ sees the project as it was; the trigger's FOR SHARE notices."""
    async with sql.transaction(isolation="repeatable_read"):
        assert await sql.fetchval("SELECT archived_at IS NULL FROM project WHERE id = 2")
        async with life.database.autocommit() as other:  # by plain SQL: archive-project's own lock would be noticed
            await other.execute("UPDATE project SET archived_at = now() WHERE id = 2")
        await sql.execute("INSERT INTO task (title, project_id, created_by_id) VALUES ('late', 2, 3)")


async def _state(life: Life, run_id: str) -> tuple[str, str | None]:
    async with life.database.autocommit() as connection:
        row = await connection.fetchrow("SELECT state, wait_reason FROM lowtide.run WHERE id = $1", run_id)
    return row["state"], row["wait_reason"]


async def test_a_task_whose_status_alone_says_deleted_is_not_archived(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await sql.execute(
        "INSERT INTO task (title, status, project_id, created_by_id) "
        "VALUES ('a', 'deleted', 1, 2), ('b', 'pending', 1, 2)"
    )
    ended = await run(life, "archive-project", project_id=1, requested_by=1)
    assert ended.result == {"archived": 1}
    assert await sql.fetchval("SELECT status FROM task WHERE title = 'a'") == "deleted"
