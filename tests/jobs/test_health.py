"""What makes a gentle run wait, each injected for real: before, during and after."""

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from jobs.health import Health, Limits
from tests.eventually import eventually
from tests.standby import Standby
from worker.embedded import Postgres

RELATION = '"public"."t"'
NO_LIMITS = {"replica_lag_bytes": 2**40, "archive_backlog_files": 10**6, "oldest_xmin_age": 10**9, "frozen_age": 10**9}


def limits(**limit: int) -> Limits:
    return Limits(**(NO_LIMITS | limit))


@pytest_asyncio.fixture(scope="module")
async def primary() -> AsyncIterator[Postgres]:
    settings = {"archive_mode": "on", "archive_command": "/bin/true", "max_wal_size": "32MB", "autovacuum": "off"}
    async with Postgres(settings=settings) as server:
        connection = await asyncpg.connect(server.url)
        await connection.execute("CREATE TABLE t (n int, filler text)")
        await connection.close()
        yield server


@pytest_asyncio.fixture
async def sql(primary: Postgres) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(primary.url)
    yield connection
    await connection.close()


async def _write_wal(sql: asyncpg.Connection, files: int) -> None:
    for _ in range(files):
        await sql.execute("SELECT pg_logical_emit_message(false, 'test', 'x')")
        await sql.execute("SELECT pg_switch_wal()")


async def test_a_healthy_server_is_no_reason_to_wait_and_nothing_is_unknown(sql: asyncpg.Connection) -> None:
    health = Health(RELATION)
    assert await health.trouble(sql) is None
    assert health.unknown == set()


async def test_a_standby_that_stops_replaying_and_one_that_is_gone(primary: Postgres, sql: asyncpg.Connection) -> None:
    health = Health(RELATION, limits(replica_lag_bytes=8 * 2**20))
    async with Standby(primary, name="replica1") as standby:

        async def well() -> bool:
            return await Health(RELATION, limits(replica_lag_bytes=0)).trouble(sql) is None

        await eventually(lambda: sql.fetchval("SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'"))
        await eventually(well)
        assert await health.trouble(sql) is None

        replica = await asyncpg.connect(standby.url)
        await replica.execute("SELECT pg_wal_replay_pause()")
        await _write_wal(sql, 1)
        assert await health.trouble(sql) == 'standby "replica1" is 16 MB behind (limit 8 MB)'

        await replica.execute("SELECT pg_wal_replay_resume()")

        async def caught_up() -> bool:
            return await health.trouble(sql) is None

        await eventually(caught_up)
        await replica.close()

    await eventually(lambda: sql.fetchval("SELECT count(*) = 0 FROM pg_stat_replication"))
    assert await health.trouble(sql) == 'standby "replica1" is gone'
    assert await Health(RELATION).trouble(sql) is None


async def test_a_slot_that_keeps_too_much_wal(sql: asyncpg.Connection) -> None:
    health = Health(RELATION, limits())
    await sql.execute("SELECT pg_create_physical_replication_slot('lagging', true)")
    assert await health.trouble(sql) is None

    await _write_wal(sql, 5)
    await sql.execute("CHECKPOINT")
    assert await health.trouble(sql) == 'replication slot "lagging" is behind: wal_status extended'

    await sql.execute("SELECT pg_drop_replication_slot('lagging')")
    assert await health.trouble(sql) is None


async def test_wal_files_that_nobody_archives(sql: asyncpg.Connection) -> None:
    health = Health(RELATION, limits(archive_backlog_files=2))
    await _archive_with(sql, "/bin/false")
    await _write_wal(sql, 4)

    told = await eventually(lambda: health.trouble(sql))
    assert told.endswith("WAL files wait to be archived (limit 2)")

    await _archive_with(sql, "/bin/true")

    async def archived() -> bool:
        return await health.trouble(sql) is None

    await eventually(archived, within_s=90)


async def _archive_with(sql: asyncpg.Connection, command: str) -> None:
    await sql.execute(f"ALTER SYSTEM SET archive_command = '{command}'")
    await sql.execute("SELECT pg_reload_conf()")


async def test_a_snapshot_that_keeps_dead_rows(primary: Postgres, sql: asyncpg.Connection) -> None:
    health = Health(RELATION, limits(oldest_xmin_age=100))
    assert await health.trouble(sql) is None
    dump = await asyncpg.connect(primary.url)
    transaction = dump.transaction(isolation="repeatable_read")
    await transaction.start()
    await dump.execute("SELECT count(*) FROM t")
    for _ in range(200):
        await sql.execute("SELECT pg_current_xact_id()")

    told = await health.trouble(sql)
    assert told is not None
    assert "transactions old keeps dead rows (limit 100)" in told

    await transaction.rollback()
    await dump.close()
    assert await health.trouble(sql) is None


async def test_a_table_that_was_not_frozen_for_long(sql: asyncpg.Connection) -> None:
    health = Health(RELATION, limits(frozen_age=100))
    for _ in range(200):
        await sql.execute("SELECT pg_current_xact_id()")

    told = await health.trouble(sql)
    assert told is not None
    assert told.endswith("it needs VACUUM (FREEZE)")

    await sql.execute("VACUUM (FREEZE) t")
    assert await health.trouble(sql) is None


async def test_what_a_role_may_not_see_is_named_and_stops_nothing(primary: Postgres, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE ROLE stranger LOGIN; GRANT SELECT ON t TO stranger")
    async with Standby(primary, name="replica2"):
        await eventually(lambda: sql.fetchval("SELECT count(*) = 1 FROM pg_stat_replication"))
        stranger = await asyncpg.connect(primary.url.replace("postgres@", "stranger@"))
        health = Health(RELATION, Limits(*[-1] * 4))
        told = await health.trouble(stranger)
        await stranger.close()

    assert told is not None
    assert "VACUUM (FREEZE)" in told  # what is known still counts
    assert health.unknown == {"replica lag", "WAL archive backlog", "oldest xmin"}
