"""The one place where connections to PostgreSQL are made: the URL, the session's settings, engine and pools."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

# What asyncpg or the server understands. Everything else that libpq knows is left out, and the caller is told.
TAKEN = {
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "application_name",
    "options",
    "connect_timeout",
    "target_session_attrs",
}

# Each session says what it relies on, whatever the role's or the database's defaults are. lock_timeout is far below
# deadlock_timeout (1 s by default), so that we are the one who gives up, never the foreground. JIT would compile
# anew for each window's statement.
SESSION = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "row_security": "off",
    "standard_conforming_strings": "on",
    "idle_in_transaction_session_timeout": "5s",
    "idle_session_timeout": "0",
    "lock_timeout": "100ms",
    "statement_timeout": "5min",
    "TimeZone": "UTC",
    "timezone_abbreviations": "Default",  # which PostgreSQL looks up before the names of zones
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",  # a number is printed as itself
    "jit": "off",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
CONNECT_TIMEOUT_S = 10.0
LISTENER_ASKED_EVERY_S, ANSWER_WITHIN_S = 15.0, 5.0
CHANNEL = "lowtide"  # of NOTIFY, as lowtide.accept has it
LISTENER = "lowtide listener"  # what the session of a worker that listens is called


@dataclass(frozen=True)
class Address:
    """A database URL, split into what asyncpg takes, what it does not, and how to name the server to people."""

    dsn: str
    connect_timeout_s: float
    ignored: tuple[str, ...]
    server: str

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Raises ValueError for what is not a PostgreSQL URL; the message never shows the password."""
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:  # its message would show the whole URL
            raise ValueError("the host or the port of this URL can't be read") from None
        if "@" in parts.path + parts.fragment or "@" in parts.query.partition("=")[0]:
            raise ValueError("the password of this URL has a character that must be percent-encoded")
        if parts.scheme not in {"postgresql", "postgres"}:
            raise ValueError("a database URL starts with postgresql://")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        timeout = options.pop("connect_timeout", "")
        if timeout and not timeout.isdigit():
            raise ValueError("connect_timeout is a whole number of seconds")
        kept = {name: value for name, value in options.items() if name in TAKEN}
        host = parts.netloc.rpartition("@")[2] or kept.get("host", "localhost")
        return cls(
            dsn=urlunsplit(parts._replace(query=urlencode(kept))),
            connect_timeout_s=float(timeout or 0) or CONNECT_TIMEOUT_S,  # libpq: 0 means no limit; a worker has one
            ignored=tuple(sorted(options.keys() - kept.keys())),
            server=f"{host}/{parts.path.lstrip('/') or kept.get('dbname', '')}".rstrip("/"),
        )

    @property
    def names_application(self) -> bool:
        """Whether its sessions are called what the URL says, rather than what they are for."""
        return "application_name=" in self.dsn


