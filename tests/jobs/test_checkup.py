"""What `lowtide check` says of servers that the tests have none of: too old, a standby, a clock that is wrong."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from db.server import About
from jobs import checkup

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WELL = About(
    number=140_000,
    version="14.0",
    role="r",
    is_standby=False,
    now=NOON,
    may_monitor=True,
    has_trigrams=True,
    may_use_schema=True,
)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        (WELL, ["ok"]),
        (replace(WELL, number=139_999), ["fault"]),
        (replace(WELL, is_standby=True), ["ok", "fault"]),
        (replace(WELL, may_monitor=False), ["ok", "warning"]),
    ],
)
def test_what_is_said_of_a_server(about: About, words: list[str]) -> None:
    facts = checkup._server(about, "h/d")
    assert [fact.word for fact in facts] == words
    assert all(fact.advice for fact in facts if fact.word != "ok")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, None),
        (2, None),
        (-2, None),
        (2.5, "the server's clock is 2.5 s ahead of this machine's"),
        (-2.5, "the server's clock is 2.5 s behind this machine's"),
    ],
)
def test_a_clock_more_than_two_seconds_apart_is_noted(seconds: float, told: str | None) -> None:
    facts = checkup._clock(NOON + timedelta(seconds=seconds), NOON, NOON)
    assert [fact.told for fact in facts] == ([] if told is None else [told])


def test_an_answer_that_takes_long_is_no_clock_that_is_wrong() -> None:
    assert checkup._clock(NOON + timedelta(seconds=20), NOON, NOON + timedelta(seconds=30)) == []


def test_task_tables_and_trigrams_are_notes() -> None:
    assert [fact.word for fact in checkup._tasks(WELL, has_tables=True)] == ["ok"]
    assert [fact.word for fact in checkup._tasks(WELL, has_tables=False)] == ["note"]
    assert [fact.word for fact in checkup._tasks(replace(WELL, has_trigrams=False), has_tables=True)] == ["note"]
