"""create-batch: all tasks or none, once."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from db import tasks
from jobs import create_batch
from jobs.create_batch import ranges
from jobs.endings import Finished
from jobs.life import Life
from tests import people
from tests.ledger import accept, run


def payload(count: int = 3, **others: Any) -> dict[str, Any]:
    asked = [{"title": f"task {n}"} for n in range(count)]
    return {"project_id": people.PROJECT, "created_by_id": people.CREATOR, "tasks": asked} | others


async def test_inserts_every_task_with_its_fields_in_the_payloads_order(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    asked = [
        {"title": "first", "description": "d", "status": "completed", "priority": "high"},
        {"title": "zweite ☂ '); DROP TABLE task; --", "description": "a\tb\\N\n\\."},
        {"title": "third", "status": "in_progress", "description": None},
    ]

    ended = await run(life, "create-batch", **payload(tasks=asked))

    assert ended.state == "succeeded"
    rows = await sql.fetch("SELECT id, title, description, status, priority FROM task ORDER BY id")
    first = rows[0]["id"]
    assert ended.result == {"created": 3, "ids": [[first, first + 2]]}
    assert [tuple(row)[1:] for row in rows] == [
        ("first", "d", "completed", "high"),
        ("zweite ☂ '); DROP TABLE task; --", "a\tb\\N\n\\.", "pending", "medium"),
        ("third", None, "in_progress", "medium"),
    ]
    assert (ended.rows_done, ended.batches) == (3, 1)


async def test_the_list_goes_from_the_payload_at_success(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    ended = await run(life, "create-batch", **payload())
    assert ended.payload == {"project_id": 1, "created_by_id": 2}


async def test_the_same_payload_again_is_still_the_same_run(life: Life, sql: asyncpg.Connection) -> None:
    """Also after the list has gone from the stored payload."""
    await people.people(sql)
    first = await run(life, "create-batch", **payload())
    again = await run(life, "create-batch", **payload())

    assert again.result == first.result
    assert await sql.fetchval("SELECT count(*) FROM task") == 3


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [({"project_id": 99}, "NotFound"), ({"created_by_id": 99}, "NotFound"), ({"project_id": 2}, "ProjectArchived")],
)
async def test_what_does_not_exist_or_is_archived_is_refused(
    life: Life, sql: asyncpg.Connection, wrong: dict[str, int], kind: str
) -> None:
    await people.people(sql)
    await sql.execute("UPDATE project SET archived_at = now() WHERE id = 2")

    ended = await run(life, "create-batch", **payload(**wrong))

    assert ended.error is not None
    assert (ended.state, ended.error["type"]) == ("failed", kind)
    assert await sql.fetchval("SELECT count(*) FROM task") == 0


async def test_a_failure_after_the_copy_leaves_no_row(
    life: Life, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: COPY before any statement of the session runs outside the transaction; without the check in
    tasks.insert and with the hold left out, the three rows stand."""
    await people.people(sql)

    def fail(ids: list[int]) -> None:
        raise ArithmeticError(f"after the copy of {len(ids)} rows")

    monkeypatch.setattr(create_batch, "ranges", fail)
    ended = await run(life, "create-batch", **payload())

    assert ended.error is not None
    assert (ended.state, ended.error["type"]) == ("failed", "ArithmeticError")
    assert ended.error["message"] == "after the copy of 3 rows"
    assert "test_create_batch.py" in ended.error["traceback"]
    assert await sql.fetchval("SELECT count(*) FROM task") == 0


async def test_one_bad_row_undoes_all(life: Life, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database has the last word: its constraint on the title."""
    await people.people(sql)
    records = create_batch._records

    def spoiled(*given: Any) -> Iterator[tuple[object, ...]]:
        yield from records(*given)
        yield (10**9, "", None, "pending", "low", 1, 2)

    monkeypatch.setattr(create_batch, "_records", spoiled)
    ended = await run(life, "create-batch", **payload())

    assert ended.error is not None
    assert ended.error["sqlstate"] == "23514"
    assert await sql.fetchval("SELECT count(*) FROM task") == 0


async def test_what_the_database_refuses_is_told_without_the_row(
    life: Life, sql: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server's DETAIL quotes the failing row, and SQLAlchemy the parameters: both are the caller's own data."""
    await people.people(sql)
    await sql.execute("ALTER TABLE task ADD CONSTRAINT polite CHECK (title NOT LIKE '%hunter2%')")
    ended = await run(life, "create-batch", **payload(tasks=[{"title": "hunter2"}]))

    assert ended.error is not None
    assert (ended.error["sqlstate"], ended.error["type"]) == ("23514", "CheckViolationError")
    assert "polite" in ended.error["message"]
    assert "hunter2" not in str(ended.error)
    assert "hunter2" not in "".join(capsys.readouterr())


async def test_a_run_that_is_served_twice_at_once_inserts_once(life: Life, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await accept(life, "create-batch", "twice", **payload(1000))

    endings = [await life.serve("twice"), await life.serve("twice")]

    assert [isinstance(ending, Finished) for ending in endings] == [True, True]
    assert await sql.fetchval("SELECT count(*) FROM task") == 1000


async def test_ids_come_in_ascending_order_also_between_other_inserts(life: Life, sql: asyncpg.Connection) -> None:
    async with life.database.sessions.begin() as session:
        first = await tasks.reserve_ids(session, count=3)
        await sql.execute("SELECT nextval('task_id_seq')")
        second = await tasks.reserve_ids(session, count=2)
    assert [*first, *second] == [1, 2, 3, 5, 6]
    assert ranges([*first, *second]) == [[1, 3], [5, 6]]
