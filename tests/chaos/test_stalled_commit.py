"""A COMMIT that is on its way while its client is gone decides: nobody does the work again before it has."""

import asyncio
from datetime import timedelta

import asyncpg

from db.engine import Database
from jobs.catalog import jobs
from jobs.endings import Again, Finished
from jobs.life import Life
from tests import people
from tests.eventually import eventually
from tests.ledger import accept, row
from tests.proxy import behind_a_proxy

TASKS = 50


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
