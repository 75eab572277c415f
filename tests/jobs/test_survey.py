"""A policy seen in passing: exact where an index answers, unknown where it does not."""

from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from db import holds
from db.engine import Database
from db.targets import Target
from jobs.life import Life
from jobs.outlook import outlook
from jobs.policies import OLD_DELETED_TASKS
from jobs.survey import survey
from tests import ledger, people

DAY_S = 86_400


async def test_eligible_rows_and_the_age_of_the_oldest(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 100, deleted_every=2, days_ago=100)
    await people.many(sql, 100, deleted_every=2, days_ago=89)
    await sql.execute("UPDATE task SET deleted_at = now() - interval '120 days' WHERE id = 2")
    found = await survey(database, OLD_DELETED_TASKS)
    assert found.why_unknown is None
    assert found.overdue is not None
    assert found.overdue.rows == 50
    assert found.overdue.oldest_age_s == pytest.approx(120 * DAY_S, abs=60)


async def test_with_nothing_eligible_both_are_zero(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 10, deleted_every=2, days_ago=89)
    found = (await survey(database, OLD_DELETED_TASKS)).overdue
    assert found is not None
    assert (found.rows, found.oldest_age_s) == (0, 0)


async def test_a_date_before_all_dates_is_infinitely_old(database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 2, deleted_every=2)
    await sql.execute("UPDATE task SET deleted_at = '-infinity' WHERE deleted_at IS NOT NULL")
    found = (await survey(database, OLD_DELETED_TASKS)).overdue
    assert found is not None
    assert (found.rows, found.oldest_age_s) == (1, float("inf"))


@pytest.mark.parametrize(("most", "counted"), [(49, 49), (50, 50), (51, 50)])
async def test_it_counts_up_to_a_limit(database: Database, sql: asyncpg.Connection, most: int, counted: int) -> None:
    await people.people(sql)
    await people.many(sql, 100, deleted_every=2)
    found = (await survey(database, OLD_DELETED_TASKS, most_rows=most)).overdue
    assert found is not None
    assert found.rows == counted


