"""Purges of schemas that nobody thought of: what is left is what a plain reference says, to the row.

In the long form the seed of the suite is that of the schemas. A failure prints the smallest scene that shows it.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from db import engine, holds, trees
from db.engine import Database
from db.targets import Target, literal, quoted
from jobs import blocks, sweep, values, ways
from jobs.catalog import jobs
from jobs.endings import Again
from jobs.life import Life
from jobs.pace import BY_NAME
from jobs.policies import Policy
from tests.chaos.reference import Reference
from tests.chaos.scale import LONG, SEED, times
from tests.chaos.scenes import Hold, Scene, scenes
from tests.chaos.stage import Node, Stage
from tests.conftest import TEMPLATE
from tests.ledger import accept, row
from worker.embedded import Postgres

LONGEST_S = 60
MOST_RUNS = 6
KEPT = ("held", "blocked")
_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module")
async def arena(postgres: Postgres) -> AsyncIterator[Database]:
    """One database for all scenes, each of which has a schema of its own."""
    server = await asyncpg.connect(postgres.url)
    await server.execute(f"CREATE DATABASE arena TEMPLATE {TEMPLATE}")
    opened = engine.connect(postgres.url_of("arena"))
    yield opened
    await opened.close()
    await server.execute("DROP DATABASE arena WITH (FORCE)")
    await server.close()


@dataclass
class Play:
    """A scene on its stage, in a database."""

    database: Database
    sql: asyncpg.Connection
    stage: Stage

    async def set_up(self) -> None:
        await self.sql.execute(";\n".join(self.stage.statements()))
        for hold in self.stage.scene.holds:
            await self._hold(hold)

    async def _hold(self, hold: Hold) -> None:
        table, column, value = self.stage.held_by(hold)
        text = self.stage.sql(hold.table, column, value)
        relation, name = self.stage.relation(hold.table, self.stage.hold_leaf(hold)), self.stage.column(column)
        if hold.state == "expired":
            await self.sql.execute(
                "INSERT INTO lowtide.hold (relation, table_name, column_name, value, reason, until, placed_by) "
                f"SELECT {literal(relation)}::regclass, $1, $2, ({text})::text, 'a test', now() - interval '1 s', 'x'",
                f"{self.stage.schema}.{table}",
                name,
            )
            return
        printed = await self.sql.fetchval(f"SELECT ({text})::text")
        async with self.database.sessions.begin() as session:
            number = await holds.add(
                session,
                table=f"{self.stage.schema}.{table}",
                column=name,
                value=printed,
                reason="a test",
                until=None,
                by="test",
            )
        if hold.state == "released":
            async with self.database.sessions.begin() as session:
                await holds.release(session, number, reason="a test", by="test")

    async def rows(self) -> dict[Node, dict[str, Any]]:
        """All of them, with all their columns."""
        found: dict[Node, dict[str, Any]] = {}
        for number in range(len(self.stage.scene.tables)):
            asked = f"SELECT tableoid::text AS at, to_jsonb(t)::text AS columns FROM {self.stage.relation(number)} t"
            for each in await self.sql.fetch(asked):
                columns = json.loads(each["columns"])
                found[number, columns["rid"]] = columns | {"at": each["at"]}
        return found

    async def purge(self, **payload: Any) -> dict[str, Any]:
        """Run to the end, and return the result."""
        run_id = f"{self.stage.schema}-{next(_numbers)}"
        await accept(Life(self.database, jobs(), worker="x"), "purge-old-deleted", run_id, policy="p", **payload)
        created: datetime = await self.sql.fetchval("SELECT created_at FROM lowtide.run WHERE id = $1", run_id)
        life = Life(self.database, jobs((self._policy(created),)), worker="chaos", lease=timedelta(seconds=30))
        async with asyncio.timeout(LONGEST_S):
            while isinstance(await life.serve(run_id), Again):
                await self.sql.execute("UPDATE lowtide.run SET not_before = now() WHERE id = $1", run_id)
        ended = await row(life, run_id)
        assert ended.state == "succeeded", ended.error
        assert ended.result is not None
        assert datetime.fromisoformat(ended.result["cutoff"]) == self.stage.scene.cutoff
        return ended.result

    def _policy(self, created: datetime) -> Policy:
        scene, stage = self.stage.scene, self.stage
        target = Target(
            schema=stage.schema,
            table=stage.table(0),
            column=stage.column("ts"),
            where=stage.where,
            epoch=scene.column.epoch,
            timezone=scene.column.timezone,
        )
        keep = created - scene.cutoff
        pace = BY_NAME[scene.ways.pace]
        return Policy("p", target, keep, pace=pace, children=stage.children, partitions=stage.partitions)


@asynccontextmanager
async def played(database: Database, scene: Scene) -> AsyncIterator[Play]:
    """With batches that are small where the scene has it so."""
    number = next(_numbers)
    schema = f"Ex {number}%" if scene.ways.odd_names else f"ex_{number}"
    play = Play(database, await asyncpg.connect(database.address.dsn), Stage(scene, schema))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trees, "MOST", scene.ways.along)
            patch.setattr(sweep, "FIRST_DRAIN", scene.ways.along)
            patch.setattr(sweep, "LARGEST_DRAIN", scene.ways.along)
            for way in (blocks.Blocks, values.Values):
                patch.setattr(way, "first", min(scene.ways.window, way.first))
                patch.setattr(way, "largest", min(scene.ways.window, way.largest))
            if scene.ways.index:
                patch.setattr(ways, "SMALL_BLOCKS", 0)
                patch.setattr(ways, "DENSE", 10_000)
            await play.set_up()
            yield play
    finally:
        await play.sql.execute(f"DROP SCHEMA IF EXISTS {quoted(schema)} CASCADE")
        await play.sql.close()


def told(reference: Reference, result: dict[str, Any], stage: Stage, gone: set[Node]) -> None:
    """The result's numbers are those of the rows that are gone."""
    along = dict.fromkeys(range(len(stage.scene.tables)), 0)
    for name, rows in result.get("children", {}).items():
        along[stage.number_of(name)] += rows
    gone_of = {number: sum(table == number for table, _ in gone) for number in along}
    assert result["purged"] + along[0] == gone_of[0]
    assert all(along[number] == gone_of[number] for number in along if number > 0)
    assert result["batches"] >= (result["purged"] > 0)


