"""The roles of docs/roles.sql can do what they are for, and nothing else: tried by logging in as them."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from db import engine
from db.migrate import migrate
from jobs.catalog import jobs
from jobs.life import Life
from tests import people
from tests.contract.cli import as_role, lowtide
from tests.ledger import run
from worker.embedded import Postgres, Valkey

ROLES = (Path(__file__).parents[2] / "docs" / "roles.sql").read_text()


@pytest_asyncio.fixture
async def roles(sql: asyncpg.Connection) -> AsyncIterator[None]:
    """All of them, and a login for each. Roles belong to the server: they go with the test."""
    await sql.execute(ROLES)
    await sql.execute(ROLES)  # again, as after a later migration
    await sql.execute("CREATE ROLE service LOGIN PASSWORD 'secret' IN ROLE lowtide_enqueuer")
    await sql.execute("CREATE ROLE night LOGIN PASSWORD 'secret' IN ROLE lowtide_worker")
    await sql.execute("CREATE ROLE keeper LOGIN PASSWORD 'secret' IN ROLE lowtide_operator")
    yield
    for role in ("service", "night", "keeper", "lowtide_enqueuer", "lowtide_worker", "lowtide_operator"):
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_enqueuer_enqueues_and_can_do_nothing_else(
    roles: None, database_url: str, sql: asyncpg.Connection
) -> None:
    service = await asyncpg.connect(as_role(database_url, "service"))
    try:
        await service.execute("SELECT lowtide.enqueue('mark-completed', '{\"task_ids\": [1]}', 'order-77')")
        for forbidden in (
            "SELECT * FROM lowtide.run",
            "UPDATE lowtide.run SET state = 'paused'",
            "DELETE FROM lowtide.run",
            "INSERT INTO lowtide.run (id, job, requested_by) VALUES ('x', 'y', 'z')",
            "SELECT lowtide.accept('mark-completed', '{}', 'x', now(), true, 'actor:1')",
            "SELECT lowtide.batch('x', 1, '(0,1)', 'DELETE FROM public.task', '{}', '{}', '{}', '1 s')",
            "SELECT * FROM public.task",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute(forbidden)
    finally:
        await service.close()
    assert await sql.fetchval("SELECT requested_by FROM lowtide.run") == "role:service"


async def test_the_worker_does_all_four_jobs_and_owns_nothing(
    roles: None, database_url: str, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 1000, deleted_every=2)
    database = engine.connect(as_role(database_url, "night"))
    life = Life(database, jobs(), worker="test", lease=timedelta(seconds=2))
    try:
        created = await run(
            life, "create-batch", "create", project_id=1, created_by_id=2, tasks=[{"title": "one"}, {"title": "two"}]
        )
        assert created.state == "succeeded", created.error
        first = (created.result or {})["ids"][0][0]
        payloads: dict[str, dict[str, object]] = {
            "mark-completed": {"task_ids": [first], "requested_by": 1},
            "archive-project": {"project_id": 1, "requested_by": 1},
            "purge-old-deleted": {},
        }
        for job, payload in payloads.items():
            ended = await run(life, job, job, **payload)
            assert ended.state == "succeeded", ended.error
            assert "unknown" not in (ended.result or {})
        async with database.autocommit() as connection:
            for forbidden in ("DROP TABLE task", "DELETE FROM worker", "TRUNCATE task", "CREATE TABLE lowtide.mine ()"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(forbidden)
    finally:
        await database.close()


async def test_the_worker_reads_holds_and_the_audit_and_changes_neither(
    roles: None, database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "INSERT INTO lowtide.hold (relation, table_name, column_name, value, reason, placed_by) "
        "VALUES ('task', 'public.task', 'id', '1', 'why', 'me')"
    )
    night = await asyncpg.connect(as_role(database_url, "night"))
    try:
        assert await night.fetchval("SELECT count(*) FROM lowtide.hold") == 1
        await night.execute(
            "SELECT lowtide.under_holds(ARRAY['task'::regclass::oid], ARRAY['task'::regclass::oid || '.id'])"
        )
        for forbidden in (
            "INSERT INTO lowtide.audit (event) VALUES ('note')",
            "UPDATE lowtide.audit SET role = 'x'",
            "DELETE FROM lowtide.audit",
            "TRUNCATE lowtide.audit",
            "INSERT INTO lowtide.hold (relation, table_name, column_name, value, reason, placed_by) "
            "VALUES ('task', 'public.task', 'id', '1', 'why', 'me')",
            "UPDATE lowtide.hold SET released_at = now(), released_by = 'me', release_reason = 'why'",
            "DELETE FROM lowtide.hold",
            "TRUNCATE lowtide.hold",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await night.execute(forbidden)
    finally:
        await night.close()


async def test_the_operator_places_and_releases_holds_and_steers_runs_and_deletes_nothing(
    roles: None, database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("SELECT lowtide.enqueue('purge-old-deleted', '{}', 'night')")
    url = as_role(database_url, "keeper")
    added = await lowtide(
        *("hold", "add", "--table", "public.task", "--where-column", "project_id", "--value", "7", "--reason", "why"),
        database_url=url,
    )
    released = await lowtide("hold", "release", "1", "--reason", "done", "--yes", database_url=url)
    cancelled = await lowtide("cancel", "night", database_url=url)
    assert (added.code, released.code, cancelled.code) == (0, 0, 0), added.err + released.err + cancelled.err
    assert "it is over 0 rows of public.task now" in added.err

    keeper = await asyncpg.connect(url)
    try:
        await keeper.execute("INSERT INTO lowtide.audit (event, role) VALUES ('note', 'somebody else')")
        assert await keeper.fetchval("SELECT role FROM lowtide.audit WHERE event = 'note'") == "keeper"
        for forbidden in (
            "DELETE FROM task",
            "DELETE FROM lowtide.hold",
            "UPDATE lowtide.hold SET value = '8'",
            "UPDATE lowtide.audit SET run = 'x'",
            # Control: this one was on record then, and the run's own begin and end were not.
            "INSERT INTO lowtide.audit (event, run, policy) VALUES ('begin', 'night', 'harmless')",
            "INSERT INTO lowtide.audit (event, run, policy) VALUES ('end', 'night', 'harmless')",
            "SELECT lowtide.audit_begin('night', 0, 'harmless', 't', '', now(), '{}')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await keeper.execute(forbidden)
    finally:
        await keeper.close()


async def test_what_the_operator_may_not_do_disables_no_policy_at_the_terminal(
    roles: None, database_url: str, sql: asyncpg.Connection, valkey: Valkey, tmp_path: Path
) -> None:
    """What counts is the worker's role: no GRANT is proposed to a person."""
    await sql.execute("CREATE SCHEMA app; CREATE TABLE app.secret (at date); CREATE TABLE log (at date, kind text)")
    await sql.execute("CREATE TABLE line (at date); ALTER TABLE line ENABLE ROW LEVEL SECURITY")
    block = '[[policy]]\nname = "{}"\ntable = "{}"\ncolumn = "{}"\nkeep = "90 days"\n'
    file = tmp_path / "lowtide.toml"
    file.write_text(
        block.format("tasks", "task", "deleted_at")
        + block.format("secret", "app.secret", "at")
        + block.format("line", "line", "at")
        + block.format("log", "log", "at")
        + "where = \"kind = 'x'\"\n"
    )
    settings = {"database_url": as_role(database_url, "keeper"), "redis_url": valkey.url, "policies": str(file)}
    checked = await lowtide("check", "--json", **settings)
    assert checked.code == 0, checked.out
    assert "GRANT" not in checked.out
    (note,) = [each for each in checked.json if each["about"] == "policy tasks" and each["word"] != "ok"]
    assert (note["word"], note["told"], note["advice"]) == (
        "note",
        'rights: role "keeper" lacks UPDATE, DELETE on public.task. '
        "That is no fault of an operator's role: what counts is the worker's",
        None,
    )
    listed = await lowtide("policies", "--json", **settings)
    assert listed.code == 0, listed.out
    found = {each["name"]: each for each in listed.json}
    assert [each["disabled"] for each in listed.json] == [None] * 4
    assert (found["tasks"]["eligible"], found["tasks"]["advice"]) == (0, [])
    assert found["secret"]["eligible"] is None
    assert "permission denied" in found["secret"]["advice"][0]


