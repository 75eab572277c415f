"""Schedules: each fire time is one run, however many workers see it."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from db import schedules as standing
from db.engine import Database
from jobs.policies import OLD_DELETED_TASKS, Policy
from tests.eventually import eventually
from worker import schedules
from worker.schedules import last_fire_time, next_fire_time

BERLIN = replace(OLD_DELETED_TASKS, name="berlin", timezone="Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "fired"),
    [
        ("2026-11-24T02:29:59.999999", None),
        ("2026-11-24T02:30:00", "2026-11-24T02:30:00"),
        ("2026-11-24T02:30:01", "2026-11-24T02:30:00"),
        ("2026-11-24T03:29:59", "2026-11-24T02:30:00"),
        ("2026-11-24T03:30:00", None),
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


def test_a_local_time_that_spring_skips_is_made_up_for_as_the_clock_jumps() -> None:
    """02:30 does not exist in Berlin on 2026-03-29: at 01:00 UTC the clock goes from 02:00 to 03:00."""
    assert _fired_between("2026-03-28T22:00:00", "2026-03-29T10:00:00") == {_utc("2026-03-29T01:00:00")}


def test_a_local_time_that_autumn_repeats_makes_one_run_at_its_first_time() -> None:
    """02:30 exists twice in Berlin on 2026-10-25: at 00:30 and at 01:30 UTC."""
    assert _fired_between("2026-10-24T22:00:00", "2026-10-25T10:00:00") == {_utc("2026-10-25T00:30:00")}


@pytest.mark.parametrize(("first", "runs"), [("2026-03-28T23:00:00", 23), ("2026-10-24T22:00:00", 25)])
def test_an_hourly_schedule_follows_the_hours_that_pass(first: str, runs: int) -> None:
    """The two days begin at midnight in Berlin and have 23 and 25 hours."""
    hourly = replace(BERLIN, schedule="30 * * * *")
    last = (_utc(first) + timedelta(hours=runs)).replace(tzinfo=None).isoformat()
    found = {at for at in _fired_between(first, last, policy=hourly) if at > _utc(first)}
    assert len(found) == runs


def test_in_the_hour_that_autumn_repeats_no_time_comes_again() -> None:
    """Control: at 03:20 the fire time of an hour and 50 minutes before was made up for, and the next one was past."""
    assert last_fire_time(BERLIN, now=_utc("2026-10-25T02:20:00")) is None
    assert next_fire_time(BERLIN, now=_utc("2026-10-25T01:10:00")) == _utc("2026-10-26T01:30:00")


def test_without_a_schedule_there_is_no_fire_time() -> None:
    policy = replace(OLD_DELETED_TASKS, schedule=None)
    assert last_fire_time(policy, now=_utc("2026-11-24T02:30:00")) is None


async def test_fire_returns_the_ids_of_new_runs_alone(database: Database, sql: asyncpg.Connection) -> None:
    policy = await _due(sql)
    assert [await schedules.fire(database, (policy,)) for _ in range(2)] == [
        [await sql.fetchval("SELECT id FROM lowtide.run WHERE scheduled_for IS NOT NULL")],
        [],
    ]


async def test_of_many_workers_one_says_that_it_fired(database: Database, sql: asyncpg.Connection) -> None:
    """Each waits for the first one's commit, held back here until all have looked."""
    policy = await _due(sql)
    async with sql.transaction():
        await sql.execute("LOCK TABLE lowtide.run IN SHARE ROW EXCLUSIVE MODE")
        racing = [asyncio.create_task(schedules.fire(database, (policy,))) for _ in range(4)]
        await eventually(lambda: _waiting_for_a_lock(sql, 4), within_s=2)
    fired = await asyncio.gather(*racing)
    assert sorted(len(ids) for ids in fired) == [0, 0, 0, 1]


async def test_a_fire_time_long_past_makes_no_run(database: Database, sql: asyncpg.Connection) -> None:
    assert await schedules.fire(database, (await _due(sql, minutes_ago=90),)) == []
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run WHERE scheduled_for IS NOT NULL") == 0


async def test_a_new_installation_makes_up_for_nothing(database: Database, sql: asyncpg.Connection) -> None:
    """Its first start, by chance within an hour of the policy's time, must not purge at once."""
    policy = await _due(sql, in_use=False)
    assert await schedules.fire(database, (policy,)) == []
    await sql.execute("SELECT lowtide.enqueue('mark-completed')")
    assert await schedules.fire(database, (policy,)) == []


async def test_a_new_installation_fires_on_time(database: Database, sql: asyncpg.Connection) -> None:
    policy = replace(OLD_DELETED_TASKS, schedule="* * * * *")
    assert len(await schedules.fire(database, (policy,))) == 1