@dataclass(frozen=True)
class Database:
    """Engine, sessions and raw connections of one process."""

    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    address: Address

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[asyncpg.Connection]:
        """A driver connection where each call is a transaction of its own: for `lowtide.batch`.

        SQLAlchemy has sent no BEGIN on it, and must not: a lock would then outlive a client's round trip.
        """
        async with self.engine.connect() as connection:
            driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
            try:
                yield driver
            except asyncpg.InternalClientError:  # what asyncpg makes of a connection that ends at a bad moment
                driver.terminate()
                raise
            finally:
                if driver.is_closed():  # SQLAlchemy has not seen it end, and would hand it to the next
                    await connection.invalidate()

    async def open_one_more(self) -> None:
        """Have a connection in the pool beside those that are in use now, where that is possible."""
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError, OSError):
            async with self.autocommit():
                pass

    @asynccontextmanager
    async def tuned(self, **settings: str) -> AsyncIterator[asyncpg.Connection]:
        """`autocommit` with other settings; further ones may be SET on it. They are put back before others get it."""
        async with self.autocommit() as driver:
            try:
                await driver.execute(_settings(settings))
                yield driver
            finally:
                try:
                    await driver.execute("".join(f"RESET {name};" for name in settings) + _settings(SESSION))
                except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                    driver.terminate()
                except BaseException:  # cancelled: nobody must get it with these settings
                    driver.terminate()
                    raise

    async def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` once it listens, and for each NOTIFY of `lowtide.enqueue`, until the connection ends.

        On a connection of its own, outside of the pool. Raises what the driver raises.
        """
        connection = await open_connection(self.address, application_name=LISTENER)
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        try:
            await connection.add_listener(CHANNEL, lambda *_: heard())
            heard()  # for what was said while nobody listened
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), LISTENER_ASKED_EVERY_S)
                if not ended.is_set():  # a connection that went silent says nothing of it by itself
                    await connection.execute("SELECT 1", timeout=ANSWER_WITHIN_S)
        finally:
            connection.terminate()

    async def close(self) -> None:
        """Connections that do not answer any more are left to the end of the process."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.engine.dispose(), ANSWER_WITHIN_S)


def connect(
    url: str, *, pool_size: int = 10, application_name: str = "lowtide", answer_within_s: float | None = None
) -> Database:
    """Nothing is opened yet; the first statement does. Raises ValueError for a URL that is none.

    A statement that is not answered within `answer_within_s` (None: for ever) is given up, and its connection with it.
    """
    address = Address.parse(url)

    async def session() -> asyncpg.Connection:
        return await open_connection(address, application_name=application_name, answer_within_s=answer_within_s)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=session,
        pool_size=pool_size,
        max_overflow=0,
        pool_recycle=1800,
        pool_use_lifo=True,  # the one that was used last knows the catalog best
        hide_parameters=True,  # they are payloads, and would stand in every error's message
    )
    return Database(engine=engine, sessions=async_sessionmaker(engine, expire_on_commit=False), address=address)


async def open_connection(
    address: Address, *, application_name: str, answer_within_s: float | None = None
) -> asyncpg.Connection:
    connection = await asyncpg.connect(
        address.dsn,
        timeout=address.connect_timeout_s,
        command_timeout=answer_within_s,
        # The URL's own application_name wins: asyncpg merges the URL's settings below the ones given here.
        server_settings=None if address.names_application else {"application_name": application_name},
    )
    try:
        _keep_alive(connection)
        await connection.execute(_settings(SESSION), timeout=address.connect_timeout_s)
        with contextlib.suppress(asyncpg.InvalidParameterValueError):  # not on every platform of the server
            await connection.execute("SET client_connection_check_interval = '500ms'")
        if connection.get_server_version() >= (17,):
            await connection.execute("SET transaction_timeout = 0")
    except BaseException:  # cancelled meanwhile, most likely: nobody else knows of it
        connection.terminate()
        raise
    return connection


async def open_bare(address: Address) -> asyncpg.Connection:
    """With nothing set and nothing prepared: for a look at what lies between us and the server."""
    return await asyncpg.connect(address.dsn, timeout=address.connect_timeout_s, statement_cache_size=0)


def _keep_alive(connection: asyncpg.Connection) -> None:
    """Let the system notice a server that has gone without a word: idle, or with something of ours unanswered."""
    raw = connection._transport.get_extra_info("socket")  # noqa: SLF001 - the driver has no option for it
    if raw is None or raw.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 25_000)):
        if hasattr(socket, name):  # not every system has each
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def set_timeouts(connection: asyncpg.Connection, *, statement_s: float, lock_s: float) -> None:
    """On a connection that is `tuned`."""
    settings = {"statement_timeout": f"{statement_s * 1000:.0f}ms", "lock_timeout": f"{lock_s * 1000:.0f}ms"}
    await connection.execute(_settings(settings))


def _settings(settings: Mapping[str, str]) -> str:
    return "".join(f"SET {name} = '{value}';" for name, value in settings.items())
