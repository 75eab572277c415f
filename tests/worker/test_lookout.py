"""The lookout: a policy that the database has something against is disabled until that is mended."""

from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from db import engine
from db.engine import Database
from db.targets import Target
from jobs.background import alongside
from jobs.policies import OLD_DELETED_TASKS, Broken, Policies
from tests.eventually import eventually
from worker.embedded.server import free_port
from worker.lookout import Lookout
from worker.metrics import Metrics
from worker.pulse import Pulse

LOGS = replace(OLD_DELETED_TASKS, name="logs", target=Target("public", "log", "at"))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(jobs=(), pulse=Pulse())


def gauge(metrics: Metrics, policy: str) -> float:
    (line,) = [
        line
        for line in generate_latest(metrics.registry).decode().splitlines()
        if line.startswith(f'lowtide_policy_disabled{{policy="{policy}"}}')
    ]
    return float(line.split()[-1])


async def test_what_the_file_has_wrong_is_told_at_once_and_stays(database: Database, metrics: Metrics) -> None:
    broken = Broken("short", "keep: why")
    with capture_logs() as logs:
        lookout = Lookout(database, Policies((OLD_DELETED_TASKS,), (broken,)), metrics=metrics)
        await lookout.look()
    assert lookout.disabled == {"short": broken}
    assert logs == [{"event": "policy.disabled", "policy": "short", "reason": "keep: why", "log_level": "error"}]
    assert (gauge(metrics, "short"), gauge(metrics, "old-deleted-tasks")) == (1, 0)


async def test_one_without_a_name_disables_none_that_is_named_as_it_is_called(
    database: Database, metrics: Metrics
) -> None:
    named = replace(OLD_DELETED_TASKS, name="number 2")
    with capture_logs() as logs:
        lookout = Lookout(
            database, Policies((named,), (Broken("number 2", "name: is missing", is_named=False),)), metrics=metrics
        )
    assert (lookout.disabled, gauge(metrics, "number 2")) == ({}, 0)
    assert [(each["event"], each["policy"]) for each in logs] == [("policy.disabled", "number 2")]


async def test_what_the_database_has_against_one_is_told_once_and_ends_when_it_is_mended(
    database: Database, metrics: Metrics, sql: asyncpg.Connection
) -> None:
    lookout = Lookout(database, Policies((LOGS, OLD_DELETED_TASKS)), metrics=metrics)
    with capture_logs() as logs:
        await lookout.look()
        await lookout.look()
    assert [(each["event"], each["policy"]) for each in logs] == [("policy.disabled", "logs")]
    assert lookout.disabled.keys() == {"logs"}
    assert lookout.disabled["logs"].reason.startswith("table: there is no public.log")
    assert gauge(metrics, "logs") == 1

    await sql.execute("CREATE TABLE log (at text)")
    with capture_logs() as logs:
        await lookout.look()
    assert [each["event"] for each in logs] == ["policy.disabled"], "for another reason"

    await sql.execute("DROP TABLE log; CREATE TABLE log (at date)")
    with capture_logs() as logs:
        await lookout.look()
    assert [each["event"] for each in logs] == ["policy.enabled"]
    assert (lookout.disabled, gauge(metrics, "logs")) == ({}, 0)


async def test_a_look_that_fails_leaves_all_as_it_is(
    database: Database, metrics: Metrics, sql: asyncpg.Connection
) -> None:
    away = engine.connect(f"postgresql://127.0.0.1:{free_port()}/x")
    lookout = Lookout(away, Policies((OLD_DELETED_TASKS, LOGS)), metrics=metrics)
    lookout.disabled["logs"] = Broken("logs", "why")
    with capture_logs() as logs:
        await lookout.look()
    assert lookout.disabled.keys() == {"logs"}
    assert [each["event"] for each in logs] == ["partition.not_looked_for", *["policy.not_inspected"] * 2]

    locked = Lookout(database, Policies((OLD_DELETED_TASKS,)), metrics=metrics)
    async with sql.transaction():
        await sql.execute("LOCK TABLE task IN ACCESS EXCLUSIVE MODE")
        await locked.look()
        assert locked.disabled == {}, "a table that is locked is not broken"
        locked.disabled[OLD_DELETED_TASKS.name] = Broken(OLD_DELETED_TASKS.name, "why")
        await locked.look()
        assert locked.disabled.keys() == {OLD_DELETED_TASKS.name}, "nor is it mended"


async def test_it_looks_again_and_again(database: Database, metrics: Metrics, sql: asyncpg.Connection) -> None:
    lookout = Lookout(database, Policies((LOGS,)), metrics=metrics)
    async with alongside(lookout.run(every=timedelta(milliseconds=20))):
        await eventually(lambda: "logs" in lookout.disabled)
        await sql.execute("CREATE TABLE log (at date)")
        await eventually(lambda: "logs" not in lookout.disabled)