def told_of_kept(reference: Reference, result: dict[str, Any]) -> None:
    stays = reference.stays
    held = result["skipped"]["held"]
    surely = sum(each.held or not (each.blocked or each.blocked_below) for each in stays)
    perhaps = sum(each.held or (each.held_below and not each.blocked) for each in stays)
    assert surely <= held <= perhaps
    assert held + result["skipped"]["blocked"] == len(stays)
    assert (result["skipped"]["locked"], result["skipped"]["slow"]) == (0, 0)


def told_beforehand(reference: Reference, plan: dict[str, Any], stage: Stage) -> None:
    """The dry run's numbers are what the first run does."""
    held, blocked = reference.at_first
    going = reference.first
    along = reference.closure(going) - going
    assert plan["eligible"] == len(going)
    assert plan["held"] + plan["blocked"] == len(held | blocked) + len(
        reference.eligible - held - blocked - going - along
    )
    assert plan["held"] >= len(held)
    counted = dict.fromkeys(range(len(stage.scene.tables)), 0)
    loses = 0
    for name, rows in plan["children"].items():
        if "(keeps its row" in name:
            loses += rows
        else:
            counted[stage.number_of(name)] += rows
    assert counted == {number: sum(table == number for table, _ in along) for number in counted}
    assert loses == len(reference.nulled(going | along))


async def logged(play: Play) -> list[Node]:
    schema = quoted(play.stage.schema)
    return [(each["t"], each["rid"]) for each in await play.sql.fetch(f"SELECT t, rid FROM {schema}.log ORDER BY 1, 2")]


def expected(before: dict[Node, dict[str, Any]], reference: Reference, stage: Stage, gone: set[Node]) -> Any:
    left = {node: dict(columns) for node, columns in before.items() if node not in gone}
    for node, number in reference.nulled(gone):
        edge = stage.edges[number]
        left[node] |= {name: None for _, name in stage.ups(number, edge)}
    return left


@pytest.mark.parametrize("chapter", times(5, 50))
@settings(
    max_examples=10,  # from then on Hypothesis repeats them with small changes: the next chapter brings more
    derandomize=True,
    database=None,  # nothing is left in the folder
    deadline=None,  # a database's answer takes as long as the machine has other work
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],  # the same; a module's fixture
)
@given(data=st.data())
async def test_a_purge_leaves_what_the_reference_leaves(arena: Database, chapter: int, data: st.DataObject) -> None:
    async with played(arena, data.draw(scenes(f"{SEED if LONG else 0} {chapter}"))) as play:
        await judge(play)


async def judge(play: Play) -> None:
    stage, scene = play.stage, play.stage.scene
    reference, before = Reference(stage), await play.rows()
    assert not reference.early()
    assert not reference.late()
    event(f"layout {scene.tables[0].layout}")
    event(f"{len(reference.going)} of the policy's rows go")
    event(f"{len(reference.stays)} of them stay")
    event(f"{(len(reference.gone - reference.eligible) + 3) // 4 * 4} rows or fewer go along")
    event(f"rounds {len(reference.rounds)}")
    event(f"kinds {sorted(set(stage.kinds.values()))} {'mutual' if stage.is_mutual else ''}")
    told_beforehand(reference, await play.purge(dry_run=True), stage)
    assert await play.rows() == before
    if scene.ways.max_rows is not None:
        result = await play.purge(max_rows=scene.ways.max_rows)
        left = await play.rows()
        gone = before.keys() - left.keys()
        assert (gone - reference.gone, reference.closure(gone & reference.going) ^ gone) == (set(), set())
        assert left == expected(before, reference, stage, gone)
        told(reference, result, stage, gone)
        most = min(scene.ways.max_rows, len(reference.going))
        assert result["purged"] <= most
        if not stage.is_mutual:
            assert result["purged"] == most
    for _ in range(MOST_RUNS):
        at_first = await play.rows()
        result = await play.purge()
        left = await play.rows()
        told(reference, result, stage, at_first.keys() - left.keys())
        if not result["remaining"]:
            break
    assert not result["remaining"], str(result)
    gone = before.keys() - left.keys()
    assert (gone - reference.gone, reference.gone - gone) == (set(), set())
    assert left == expected(before, reference, stage, gone)
    told_of_kept(reference, result)
    if scene.ways.triggers is not None:
        assert await logged(play) == sorted(reference.gone)
    again = await play.purge()
    assert (again["purged"], again.get("children", {}), again["remaining"]) == (0, {}, False)
    assert await play.rows() == left
