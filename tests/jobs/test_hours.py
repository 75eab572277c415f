"""Hours and budgets: when a policy's purge may work, and how much one run of it may do."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from db import steering
from db.engine import Database
from jobs.catalog import Job, jobs
from jobs.endings import Again, Finished
from jobs.hours import is_open, next_opening
from jobs.life import Life
from jobs.policies import Hours
from jobs.purge_old_deleted import purge_old_deleted
from jobs.purge_payload import PurgeOldDeleted
from tests.jobs.test_blast import POLICY, left, life_with, refusal, table
from tests.jobs.test_plan import approve, planned
from tests.jobs.test_sweep import _slow_trigger as slow_trigger
from tests.ledger import accept, row, run, serve_to_the_end

NIGHT = Hours(time(1), time(5))
LATE = Hours(time(22), time(4))
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("hours", "now", "opened"),
    [
        (NIGHT, "2026-06-01T00:59:59+02:00", False),
        (NIGHT, "2026-06-01T01:00:00+02:00", True),
        (NIGHT, "2026-06-01T04:59:59+02:00", True),
        (NIGHT, "2026-06-01T05:00:00+02:00", False),
        (LATE, "2026-06-01T21:59:59+02:00", False),
        (LATE, "2026-06-01T23:00:00+02:00", True),
        (LATE, "2026-06-02T03:59:59+02:00", True),
        (LATE, "2026-06-02T04:00:00+02:00", False),
        (Hours(time(3), time(3)), "2026-06-01T12:00:00+02:00", True),
    ],
)
def test_the_clock_on_the_wall_decides(hours: Hours, now: str, opened: bool) -> None:
    """At their beginning they are open, at their end closed; over midnight; the whole day."""
    assert is_open(hours, BERLIN, now=at(now)) is opened


@pytest.mark.parametrize(
    ("hours", "now", "opening"),
    [
        (NIGHT, "2026-06-01T12:00:00+02:00", "2026-06-02T01:00:00+02:00"),
        (NIGHT, "2026-06-01T00:59:30.5+02:00", "2026-06-01T01:00:00+02:00"),
        (LATE, "2026-06-01T04:00:00+02:00", "2026-06-01T22:00:00+02:00"),
        # In spring 02:00 becomes 03:00. 02:30 is not there, so it opens at 03:00.
        (Hours(time(2, 30), time(4)), "2026-03-29T00:00:00+01:00", "2026-03-29T03:00:00+02:00"),
        # All of it is left out: the night after.
        (Hours(time(2), time(3)), "2026-03-29T00:00:00+01:00", "2026-03-30T02:00:00+02:00"),
        # In autumn 03:00 becomes 02:00: 02:30 comes twice, and so does the opening.
        (Hours(time(2, 30), time(2, 45)), "2026-10-25T00:00:00+02:00", "2026-10-25T02:30:00+02:00"),
        (Hours(time(2, 30), time(2, 45)), "2026-10-25T02:45:00+02:00", "2026-10-25T02:30:00+01:00"),
        (Hours(time(2, 30), time(2, 45)), "2026-10-25T02:45:00+01:00", "2026-10-26T02:30:00+01:00"),
    ],
)
def test_the_next_opening_is_found_through_daylight_saving(hours: Hours, now: str, opening: str) -> None:
    assert next_opening(hours, BERLIN, now=at(now)) == at(opening)


def life_at(database: Database, now: Callable[[], datetime], **rules: Any) -> Life:
    """With a clock that the test holds, where the worker would ask the server's."""
    return with_clock(life_with(database, **rules), now)


def with_clock(life: Life, now: Callable[[], datetime]) -> Life:
    async def clock(_: Database) -> Callable[[], datetime]:
        return now

    (policy,) = life.jobs["purge-old-deleted"].perform.keywords["policies"]  # type: ignore[attr-defined]  # a partial
    perform: Callable[..., Awaitable[dict[str, Any]]] = partial(
        purge_old_deleted, policies=(policy,), disabled={}, clock=clock
    )
    life.jobs = {"purge-old-deleted": Job(PurgeOldDeleted, perform)}
    return life


