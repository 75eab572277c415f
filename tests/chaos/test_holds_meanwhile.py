"""Holds that are placed while a purge is at work: once `add` has returned, nothing that it is over is deleted."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from db import holds
from db.engine import Database
from db.targets import Target
from jobs.catalog import jobs
from jobs.endings import Again
from jobs.life import Life
from jobs.policies import Policy
from tests.chaos.scale import LONG, chance, tell
from tests.ledger import accept, row

ROWS, HOLDS = (100_000, 10_000) if LONG else (10_000, 500)
BEFORE = HOLDS * 3 // 10  # are there when it begins: in the long form so many that rows are looked up, not hashed
ADDERS = 4
# What a trigger takes for each row, so that the purge lasts while holds are placed.
ROW_S = 0.0005
KINDS = [("p", "id"), ("p", "id"), ("p", "grp"), ("c", "id")]
POLICY = Policy("p", Target("public", "p", "gone_at"), timedelta(days=90), children={"c": "delete"}, max_share=1)


@dataclass(frozen=True)
class Wanted:
    """A hold to be placed."""

    table: str
    column: str
    value: int

    async def place(self, database: Database) -> None:
        at = {"table": f"public.{self.table}", "column": self.column, "value": str(self.value)}
        async with database.sessions.begin() as session:
            await holds.add(session, **at, reason="a test", until=None, by="test")

    async def rows(self, sql: asyncpg.Connection) -> int:
        """How many rows it is over that are there; of children with what they point to."""
        rows = "c JOIN p ON p.id = c.up" if self.table == "c" else "p"
        asked = f"SELECT count(*) FROM {rows} WHERE {self.table}.{self.column} = $1"
        found: int = await sql.fetchval(asked, self.value)
        return found


async def set_up(sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE p (id bigint PRIMARY KEY, grp int, gone_at timestamptz)")
    await sql.execute("CREATE TABLE c (id bigint PRIMARY KEY, up bigint REFERENCES p)")
    await sql.execute(
        f"INSERT INTO p SELECT n, n / 3, now() - interval '100 days' FROM generate_series(0, {ROWS - 1}) n;"
        f"INSERT INTO c SELECT n, n FROM generate_series(0, {ROWS - 1}, 2) n;"
        "CREATE INDEX ON p (gone_at); CREATE INDEX ON p (grp); CREATE INDEX ON c (up); ANALYZE p, c"
    )
    await sql.execute(
        "CREATE FUNCTION lag() RETURNS trigger LANGUAGE plpgsql AS "
        f"'BEGIN PERFORM pg_sleep({ROW_S}); RETURN NULL; END';"
        "CREATE TRIGGER lag AFTER DELETE ON p FOR EACH ROW EXECUTE FUNCTION lag()"
    )


async def placing(database: Database, wanted: Sequence[Wanted]) -> dict[Wanted, int]:
    """Place one after the other; return how many rows each was over once it stood."""
    sql = await asyncpg.connect(database.address.dsn)
    stood = {}
    for each in wanted:
        await each.place(database)
        stood[each] = await each.rows(sql)
    await sql.close()
    return stood


async def purging(life: Life, sql: asyncpg.Connection) -> None:
    while isinstance(await life.serve("run"), Again):
        await sql.execute("UPDATE lowtide.run SET not_before = now() WHERE state = 'queued'")


async def test_no_held_row_is_deleted(database: Database, sql: asyncpg.Connection) -> None:
    drawn = chance("holds")
    await set_up(sql)
    wanted = [Wanted(*drawn.choice(KINDS), value) for value in drawn.sample(range(ROWS), HOLDS)]
    stood = await placing(database, wanted[:BEFORE])
    life = Life(database, jobs((POLICY,)), worker="chaos", lease=timedelta(seconds=5))
    await accept(life, "purge-old-deleted", "run", policy="p", pace="full")
    async with asyncio.TaskGroup() as group:
        group.create_task(purging(life, sql))
        adding = [group.create_task(placing(database, wanted[BEFORE + number :: ADDERS])) for number in range(ADDERS)]
    ended = await row(life, "run")
    assert ended.state == "succeeded", ended.error

    meanwhile = {each: rows for task in adding for each, rows in task.result().items()}
    assert [each for each, rows in (stood | meanwhile).items() if await each.rows(sql) != rows] == []
    assert ended.rows_done == ROWS - await sql.fetchval("SELECT count(*) FROM p")
    late = sum(rows > 0 for rows in meanwhile.values())
    assert late > 0
    tell(f"{HOLDS:,} holds over {ROWS:,} rows, {late:,} of them in time while the purge was at work: 0 rows lost")
