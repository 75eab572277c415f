"""A proxy between us and PostgreSQL, for connections that end, or go silent, in the middle."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from db import engine
from db.engine import Database


class Proxy:
    """Between a client and PostgreSQL. Cut off, clients lose their connections; the server's ends stay open."""

    def __init__(self, host: str, port: int) -> None:
        self._server_at = host, port
        self._clients: list[asyncio.StreamWriter] = []
        self._kept: list[asyncio.StreamWriter] = []  # one that nobody holds is closed with the garbage
        self._pumps: set[asyncio.Task[None]] = set()
        self._was_cut: set[asyncio.StreamWriter] = set()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*self._server_at)
        self._clients.append(writer)
        self._kept.append(to_server)
        for pump in (self._pump(reader, to_server, writer), self._pump(from_server, writer, writer)):
            self._pumps.add(asyncio.create_task(pump))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                if not writer.is_closing():
                    writer.write(chunk)
        if client not in self._was_cut:
            writer.close()

    def freeze(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        for pump in self._pumps:
            pump.cancel()

    def cut(self) -> None:
        self._was_cut.update(self._clients)
        for client in self._clients:
            client.transport.abort()

    async def close(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writer in (*self._kept, *self._clients):
            writer.transport.abort()


@asynccontextmanager
async def behind_a_proxy(database: Database) -> AsyncIterator[tuple[Database, Proxy]]:
    parts = urlsplit(database.address.dsn)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    server = await asyncio.start_server(proxy.take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
    through = engine.connect(urlunsplit(parts._replace(netloc=netloc)))
    try:
        yield through, proxy
    finally:
        await through.close()
        await proxy.close()
        server.close()
