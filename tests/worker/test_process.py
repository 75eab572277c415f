"""What a worker process needs before it starts: both servers, and a ledger of its version."""

from datetime import timedelta

import pytest
from arq.connections import ArqRedis

from worker import process
from worker.embedded.server import free_port
from worker.process import NotMigrated, Unreachable
from worker.settings import load

AT_ONCE = timedelta(0)


async def test_both_servers_are_reached(database_url: str, redis: ArqRedis) -> None:
    port = redis.connection_pool.connection_kwargs["port"]
    settings = load(database_url=database_url, redis_url=f"redis://127.0.0.1:{port}/0")
    async with process.servers(settings) as given:
        await process.reach(given, within=AT_ONCE)
        await process.require_ledger(given.database)
        assert process.redis_server(given.redis) == f"127.0.0.1:{port}"


@pytest.mark.parametrize("kind", ["Redis", "PostgreSQL"])
async def test_the_server_that_is_away_is_named_without_its_password(
    database_url: str, redis: ArqRedis, kind: str
) -> None:
    port = free_port()
    urls = {
        "database_url": database_url,
        "redis_url": f"redis://127.0.0.1:{redis.connection_pool.connection_kwargs['port']}/0",
    }
    if kind == "Redis":
        urls["redis_url"] = f"redis://:hunter2@127.0.0.1:{port}/0"
    else:
        urls["database_url"] = f"postgresql://u:hunter2@127.0.0.1:{port}/d"

    async with process.servers(load(**urls)) as given:
        with pytest.raises(Unreachable, match=rf"^{kind} at 127.0.0.1:{port}\S* can't be reached: ") as caught:
            await process.reach(given, within=AT_ONCE)
    assert "hunter2" not in str(caught.value)


async def test_a_database_without_a_ledger_is_refused(empty_url: str, redis: ArqRedis) -> None:
    port = redis.connection_pool.connection_kwargs["port"]
    async with process.servers(load(database_url=empty_url, redis_url=f"redis://127.0.0.1:{port}/0")) as given:
        with pytest.raises(NotMigrated, match="lowtide migrate"):
            await process.require_ledger(given.database)


async def test_a_socket_is_named_by_its_path() -> None:
    settings = load(database_url="postgresql://h/d", redis_url="unix:///run/valkey.sock")
    async with process.servers(settings) as given:
        assert process.redis_server(given.redis) == "/run/valkey.sock"
