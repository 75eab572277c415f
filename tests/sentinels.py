"""Valkey with a password, a replica and one Sentinel that promotes it soon, for tests of a failover."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.eventually import eventually
from worker.embedded import Valkey

PASSWORD = "p@ss/word:50%"
SERVICE = "lowtide-test"


class Guarded(Valkey):
    """With a password, and where one is given, as a replica of another."""

    def __init__(self, primary: Valkey | None = None) -> None:
        super().__init__()
        self._primary = primary

    async def prepare(self) -> list[str]:
        command = [*(await super().prepare()), "--requirepass", PASSWORD, "--masterauth", PASSWORD]
        command += ["--repl-diskless-sync-delay", "0"]
        return command if self._primary is None else [*command, "--replicaof", "127.0.0.1", str(self._primary.port)]

    def client(self) -> "Redis":
        return Redis(host="127.0.0.1", port=self.port, password=PASSWORD, socket_timeout=5)

    async def info(self, section: str) -> dict[str, str]:
        client = self.client()
        try:
            return dict(await client.info(section))
        except (RedisError, OSError):
            return {}
        finally:
            await client.aclose()

    async def answers(self) -> bool:
        return bool(await self.info("server"))


class Sentinel(Valkey):
    """Watches one master, and is enough to decide."""

    def __init__(self, primary: Valkey) -> None:
        super().__init__()
        self._primary = primary

    async def prepare(self) -> list[str]:
        binary, *_ = await super().prepare()
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._primary.port} 1",
            f"sentinel auth-pass {SERVICE} {PASSWORD}",
            f"sentinel down-after-milliseconds {SERVICE} 300",
            f"sentinel failover-timeout {SERVICE} 2000",
        ]
        file = self.folder / "sentinel.conf"  # which it rewrites
        file.write_text("\n".join(lines) + "\n")
        self.account.own(file)
        return [binary, str(file), "--sentinel"]


@dataclass(frozen=True)
class Cluster:
    primary: Guarded
    replica: Guarded
    sentinel: Sentinel

    @property
    def url(self) -> str:
        """With a Sentinel in front that is never there."""
        hosts = f"127.0.0.1:1,127.0.0.1:{self.sentinel.port}"
        return f"redis+sentinel://:{quote(PASSWORD, safe='')}@{hosts}/{SERVICE}/0"


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    """Once the Sentinel knows the replica, and the replica has all that its master has."""
    async with Guarded() as primary, Guarded(primary) as replica, Sentinel(primary) as sentinel:

        async def linked() -> bool:
            return (await replica.info("replication")).get("master_link_status") == "up"

        async def known() -> bool:
            watching: Any = Redis(host="127.0.0.1", port=sentinel.port)  # its commands for Sentinels are untyped
            try:
                return bool(await watching.sentinel_slaves(SERVICE))
            finally:
                await watching.aclose()

        await eventually(linked, within_s=20)
        await eventually(known, within_s=20)
        yield Cluster(primary, replica, sentinel)
