"""What LOWTIDE_REDIS_URL may say: a plain server, TLS, and Sentinels whose master changes."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from tests.eventually import eventually
from tests.sentinels import PASSWORD, cluster
from tests.tls import OPENSSL, certificate, proxy
from worker import doorbells, process, redis_url
from worker.embedded import Companion, Valkey
from worker.embedded.server import free_port
from worker.process import Unreachable
from worker.redis_url import Sentinels
from worker.settings import load

QUEUE = "arq:queue"
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="certificates are made with openssl, which is not here")


def test_a_sentinel_url_names_hosts_service_database_and_who_logs_in() -> None:
    parsed = Sentinels.parse("redis+sentinel://app:p%40ss%2Fw@one:1,two,[::1]:3/main/5?sentinel_password=s%26p")
    assert parsed.hosts == (("one", 1), ("two", 26379), ("::1", 3))
    assert (parsed.service, parsed.login) == ("main", {"username": "app", "password": "p@ss/w", "db": 5})
    assert parsed.own_login == {"password": "s&p"}
    assert "p@ss" not in repr(parsed)


def test_a_sentinel_url_needs_no_login() -> None:
    assert Sentinels.parse("redis+sentinel://one/main").login == {"db": 0}
    assert Sentinels.parse("redis+sentinel://:pw@one/main").login == {"password": "pw", "db": 0}


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://u:hunter2@one",
        "redis+sentinel://u:hunter2@one/",
        "redis+sentinel://u:hunter2@/main",
        "redis+sentinel://u:hunter2@one,,two/main",
        "redis+sentinel://u:hunter2@one:port/main",
        "redis+sentinel://u:hunter2@one/main/db",
        "redis+sentinel://u:hunter2@one/main?sentinel_passwort=x",
        "redis+sentinel://u:hun@ter2@one/main",
    ],
)
def test_a_sentinel_url_that_can_not_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="Sentinel URL") as caught:
        redis_url.check(url)
    assert "hun" not in str(caught.value)


async def test_a_command_whose_answer_was_lost_is_sent_again(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with the built-in ConnectionError as what is tried again, which redis-py's is not, it raises."""
    redis = doorbells.connect(valkey.url, queue=QUEUE)
    send: Any = redis._send_command_parse_response  # untyped
    sent = 0

    async def losing(*command: Any, **options: Any) -> Any:
        nonlocal sent
        sent += 1
        answer = await send(*command, **options)
        if sent == 1:
            raise RedisConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(redis, "_send_command_parse_response", losing)
    assert await redis.ping()
    assert sent == 2
    await redis.aclose(close_connection_pool=True)


async def test_sentinels_that_are_away_are_named_without_a_password(database_url: str) -> None:
    ports = free_port(), free_port()
    url = f"redis+sentinel://u:hunter2@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/main?sentinel_password=hunter3"
    async with process.servers(load(database_url=database_url, redis_url=url)) as given:
        with pytest.raises(Unreachable) as caught:
            await process.reach(given, within=process.START_WITHIN * 0)
    told = str(caught.value)
    assert all(f"127.0.0.1:{port}" in told for port in ports)
    assert "Sentinels of main" in told
    assert "hunter" not in told


async def test_after_a_failover_client_and_worker_go_on_at_the_new_master(
    database_url: str, sql: asyncpg.Connection
) -> None:
    async with cluster() as servers:
        redis = doorbells.connect(servers.url, queue=QUEUE)
        async with Companion(database_url=database_url, redis_url=servers.url) as worker:
            await redis.enqueue_job("purge-old-deleted", _job_id="before", dry_run=True)
            await eventually(lambda: _succeeded(sql, "before"))

            await servers.primary.stop(immediate=True)

            async def enqueued() -> bool:
                try:
                    return await redis.enqueue_job("purge-old-deleted", _job_id="after", dry_run=True) is not None
                except (RedisError, OSError):
                    return False

            await eventually(enqueued, within_s=30)
            await eventually(lambda: _succeeded(sql, "after"), within_s=30)
            assert (await servers.replica.info("replication"))["role"] == "master"
            assert not worker.exited.is_set()
            log = worker.log.read_text()
        await redis.aclose(close_connection_pool=True)
    assert PASSWORD not in log


async def _succeeded(sql: asyncpg.Connection, run_id: str) -> bool:
    return bool(await sql.fetchval("SELECT state = 'succeeded' FROM lowtide.run WHERE id = $1", run_id))


@needs_openssl
async def test_tls_with_the_certificate_that_is_expected_carries_a_run(
    database_url: str, sql: asyncpg.Connection, valkey: Valkey, tmp_path: Path
) -> None:
    shown = certificate(tmp_path, "shown", address="127.0.0.1")
    async with proxy(shown, to_port=valkey.port) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={shown.file}"
        redis = doorbells.connect(url, queue=QUEUE)
        await redis.flushall()
        async with Companion(database_url=database_url, redis_url=url):
            await redis.enqueue_job("purge-old-deleted", _job_id="run", dry_run=True)
            await eventually(lambda: _succeeded(sql, "run"))
        await redis.aclose(close_connection_pool=True)


@needs_openssl
@pytest.mark.parametrize(("signed", "address"), [("by another", "127.0.0.1"), ("for another", "127.0.0.2")])
async def test_tls_with_another_certificate_is_refused(
    database_url: str, valkey: Valkey, tmp_path: Path, signed: str, address: str
) -> None:
    """Of another issuer, or of another server. Control: redis-py by itself takes the second."""
    shown = certificate(tmp_path, "shown", address=address)
    expected = certificate(tmp_path, "expected", address="127.0.0.1") if signed == "by another" else shown
    async with proxy(shown, to_port=valkey.port) as port:
        url = f"rediss://:hunter2@127.0.0.1:{port}/0?ssl_ca_certs={expected.file}"
        async with process.servers(load(database_url=database_url, redis_url=url)) as given:
            with pytest.raises(Unreachable, match="certificate verify failed") as caught:
                await process.reach(given, within=process.START_WITHIN * 0)
    assert "hunter2" not in str(caught.value)
