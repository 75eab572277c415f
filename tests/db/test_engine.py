"""Connections: what of a URL is taken, how a server is named, and what each session sets."""

import asyncio
import socket

import asyncpg
import pytest
from sqlalchemy import text

from db import engine
from db.engine import Address, Database
from db.tasks import insert
from tests.proxy import behind_a_proxy
from worker.embedded import Postgres


def test_what_is_not_ours_is_ignored_and_told() -> None:
    address = Address.parse("postgresql://u:s3cret@h:1/d?sslmode=require&gssencmode=disable&keepalives=1")

    assert address.ignored == ("gssencmode", "keepalives")
    assert "sslmode=require" in address.dsn
    assert "gssencmode" not in address.dsn


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("postgresql://u:s3cret@db.example:5433/app", "db.example:5433/app"),
        ("postgresql://u:s3cr@et@h/app", "h/app"),
        ("postgresql://u@/app?host=/run/pg", "/run/pg/app"),
        ("postgres://h", "h"),
    ],
)
def test_a_server_is_named_without_user_and_password(url: str, server: str) -> None:
    assert Address.parse(url).server == server


@pytest.mark.parametrize("url", ["", "mysql://u:s3cret@h/d", "postgresql+asyncpg://u:s3cret@h/d"])
def test_another_scheme_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="starts with postgresql://") as caught:
        Address.parse(url)
    assert "s3cret" not in str(caught.value)


def test_connect_timeout_is_in_seconds_and_has_a_limit_by_default() -> None:
    assert Address.parse("postgresql://h/d?connect_timeout=3").connect_timeout_s == 3
    assert Address.parse("postgresql://h/d?connect_timeout=0").connect_timeout_s == 10
    with pytest.raises(ValueError, match="whole number"):
        Address.parse("postgresql://h/d?connect_timeout=soon")


async def test_every_session_says_what_it_relies_on(postgres: Postgres) -> None:
    database = engine.connect(f"{postgres.url}?application_name=mine&options=-c%20work_mem%3D12MB")
    async with database.autocommit() as connection:
        shown = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in ("application_name", "work_mem", "row_security", "lock_timeout", "TimeZone", "jit")
        }
    await database.close()

    assert shown == {
        "application_name": "mine",
        "work_mem": "12MB",
        "row_security": "off",
        "lock_timeout": "100ms",
        "TimeZone": "UTC",
        "jit": "off",
    }


async def test_the_socket_works_like_tcp(postgres: Postgres) -> None:
    assert postgres.socket_url is not None
    database = engine.connect(postgres.socket_url)
    async with database.engine.connect() as connection:
        assert (await connection.execute(text("SELECT inet_server_addr() IS NULL"))).scalar_one()
    await database.close()


async def test_a_copy_outside_of_a_transaction_is_refused(database: engine.Database, sql: asyncpg.Connection) -> None:
    """SQLAlchemy sends BEGIN with the first statement: without one the rows would stand after a rollback."""
    async with database.sessions() as session:
        with pytest.raises(RuntimeError, match="outside of a transaction"):
            await insert(session, [(1, "t", None, "pending", "low", 1, 1)])
        await session.rollback()
    assert await sql.fetchval("SELECT count(*) FROM task") == 0


async def test_sockets_are_kept_alive(database: Database) -> None:
    """So that a server that went without a word is noticed by the system."""
    async with database.autocommit() as connection:
        raw = connection._transport.get_extra_info("socket")
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


async def test_a_listener_whose_connection_went_silent_gives_it_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stands, and nothing comes through any more. Control: it listened for ever."""
    monkeypatch.setattr(engine, "LISTENER_ASKED_EVERY_S", 0.1)
    monkeypatch.setattr(engine, "ANSWER_WITHIN_S", 0.3)
    heard = asyncio.Event()
    async with behind_a_proxy(database) as (through, proxy):
        listening = asyncio.create_task(through.listen(heard.set))
        await heard.wait()
        proxy.freeze()
        with pytest.raises((TimeoutError, asyncpg.InterfaceError)):
            await asyncio.wait_for(listening, 5)
