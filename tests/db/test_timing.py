"""How long statements took: as data, and as a log event, and never printed."""

import logging

import asyncpg
import pytest

from db import timing
from db.engine import Database
from db.refusals import NotFound
from db.taskservice import TaskService, unit_of_work
from tests import people
from tests.people import OWNER


async def test_each_statement_is_timed_with_its_rows(
    database: Database, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    await people.people(sql)
    await people.many(sql, 5)
    with caplog.at_level(logging.DEBUG, logger="lowtide.tasks"):
        async with unit_of_work(database.sessions) as service:
            await service.page(limit=3)
            await service.mark_completed([1, 2], actor=OWNER)
            await service.archive_project(1, actor=OWNER)
            with pytest.raises(NotFound):
                await service.delete(404, actor=OWNER)
    said = [(timing.name, timing.rows) for timing in service.timings]
    assert said == [
        ("count", 1),
        ("page", 3),
        ("actor", 1),
        ("kinds", 1),
        ("mark_completed", 2),
        ("actor", 1),
        ("project", 1),
        ("close_project", 1),
        ("stamp_project", 1),
        ("archive_project", 5),
        ("delete", 0),
        ("actor", 1),
        ("kinds", 1),
    ]
    assert all(0 < timing.seconds < 10 for timing in service.timings)
    events = [record for record in caplog.records if record.name == "lowtide.tasks"]
    assert {record.message for record in events} == {"task.statement"}
    assert [(vars(record)["statement"], vars(record)["rows"]) for record in events] == said
    assert [vars(record)["seconds"] for record in events] == [timing.seconds for timing in service.timings]
    assert capfd.readouterr() == ("", "")


async def test_the_newest_thousand_are_kept(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "KEPT", 3)
    async with database.sessions() as session:
        service = TaskService(session)
        for _ in range(4):
            await service.count()
        await service.page_after()
    assert [each.name for each in service.timings] == ["count", "count", "page_after"]


async def test_what_was_changed_is_counted_and_not_supposed(database: Database, sql: asyncpg.Connection) -> None:
    """The second time the project is archived already."""
    await people.people(sql)
    async with unit_of_work(database.sessions) as service:
        for _ in range(2):
            await service.archive_project(1, actor=OWNER)
    assert [timing.rows for timing in service.timings if timing.name == "stamp_project"] == [1, 0]


async def test_timings_can_be_sliced_and_kept(database: Database) -> None:
    async with unit_of_work(database.sessions) as service:
        await service.count()
        first = service.timings
        await service.count()
    assert [timing.name for timing in service.timings[-1:]] == ["count"]
    assert len(first) == 1
