"""Which policy a payload means; one that is disabled is refused with its reason, never passed over for another."""

from typing import Any

import asyncpg
import pytest

from db.engine import Database
from db.targets import Target
from jobs.catalog import jobs
from jobs.failures import NotFound, PolicyBroken, PolicyUnclear
from jobs.life import Life
from jobs.policies import OLD_DELETED_TASKS, Broken, Policy
from jobs.purge_payload import PurgeOldDeleted, policy_for
from tests import ledger, people

LOGS = Policy("logs", Target("app.v2", "log", "at"), OLD_DELETED_TASKS.keep)
BROKEN = Broken("short", "keep: why", ("app", "note"))


def chosen(disabled: dict[str, Broken] | None = None, **payload: Any) -> str:
    return policy_for(PurgeOldDeleted(**payload), (OLD_DELETED_TASKS, LOGS), disabled or {"short": BROKEN}).name


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        ({}, "old-deleted-tasks"),
        ({"table": "task"}, "old-deleted-tasks"),
        ({"table": "public.task"}, "old-deleted-tasks"),
        ({"policy": "old-deleted-tasks"}, "old-deleted-tasks"),
        ({"table": "log"}, "logs"),
        ({"table": "app.v2.log"}, "logs"),
    ],
)
def test_a_policy_is_found_by_name_or_table(payload: dict[str, Any], name: str) -> None:
    assert chosen(**payload) == name


@pytest.mark.parametrize("payload", [{"policy": "short"}, {"table": "note"}, {"table": "app.note"}])
def test_a_disabled_one_is_refused_with_its_reason(payload: dict[str, Any]) -> None:
    with pytest.raises(PolicyBroken, match=r"^policy short is disabled, and nothing was deleted: keep: why$"):
        chosen(**payload)


@pytest.mark.parametrize("payload", [{"policy": "nope"}, {"table": "nope"}, {"table": "v2.log"}, {"table": "p.task"}])
def test_one_that_nobody_knows_is_told_with_all_that_are_known(payload: dict[str, Any]) -> None:
    with pytest.raises(NotFound, match=r"known: old-deleted-tasks .*, logs .*; disabled: policy short: keep: why$"):
        chosen(**payload)


def test_a_disabled_one_counts_where_a_table_has_several() -> None:
    """Purging by the other would be a guess."""
    twin = Broken("twin", "why", ("public", "task"))
    with pytest.raises(PolicyUnclear, match=r"name one: twin, old-deleted-tasks$"):
        chosen({"twin": twin})
    assert chosen({"twin": twin}, policy="old-deleted-tasks") == "old-deleted-tasks"


async def test_what_the_database_had_against_a_policy_is_looked_at_once_more_by_its_run(
    database: Database, sql: asyncpg.Connection
) -> None:
    """A worker's last look is minutes old. Control: a table that had been created since could not be purged."""
    policy = Policy("t", Target("public", "t", "gone_at"), OLD_DELETED_TASKS.keep)
    disabled = {"t": Broken("t", "table: there is no public.t, said the last look")}
    life = Life(database, jobs((policy,), disabled=disabled), worker="test")
    refused = await ledger.run(life, "purge-old-deleted", "first", policy="t")
    assert refused.error is not None
    assert (refused.state, refused.error["type"]) == ("failed", "PolicyBroken")
    assert refused.error["message"].startswith("policy t is disabled, and nothing was deleted: table: there is no publ")
    assert "said the last look" not in refused.error["message"]

    await sql.execute("CREATE TABLE t (gone_at timestamptz); INSERT INTO t VALUES (now() - interval '1 year')")
    purged = await ledger.run(life, "purge-old-deleted", "second", policy="t")
    assert (purged.state, purged.rows_done) == ("succeeded", 1)


async def test_what_the_file_has_wrong_stays_wrong(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE SCHEMA app; CREATE TABLE app.note (at timestamptz)")
    life = Life(database, jobs((LOGS,), disabled={"short": BROKEN}), worker="test")
    refused = await ledger.run(life, "purge-old-deleted", policy="short")
    assert (refused.error or {})["message"] == "policy short is disabled, and nothing was deleted: keep: why"


@pytest.mark.parametrize("field", ["policy", "table", "approve"])
async def test_nothing_in_a_payload_is_executed(database: Database, sql: asyncpg.Connection, field: str) -> None:
    await people.people(sql)
    await people.many(sql, 10, deleted_every=2)
    life = Life(database, jobs(), worker="test")
    for number, text in enumerate(("x'; DROP TABLE task; --", 'task"; DROP TABLE task; --', "task) OR (true", "$$;")):
        ended = await ledger.run(life, "purge-old-deleted", f"{number}", **{field: text})
        assert ended.state == "failed"
    assert await sql.fetchval("SELECT count(*) FROM task") == 10
