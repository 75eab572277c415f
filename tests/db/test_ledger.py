"""The ledger's own functions: enqueue and batch, as callers in SQL see them."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from db import batches, leases, runs
from db.batches import Batch, Change, Done
from db.claims import Claim
from db.engine import Database
from db.faults import RunFenced
from db.refusals import Conflict

LEASE = timedelta(seconds=30)


async def _claimed(database: Database, run_id: str = "r") -> Claim:
    async with database.sessions.begin() as session:
        await runs.accept(session, job="j", payload="{}", run_id=run_id, requested_by="test")
        claim = await leases.claim(session, run_id, jobs=["j"], lease=LEASE, worker="w")
    assert claim is not None
    return claim


async def _commit(
    connection: asyncpg.Connection, claim: Claim, change: Change, *, place: str = "", cursor: dict[str, int]
) -> tuple[Done, str]:
    done, here, _ = await batches.commit(
        connection, claim, [Batch(change, cursor)], place=place or claim.place, wishes=claim.wishes, lease=LEASE
    )
    return done[0], here


async def test_a_run_exists_if_and_only_if_the_callers_transaction_commits(
    database: Database, sql: asyncpg.Connection
) -> None:
    transaction = sql.transaction()
    await transaction.start()
    await sql.fetchval("SELECT lowtide.enqueue('mark-completed', '{}', 'undone')")
    await transaction.rollback()
    async with sql.transaction():
        assert await sql.fetchval("SELECT lowtide.enqueue('mark-completed', '{\"a\": 1}', 'done')") == "done"

    assert [row["id"] for row in await sql.fetch("SELECT id FROM lowtide.run")] == ["done"]


async def test_enqueue_without_an_id_makes_one(sql: asyncpg.Connection) -> None:
    first, second = [await sql.fetchval("SELECT lowtide.enqueue(job => 'j', payload => '{}')") for _ in range(2)]
    assert len(first) == 36
    assert first != second


async def test_the_same_id_and_payload_is_one_run_and_another_payload_a_conflict(sql: asyncpg.Connection) -> None:
    for _ in range(2):
        assert await sql.fetchval("SELECT lowtide.enqueue('j', '{\"a\": 1, \"b\": 2}', 'r')") == "r"
    assert await sql.fetchval("SELECT lowtide.enqueue('j', '{\"b\": 2, \"a\": 1}', 'r')") == "r"

    for job, payload in (("j", '{"a": 2}'), ("k", '{"a": 1, "b": 2}')):
        with pytest.raises(asyncpg.PostgresError, match='Conflict: run "r" exists already') as caught:
            await sql.fetchval("SELECT lowtide.enqueue($1, $2, 'r')", job, payload)
        assert caught.value.sqlstate == "LT409"
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 1


async def test_a_conflict_is_one_in_python_too(database: Database) -> None:
    await _claimed(database)
    with pytest.raises(Conflict, match='"r"'):
        async with database.sessions.begin() as session:
            await runs.accept(session, job="j", payload='{"x": 1}', run_id="r", requested_by="test")


@pytest.mark.parametrize(
    ("job", "payload", "run_id"),
    [
        ("", "{}", "r"),
        ("j" * 201, "{}", "r"),
        ("j", "[]", "r"),
        ("j", "null", "r"),
        ("j", "{}", ""),
        ("j", "{}", "r" * 201),
        ("j", "{}", "a\nb"),
    ],
)
async def test_what_is_no_run_is_refused(sql: asyncpg.Connection, job: str, payload: str, run_id: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await sql.fetchval("SELECT lowtide.enqueue($1, $2, $3)", job, payload, run_id)


async def test_a_payload_above_the_limit_is_refused(sql: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="at most 33554432"):
        await sql.fetchval("SELECT lowtide.enqueue('j', jsonb_build_object('x', repeat('x', 33554432)), 'r')")


async def test_who_asked_is_the_actor_of_the_payload_or_the_role(sql: asyncpg.Connection) -> None:
    await sql.fetchval("SELECT lowtide.enqueue('j', '{\"requested_by\": 7}', 'a')")
    await sql.fetchval("SELECT lowtide.enqueue('j', '{\"created_by_id\": 8}', 'b')")
    await sql.fetchval("SELECT lowtide.enqueue('j', '{}', 'c')")

    asked = await sql.fetch("SELECT requested_by FROM lowtide.run ORDER BY id")
    assert [row["requested_by"] for row in asked] == ["actor:7", "actor:8", "role:postgres"]


async def test_enqueue_wakes_unless_told_not_to(sql: asyncpg.Connection, database_url: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(database_url)
    await listener.add_listener("lowtide", lambda *told: heard.put_nowait(told[3]))

    await sql.fetchval("SELECT lowtide.enqueue('j', '{}', 'quiet', wake => false)")
    await sql.fetchval("SELECT lowtide.enqueue('j', '{}', 'loud')")
    assert await asyncio.wait_for(heard.get(), 5) == ""
    await listener.close()
    assert heard.empty()


async def test_public_may_execute_nothing(sql: asyncpg.Connection) -> None:
    granted = await sql.fetch(
        "SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace "
        "WHERE nspname = 'lowtide' AND has_function_privilege('pg_monitor', p.oid, 'EXECUTE')"
    )
    assert granted == []


async def test_a_batch_moves_rows_cursor_counters_and_lease_together(
    database: Database, sql: asyncpg.Connection
) -> None:
    claim = await _claimed(database)
    await sql.execute("CREATE TABLE t AS SELECT generate_series(1, 10) AS n")
    change = Change(
        "DELETE FROM public.t WHERE n <= ($1)[1]::int AND n <> ALL($2)",
        args=["5"],
        ids=[2],
        before="SELECT jsonb_build_object('seen', count(*)) FROM public.t",
        after="SELECT jsonb_build_object('left', count(*)) FROM public.t",
    )
    async with database.autocommit() as connection:
        done, _ = await _commit(connection, claim, change, cursor={"n": 5})
        again, place = await _commit(connection, claim, change, place="(99,1)", cursor={"n": 6})

    assert (done.changed, done.counted) == (4, {"seen": 10, "left": 6})
    assert (again.changed, again.counted) == (0, {"seen": 6, "left": 6})
    row = await sql.fetchrow("SELECT rows_done, batches, cursor, counters, ctid::text AS place FROM lowtide.run")
    assert tuple(row) == (4, 2, '{"n": 6}', '{"left": 12, "seen": 16}', place)


async def test_a_fenced_batch_changes_nothing(database: Database, sql: asyncpg.Connection) -> None:
    """Control: with the token left out of the condition of lowtide.batch, the row is gone and this test fails."""
    claim = await _claimed(database)
    await sql.execute("CREATE TABLE t AS SELECT 1 AS n")
    await sql.execute("UPDATE lowtide.run SET lease_token = lease_token + 1")

    with pytest.raises(RunFenced):
        async with database.autocommit() as connection:
            await _commit(connection, claim, Change("DELETE FROM public.t"), cursor={})
    assert await sql.fetchval("SELECT count(*) FROM t") == 1


async def test_of_several_batches_those_before_an_error_stand(database: Database, sql: asyncpg.Connection) -> None:
    """Each is a transaction of its own: their ids differ."""
    claim = await _claimed(database)
    await sql.execute("CREATE TABLE t (n int CHECK (n < 3), xid xid8 DEFAULT pg_current_xact_id())")
    given = [Batch(Change("INSERT INTO public.t VALUES (($1)[1]::int)", args=[str(n)]), {"n": n}) for n in (1, 2, 3, 4)]

    async with database.autocommit() as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await batches.commit(
                connection, claim, given, place=claim.place, wishes=claim.wishes, lease=timedelta(seconds=30)
            )
    async with database.sessions.begin() as session:
        standing = await leases.standing(session, claim)

    assert (standing.cursor, standing.batches, standing.rows_done) == ({"n": 2}, 2, 2)
    assert await sql.fetchval("SELECT array_agg(n ORDER BY n) FROM t") == [1, 2]
    assert await sql.fetchval("SELECT count(DISTINCT xid) FROM t") == 2


async def test_several_batches_end_where_an_operator_wishes_something_else(
    database: Database, sql: asyncpg.Connection
) -> None:
    claim = await _claimed(database)
    await sql.execute("UPDATE lowtide.run SET pace = 'gentle', max_rows = 7")
    given = [Batch(Change("SELECT 1"), {"n": n}) for n in (1, 2, 3)]

    async with database.autocommit() as connection:
        done, _, wishes = await batches.commit(
            connection, claim, given, place=claim.place, wishes=claim.wishes, lease=LEASE
        )

    assert (len(done), wishes.pace, wishes.max_rows) == (1, "gentle", 7)
    assert await sql.fetchval("SELECT batches FROM lowtide.run") == 1


async def test_a_trigger_that_relies_on_the_search_path_works_in_a_batch(
    database: Database, sql: asyncpg.Connection
) -> None:
    claim = await _claimed(database)
    await sql.execute("CREATE TABLE t AS SELECT 1 AS n; CREATE TABLE gone (n int)")
    await sql.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO gone VALUES (OLD.n); RETURN OLD; END'; "
        "CREATE TRIGGER keep BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    async with database.autocommit() as connection:
        await _commit(connection, claim, Change("DELETE FROM public.t"), cursor={})
    assert await sql.fetchval("SELECT n FROM gone") == 1


async def test_batches_keep_the_ledgers_row_a_hot_update(database: Database, sql: asyncpg.Connection) -> None:
    """No index holds a column that a batch changes."""
    claim, place = await _claimed(database), ""
    async with database.autocommit() as connection:
        for number in range(50):
            _, place = await _commit(connection, claim, Change("SELECT 1"), place=place, cursor={"n": number})
        await connection.execute("SELECT pg_stat_force_next_flush()")
    row = await sql.fetchrow("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'run'")
    assert row["n_tup_upd"] == 51
    assert row["n_tup_hot_upd"] >= 45


async def test_five_racing_claims_give_one_holder(database: Database) -> None:
    async with database.sessions.begin() as session:
        await runs.accept(session, job="j", payload="{}", run_id="r", requested_by="test")

    async def claim(name: str) -> Claim | None:
        async with database.sessions.begin() as session:
            return await leases.claim(session, "r", jobs=["j"], lease=LEASE, worker=name)

    claims = await asyncio.gather(*(claim(f"w{n}") for n in range(5)))
    assert sum(found is not None for found in claims) == 1


async def test_a_lease_that_has_ended_passes_to_the_next_and_fences_the_first(database: Database) -> None:
    async with database.sessions.begin() as session:
        await runs.accept(session, job="j", payload="{}", run_id="r", requested_by="test")
        first = await leases.claim(session, "r", jobs=["j"], lease=timedelta(0), worker="first")
    async with database.sessions.begin() as session:
        second = await leases.claim(session, "r", jobs=["j"], lease=LEASE, worker="second")
    assert first is not None
    assert second is not None
    assert (first.attempt, second.attempt) == (1, 2)

    for statement in (leases.hold(session, first), leases.renew(session, first, lease=LEASE)):
        with pytest.raises(RunFenced):
            await statement
    with pytest.raises(RunFenced):
        await leases.finish(session, first, state="succeeded")
    await leases.hold(session, second)
    await session.rollback()


async def test_neither_a_future_nor_an_unknown_nor_a_finished_run_is_claimed(
    database: Database, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('j', '{}', 'later', now() + interval '1 hour')")
    await sql.execute("SELECT lowtide.enqueue('other', '{}', 'unknown')")
    await sql.execute("SELECT lowtide.enqueue('j', '{}', 'done')")
    await sql.execute("UPDATE lowtide.run SET state = 'succeeded', finished_at = now() WHERE id = 'done'")
    async with database.sessions.begin() as session:
        for run_id in ("later", "unknown", "done", "missing"):
            assert await leases.claim(session, run_id, jobs=["j"], lease=LEASE, worker="w") is None
        assert await runs.due(session, jobs=["j"], most=10) == []


async def test_a_repeatable_read_caller_of_an_id_that_came_meanwhile_is_told_to_try_again(
    sql: asyncpg.Connection, database_url: str
) -> None:
    """Under its snapshot it can't see the other's run: 40001, the caller's to retry; then it is the same run."""
    caller = await asyncpg.connect(database_url)
    enqueue = "SELECT lowtide.enqueue('purge-old-deleted', '{}', 'night')"
    try:
        transaction = caller.transaction(isolation="repeatable_read")
        await transaction.start()
        await caller.execute("SELECT 1")
        await sql.execute(enqueue)
        with pytest.raises(asyncpg.SerializationError):
            await caller.execute(enqueue)
        await transaction.rollback()
        async with caller.transaction(isolation="repeatable_read"):
            assert await caller.fetchval(enqueue) == "night"
    finally:
        await caller.close()
    assert await sql.fetchval("SELECT count(*) FROM lowtide.run") == 1
