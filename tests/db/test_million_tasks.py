"""Reads over 1,000,000 tasks, half of them soft-deleted: what finds the rows, and what it costs. Nothing is timed."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Select, text

from db import cursors, taskreads
from db.cursors import Position
from db.engine import Database
from db.explanations import Explained
from db.schemas import Page, TaskFilter, TaskRead
from db.taskservice import TaskService, unit_of_work
from tests.db.conftest import RARE, RARE_PROJECT
from tests.db.statements import said

Statement = Select[*tuple[object, ...]]
RARELY = TaskFilter(project_id=RARE_PROJECT, status="in_progress", priority="high")
PAGE = 25
OFFSET = 999 * PAGE
SEARCHES = "pg_prepared_statements WHERE statement LIKE 'WITH recent%ILIKE%'"
SEARCHED = {"task_active", "task_title_trigrams", "task_description_trigrams"}  # the newest, then all
NTH = "SELECT {column}, id FROM task WHERE {which} ORDER BY {column} DESC, id DESC OFFSET {offset} LIMIT 1"


async def _explained(million: Database, statement: Statement) -> Explained:
    async with unit_of_work(million.sessions) as service:
        return await service.explain(statement)


def _indexes(explained: Explained) -> set[str]:
    """Those that find tasks."""
    return {scan.index for scan in explained.scans if scan.index is not None and scan.index.startswith("task_")}


def _buffers(explained: Explained) -> int:
    plan = explained.plan["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize(
    ("statement", "indexes"),
    [
        (taskreads.one(77), {"task_pkey"}),
        (taskreads.newest(limit=50), {"task_active"}),
        (taskreads.newest(limit=50, offset=100), {"task_active"}),
        (taskreads.newest(TaskFilter(status="in_progress"), limit=50), {"task_status"}),
        (taskreads.newest(TaskFilter(status="pending"), limit=50), {"task_status"}),
        (taskreads.newest(TaskFilter(project_id=RARE_PROJECT), limit=50), {"task_project"}),
        (taskreads.newest(RARELY, limit=50), {"task_status"}),
        (taskreads.detailed(TaskFilter(project_id=RARE_PROJECT), limit=50), {"task_project"}),
        (taskreads.deleted(days=150, limit=50), {"task_deleted_at"}),
        (taskreads.count(RARELY), {"task_status"}),
        (taskreads.holding("zebra", limit=50), SEARCHED),
        (taskreads.holding("QUAGGA", limit=50), SEARCHED),
        (taskreads.holding("ebr", limit=50), SEARCHED),
        (taskreads.holding("no such text", limit=50), SEARCHED),
        (taskreads.holding("call back", limit=50), {"task_active"}),  # in every title: the newest are at hand
    ],
)
async def test_an_index_finds_the_rows_of_every_read(
    million: Database, statement: Statement, indexes: set[str]
) -> None:
    explained = await _explained(million, statement)
    assert _indexes(explained) == indexes
    assert not [scan for scan in explained.scans if scan.kind == "Seq Scan" and "task" in scan.relation]
    assert explained.verdict.word != "bad"  # the machine may have other work


async def test_a_search_with_a_filter_reads_no_more_than_the_filter_or_the_words_leave(million: Database) -> None:
    explained = await _explained(million, taskreads.holding("zebra", RARELY, limit=50))
    assert _indexes(explained) <= {"task_status", "task_title_trigrams", "task_description_trigrams"}
    assert _buffers(explained) < 200


async def test_a_word_that_deleted_tasks_alone_have_does_not_read_all_active_ones(million: Database) -> None:
    """20,000 have it. Control: led by the order of the page, the search walked the whole table, 500,000 blocks."""
    explained = await _explained(million, taskreads.holding("agreed on the phone", limit=50))
    assert _indexes(explained) == SEARCHED
    assert _buffers(explained) < 50_000


async def test_after_many_searches_the_query_plan_still_depends_on_the_words(million: Database) -> None:
    """A generic query plan would read task by task for rare words, or bit by bit for common ones."""
    async with unit_of_work(million.sessions) as service:
        for _ in range(10):
            for words in ("zebra", "call back", "quagga", "no such text"):
                await service.search(words, limit=50)
        plans = await service.session.execute(text(f"SELECT generic_plans, custom_plans FROM {SEARCHES}"))
        (generic, custom) = zip(*plans.all(), strict=True)
    assert sum(generic) == 0
    assert sum(custom) >= 40


@pytest.mark.parametrize(
    ("which", "column", "statement"),
    [
        ("deleted_at IS NULL", "created_at", lambda after: taskreads.newest(limit=PAGE, after=after)),
        (
            "deleted_at IS NULL AND status = 'pending'",
            "created_at",
            lambda after: taskreads.newest(TaskFilter(status="pending"), limit=PAGE, after=after),
        ),
        (
            f"deleted_at IS NULL AND project_id = {RARE_PROJECT}",
            "created_at",
            lambda after: taskreads.newest(TaskFilter(project_id=RARE_PROJECT), limit=PAGE, after=after),
        ),
        ("deleted_at IS NULL", "created_at", lambda after: taskreads.detailed(limit=PAGE, after=after)),
        ("deleted_at IS NOT NULL", "deleted_at", lambda after: taskreads.deleted(days=500, limit=PAGE, after=after)),
    ],
)
async def test_page_1000_reads_as_many_blocks_as_page_1(
    million: Database, which: str, column: str, statement: Callable[[Position | None], Statement]
) -> None:
    async with million.sessions() as session:
        last = (await session.execute(text(NTH.format(which=which, column=column, offset=OFFSET - 1)))).one()
    first, thousandth = [await _explained(million, statement(after)) for after in (None, Position(*last))]
    assert thousandth.plan["Plan"]["Actual Rows"] == PAGE
    assert _buffers(thousandth) <= 1.5 * _buffers(first)


async def test_page_1000_by_number_reads_all_that_stands_before_it(million: Database) -> None:
    """What cursors are for: the control of the test above."""
    first, thousandth = [await _explained(million, taskreads.newest(limit=PAGE, offset=at)) for at in (0, OFFSET)]
    assert _buffers(thousandth) > 100 * _buffers(first)


async def test_page_1000_holds_what_offset_would_have_given(million: Database) -> None:
    async with unit_of_work(million.sessions) as service:
        (last,) = (await service.page(limit=1, offset=OFFSET - 1)).items
        cursor = cursors.encoded(Position(last.created_at, last.id), of=f"newest {TaskFilter().model_dump_json()}")
        behind = await service.page_after(limit=PAGE, cursor=cursor)
        numbered = await service.page(limit=PAGE, offset=OFFSET)
    assert behind.items == numbered.items


READS: list[tuple[Callable[[TaskService], Awaitable[Any]], int]] = [
    (lambda service: service.get(77), 1),
    (lambda service: service.page_after(RARELY), 1),
    (lambda service: service.page(RARELY), 2),  # the total is one of its own
    (lambda service: service.search("zebra", RARELY), 1),
    (lambda service: service.details(RARELY), 1),
    (lambda service: service.count(RARELY), 1),
    (lambda service: service.deleted(days=500), 1),
]


@pytest.mark.parametrize(("read", "statements"), READS)
async def test_a_read_is_one_statement_however_many_rows_it_has(
    million: Database, read: Callable[[TaskService], Awaitable[Any]], statements: int
) -> None:
    async with unit_of_work(million.sessions) as service:
        with said(million.engine) as heard:
            await read(service)
        assert len(heard) == len(service.timings) == statements


async def test_a_search_finds_titles_and_descriptions_in_either_case(million: Database) -> None:
    async with unit_of_work(million.sessions) as service:
        found: list[Page[TaskRead]] = [await service.search(words, limit=RARE) for words in ("zebra", "qUAGGA")]
    assert [len(page.items) for page in found] == [RARE, RARE / 2]


async def test_a_search_of_two_characters_says_why_it_is_bad(million: Database) -> None:
    """Two characters are no trigram."""
    explained = await _explained(million, taskreads.holding("ze", limit=50))
    assert explained.verdict.word == "bad"
    assert "from end to end" in explained.verdict.reasons[0]