async def test_without_an_index_a_large_table_is_not_read(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE wide (filler text, gone_at timestamptz)")
    await sql.execute("ALTER TABLE wide ALTER filler SET STORAGE PLAIN")
    await sql.execute(
        "INSERT INTO wide SELECT repeat('x', 5000), now() - interval '1 year' FROM generate_series(1, 200)"
    )
    policy = replace(OLD_DELETED_TASKS, target=Target("public", "wide", "gone_at"), keep=timedelta(days=1))
    found = await survey(database, policy)
    assert found.overdue is None
    assert found.why_unknown is not None
    assert "CREATE INDEX CONCURRENTLY" in found.why_unknown

    await sql.execute("CREATE INDEX ON wide (gone_at)")
    found = await survey(database, policy)
    assert found.overdue is not None
    assert found.overdue.rows == 200


async def hold(database: Database, table: str, column: str, value: str) -> None:
    async with database.sessions.begin() as session:
        await holds.add(session, table=table, column=column, value=value, reason="a test", until=None, by="test")


async def orders(sql: asyncpg.Connection, layout: str = "") -> None:
    """30 orders that are due, from 130 to 101 days old; the ten oldest have a line."""
    await sql.execute(f"CREATE TABLE orders (id int, gone_at timestamptz, PRIMARY KEY (id, gone_at)) {layout}")
    if layout:
        await sql.execute("CREATE TABLE old PARTITION OF orders FOR VALUES FROM (MINVALUE) TO ('2000-01-01')")
        await sql.execute("CREATE TABLE rest PARTITION OF orders DEFAULT")
    await sql.execute(
        "INSERT INTO orders SELECT n, now() - make_interval(days => 131 - n) FROM generate_series(1, 30) n"
    )
    await sql.execute("CREATE INDEX ON orders (gone_at)")
    await sql.execute("CREATE TABLE line (id int, at timestamptz, FOREIGN KEY (id, at) REFERENCES orders)")
    await sql.execute("INSERT INTO line SELECT id, gone_at FROM orders WHERE id <= 10; CREATE INDEX ON line (id, at)")


ORDERS = replace(OLD_DELETED_TASKS, target=Target("public", "orders", "gone_at"), children={"line": "block"})


@pytest.mark.parametrize("layout", ["", "PARTITION BY RANGE (gone_at)"])
async def test_rows_that_are_held_or_blocked_are_left_out(
    database: Database, sql: asyncpg.Connection, layout: str
) -> None:
    await orders(sql, layout)
    await hold(database, "public.orders", "id", "11")
    found = (await survey(database, ORDERS)).overdue
    assert found is not None
    assert (found.rows, round(found.oldest_age_s / DAY_S)) == (19, 119)
    few = (await survey(database, ORDERS, most_rows=7)).overdue
    assert few is not None
    assert few.rows == 7

    for number in range(12, 31):
        await hold(database, "public.orders", "id", f"{number}")
    found = (await survey(database, ORDERS)).overdue
    assert found is not None
    assert (found.rows, found.oldest_age_s) == (0, 0)


async def test_rows_that_stay_for_what_hangs_on_them_are_counted(database: Database, sql: asyncpg.Connection) -> None:
    """To walk there takes as long as the purge."""
    await orders(sql)
    await hold(database, "public.line", "id", "5")
    found = (await survey(database, replace(ORDERS, children={"line": "delete"}))).overdue
    assert found is not None
    assert found.rows == 30


async def test_what_keeps_rows_is_not_asked_where_it_can_not_be_told(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Children that nobody has declared, and a table that others have locked."""
    await orders(sql)
    found = (await survey(database, replace(ORDERS, children={}))).overdue
    assert found is not None
    assert (found.rows, round(found.oldest_age_s / DAY_S)) == (30, 130)
    async with sql.transaction():
        await sql.execute("LOCK TABLE line IN ACCESS EXCLUSIVE MODE")
        found = (await survey(database, ORDERS)).overdue
    assert found is not None
    assert found.rows == 30


PARTS = "CREATE TABLE p (gone_at timestamptz, filler text STORAGE PLAIN) PARTITION BY RANGE (gone_at); "
LEAVES = {
    "partitions": PARTS + "CREATE TABLE l1 PARTITION OF p FOR VALUES FROM (MINVALUE) TO ('2020-01-01'); "
    "CREATE TABLE l2 PARTITION OF p DEFAULT",
    "heirs": "CREATE TABLE p (gone_at timestamptz, filler text STORAGE PLAIN); CREATE TABLE l1 () INHERITS (p); "
    "CREATE TABLE l2 () INHERITS (p); CREATE INDEX ON p (gone_at)",
}


@pytest.mark.parametrize("kind", LEAVES)
async def test_no_relation_of_a_table_is_read_without_an_index(
    database: Database, sql: asyncpg.Connection, kind: str
) -> None:
    """A partitioned table has no blocks of its own. Many small relations come to a large one."""
    await sql.execute(LEAVES[kind])
    for leaf, year in (("l1", 2019), ("l2", 2021)):
        await sql.execute(f"INSERT INTO {leaf} SELECT '{year}-05-05', repeat('x', 7000) FROM generate_series(1, 100)")
    policy = replace(OLD_DELETED_TASKS, target=Target("public", "p", "gone_at"))
    found = await survey(database, policy)
    assert found.overdue is None
    assert found.why_unknown is not None
    assert '"public"."l2" ("gone_at")' in found.why_unknown
    assert (await outlook(database, policy)).index is None

    await sql.execute("CREATE INDEX ON l2 (gone_at)")
    found = await survey(database, policy)
    assert found.overdue is not None, "the other is small"
    assert found.overdue.rows == 200
    assert (await outlook(database, policy)).index is None

    await sql.execute("CREATE INDEX ON l1 (gone_at)")
    index = (await outlook(database, policy)).index
    assert index == {"partitions": "l1_gone_at_idx, l2_gone_at_idx", "heirs": "p_gone_at_idx"}[kind]


async def test_what_is_stored_elsewhere_is_not_asked(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w")
    await sql.execute(f"{PARTS} CREATE FOREIGN TABLE far PARTITION OF p DEFAULT SERVER s")
    found = await survey(database, replace(OLD_DELETED_TASKS, target=Target("public", "p", "gone_at")))
    assert (found.overdue, found.why_unknown) == (None, "public.far is a foreign table")


async def test_what_the_server_refuses_is_unknown_with_its_reason(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("DROP TABLE task CASCADE")
    found = await survey(database, OLD_DELETED_TASKS)
    assert found.overdue is None
    assert found.why_unknown is not None
    assert "task" in found.why_unknown


async def test_what_takes_too_long_is_unknown(database: Database, sql: asyncpg.Connection) -> None:
    """Each row takes 10 ms here: one of them is looked at in time, a hundred are not."""
    await people.people(sql)
    await people.many(sql, 200, deleted_every=2)
    slow = replace(OLD_DELETED_TASKS.target, where="pg_sleep(0.01)::text = ''")
    found = await survey(database, replace(OLD_DELETED_TASKS, target=slow), statement_timeout="300ms")
    assert found.overdue is None
    assert found.why_unknown == "canceling statement due to statement timeout"


async def test_a_table_that_is_locked_is_unknown_and_not_waited_for(
    database: Database, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        await sql.execute("LOCK TABLE task IN ACCESS EXCLUSIVE MODE")
        found = await survey(database, OLD_DELETED_TASKS)
    assert found.overdue is None
    assert found.why_unknown == "canceling statement due to lock timeout"


async def test_the_connection_goes_back_as_it_was(database: Database) -> None:
    await survey(database, OLD_DELETED_TASKS)
    async with database.autocommit() as connection:
        assert await connection.fetchval("SHOW enable_seqscan") == "on"
        assert await connection.fetchval("SHOW statement_timeout") == "5min"


async def test_the_last_success_is_a_purge_that_ended_well(life: Life, sql: asyncpg.Connection) -> None:
    assert (await survey(life.database, OLD_DELETED_TASKS)).last_success is None
    await ledger.run(life, "purge-old-deleted", "tried", dry_run=True)
    await ledger.run(life, "purge-old-deleted", "refused", days=1)
    assert (await survey(life.database, OLD_DELETED_TASKS)).last_success is None

    purged = await ledger.run(life, "purge-old-deleted", "purged")
    assert purged.finished_at is not None
    assert (await survey(life.database, OLD_DELETED_TASKS)).last_success == purged.finished_at
