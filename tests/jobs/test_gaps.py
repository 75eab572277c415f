"""Where a guard could be got round: each of these once let something go, or said what it must not."""

import asyncio
import tomllib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from db import engine, partitions
from db.engine import Database
from db.targets import Target
from jobs import blast, gate, policyfile
from jobs.catalog import jobs
from jobs.inspection import inspect
from jobs.life import Life
from jobs.partitions import bring_back
from jobs.policies import Policy
from tests.eventually import eventually
from tests.jobs import test_partitions as months
from tests.jobs.test_children import OLD, child, count, hold, life_of, parents, purge
from tests.ledger import accept, row, run, serve_to_the_end

POLICY = Policy("p", Target("public", "p", "gone_at"), timedelta(days=90))


def life_with(database: Database, policy: Policy, **more: Any) -> Life:
    return Life(database, jobs((policy,)), worker="test", lease=timedelta(seconds=5), **more)


async def refused(life: Life, kind: str) -> str:
    """The message of a run that is refused."""
    ended = await run(life, "purge-old-deleted", policy="p")
    assert ended.error is not None, ended.result
    assert (ended.error["type"], ended.rows_done) == (kind, 0)
    message: str = ended.error["message"]
    return message


async def test_rows_that_block_each_other_count_for_the_blast_radius(
    database: Database, sql: asyncpg.Connection
) -> None:
    """One after the other they would all go in one run."""
    await sql.execute(
        "CREATE TABLE p (id int PRIMARY KEY, gone_at timestamptz, up int);"
        f"INSERT INTO p SELECT n, {OLD}, CASE WHEN n > 9000 THEN n - 9000 END FROM generate_series(1, 45000) n;"
        "ALTER TABLE p ADD FOREIGN KEY (up) REFERENCES p; CREATE INDEX ON p (up); CREATE INDEX ON p (gone_at)"
    )
    await refused(life_of(database, {"p": "block"}), "TooMuchWouldGo")
    assert await count(sql, "p") == 45_000


async def test_a_key_that_is_set_to_null_takes_no_row_out_of_its_hold(
    database: Database, sql: asyncpg.Connection
) -> None:
    await parents(sql)
    await child(sql, "c", on_delete="SET NULL")
    await hold(database, "public.c", "up", "10")
    told = await refused(life_of(database, {}), "HoldUnclear")
    assert "public.c is under holds by up" in told
    assert await count(sql, "c WHERE up = 10") == 2
    declared = await run(life_of(database, {"c": "block"}), "purge-old-deleted", "declared", policy="p")
    assert declared.result is not None
    assert declared.result["blocked_by"] == {"c_up_fkey": 50}


async def test_a_hold_on_what_became_a_partition_of_a_child_counts(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql, 4)
    await sql.execute("CREATE TABLE c_old (id int, up int); INSERT INTO c_old VALUES (1, 2), (2, 4)")
    await hold(database, "public.c_old", "id", "1")
    await sql.execute(
        "CREATE TABLE c (id int, up int REFERENCES p) PARTITION BY RANGE (id);"
        "ALTER TABLE c ATTACH PARTITION c_old FOR VALUES FROM (0) TO (100); CREATE INDEX ON c (up)"
    )
    result = await purge(database, {"c": "delete"})
    assert (result["purged"], result["skipped"]["held"], result["children"]) == (1, 1, {"public.c": 1})
    assert [each["id"] for each in await sql.fetch("SELECT id FROM c_old")] == [1]


async def test_a_hold_on_a_table_that_has_taken_anothers_place_counts(
    database: Database, sql: asyncpg.Connection
) -> None:
    await parents(sql, 400_000)
    await sql.execute("CREATE TABLE fresh (LIKE p INCLUDING ALL); INSERT INTO fresh SELECT * FROM p")
    life = life_of(database, {}, max_share=1)
    await accept(life, "purge-old-deleted", "run", policy="p")
    serving = asyncio.create_task(serve_to_the_end(life, "run"))
    await eventually(lambda: sql.fetchval("SELECT rows_done > 0 FROM lowtide.run WHERE id = 'run'"))
    await sql.execute("BEGIN; ALTER TABLE p RENAME TO p_before; ALTER TABLE fresh RENAME TO p; COMMIT")
    await hold(database, "public.p", "id", "399998")
    assert await count(sql, "p WHERE id = 399998") == 1
    await serving
    assert await count(sql, "p WHERE id = 399998") == 1


async def test_a_hold_is_of_a_number_as_it_is(database: Database, sql: asyncpg.Connection) -> None:
    """Whatever the database prints of it by default."""
    await sql.execute(f"ALTER DATABASE {await sql.fetchval('SELECT current_database()')} SET extra_float_digits = 0")
    await sql.execute(
        f"CREATE TABLE p (id float8, gone_at timestamptz); INSERT INTO p VALUES (0.1::float8 + 0.2, {OLD})"
    )
    fresh = engine.connect(database.address.dsn)
    try:
        await hold(fresh, "public.p", "id", "0.30000000000000004")
        assert (await purge(fresh, {}))["skipped"]["held"] == 1
    finally:
        await fresh.close()


