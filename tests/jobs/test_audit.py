"""The audit of purges: written before the first delete, ended with the run, whatever ends it."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import time, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from db import audit, engine, leases, steering
from db.audit import Entry
from db.engine import Database
from jobs.catalog import jobs
from jobs.endings import Again
from jobs.life import Life
from jobs.pace import FULL
from jobs.policies import OLD_DELETED_TASKS, Hours, Policy
from tests import people
from tests.ledger import accept, row, run, serve_to_the_end

BEGIN = "FUNCTION lowtide.audit_begin(text, bigint, text, text, text, timestamptz, jsonb)"


async def _audit(database: Database) -> Sequence[Entry]:
    """The oldest first."""
    async with database.sessions.begin() as session:
        return list(reversed(await audit.newest(session, most=100)))


async def _events(database: Database) -> list[tuple[str, Any]]:
    return [(entry.event, entry.detail.get("state")) for entry in await _audit(database)]


async def test_a_purge_has_a_begin_and_an_end(life: Life, database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    await sql.execute("UPDATE task SET deleted_at = '2020-02-03 04:05:06.7Z' WHERE id = 500")

    ended = await run(life, "purge-old-deleted", run_id="night")

    begin, end = await _audit(database)
    assert ended.result is not None
    for entry in (begin, end):
        assert (entry.run, entry.policy, entry.table_name) == ("night", "old-deleted-tasks", "public.task")
        assert (entry.requested_by, entry.role) == ("test", "postgres")
        assert entry.policy_sha256 == OLD_DELETED_TASKS.digest
        assert entry.cutoff == await sql.fetchval("SELECT cutoff FROM lowtide.run")
        assert entry.detail["range"] == {
            "column": "deleted_at",
            "from": "2020-02-03T04:05:06.7+00:00",
            "before": ended.result["cutoff"],
        }
    assert begin.detail["pace"] == "gentle"
    assert (end.detail["state"], end.detail["purged"], end.detail["batches"]) == ("succeeded", 500, ended.batches)
    assert end.detail["skipped"] == {"held": 0, "locked": 0, "slow": 0, "blocked": 0}
    assert end.detail["remaining"] is False


async def test_the_begin_is_committed_before_the_first_delete(life: Life, sql: asyncpg.Connection) -> None:
    """Seen from the table: in a transaction of an earlier id, which has ended."""
    await people.people(sql)
    await people.many(sql, 100, deleted_every=2)
    await sql.execute(
        "CREATE TABLE seen (event text, earlier boolean); "
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO seen "
        "SELECT event, pg_xact_status(xmin::text::xid8) = ''committed'' FROM lowtide.audit; RETURN OLD; END'; "
        "CREATE TRIGGER look BEFORE DELETE ON task FOR EACH ROW EXECUTE FUNCTION look()"
    )
    await run(life, "purge-old-deleted")
    assert [tuple(row) for row in await sql.fetch("SELECT DISTINCT * FROM seen")] == [("begin", True)]


async def test_a_run_of_many_slices_begins_once(life: Life, database: Database, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)
    await accept(life, "purge-old-deleted", "slices")
    life.stopping.set()  # each slice is one batch
    for _ in range(3):
        assert isinstance(await life.serve("slices"), Again)
    assert await _events(database) == [("begin", None)]
    life.stopping.clear()
    await serve_to_the_end(life, "slices")
    assert await _events(database) == [("begin", None), ("end", "succeeded")]


async def test_a_run_whose_worker_died_ends_once(life: Life, database: Database, sql: asyncpg.Connection) -> None:
    """Between begin and end: its lease ends, and the next worker goes on."""
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)
    await accept(life, "purge-old-deleted", "died")
    life.stopping.set()
    await life.serve("died")
    life.stopping.clear()
    async with database.sessions.begin() as session:
        assert await leases.claim(session, "died", jobs=list(life.jobs), lease=timedelta(0), worker="dies") is not None
    await serve_to_the_end(life, "died")
    assert await _events(database) == [("begin", None), ("end", "succeeded")]


async def test_a_failed_run_ends_with_its_error_and_begins_anew_when_it_is_tried_again(
    life: Life, database: Database, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 100, deleted_every=2)
    await sql.execute("ALTER TABLE task ADD CHECK (true)")
    await sql.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not this one''; END'; "
        "CREATE TRIGGER no BEFORE DELETE ON task FOR EACH ROW EXECUTE FUNCTION no()"
    )
    assert (await run(life, "purge-old-deleted", run_id="again")).state == "failed"
    failed = (await _audit(database))[-1]
    assert failed.detail["error"] == {"type": "RaiseError", "message": "not this one"}
    assert failed.detail["purged"] == 0

    await sql.execute("DROP TRIGGER no ON task")
    async with database.sessions.begin() as session:
        await steering.retry(session, "again", from_start=False)
    await serve_to_the_end(life, "again")

    assert await _events(database) == [("begin", None), ("end", "failed"), ("begin", None), ("end", "succeeded")]


@pytest.mark.parametrize("waiting", [True, False])
async def test_a_cancelled_run_ends_too(life: Life, database: Database, sql: asyncpg.Connection, waiting: bool) -> None:
    """Whether it waits in the queue or a worker has it, who hears it with the next claim."""
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)
    await accept(life, "purge-old-deleted", "unwanted")
    life.stopping.set()
    await life.serve("unwanted")
    if not waiting:
        await sql.execute("UPDATE lowtide.run SET requested_action = 'cancel'")
        await life.serve("unwanted")
    else:
        async with database.sessions.begin() as session:
            await steering.cancel(session, "unwanted")

    assert (await row(life, "unwanted")).state == "cancelled"
    assert await _events(database) == [("begin", None), ("end", "cancelled")]
    assert (await _audit(database))[-1].detail["purged"] == 20_000 - await sql.fetchval("SELECT count(*) FROM task")


async def test_a_run_that_is_tried_again_and_ends_before_it_begins_has_no_second_end(
    life: Life, database: Database, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 20_000, deleted_every=2)
    await accept(life, "purge-old-deleted", "twice")
    life.stopping.set()
    await life.serve("twice")
    for steer in (steering.cancel, partial(steering.retry, from_start=False), steering.cancel):
        async with database.sessions.begin() as session:
            assert await steer(session, "twice")
    assert await _events(database) == [("begin", None), ("end", "cancelled")]


async def test_what_deletes_nothing_is_not_on_record(life: Life, database: Database, sql: asyncpg.Connection) -> None:
    """A dry run, another job, a purge that is refused at the door."""
    await people.people(sql)
    await people.many(sql, 10, deleted_every=2)
    await run(life, "purge-old-deleted", run_id="dry", dry_run=True)
    await run(life, "archive-project", run_id="archive", project_id=1, requested_by=1)
    await run(life, "purge-old-deleted", run_id="refused", days=5)
    assert await _audit(database) == []


async def test_without_the_right_to_write_it_down_nothing_is_deleted(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 100, deleted_every=2)
    await sql.execute("CREATE ROLE mute LOGIN; GRANT USAGE ON SCHEMA lowtide TO mute")
    await sql.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lowtide, public TO mute")
    await sql.execute(f"GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO mute; REVOKE EXECUTE ON {BEGIN} FROM mute")
    database = engine.connect(database_url.replace("postgres@", "mute@"))
    try:
        life = Life(database, jobs(), worker="test", lease=timedelta(seconds=2))
        ended = await run(life, "purge-old-deleted")
        assert ended.error is not None
        assert (ended.state, ended.error["type"]) == ("failed", "AuditRefused")
        assert "permission denied for function audit_begin. Nothing was deleted. " in ended.error["message"]
        assert 'GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO "mute";' in ended.error["message"]
        assert await sql.fetchval("SELECT count(*) FROM task") == 100

        await sql.execute(f"GRANT EXECUTE ON {BEGIN} TO mute")
        assert (await run(life, "purge-old-deleted", run_id="now")).state == "succeeded"
        assert await sql.fetchval("SELECT count(*) FROM task") == 50
    finally:
        await database.close()
        await sql.execute("DROP OWNED BY mute; DROP ROLE mute")


@pytest.mark.parametrize(
    "change", ["UPDATE lowtide.audit SET run = 'x'", "DELETE FROM lowtide.audit", "TRUNCATE lowtide.audit"]
)
async def test_what_is_on_record_stands_for_its_owner_too(sql: asyncpg.Connection, change: str) -> None:
    await sql.execute("INSERT INTO lowtide.audit (event) VALUES ('note')")
    for role in ("origin", "replica"):
        await sql.execute(f"SET session_replication_role = '{role}'")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="the audit is append-only"):
            await sql.execute(change)


async def test_who_wrote_a_row_and_when_is_not_the_writers_to_say(sql: asyncpg.Connection) -> None:
    await sql.execute("INSERT INTO lowtide.audit (event, role, at) VALUES ('note', 'somebody', '2020-01-01')")
    assert tuple(await sql.fetchrow("SELECT role, at > now() - interval '1 h' FROM lowtide.audit")) == (
        "postgres",
        True,
    )


async def test_where_no_index_tells_the_oldest_row_it_is_unknown_and_the_purge_goes_on(
    life: Life, database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.audit.LONGEST_LOOK", "1ms")
    await people.people(sql)
    await sql.execute("DROP INDEX task_deleted_at")
    await people.many(sql, 50_000, deleted_every=50)
    assert (await run(life, "purge-old-deleted")).state == "succeeded"
    begin = (await _audit(database))[0]
    assert begin.detail["range"]["from"] is None
    assert "statement timeout" in begin.detail["range"]["from_unknown"]


OTHERWISE: dict[str, Any] = {
    "name": "other",
    "target": replace(OLD_DELETED_TASKS.target, where="status = 'deleted'"),
    "keep": timedelta(days=91),
    "schedule": None,
    "timezone": "Europe/Rome",
    "pace": FULL,
    "children": {"comment": "delete"},
    "max_share": 0.7,
    "hours": Hours(time(1), time(5)),
    "max_rows": 7,
    "max_seconds": 7,
    "partitions": "delete",
    "vacuum_share": None,
}


def test_another_rule_has_another_digest_whatever_differs() -> None:
    digests = {replace(OLD_DELETED_TASKS, **{field.name: OTHERWISE[field.name]}).digest for field in fields(Policy)}
    assert len(digests | {OLD_DELETED_TASKS.digest}) == len(fields(Policy)) + 1


def test_the_same_rule_has_the_same_digest_in_whatever_order_it_is_written() -> None:
    one = replace(OLD_DELETED_TASKS, children={"a": "delete", "b": "block"})
    two = replace(OLD_DELETED_TASKS, children=dict(reversed(json.loads('{"a": "delete", "b": "block"}').items())))
    assert one.digest == two.digest
