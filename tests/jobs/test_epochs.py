"""A column of integers that counts in another unit than its policy says: told, and nothing deleted."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from db.engine import Database
from db.targets import PER_SECOND, Epoch, Target
from jobs.catalog import jobs
from jobs.epochs import misread
from jobs.facts import Fact
from jobs.inspection import against, inspect
from jobs.life import Life
from jobs.policies import Policy
from tests import ledger

NOW = datetime(2026, 11, 27, tzinfo=UTC)
# Rows of 7 kB: a table of 200 is none that is read from end to end.
ROWS = "SELECT extract(epoch FROM now()) - n, repeat('x', 7000) FROM generate_series(1, 200) n"


def policy(epoch: Epoch) -> Policy:
    return Policy("p", Target("public", "t", "at", epoch=epoch), timedelta(days=90))


async def epoch(database: Database, unit: Epoch) -> list[Fact]:
    return [fact for fact in await inspect(database, policy(unit)) if fact.about == "epoch"]


@pytest.mark.parametrize(
    ("newest", "unit", "fitting"),
    [
        (datetime(2026, 11, 1, tzinfo=UTC), "seconds", "seconds"),
        (datetime(2026, 11, 1, tzinfo=UTC), "milliseconds", "milliseconds"),
        (datetime(2026, 11, 1, tzinfo=UTC), "microseconds", "microseconds"),
        (datetime(2031, 1, 1, tzinfo=UTC), "seconds", "seconds"),
        (datetime(2016, 12, 31, tzinfo=UTC), "seconds", "seconds"),
        (datetime(2026, 11, 1, tzinfo=UTC), "seconds", "milliseconds"),
        (datetime(2026, 11, 1, tzinfo=UTC), "microseconds", "seconds"),
    ],
)
def test_each_unit_is_told_from_the_others(newest: datetime, unit: Epoch, fitting: Epoch) -> None:
    value = int(newest.timestamp()) * PER_SECOND[fitting]
    found = misread(value, unit, now=NOW)
    assert (None if found is None else found.fitting) == (None if unit == fitting else fitting)
    for other in PER_SECOND:
        wrong = misread(value, other, now=NOW)
        assert (wrong is None) == (other == fitting), other
        assert wrong is None or wrong.fitting == fitting


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (473_385_600, "seconds"),  # 1985
        (473_385_600_000, "milliseconds"),
        (1_000_000_000, "seconds"),  # 2001
        (0, "milliseconds"),
        (-1, "seconds"),
        (-5_000_000_000, "seconds"),
    ],
)
def test_what_is_simply_old_passes(value: int, unit: Epoch) -> None:
    assert misread(value, unit, now=NOW) is None


@pytest.mark.parametrize("index", ["", "CREATE INDEX ON t (at)", "CREATE INDEX ON t (at DESC NULLS LAST)"])
async def test_a_wrong_unit_is_a_fault_that_names_the_one_that_fits(
    database: Database, sql: asyncpg.Connection, index: str
) -> None:
    """By an index, or of a small table by reading it."""
    await sql.execute(f"CREATE TABLE t (at bigint); {index}")
    assert await epoch(database, "milliseconds") == [], "nothing is known of an empty table"
    await sql.execute("INSERT INTO t VALUES (NULL), (1), (extract(epoch FROM timestamptz '2026-11-01'))")
    (fact,) = await epoch(database, "milliseconds")
    assert (fact.word, fact.told, fact.advice) == (
        "fault",
        "the newest value of public.t.at is 1793491200: in milliseconds that is 1970-01-21, in seconds 2026-11-01",
        'Write epoch = "seconds" in the policy',
    )
    assert against(policy("milliseconds"), [fact]) is not None
    (fact,) = await epoch(database, "seconds")
    assert (fact.word, fact.told) == ("ok", "the newest value reads as 2026-11-01")


async def test_what_lies_too_far_ahead_is_a_fault_too(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE t (at bigint); INSERT INTO t VALUES (1793491200000)")
    (fact,) = await epoch(database, "seconds")
    assert (fact.word, "in seconds that is the year 58,803, in milliseconds 2026-11-01" in fact.told) == ("fault", True)


async def test_a_value_that_stands_for_never_hides_nothing(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE t (at bigint); INSERT INTO t VALUES (1793491200), (9223372036854775807)")
    assert [fact.word for fact in await epoch(database, "milliseconds")] == ["fault"]
    await sql.execute("DELETE FROM t WHERE at < 9223372036854775807")
    assert await epoch(database, "milliseconds") == []


async def test_without_an_index_the_planners_statistics_tell(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE t (at bigint, filler text STORAGE PLAIN)")
    await sql.execute(f"INSERT INTO t {ROWS}")
    assert await epoch(database, "milliseconds") == [], "unknown"
    await sql.execute("ANALYZE t")
    assert [fact.word for fact in await epoch(database, "milliseconds")] == ["fault"]
    await sql.execute("UPDATE t SET at = 1793491200; ANALYZE t")
    assert [fact.word for fact in await epoch(database, "milliseconds")] == ["fault"], "of a value that most rows have"
    assert [fact.word for fact in await epoch(database, "seconds")] == ["ok"]


async def test_the_newest_of_all_partitions_counts(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute(
        "CREATE TABLE t (at bigint) PARTITION BY RANGE (at); CREATE TABLE a PARTITION OF t FOR VALUES FROM (0) TO (9); "
        "CREATE TABLE b PARTITION OF t DEFAULT; INSERT INTO t VALUES (1), (1793491200)"
    )
    assert [fact.word for fact in await epoch(database, "milliseconds")] == ["fault"]
    assert [fact.word for fact in await epoch(database, "seconds")] == ["ok"]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_the_run_itself_refuses_before_its_first_delete(
    database: Database, sql: asyncpg.Connection, dry_run: bool
) -> None:
    """A worker that has just started has not looked at its policies yet.

    Seen to fail without `require_fit` in jobs/purge_old_deleted.py: all three rows were gone.
    """
    await sql.execute("CREATE TABLE t (at bigint); CREATE INDEX ON t (at)")
    await sql.execute("INSERT INTO t SELECT extract(epoch FROM now()) - n FROM generate_series(1, 3) n")
    life = Life(database, jobs((policy("milliseconds"),)), worker="test")
    ended = await ledger.run(life, "purge-old-deleted", policy="p", dry_run=dry_run)
    assert (ended.state, (ended.error or {})["type"]) == ("failed", "WrongEpoch")
    assert 'Write epoch = "seconds" in the policy, and restart the workers' in (ended.error or {})["message"]
    assert await sql.fetchval("SELECT count(*) FROM t") == 3

    life = Life(database, jobs((policy("seconds"),)), worker="test")
    assert (await ledger.run(life, "purge-old-deleted", "right", policy="p")).state == "succeeded"


async def test_what_can_not_be_told_in_time_is_no_reason_to_refuse(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE t (at bigint, filler text STORAGE PLAIN)")
    await sql.execute(f"INSERT INTO t {ROWS}")
    life = Life(database, jobs((policy("seconds"),)), worker="test")
    ended = await ledger.run(life, "purge-old-deleted", policy="p")
    assert ended.state == "succeeded", ended.error