async def test_many_workers_make_one_run_of_a_fire_time(database: Database, sql: asyncpg.Connection) -> None:
    policy = await _due(sql)
    fired = await asyncio.gather(*(schedules.fire(database, (policy,)) for _ in range(10)))

    assert {run_id for ids in fired for run_id in ids} == {
        await sql.fetchval("SELECT id FROM lowtide.run WHERE scheduled_for IS NOT NULL")
    }
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run WHERE scheduled_for IS NOT NULL") == 1


async def test_a_scheduled_run_says_which_policy_which_time_and_who(
    database: Database, sql: asyncpg.Connection
) -> None:
    policy = await _due(sql)
    await schedules.fire(database, (policy,))

    row = await sql.fetchrow("SELECT * FROM lowtide.run WHERE scheduled_for IS NOT NULL")
    at = row["scheduled_for"]
    assert f"{at:%M %H} * * *" == policy.schedule
    assert row["id"] == f"schedule:old-deleted-tasks:{at:%Y-%m-%dT%H:%M:%SZ}"
    assert (row["job"], json.loads(row["payload"])) == ("purge-old-deleted", {"policy": "old-deleted-tasks"})
    assert (row["state"], row["requested_by"]) == ("queued", "schedule:old-deleted-tasks")


async def test_an_id_that_somebody_took_for_other_work_stops_no_worker(
    database: Database, sql: asyncpg.Connection
) -> None:
    hourly = replace(OLD_DELETED_TASKS, schedule="0 * * * *")
    found = last_fire_time(hourly, now=await sql.fetchval("SELECT clock_timestamp()"))
    assert found is not None
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{\"days\": 91}', $1)", found.run_id)

    assert await schedules.fire(database, (hourly,)) == []
    assert await sql.fetchval("SELECT payload ->> 'days' FROM lowtide.run") == "91"


async def test_a_paused_schedule_makes_no_runs_until_it_is_resumed(database: Database, sql: asyncpg.Connection) -> None:
    policy = await _due(sql)
    async with database.sessions.begin() as session:
        await standing.pause(session, policy.name, by="operator:test")
    assert await schedules.fire(database, (policy,)) == []
    async with database.sessions.begin() as session:
        await standing.resume(session, policy.name)
    assert await schedules.fire(database, (policy,)) == [], "what came while it was paused is not made up for"
    await sql.execute("UPDATE lowtide.paused_schedule SET resumed_at = now() - interval '2 hours'")
    assert len(await schedules.fire(database, (policy,))) == 1


async def test_what_was_missed_is_told(database: Database, sql: asyncpg.Connection) -> None:
    """Of yesterday, too late for now, without a run, and in use at that time."""
    policy = await _due(sql, minutes_ago=90)
    await sql.execute("UPDATE lowtide.run SET created_at = now() - interval '2 days'")
    (missed,) = await schedules.tell_missed(database, (policy,))
    assert missed.run_id.startswith("schedule:old-deleted-tasks:")

    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', $1)", missed.run_id)
    assert await schedules.tell_missed(database, (policy,)) == []


@pytest.mark.parametrize("minutes_ago", [30, 90])
async def test_what_nobody_missed_is_not_told(database: Database, sql: asyncpg.Connection, minutes_ago: int) -> None:
    """What is made up for still; and of a ledger that was not there at that time."""
    policy = await _due(sql, minutes_ago=minutes_ago, in_use=minutes_ago == 30)
    assert await schedules.tell_missed(database, (policy,)) == []


def test_the_next_fire_time_is_the_policys() -> None:
    assert schedules.next_fire_time(BERLIN, now=_utc("2026-07-01T00:30:00")) == _utc("2026-07-02T00:30:00")


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _fired_between(first: str, last: str, *, policy: Policy = BERLIN) -> set[datetime]:
    """The fire times of all runs that a tick every minute would make."""
    now, times = _utc(first), set()
    while now <= _utc(last):
        if found := last_fire_time(policy, now=now):
            times.add(found.at)
        now += timedelta(minutes=1)
    return times


async def _due(sql: asyncpg.Connection, *, minutes_ago: int = 30, in_use: bool = True) -> Policy:
    """A policy with one fire time a day, far from the horizon's ends: no minute's turn changes what is due.

    `in_use`: the ledger holds a run of yesterday.
    """
    if in_use:
        await sql.execute("SELECT lowtide.enqueue('mark-completed')")
        await sql.execute("UPDATE lowtide.run SET created_at = now() - interval '1 day'")
    at: datetime = await sql.fetchval("SELECT (now() - make_interval(mins => $1)) AT TIME ZONE 'UTC'", minutes_ago)
    return replace(OLD_DELETED_TASKS, schedule=f"{at:%M %H} * * *")


async def _waiting_for_a_lock(sql: asyncpg.Connection, count: int) -> bool:
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'lowtide.run'::regclass AND NOT granted"
    return bool(await sql.fetchval(waiting) == count)