NOON, ONE_OCLOCK = at("2026-06-01T12:00:00+02:00"), at("2026-06-02T01:00:00+02:00")
BERLINS_NIGHT: dict[str, Any] = {"hours": NIGHT, "timezone": "Europe/Berlin"}


async def test_outside_of_its_hours_a_run_waits_for_the_next_opening(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Whoever asked for it. That costs no attempt, and nothing of max_seconds."""
    await table(sql, gone=100, live=100)
    life = life_at(database, lambda: NOON, **BERLINS_NIGHT)
    await accept(life, "purge-old-deleted", "run", policy="t", max_seconds=60)
    ending = await life.serve("run")
    assert isinstance(ending, Again)
    assert ending.after == timedelta(hours=13)
    waiting = await row(life, "run")
    assert (waiting.state, waiting.attempt, await left(sql)) == ("queued", 1, 200)
    assert waiting.wait_reason == "outside the hours 01:00-05:00 Europe/Berlin of policy t"
    assert await sql.fetchval("SELECT not_before - now() BETWEEN '12:59:00' AND '13:00:00' FROM lowtide.run")

    await sql.execute("UPDATE lowtide.run SET not_before = now(), started_at = started_at - interval '13 hours'")
    await life_at(database, lambda: ONE_OCLOCK, **BERLINS_NIGHT).serve("run")
    ended = await row(life, "run")
    assert (ended.state, ended.rows_done, ended.attempt, await left(sql)) == ("succeeded", 100, 1, 100)


async def test_hours_that_end_in_its_middle_stop_it_between_two_batches(
    database: Database, sql: asyncpg.Connection
) -> None:
    """It goes on the next night where it was, with the same cutoff. Control: looked at in the beginning alone, it
    deleted all."""
    await table(sql, gone=20_000, live=20_000)
    looks = 0

    def closing() -> datetime:
        nonlocal looks
        looks += 1
        return ONE_OCLOCK if looks <= 3 else NOON + timedelta(days=1)

    life = life_at(database, closing, **BERLINS_NIGHT)
    await accept(life, "purge-old-deleted", "run", policy="t")
    assert isinstance(await life.serve("run"), Again)
    before = await row(life, "run")
    cutoff, cursor = await sql.fetchrow("SELECT cutoff, cursor::text FROM lowtide.run")
    assert (before.state, before.rows_done) == ("queued", 40_000 - await left(sql))
    assert 0 < before.rows_done < 20_000
    assert '"pass": 1' in cursor

    await sql.execute("UPDATE lowtide.run SET not_before = now()")
    await life_at(database, lambda: ONE_OCLOCK, **BERLINS_NIGHT).serve("run")
    ended = await row(life, "run")
    assert (ended.state, ended.rows_done, ended.attempt) == ("succeeded", 20_000, 1)
    assert await sql.fetchval("SELECT cutoff FROM lowtide.run") == cutoff


async def test_a_dry_run_does_not_wait(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=100, live=100)
    ended = await run(life_at(database, lambda: NOON, **BERLINS_NIGHT), "purge-old-deleted", policy="t", dry_run=True)
    assert ended.state == "succeeded"


async def test_an_approval_that_is_taken_in_time_waits_for_the_hours(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Approved at noon for the night, when the hour is long over."""
    await table(sql, gone=20_000, live=0)
    life = life_at(database, lambda: NOON, **BERLINS_NIGHT)
    (policy,) = life.jobs["purge-old-deleted"].perform.keywords["policies"]  # type: ignore[attr-defined]  # a partial
    await planned(life)
    await approve(database, policy=policy)
    assert isinstance(await life.serve("run"), Again)
    await sql.execute("UPDATE lowtide.plan SET approval_until = now(); UPDATE lowtide.run SET not_before = now()")
    await life_at(database, lambda: ONE_OCLOCK, **BERLINS_NIGHT).serve("run")
    assert ((await row(life, "run")).state, await left(sql)) == ("succeeded", 0)


async def test_the_servers_clock_is_what_a_run_goes_by(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=100, live=100)
    now: datetime = await sql.fetchval("SELECT now()")
    hours = Hours((now + timedelta(hours=2)).time(), (now + timedelta(hours=3)).time())
    life = life_with(database, hours=hours)
    await accept(life, "purge-old-deleted", "run", policy="t")
    ending = await life.serve("run")
    assert isinstance(ending, Again)
    assert timedelta(hours=1, minutes=59) < ending.after < timedelta(hours=2, minutes=2)


async def test_what_a_nights_budget_leaves_goes_the_next_night(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=250, live=100)
    life = life_with(database, max_rows=100)
    deleted = []
    for night in range(4):
        ended = await run(life, "purge-old-deleted", f"schedule:t:{night}", policy="t")
        assert ended.result is not None
        deleted.append((ended.rows_done, ended.result["remaining"]))
    assert (deleted, await left(sql)) == ([(100, True), (100, True), (50, False), (0, False)], 100)


async def test_max_seconds_of_the_policy_ends_its_run(database: Database, sql: asyncpg.Connection) -> None:
    await table(sql, gone=100, live=100)
    life = life_with(database, max_seconds=60)
    await accept(life, "purge-old-deleted", "run", policy="t")
    await sql.execute("UPDATE lowtide.run SET started_at = now() - interval '1 hour'")
    ended = await row(life, "run") if isinstance(await life.serve("run"), Finished) else None
    assert ended is not None
    assert ended.result is not None
    assert (ended.rows_done, ended.result["remaining"]) == (0, True)


@pytest.mark.parametrize(("name", "given"), [("max_rows", 50), ("max_seconds", 50)])
async def test_a_payload_can_ask_for_less_than_the_policy_gives_and_not_for_more(
    database: Database, sql: asyncpg.Connection, name: str, given: int
) -> None:
    await table(sql, gone=100, live=100)
    life = life_with(database, **{name: given})
    less = await run(life, "purge-old-deleted", "less", policy="t", **{name: given - 1})
    assert (less.state, getattr(less, name)) == ("succeeded", given - 1)
    told = refusal(await run(life, "purge-old-deleted", "more", policy="t", **{name: given + 1}))
    assert (told["type"], f"{name} = {given} at most" in told["message"]) == ("OverBudget", True)


async def test_a_policy_that_fails_does_not_hinder_another(database: Database, sql: asyncpg.Connection) -> None:
    """Two at the same time, on tables of their own; one has lost its column, and one too many rows to lose."""
    await table(sql, gone=20_000, live=0)
    await sql.execute("CREATE TABLE u (id int, gone_at timestamptz); INSERT INTO u SELECT id, gone_at FROM t LIMIT 100")
    await sql.execute("CREATE TABLE v (id int)")
    policies = tuple(replace(POLICY, name=name, target=replace(POLICY.target, table=name)) for name in "tuv")
    life = Life(database, jobs(policies), worker="test", lease=timedelta(seconds=2))
    for name in "tuv":
        await accept(life, "purge-old-deleted", name, policy=name)
    await asyncio.gather(*(serve_to_the_end(life, name) for name in "tuv"))
    ended = [await row(life, name) for name in "tuv"]
    assert [each.state for each in ended] == ["failed", "succeeded", "failed"]
    assert await sql.fetchval("SELECT count(*) FROM u") == 0


async def test_a_run_that_is_tried_again_has_no_more_time_for_the_hours_that_it_rested(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Control: 13 hours that it had waited came on top of its one second."""
    await table(sql, gone=2_000, live=4_000)
    await slow_trigger(sql, "0.002")
    asleep = life_at(database, lambda: NOON, max_seconds=1, **BERLINS_NIGHT)
    await accept(asleep, "purge-old-deleted", "run", policy="t")
    await asleep.serve("run")
    for change in (steering.cancel, partial(steering.retry, from_start=False)):
        async with database.sessions.begin() as session:
            await change(session, "run")
    await sql.execute("UPDATE lowtide.run SET not_before = now()")
    await serve_to_the_end(life_at(database, lambda: ONE_OCLOCK, max_seconds=1, **BERLINS_NIGHT), "run")
    ended = await row(asleep, "run")
    assert ended.state == "succeeded"
    assert ended.rows_done < 2_000