async def test_a_policy_that_keeps_longer_by_now_holds_for_a_run_that_has_begun(
    database: Database, sql: asyncpg.Connection
) -> None:
    await parents(sql)
    await sql.execute(f"INSERT INTO p SELECT n, {OLD} FROM generate_series(1000, 60000) n")
    life = life_with(database, POLICY)
    await accept(life, "purge-old-deleted", "run", policy="p", max_rows=9000)
    life.stopping.set()
    await life.serve("run")
    before = await row(life, "run")
    await serve_to_the_end(life_with(database, replace(POLICY, keep=timedelta(days=3650))), "run")
    after = await row(life, "run")
    assert (after.state, after.rows_done) == ("succeeded", before.rows_done)
    assert before.rows_done < 9000


async def test_a_key_that_is_not_enforced_takes_nothing_along(database: Database, sql: asyncpg.Connection) -> None:
    if await sql.fetchval("SELECT current_setting('server_version_num')::int < 180000"):
        pytest.skip("PostgreSQL 18 is the first that has such keys")
    await parents(sql, 4)
    await sql.execute("CREATE TABLE c (up int); INSERT INTO c VALUES (2), (4), (1); CREATE INDEX ON c (up)")
    await sql.execute("ALTER TABLE c ADD CONSTRAINT k FOREIGN KEY (up) REFERENCES p ON DELETE CASCADE NOT ENFORCED")
    assert "public.c points to it (k)" in await refused(life_of(database, {}), "ChildrenUndeclared")
    assert await count(sql, "c") == 3


async def test_a_name_with_a_dot_is_not_taken_for_a_schema_and_a_name(
    database: Database, sql: asyncpg.Connection
) -> None:
    await parents(sql, 4)
    await sql.execute('CREATE SCHEMA x; CREATE TABLE x."public.c" (up int REFERENCES p)')
    await sql.execute('INSERT INTO x."public.c" VALUES (2)')
    await refused(life_of(database, {"public.c": "delete"}), "ChildrenUndeclared")


async def test_a_partition_that_is_published_by_its_schema_and_root_is_not_dropped(
    database: Database, sql: asyncpg.Connection
) -> None:
    await months.months(sql)
    for name in ("p", "older", "old", "edge", "now"):
        await sql.execute(f"ALTER TABLE {name} REPLICA IDENTITY FULL")
    if await sql.fetchval("SELECT current_setting('server_version_num')::int < 150000"):
        pytest.skip("PostgreSQL 15 is the first that publishes schemas")
    await sql.execute("CREATE PUBLICATION pub FOR TABLES IN SCHEMA public WITH (publish_via_partition_root = true)")
    assert "partitions" not in await months.purge(database)


