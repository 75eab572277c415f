"""Holds: what they are over, what they say no to, and that no held row goes once `add` has returned."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db import audit, held, holds
from db.engine import Database
from db.held import Held, HoldUnclear
from db.holds import HoldRefused
from jobs.failures import Refused, is_passing
from tests.eventually import eventually

THING = '"public"."thing"'
OLD = "(happened < (SELECT now())) IS TRUE"


async def _things(sql: asyncpg.Connection, columns: str, values: str) -> None:
    await sql.execute(f"CREATE TABLE thing (n int, {columns}, happened timestamptz DEFAULT '2020-01-01')")
    await sql.execute(f"INSERT INTO thing SELECT n, {values} FROM generate_series(1, 10) n")


async def _add(database: Database, column: str, value: str, **given: Any) -> int:
    async with database.sessions.begin() as session:
        return await holds.add(
            session,
            **{"table": "public.thing", "reason": "why", "until": None, "by": "me"} | given,
            column=column,
            value=value,
        )


async def _known(sql: asyncpg.Connection, *relations: str) -> Held:
    return await held.columns(sql, relations or (THING,))


async def _delete(sql: asyncpg.Connection, known: Held, *, relation: str = THING) -> None:
    """A batch over the whole table, as a purge makes it."""
    async with sql.transaction():
        await sql.execute(known.before)
        await sql.execute(f"DELETE FROM ONLY {relation} WHERE {OLD} AND {known.unheld(relation)}")


async def _purge(sql: asyncpg.Connection, *, relation: str = THING) -> list[int]:
    """Return which rows are left."""
    await _delete(sql, await _known(sql, relation), relation=relation)
    return [row["n"] for row in await sql.fetch(f"SELECT n FROM ONLY {relation} ORDER BY n")]


@pytest.mark.parametrize(
    ("kind", "values", "given"),
    [
        ("bigint", "n", (" 007 ", "7")),
        ("numeric", "n::numeric(10, 2)", ("7.0", "7.0")),
        ("numeric(10, 2)", "n", ("7", "7")),
        ("float8", "n", ("7e0", "7")),
        ("text", "'it''s ' || n", ("it's 7", "it's 7")),
        ("varchar(6)", "'name ' || n % 8", ("name 7", "name 7")),
        ("char(8)", "'name ' || n % 8", ("name 7", "name 7")),
        ("date", "date '2026-01-01' + n", ("8 Jan 2026", "2026-01-08")),
        ("timestamp", "timestamp '2026-01-01' + n * interval '1 h'", ("2026-01-01T07:00", "2026-01-01 07:00:00")),
        (
            "timestamptz",
            "timestamptz '2026-01-01 00:00Z' + n * interval '1 h'",
            ("2026-01-01T09:00+02:00", "2026-01-01 07:00:00+00"),
        ),
        (
            "uuid",
            "(repeat(n % 8 || '', 8) || '-aaaa-4aaa-8aaa-aaaaaaaaaaaa')::uuid",
            ("{77777777AAAA4AAA8AAAAAAAAAAAAAAA}", "77777777-aaaa-4aaa-8aaa-aaaaaaaaaaaa"),
        ),
        ("boolean", "n = 7", ("yes", "true")),
        ("bytea", "decode(lpad(n::text, 2, '0'), 'hex')", ("\\x07", "\\x07")),
        ("colour", "CASE n WHEN 7 THEN 'red' ELSE 'blue' END::colour", ("red", "red")),
        ("small", "n", ("7", "7")),
        ("int[]", "ARRAY[n, n]", ("{7,7}", "{7,7}")),
        ("jsonb", "jsonb_build_object('a', n)", ('{"a":7.0}', '{"a": 7.0}')),
        ("odd.citext", "'Name ' || n % 8", ("nAME 7", "nAME 7")),
        ('text COLLATE "C"', "'Name ' || n % 8", ("Name 7", "Name 7")),
    ],
)
async def test_a_value_is_compared_as_its_column_does(
    database: Database, sql: asyncpg.Connection, kind: str, values: str, given: tuple[str, str]
) -> None:
    """`given` is what is written, and as the type prints it."""
    await sql.execute("CREATE TYPE colour AS ENUM ('red', 'blue'); CREATE DOMAIN small AS int CHECK (VALUE < 100)")
    await sql.execute("CREATE SCHEMA odd; CREATE EXTENSION citext SCHEMA odd")
    await _things(sql, f"what {kind}", values)
    await sql.execute("INSERT INTO thing (n) VALUES (99)")  # NULL is never held

    await _add(database, "what", given[0])

    assert await sql.fetchval("SELECT value FROM lowtide.hold") == given[1]
    assert await _purge(sql) == [7]


async def test_only_holds_of_a_column_are_cast_to_its_type(database: Database, sql: asyncpg.Connection) -> None:
    await _things(
        sql, "what int, name text, at timestamptz", "n, 'name ' || n, timestamptz '2026-01-01' + n * interval '1 d'"
    )
    for column, value in (("what", "1"), ("name", "name 2"), ("at", "2026-01-04"), ("name", "name 4")):
        await _add(database, column, value)

    assert await _purge(sql) == [1, 2, 3, 4]


async def test_columns_and_tables_with_hostile_names_are_held(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute('CREATE TABLE "a ""b"":c" ("va\'l:ue" int, value int, id int, happened timestamptz)')
    relation = '"public"."a ""b"":c"'
    await sql.execute(f"INSERT INTO {relation} SELECT n, n, n, '2020-01-01' FROM generate_series(1, 10) n")
    for column, value in (("va'l:ue", "1"), ("value", "2"), ("id", "3")):
        await _add(database, column, value, table='public.a "b":c')
    async with database.sessions.begin() as session:
        place = await holds.place(session, table='public.a "b":c', column="va'l:ue")
        assert await holds.protected(session, 1, place) == 1

    known = await _known(sql, relation)
    await _delete(sql, known, relation=relation)

    assert [row["id"] for row in await sql.fetch(f"SELECT id FROM {relation} ORDER BY id")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"table": "public.nothing"}, "there is no table 'public.nothing'"),
        ({"table": "public.thing; DROP TABLE thing"}, "there is no table"),
        ({"table": "public.view"}, "public.view is a view"),
        ({"column": "nope"}, "has no column 'nope'; it has n, what, doc, happened"),
        ({"column": "ctid"}, "has no column 'ctid'"),
        ({"value": "seven"}, "'seven' is no value of column \"what\" of public.thing, which is of type integer"),
        ({"value": "99999999999"}, "is no value"),
        ({"value": ""}, "is no value"),
        ({"column": "doc", "value": "{}"}, "values of type json can't be compared"),
        ({"reason": " "}, "a hold has a reason"),
        ({"until": datetime(2020, 1, 1, tzinfo=UTC)}, "in the future"),
        ({"until": datetime(2999, 1, 1)}, "with a zone"),  # noqa: DTZ001 - that is the point
    ],
)
async def test_what_can_not_be_held_is_refused_in_words(
    database: Database, sql: asyncpg.Connection, given: dict[str, Any], told: str
) -> None:
    await _things(sql, "what int, doc json", "n, '{}'")
    await sql.execute("CREATE VIEW view AS SELECT * FROM thing")

    with pytest.raises(HoldRefused) as caught:
        await _add(database, **{"column": "what", "value": "7"} | given)

    assert told in str(caught.value)
    assert await sql.fetchval("SELECT (SELECT count(*) FROM lowtide.hold) + (SELECT count(*) FROM lowtide.audit)") == 0


async def test_a_value_too_long_for_the_index_is_refused(database: Database, sql: asyncpg.Connection) -> None:
    await _things(sql, "what text", "n::text")
    with pytest.raises(HoldRefused, match="1000 bytes at most"):
        await _add(database, "what", "x" * 1001)
    await _add(database, "what", "x" * 1000)


async def test_a_hold_ends_with_its_time_or_its_release(database: Database, sql: asyncpg.Connection) -> None:
    await _things(sql, "what int", "n")
    soon = datetime.now(UTC) + timedelta(milliseconds=500)
    await _add(database, "what", "1", until=soon)
    released, _ = await _add(database, "what", "2"), await _add(database, "what", "3")
    assert await _purge(sql) == [1, 2, 3]

    async with database.sessions.begin() as session:
        await holds.release(session, released, reason="done", by="you")
    await eventually(lambda: datetime.now(UTC) > soon + timedelta(milliseconds=100))

    assert await _purge(sql) == [3]
    async with database.sessions.begin() as session:
        assert [hold.id for hold in await holds.all(session)] == [3]
        assert [hold.state for hold in await holds.all(session, ended=True)] == ["active", "released", "expired"]


async def test_what_is_unknown_or_released_already_is_not_released(database: Database, sql: asyncpg.Connection) -> None:
    await _things(sql, "what int", "n")
    hold_id = await _add(database, "what", "1")
    async with database.sessions.begin() as session:
        await holds.release(session, hold_id, reason="done", by="you")
    for unknown, told in ((hold_id, "was released already, by you at 20"), (77, "there is no hold 77")):
        async with database.sessions.begin() as session:
            with pytest.raises(HoldRefused, match=told):
                await holds.release(session, unknown, reason="again", by="you")


async def test_placing_and_releasing_is_on_record(database: Database, sql: asyncpg.Connection) -> None:
    await _things(sql, "what int", "n")
    hold_id = await _add(database, "what", "007", reason="a case")
    async with database.sessions.begin() as session:
        await holds.release(session, hold_id, reason="closed", by="you")
        released, placed = await audit.newest(session, most=10)

    assert (placed.event, placed.requested_by, placed.table_name, placed.role) == (
        "hold",
        "me",
        "public.thing",
        "postgres",
    )
    assert placed.detail == {"hold": 1, "column": "what", "value": "7", "reason": "a case", "until": None}
    assert (released.event, released.requested_by) == ("release", "you")
    assert released.detail == {"hold": 1, "column": "what", "value": "7", "reason": "closed"}


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM lowtide.hold",
        "TRUNCATE lowtide.hold",
        "UPDATE lowtide.hold SET value = '8'",
        "UPDATE lowtide.hold SET until = now()",
        "UPDATE lowtide.hold SET relation = 'lowtide.run'",
        "UPDATE lowtide.hold SET value = '8', released_at = now(), released_by = 'me', release_reason = 'why'",
    ],
)
async def test_a_hold_is_kept_as_it_was_placed_by_its_owner_too(
    database: Database, sql: asyncpg.Connection, change: str
) -> None:
    await _things(sql, "what int", "n")
    await _add(database, "what", "7")
    for session in ("SET session_replication_role = 'origin'", "SET session_replication_role = 'replica'"):
        await sql.execute(session)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"`lowtide hold release`|can only be released"):
            await sql.execute(change)
    assert await sql.fetchval("SELECT value FROM lowtide.hold WHERE released_at IS NULL") == "7"


async def test_a_hold_on_a_partition_is_over_all_of_its_table(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE parted (n int, what int, happened timestamptz) PARTITION BY RANGE (n)")
    await sql.execute("CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (5) PARTITION BY RANGE (n)")
    await sql.execute("CREATE TABLE lowest PARTITION OF low FOR VALUES FROM (0) TO (5)")
    await sql.execute("CREATE TABLE high PARTITION OF parted FOR VALUES FROM (5) TO (10)")
    await sql.execute("INSERT INTO parted SELECT n, n % 2, '2020-01-01' FROM generate_series(0, 9) n")

    await _add(database, "what", "1", table="public.lowest")

    assert await _purge(sql, relation="lowest") == [1, 3]
    assert await _purge(sql, relation="high") == [5, 7, 9]
    known = await _known(sql, "lowest", "high", "parted")
    assert len(known.known) == 1
    await sql.execute("ALTER TABLE low DETACH PARTITION lowest")
    assert await _purge(sql, relation="lowest") == [1, 3]  # it is what was named


async def test_a_hold_on_a_parent_is_over_its_heirs_and_not_the_other_way_round(
    database: Database, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE above (n int, what int, happened timestamptz)")
    await sql.execute("CREATE TABLE heir () INHERITS (above); CREATE TABLE below () INHERITS (heir)")
    for table in ("above", "heir", "below"):
        await sql.execute(f"INSERT INTO {table} SELECT n, n, '2020-01-01' FROM generate_series(1, 5) n")
    await _add(database, "what", "1", table="public.above")
    await _add(database, "what", "2", table="public.heir")

    assert [await _purge(sql, relation=name) for name in ("above", "heir", "below")] == [[1], [1, 2], [1, 2]]


async def test_a_hold_follows_its_table_through_a_rename_and_its_name_to_a_new_one(
    database: Database, sql: asyncpg.Connection
) -> None:
    """As tools do that rebuild a table beside it and swap the names."""
    await _things(sql, "what int", "n")
    await _add(database, "what", "7")
    await sql.execute("CREATE TABLE anew AS TABLE thing")
    await sql.execute("ALTER TABLE thing RENAME TO before; ALTER TABLE anew RENAME TO thing")

    assert await _purge(sql, relation="before") == [7]
    assert await _purge(sql) == [7]
    await sql.execute("DROP TABLE before")
    assert await sql.fetchval("SELECT count(*) FROM thing") == 1
    assert (await _known(sql)).columns[THING][0].name == "what"


async def test_a_hold_as_text_finds_its_table_under_another_oid(database: Database, sql: asyncpg.Connection) -> None:
    """As a dump writes it: the name of the table as it is now."""
    await _things(sql, "what int", "n")
    await _add(database, "what", "7")
    await sql.execute("ALTER TABLE thing RENAME TO renamed")
    assert await sql.fetchval("SELECT relation::text FROM lowtide.hold") == "renamed"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ALTER TABLE thing DROP COLUMN what", "hold 1 is on column what of public.thing, which has no such column"),
        ("ALTER TABLE thing RENAME COLUMN what TO which", "hold 1 is on column what of public.thing"),
        ("ALTER TABLE thing ALTER what TYPE date USING now()", "column what can't be compared with it any more"),
    ],
)
async def test_a_hold_that_nobody_can_read_any_more_refuses_the_purge_until_it_is_released(
    database: Database, sql: asyncpg.Connection, change: str, told: str
) -> None:
    await _things(sql, "what text, other int", "'name ' || n, n")
    await _add(database, "what", "name 7")
    await _add(database, "other", "3")
    await sql.execute(change)

    with pytest.raises(HoldUnclear, match=told):
        await _known(sql)
    with pytest.raises(Refused, match=told):
        await held.columns(sql, [THING])
    async with database.sessions.begin() as session:
        await holds.release(session, 1, reason="placed anew", by="me")
    assert await _purge(sql) == [3]


async def test_a_role_that_may_not_see_holds_is_told_what_it_lacks(sql: asyncpg.Connection) -> None:
    await _things(sql, "what int", "n")
    await sql.execute("CREATE ROLE blind; GRANT USAGE ON SCHEMA lowtide TO blind; SET ROLE blind")
    try:
        with pytest.raises(Refused, match=r'GRANT SELECT ON lowtide\.hold TO "blind"; GRANT EXECUTE') as caught:
            await held.columns(sql, [THING])
        assert "Nothing was deleted" in str(caught.value)
    finally:
        await sql.execute("RESET ROLE; DROP OWNED BY blind; DROP ROLE blind")


async def test_a_hold_over_a_new_column_stops_a_batch_that_does_not_know_it(
    database: Database, sql: asyncpg.Connection
) -> None:
    await _things(sql, "what int, other int", "n, n")
    known = await _known(sql)
    await _add(database, "what", "1")
    with pytest.raises(asyncpg.PostgresError, match="the holds have changed") as caught:
        await _delete(sql, known)
    assert caught.value.sqlstate == "LT411"
    assert is_passing(caught.value)

    known = await _known(sql)
    await _add(database, "what", "2")  # the statements find it by themselves
    await _delete(sql, known)
    await _add(database, "other", "1")
    with pytest.raises(asyncpg.PostgresError, match="the holds have changed"):
        await _delete(sql, known)
    assert [row["n"] for row in await sql.fetch("SELECT n FROM thing ORDER BY n")] == [1, 2]


async def test_a_batch_that_has_the_lock_is_waited_for_and_one_that_comes_meanwhile_waits(
    database: Database, sql: asyncpg.Connection, database_url: str
) -> None:
    """Longer than a batch waits for a lock of any other kind."""
    await _things(sql, "what int", "n")
    await _add(database, "what", "1")
    known, second = await _known(sql), await asyncpg.connect(database_url)
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    try:
        await second.execute("SET lock_timeout = '10ms'")
        async with sql.transaction():
            await sql.execute(known.before)
            adding = asyncio.create_task(_add(database, "what", "2"))
            await eventually(lambda: _is(sql, waiting, 1))
            deleting = asyncio.create_task(_delete(second, known))
            await eventually(lambda: _is(sql, waiting, 2))
            assert not adding.done()
        await asyncio.gather(adding, deleting)
        assert await second.fetchval("SHOW lock_timeout") == "10ms"
    finally:
        await second.close()
    assert [row["n"] for row in await sql.fetch("SELECT n FROM thing ORDER BY n")] == [1, 2]


async def test_a_batch_that_has_waited_sees_the_hold_that_it_has_waited_for(
    database: Database, sql: asyncpg.Connection, database_url: str
) -> None:
    """The first one on the table: the batch's statements don't know its column."""
    await _things(sql, "what int", "n")
    known, second = await _known(sql), await asyncpg.connect(database_url)
    try:
        async with database.sessions.begin() as session:
            await holds.add(session, table="public.thing", column="what", value="1", reason="why", until=None, by="me")
            deleting = asyncio.create_task(_delete(second, known))
            await eventually(lambda: _is(sql, "SELECT count(*) FROM pg_locks WHERE NOT granted", 1))
        with pytest.raises(asyncpg.PostgresError, match="the holds have changed"):
            await deleting
    finally:
        await second.close()
    assert await sql.fetchval("SELECT count(*) FROM thing") == 10


async def _is(sql: asyncpg.Connection, asked: str, expected: int) -> bool:
    return bool(await sql.fetchval(asked) == expected)


async def test_a_batch_that_hangs_is_named_and_nothing_is_held(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "WAIT_FOR_BATCHES", text("SET LOCAL lock_timeout = '50ms'"))
    await _things(sql, "what int", "n")
    await sql.execute("SET application_name = 'a worker'")
    async with sql.transaction():
        await sql.execute((await _known(sql)).before)
        with pytest.raises(HoldRefused, match=rf"by process {sql.get_server_pid()} \(a worker, for 0 s\)"):
            await _add(database, "what", "1")
    assert await sql.fetchval("SELECT count(*) FROM lowtide.hold") == 0


async def test_other_tables_are_not_waited_for(database: Database, sql: asyncpg.Connection) -> None:
    await _things(sql, "what int", "n")
    await sql.execute("CREATE TABLE other AS TABLE thing")
    async with sql.transaction():
        await sql.execute((await _known(sql, "other")).before)
        await _add(database, "what", "1")


async def _plan(sql: asyncpg.Connection, known: Held) -> str:
    window = "ctid >= '(1,0)'::tid AND ctid < '(20,0)'::tid"
    rows = await sql.fetch(f"EXPLAIN DELETE FROM ONLY {THING} WHERE {window} AND {OLD} AND {known.unheld(THING)}")
    return "\n".join(row[0] for row in rows)


async def _bulk(sql: asyncpg.Connection, count: int) -> None:
    """Distinct values, spread over the table."""
    await sql.execute(
        "INSERT INTO lowtide.hold (relation, table_name, column_name, value, reason, placed_by) "
        "SELECT 'thing', 'public.thing', 'what', (n * 7919::bigint)::text, 'why', 'me' "
        "FROM generate_series(1, $1::int) n",
        count,
    )


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize(
    ("count", "filters"), [(0, ""), (3, "hashed SubPlan"), (2000, "hashed SubPlan"), (10_000, "hold_by_relation")]
)
async def test_the_condition_stays_a_filter_of_the_window(
    sql: asyncpg.Connection, count: int, filters: str, analyzed: bool
) -> None:
    await sql.execute("CREATE TABLE thing (n int, what bigint, happened timestamptz)")
    await sql.execute("INSERT INTO thing SELECT n, n, '2020-01-01' FROM generate_series(1, 20000) n")
    await _bulk(sql, count)
    if analyzed:
        await sql.execute("ANALYZE thing; ANALYZE lowtide.hold")

    plan = await _plan(sql, await _known(sql))

    assert "Tid Range Scan on thing" in plan
    assert filters in plan
    assert "Join" not in plan
    assert "Nested Loop" not in plan


@pytest.mark.parametrize("kind", ["bigint", "numeric", "text"])
async def test_of_ten_thousand_holds_no_row_goes(sql: asyncpg.Connection, kind: str) -> None:
    """Looked up by index where two texts tell two values apart, hashed elsewhere."""
    await sql.execute(f"CREATE TABLE thing (n int, what {kind}, happened timestamptz)")
    await sql.execute("INSERT INTO thing SELECT n, n, '2020-01-01' FROM generate_series(1, 100000) n")
    await sql.execute("CREATE TABLE kept AS SELECT n FROM thing ORDER BY random() LIMIT 10000")
    await sql.execute(
        "INSERT INTO lowtide.hold (relation, table_name, column_name, value, reason, placed_by) "
        "SELECT 'thing', 'public.thing', 'what', n::text, 'why', 'me' FROM kept"
    )
    known = await _known(sql)
    assert (known.columns[THING][0].text_of is None) == (kind == "numeric")

    await _delete(sql, known)

    assert await sql.fetchval("SELECT count(*) FROM thing") == 10_000
    assert await sql.fetchval("SELECT count(*) FROM thing JOIN kept USING (n)") == 10_000


async def test_of_many_holds_one_that_is_not_as_its_type_prints_it_is_found_all_the_same(
    sql: asyncpg.Connection,
) -> None:
    """Written by hand; and a column whose type is changed meanwhile ends the batch rather than the hold."""
    await _things(sql, "what bigint", "n")
    await _bulk(sql, 3000)
    known = await _known(sql)
    assert known.columns[THING][0].text_of == "int8out"
    await sql.execute("ALTER TABLE thing ALTER what TYPE numeric(10, 2)")
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await _delete(sql, known)
    await sql.execute("ALTER TABLE thing ALTER what TYPE bigint")
    await sql.execute(
        "INSERT INTO lowtide.hold (relation, table_name, column_name, value, reason, placed_by) "
        "VALUES ('thing', 'public.thing', 'what', '007', 'why', 'me')"
    )
    assert await _purge(sql) == [7]


PROJECTS, ROWS = 400, 40


async def test_while_holds_are_placed_no_held_row_goes_after_add_has_returned(
    database: Database, sql: asyncpg.Connection
) -> None:
    taken, placed = await _race(database, sql, locked=True)
    assert taken == 0
    assert placed > 10


async def test_without_the_shared_lock_held_rows_go(database: Database, sql: asyncpg.Connection) -> None:
    """The control: the same race, and only the batch's first statement left out."""
    taken, _ = await _race(database, sql, locked=False)
    assert taken > 0


