"""Schedules: each fire time is one run, however many workers see it."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from db.engine import Database
from jobs.policies import OLD_DELETED_TASKS
from worker import schedules
from worker.schedules import last_fire_time

BERLIN = replace(OLD_DELETED_TASKS, name="berlin", timezone="Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "fired"),
    [
        ("2026-11-24T02:29:59.999999", None),
        ("2026-11-24T02:30:00", "2026-11-24T02:30:00"),
        ("2026-11-24T02:30:01", "2026-11-24T02:30:00"),
        ("2026-11-24T03:29:59", "2026-11-24T02:30:00"),
        ("2026-11-24T03:30:01", None),
        ("2026-11-24T12:00:00", None),
    ],
)
def test_a_fire_time_is_made_up_for_within_an_hour(now: str, fired: str | None) -> None:
    found = last_fire_time(OLD_DELETED_TASKS, now=_utc(now))
    assert (found and found.at) == (fired and _utc(fired))


def test_the_zone_is_the_policys() -> None:
    summer, winter = (last_fire_time(BERLIN, now=_utc(now)) for now in ("2026-07-01T00:31:00", "2026-12-01T01:31:00"))
    assert summer is not None
    assert winter is not None
    assert (summer.at, winter.at) == (_utc("2026-07-01T00:30:00"), _utc("2026-12-01T01:30:00"))


def test_the_hour_that_daylight_saving_skips_or_repeats_makes_one_run() -> None:
    """02:30 does not exist in Berlin on 2026-03-29, and exists twice on 2026-10-25."""
    assert len(_fired_between("2026-03-28T22:00:00", "2026-03-29T10:00:00")) == 1
    assert len(_fired_between("2026-10-24T22:00:00", "2026-10-25T10:00:00")) == 1


def test_without_a_schedule_there_is_no_fire_time() -> None:
    policy = replace(OLD_DELETED_TASKS, schedule=None)
    assert last_fire_time(policy, now=_utc("2026-11-24T02:30:00")) is None


async def test_many_workers_make_one_run_of_a_fire_time(database: Database, sql: asyncpg.Connection) -> None:
    always = replace(OLD_DELETED_TASKS, schedule="* * * * *")
    fired = await asyncio.gather(*(schedules.fire(database, (always,)) for _ in range(10)))
    assert sum(len(ids) > 0 for ids in fired) >= 1

    rows = await sql.fetch("SELECT * FROM lowtide.run")
    assert len(rows) <= 2, "two only when a minute has just begun"
    at = rows[0]["scheduled_for"]
    assert rows[0]["id"] == f"schedule:old-deleted-tasks:{at:%Y-%m-%dT%H:%M:%SZ}"
    assert (rows[0]["job"], json.loads(rows[0]["payload"])) == ("purge-old-deleted", {"policy": "old-deleted-tasks"})
    assert rows[0]["requested_by"] == "schedule:old-deleted-tasks"


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _fired_between(first: str, last: str) -> set[str]:
    """The ids of all runs that a tick every minute would make."""
    now, ids = _utc(first), set()
    while now <= _utc(last):
        if found := last_fire_time(BERLIN, now=now):
            ids.add(found.run_id)
        now += timedelta(minutes=1)
    return ids
