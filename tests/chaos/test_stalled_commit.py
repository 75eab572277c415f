"""A COMMIT that is on its way while its client is gone decides: nobody does the work again before it has."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from db import engine
from db.engine import Database
from jobs.catalog import jobs
from jobs.life import Again, Finished, Life
from tests import people
from tests.eventually import eventually
from tests.ledger import accept, row

TASKS = 50


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


async def test_a_commit_in_flight_decides_before_anybody_works_again(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Its client is cut off while the server holds the COMMIT: a look at the row shows the old state, a claim waits.

    Seen: where the server's end is closed too, the COMMIT never stands, and the second one does the work.
    """
    await people.people(sql)
    await sql.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(3); RETURN NULL; END'; "
        "CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON task DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "WHEN (NEW.title = 'task 0') EXECUTE FUNCTION dawdle()"
    )
    tasks = [{"title": f"task {n}"} for n in range(TASKS)]
    async with behind_a_proxy(database) as (through, proxy):
        first = Life(through, jobs(), worker="first", lease=timedelta(seconds=1))
        second = Life(database, jobs(), worker="second", lease=timedelta(seconds=1))
        await accept(second, "create-batch", "run", project_id=1, created_by_id=2, tasks=tasks)
        serving = asyncio.create_task(first.serve("run"))
        await eventually(lambda: sql.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        proxy.cut()
        assert isinstance(await serving, Again)
        assert await sql.fetchval("SELECT state FROM lowtide.run") == "running"
        await eventually(lambda: sql.fetchval("SELECT lease_until < clock_timestamp() FROM lowtide.run"))

        endings = [await second.serve("run")]
        assert isinstance(endings[0], Again), "the COMMIT was not in flight any more"
        while isinstance(endings[-1], Again):
            await asyncio.sleep(0.1)
            endings.append(await second.serve("run"))

    last = endings[-1]
    assert isinstance(last, Finished)
    assert not last.here
    ended = await row(second, "run")
    assert (ended.state, ended.attempt, ended.rows_done) == ("succeeded", 1, TASKS)
    assert await sql.fetchval("SELECT count(*) FROM task") == TASKS