async def test_two_that_bring_a_partition_back_do_not_hinder_each_other(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, both, looks = partitions.noted, asyncio.Barrier(2), 0

    async def noted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        first_two, found = looks <= 2, await true(*args)
        if first_two:  # both have looked before either attaches
            await both.wait()
        return found

    await months.months(sql)
    async with database.autocommit() as connection:
        await partitions.note(connection, await months.as_partition(sql, "edge"), run_id="crashed")
    await months.detach_by_half(database, sql, "edge")
    await sql.execute("ALTER TABLE p DETACH PARTITION edge FINALIZE")
    monkeypatch.setattr(partitions, "noted", noted)
    await asyncio.gather(bring_back(database, None), bring_back(database, '"public"."p"'))
    assert "edge" in await months.attached(sql)


async def test_a_count_that_takes_longer_than_a_slice_leaves_a_slice_to_work(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with its time counted as the slice's, each slice counted again and deleted one window."""

    async def slow(*args: Any, **more: Any) -> None:
        await blast.weigh(*args, **more)
        await asyncio.sleep(1.2)

    await sql.execute(
        "CREATE TABLE p (id int PRIMARY KEY, gone_at timestamptz);"
        f"INSERT INTO p SELECT n, {OLD} FROM generate_series(1, 300000) n; CREATE INDEX ON p (gone_at)"
    )
    monkeypatch.setattr(gate, "weigh", slow)
    life = life_with(database, replace(POLICY, max_share=1), slice_length=timedelta(seconds=1))
    await accept(life, "purge-old-deleted", "run", policy="p", pace="full")
    await life.serve("run")
    assert (await row(life, "run")).batches > 3


async def test_no_value_of_a_row_is_told_where_a_count_fails(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute(
        f"CREATE TABLE p (gone_at timestamptz, note text); INSERT INTO p VALUES ({OLD}, 'jane@example.org')"
    )
    policy = replace(POLICY, target=replace(POLICY.target, where="note::int > 0"))
    told = await refused(life_with(database, policy), "CountFailed")
    assert "the eligible rows of public.p can't be counted: invalid input syntax for type integer. " in told
    assert "jane" not in str(await sql.fetch("SELECT * FROM lowtide.audit"))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("OLD.note::int", "invalid input syntax for type integer"),
        ("('9' || length(OLD.note) || '0000000000')::int", 'value "…" is out of range for type integer'),
    ],
)
async def test_no_value_of_a_row_is_told_where_a_batch_fails(
    database: Database, sql: asyncpg.Connection, fault: str, told: str
) -> None:
    await sql.execute(
        f"CREATE TABLE p (gone_at timestamptz, note text); INSERT INTO p VALUES ({OLD}, 'jane@example.org');"
        f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN RETURN CASE WHEN {fault} > 0 THEN OLD END; END$$;"
        "CREATE TRIGGER t BEFORE DELETE ON p FOR EACH ROW EXECUTE FUNCTION f()"
    )
    ended = await run(life_with(database, POLICY), "purge-old-deleted", policy="p")
    assert ended.error is not None
    assert ended.error["message"] == told
    assert "jane" not in str(ended.error)
    assert "916" not in str(ended.error)


async def test_a_child_is_not_taken_for_one_whose_schema_and_name_read_the_same(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Control: rows of the table that nobody had declared went along."""
    await sql.execute(
        f"CREATE TABLE p (id int PRIMARY KEY, gone_at timestamptz); INSERT INTO p VALUES (1, {OLD});"
        'CREATE SCHEMA "x.public"; CREATE TABLE "x.public".c (up int REFERENCES p);'
        'CREATE SCHEMA x; CREATE TABLE x."public.c" (up int REFERENCES p); INSERT INTO x."public.c" VALUES (1)'
    )
    block = {"name": "p", "table": "p", "column": "gone_at", "keep": "90 days", "children": {'"x.public".c': "delete"}}
    (policy,) = policyfile.read({"policy": [block]}, called="a file").valid
    told = await refused(life_with(database, policy), "ChildrenUndeclared")
    assert 'x."public.c" points to it' in told
    advice = told.partition("Have the policy say: ")[2].partition(" }")[0] + " }"
    assert advice == r'children = { "\"x.public\".c" = "delete", "x.\"public.c\"" = "block" }'
    (policy,) = policyfile.read({"policy": [block | tomllib.loads(advice)]}, called="a file").valid
    ended = await run(life_with(database, policy), "purge-old-deleted", "again", policy="p")
    assert ended.error is None
    assert (ended.rows_done, (ended.result or {})["skipped"]["blocked"]) == (0, 1)


async def test_no_abbreviation_of_the_servers_is_taken_for_a_timezone(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Control: EST was ten hours before UTC, and a row went 15 hours early."""
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET timezone_abbreviations = 'Australia'")
    await sql.execute(
        "CREATE TABLE p (gone_at timestamp);"
        "INSERT INTO p VALUES ((now() - interval '89 days 12 hours') AT TIME ZONE 'Etc/GMT+5')"
    )
    await database.engine.dispose()
    policy = replace(POLICY, target=replace(POLICY.target, timezone="EST"), timezone="EST")
    assert (await run(life_with(database, policy), "purge-old-deleted", policy="p")).rows_done == 0


@pytest.mark.parametrize("of", ["p", "c"])
async def test_a_rule_that_says_what_delete_does_is_refused(
    database: Database, sql: asyncpg.Connection, of: str
) -> None:
    """Control: with one of the table's own, EXPLAIN had no query plan to look at, and that ended in an IndexError."""
    await parents(sql)
    await child(sql, "c")
    await sql.execute(f"CREATE RULE keep AS ON DELETE TO {of} DO INSTEAD NOTHING")
    life = life_of(database, {"c": "delete"})
    for payload in ({}, {"dry_run": True}):
        await accept(life, "purge-old-deleted", f"run {payload}", policy="p", **payload)
        await life.serve(f"run {payload}")
        ended = await row(life, f"run {payload}")
        said = str(ended.error or ended.result)
        assert f"rule keep of public.{of} says what DELETE does there. Nothing was deleted. Drop the rule" in said
    facts = await inspect(database, replace(POLICY, children={"c": "delete"}))
    told = [fact.told for fact in facts if fact.word == "fault"]
    assert told == [f"rule keep of public.{of} says what DELETE does there"]
    assert await count(sql, "p") == 100


async def test_a_share_of_nearly_nothing_is_one_too(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute(
        f"CREATE TABLE p (gone_at timestamptz); INSERT INTO p SELECT {OLD} FROM generate_series(1, 12000)"
    )
    await refused(life_with(database, replace(POLICY, max_share=1e-16)), "TooMuchWouldGo")


async def test_a_domain_over_a_domain_is_the_type_below_both(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE DOMAIN a AS timestamptz; CREATE DOMAIN b AS a; CREATE TABLE p (gone_at b)")
    await sql.execute(f"INSERT INTO p VALUES ({OLD})")
    assert (await purge(database, {}))["purged"] == 1
