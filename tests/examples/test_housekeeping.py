"""The housekeeping script, run as an operator runs it."""

import re

import asyncpg
import pytest
import pytest_asyncio

from tests import people
from tests.examples import program
from tests.examples.callers import everything

CREATOR = str(people.CREATOR)


@pytest_asyncio.fixture
async def old(sql: asyncpg.Connection) -> None:
    """Of the creator: 1,500 tasks deleted 100 days ago and 1,500 made 400 days ago; and a stranger's, like them."""
    await people.people(sql)
    await people.many(sql, 3000, deleted_every=2)
    await sql.execute("UPDATE task SET status = 'deleted' WHERE deleted_at IS NOT NULL")
    await sql.execute(
        "INSERT INTO task (title, status, deleted_at, project_id, created_by_id) "
        "VALUES ('kept', 'deleted', now() - interval '100 days', 2, 3), ('kept', 'pending', NULL, 2, 3)"
    )
    await sql.execute("UPDATE task SET created_at = now() - interval '400 days'")
    await sql.execute("INSERT INTO task (title, project_id, created_by_id) VALUES ('young', 1, 2)")


async def test_it_first_says_what_it_would_do_and_changes_nothing(
    old: None, sql: asyncpg.Connection, database_url: str
) -> None:
    before = await everything(sql)
    done = await program.run("housekeeping", "--actor", CREATOR, database_url=database_url)
    assert (done.code, done.err) == (0, "")
    assert re.match(r"the soft delete: (good|fair|bad) \(.*Scan on \S*task", done.out)
    assert done.out.endswith("nothing was changed; --yes does it\n")
    assert await everything(sql) == before


async def test_it_deletes_and_purges_what_the_actor_may_act_on_and_tells_how_long_it_took(
    old: None, sql: asyncpg.Connection, database_url: str
) -> None:
    """The purge in more than one transaction."""
    done = await program.run("housekeeping", "--actor", CREATOR, "--yes", database_url=database_url)

    assert (done.code, done.err) == (0, "")
    assert "1500 soft-deleted\n1500 removed for good\n" in done.out
    assert re.findall(r"purge_deleted: (\d+) rows in [\d.]+ ms", done.out) == ["1000", "500"]
    left = await sql.fetch("SELECT title, status, count(*) AS n FROM task GROUP BY 1, 2 HAVING count(*) < 10")
    assert {(row["title"], row["status"], row["n"]) for row in left} >= {
        *(("kept", "deleted", 1), ("kept", "pending", 1), ("young", "pending", 1)),
    }
    assert await sql.fetchval("SELECT count(*) FROM task WHERE status = 'deleted' AND created_by_id = 2") == 1500


@pytest.mark.parametrize(
    ("given", "told"),
    [(["--actor", "999", "--yes"], "worker 999"), (["--actor", CREATOR, "--purge-after", "0"], "--purge-after")],
)
async def test_what_can_t_be_done_is_said_in_a_sentence(
    old: None, sql: asyncpg.Connection, database_url: str, given: list[str], told: str
) -> None:
    before = await everything(sql)
    done = await program.run("housekeeping", *given, database_url=database_url)
    assert done.code == 1
    assert told in done.err
    assert "Traceback" not in done.err
    assert await everything(sql) == before