async def _race(database: Database, sql: asyncpg.Connection, *, locked: bool) -> tuple[int, int]:
    """Batches on one connection, holds on another; how many rows went after their hold was placed, and how many holds
    were placed while batches ran. Between a DELETE's snapshot and its first row lie some milliseconds."""
    await sql.execute("CREATE TABLE thing (n int, what int, happened timestamptz DEFAULT '2020-01-01')")
    await sql.execute(f"INSERT INTO thing SELECT n, n % {PROJECTS} FROM generate_series(1, {PROJECTS * ROWS}) n")
    await sql.execute(
        "CREATE FUNCTION dwell() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN PERFORM pg_sleep(0.005); RETURN NULL; END'; "
        "CREATE TRIGGER dwell BEFORE DELETE ON thing EXECUTE FUNCTION dwell()"
    )
    stood: dict[int, int] = {}
    async with _beside(_place_holds(database, stood)):
        for number in range(ROWS):
            await _batch(sql, f"n / {PROJECTS} = {number}", locked=locked)
    left = dict(tuple(row) for row in await sql.fetch("SELECT what, count(*) FROM thing GROUP BY what"))
    return sum(count - left.get(what, 0) for what, count in stood.items()), len(stood)


async def _batch(sql: asyncpg.Connection, window: str, *, locked: bool) -> None:
    known = await _known(sql)
    try:
        async with sql.transaction():
            if locked:
                await sql.execute(known.before)
            await sql.execute(f"DELETE FROM ONLY {THING} WHERE {window} AND {OLD} AND {known.unheld(THING)}")
    except asyncpg.PostgresError as exc:
        if exc.sqlstate != "LT411":
            raise
        await _batch(sql, window, locked=locked)


async def _place_holds(database: Database, stood: dict[int, int]) -> None:
    """One after the other; note how many rows stood when each had been placed."""
    for project in range(PROJECTS):
        await _add(database, "what", str(project))
        async with database.sessions() as session:
            stood[project] = await _count(session, project)


async def _count(session: AsyncSession, project: int) -> int:
    asked = text("SELECT count(*) FROM thing WHERE what = :what")
    return int((await session.execute(asked, {"what": project})).scalar_one())


@asynccontextmanager
async def _beside(work: Any) -> AsyncIterator[None]:
    """Until the block ends; what fails in it fails the test."""
    task = asyncio.create_task(work)
    yield
    if task.done():
        task.result()
    task.cancel()
    await asyncio.wait([task])
