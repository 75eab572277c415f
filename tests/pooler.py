"""A pooler between us and PostgreSQL, as small as can be: it hands out server processes by transaction or session."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

Mode = Literal["transaction", "session"]
SSL_REQUEST, CANCEL_REQUEST, PROTOCOL = 80877103, 80877102, 196608
READY, TERMINATE, PARAMETER = b"Z", b"X", b"S"


@dataclass
class Backend:
    """A connection to the server, and the client that has it now."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes = b""  # the server's parameters, for clients that arrive
    client: asyncio.StreamWriter | None = None


@dataclass
class Pooler:
    """`newest_first` hands out the process that was given back last, as poolers do by default; else the oldest."""

    url: str
    mode: Mode
    size: int
    newest_first: bool = True
    free: list[Backend] = field(default_factory=list)
    given_back: asyncio.Condition = field(default_factory=asyncio.Condition)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    everything: list[asyncio.StreamWriter] = field(default_factory=list)

    async def begin(self) -> None:
        parts = urlsplit(self.url)
        for _ in range(self.size):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            said = f"user\0{parts.username}\0database\0{parts.path[1:]}\0\0".encode()
            writer.write(struct.pack("!ii", len(said) + 8, PROTOCOL) + said)
            backend = Backend(reader, writer)
            while (message := await _message(reader))[:1] != READY:
                backend.greeting += message if message[:1] == PARAMETER else b""
            self.free.append(backend)
            self.everything.append(writer)
            self.tasks.append(asyncio.create_task(self._answer(backend)))

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.everything.append(writer)
        backend = None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if not await self._greet(reader, writer):
                return
            while (message := await _message(reader))[:1] != TERMINATE:
                if backend is None or backend.client is not writer:
                    backend = await self._assigned(writer)
                backend.writer.write(message)
        if backend is not None and backend.client is writer and self.mode == "session":
            await self._give_back(backend)
        writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            length, code = struct.unpack("!ii", await reader.readexactly(8))
            await reader.readexactly(length - 8)
            if code == CANCEL_REQUEST:
                writer.close()
                return False
            if code == PROTOCOL:
                break
            writer.write(b"N")
        greeting = (self.free or [Backend(reader, writer)])[0].greeting
        writer.write(b"R" + struct.pack("!ii", 8, 0) + greeting + b"K" + struct.pack("!iii", 12, 1, 1))
        writer.write(READY + struct.pack("!i", 5) + b"I")
        return True

    async def _assigned(self, client: asyncio.StreamWriter) -> Backend:
        async with self.given_back:
            await self.given_back.wait_for(lambda: self.free)
            backend = self.free.pop(-1 if self.newest_first else 0)
        backend.client = client
        return backend

    async def _answer(self, backend: Backend) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while message := await _message(backend.reader):
                client = backend.client
                if message[:1] == READY and message[-1:] == b"I" and self.mode == "transaction":
                    await self._give_back(backend)
                if client is not None:
                    client.write(message)

    async def _give_back(self, backend: Backend) -> None:
        async with self.given_back:
            backend.client = None
            self.free.append(backend)
            self.given_back.notify_all()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for writer in self.everything:
            writer.transport.abort()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


@asynccontextmanager
async def behind_a_pooler(url: str, mode: Mode, *, size: int = 3, newest_first: bool = True) -> AsyncIterator[str]:
    """The URL to connect to."""
    pooler = Pooler(url, mode, size, newest_first=newest_first)
    await pooler.begin()
    server = await asyncio.start_server(pooler.take, "127.0.0.1", 0)
    parts = urlsplit(url)
    netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield urlunsplit(parts._replace(netloc=netloc))
    finally:
        server.close()
        await pooler.close()