async def test_without_task_tables_the_roles_are_made_all_the_same(empty_url: str) -> None:
    sql = await asyncpg.connect(empty_url)
    database = engine.connect(empty_url)
    try:
        await migrate(database.engine, with_tasks=False)
        await sql.execute(ROLES)
        assert await sql.fetchval("SELECT has_table_privilege('lowtide_operator', 'lowtide.run', 'UPDATE')")

        await migrate(database.engine, with_tasks=True)
        await sql.execute(ROLES)
        assert await sql.fetchval("SELECT has_table_privilege('lowtide_worker', 'public.task', 'DELETE')")
        assert await sql.fetchval("SELECT has_table_privilege('lowtide_operator', 'public.task', 'SELECT')")
        assert await sql.fetchval("SELECT has_sequence_privilege('lowtide_worker', 'public.task_id_seq', 'USAGE')")
    finally:
        await database.close()
        for role in ("lowtide_enqueuer", "lowtide_worker", "lowtide_operator"):
            if await sql.fetchval("SELECT to_regrole($1) IS NOT NULL", role):
                await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await sql.close()


async def test_default_privileges_of_an_earlier_version_give_nothing_on_new_tables(
    empty_url: str, postgres: Postgres
) -> None:
    """roles.sql has run on a ledger that had no holds yet, and lets the worker delete from whatever comes."""
    sql = await asyncpg.connect(empty_url)
    database = engine.connect(empty_url)
    try:
        await sql.execute("CREATE SCHEMA lowtide; CREATE ROLE early")
        await sql.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA lowtide GRANT ALL ON TABLES TO early")
        await migrate(database.engine, with_tasks=False)
        rights = await sql.fetch(
            "SELECT table_name, string_agg(privilege_type, ' ' ORDER BY privilege_type) FROM "
            "information_schema.role_table_grants WHERE grantee = 'early' AND table_name IN ('hold', 'audit') "
            "GROUP BY table_name ORDER BY table_name"
        )
        assert [tuple(row) for row in rights] == [("audit", "INSERT SELECT"), ("hold", "SELECT")]
    finally:
        await database.close()
        await sql.execute("DROP OWNED BY early; DROP ROLE early")
        await sql.close()
