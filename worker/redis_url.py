"""What LOWTIDE_REDIS_URL may say, and the pool of connections that comes of it."""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

SENTINEL = "redis+sentinel"
# By the URL's scheme. Unless told to, redis-py takes any name in a server's certificate.
TRANSPORT: dict[str, dict[str, Any]] = {
    "redis": {"socket_keepalive": True},
    "rediss": {"socket_keepalive": True, "ssl_check_hostname": True},
    "unix": {},
}
SENTINEL_PORT = 26379
SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}
TIMEOUTS = {"socket_timeout": 5, "socket_connect_timeout": 3}
_SENTINELS = re.compile(
    r"redis\+sentinel://(?:(?P<username>[^:@/?#]*):(?P<password>[^@/?#]*)@)?(?P<hosts>[^@/?#]+)"
    r"/(?P<service>[^@/?#]+)(?:/(?P<db>[0-9]{1,5}))?(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:,\s]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Sentinels:
    """Who is asked for the master, and how one logs in at either."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    login: dict[str, Any] = field(repr=False)
    own_login: dict[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "Sentinels":
        """Raises ValueError; the message never shows the password."""
        found = _SENTINELS.fullmatch(url)
        hosts = [] if found is None else [_HOST.fullmatch(host) for host in found["hosts"].split(",")]
        if found is None or not all(hosts):
            raise ValueError(
                "a Sentinel URL is redis+sentinel://user:password@host:port,host:port/SERVICE/db; "
                "special characters in the password are percent-encoded"
            )
        options = dict(parse_qsl(found["query"] or "", keep_blank_values=True))
        if options.keys() - SENTINEL_OPTIONS.keys():
            raise ValueError(f"a Sentinel URL takes {' and '.join(SENTINEL_OPTIONS)} behind the question mark")
        login = {name: unquote(found[name]) for name in ("username", "password") if found[name]}
        return cls(
            hosts=tuple((host["host"].strip("[]"), int(host["port"] or SENTINEL_PORT)) for host in hosts if host),
            service=unquote(found["service"]),
            login=login | {"db": int(found["db"] or 0)},
            own_login={SENTINEL_OPTIONS[name]: value for name, value in options.items()},
        )


class MasterPool(SentinelConnectionPool, BlockingConnectionPool):
    """Asks the Sentinels for the master with each new connection, and waits for a free one as the plain pool does."""

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        await super().disconnect(inuse_connections)
        if inuse_connections:  # that is the end; without them it is a new master that was found
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose(close_connection_pool=True)


def check(url: str) -> None:
    """Raises ValueError for what is no URL of ours; the message never shows the password."""
    if url.startswith(f"{SENTINEL}:"):
        Sentinels.parse(url)
        return
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its message would show the whole URL
        raise ValueError("the host or the port of this URL can't be read") from None
    if parts.scheme not in TRANSPORT:
        raise ValueError("a Redis URL starts with redis://, rediss://, unix:// or redis+sentinel://")


def pool(url: str, *, most_connections: int) -> ConnectionPool:
    """Survives a restart of the server: three quick retries, short timeouts, keepalive. Nothing is opened yet.

    A lost connection is tried again, and every command that we send may be; a server that does not answer is not.
    """
    options: dict[str, Any] = TIMEOUTS | {
        "max_connections": most_connections,
        "timeout": 5,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        "retry_on_error": [RedisConnectionError],
        "health_check_interval": 30,
    }
    if not url.startswith(f"{SENTINEL}:"):
        return BlockingConnectionPool.from_url(url, **options, **TRANSPORT[urlsplit(url).scheme])
    sentinels = Sentinels.parse(url)
    untyped: Any = Sentinel, MasterPool
    manager = untyped[0](sentinels.hosts, sentinel_kwargs=TIMEOUTS | TRANSPORT["redis"] | sentinels.own_login)
    master: ConnectionPool = untyped[1](sentinels.service, manager, **options, **TRANSPORT["redis"], **sentinels.login)
    return master


def server(pool: ConnectionPool) -> str:
    """Where it is, for people: no password."""
    if isinstance(pool, MasterPool):
        asked = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
        hosts = ",".join(sorted(f"{where['host']}:{where['port']}" for where in asked))
        return f"{hosts} (Sentinels of {pool.service_name})"
    where = pool.connection_kwargs
    return str(where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}")
