"""examples/enqueue.sql, executed as it stands: the run exists if and only if the caller's change does."""

from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from jobs.life import Life
from tests import people
from tests.ledger import serve_to_the_end

EXAMPLE = (Path(__file__).parents[2] / "examples" / "enqueue.sql").read_text()
RUN = "order-77-shipped"


@pytest_asyncio.fixture
async def order(sql: asyncpg.Connection) -> None:
    """The rows that the file's own comment says to make."""
    commented = [line.removeprefix("--   ") for line in EXAMPLE.splitlines() if line.startswith("--   ")]
    rows = "\n".join(line for line in commented if not line.startswith("psql"))
    await sql.execute(rows)


async def shipped(sql: asyncpg.Connection) -> bool:
    found: bool = await sql.fetchval("SELECT shipped_at IS NOT NULL FROM orders WHERE id = 77")
    return found


async def task_statuses(sql: asyncpg.Connection) -> list[str]:
    return [row["status"] for row in await sql.fetch("SELECT status FROM task ORDER BY id")]


async def test_committed_the_run_exists_and_a_worker_does_it(order: None, sql: asyncpg.Connection, life: Life) -> None:
    await sql.execute(EXAMPLE)
    assert await shipped(sql)
    assert (await people.run_row(sql, RUN))["state"] == "queued"
    assert await task_statuses(sql) == ["pending", "pending"]

    await serve_to_the_end(life, RUN)

    assert await task_statuses(sql) == ["completed", "completed"]
    reading = EXAMPLE.split("COMMIT;")[1]
    read = await sql.fetchrow(reading)
    assert (read["state"], read["rows_done"], read["error"]) == ("succeeded", 2, None)


async def test_rolled_back_there_is_neither_change_nor_run(order: None, sql: asyncpg.Connection) -> None:
    """Control: the same with COMMIT, above."""
    await sql.execute(EXAMPLE.replace("COMMIT;", "ROLLBACK;"))
    assert not await shipped(sql)
    assert await people.run_row(sql, RUN) is None


async def test_tried_again_it_is_the_same_run(order: None, sql: asyncpg.Connection, life: Life) -> None:
    await sql.execute(EXAMPLE)
    await sql.execute(EXAMPLE)
    await serve_to_the_end(life, RUN)
    await sql.execute(EXAMPLE)
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 1


def test_the_command_that_it_names_tells_of_an_error() -> None:
    """psql's exit code is 0 otherwise."""
    (command,) = [line for line in EXAMPLE.splitlines() if line.startswith("--   psql")]
    assert "-v ON_ERROR_STOP=1" in command


async def test_another_payload_under_the_same_id_undoes_the_caller_s_change_too(
    order: None, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('mark-completed', '{\"task_ids\": [1], \"requested_by\": 2}', $1)", RUN)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await sql.execute(EXAMPLE)
    await sql.execute("ROLLBACK")
    assert caught.value.sqlstate == "LT409"
    assert not await shipped(sql)
