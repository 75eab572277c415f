"""`lowtide hold` and `lowtide audit`, from outside."""

import asyncio
import os
import sys
from pathlib import Path

import asyncpg
import pytest

from tests import people
from tests.contract.cli import Done, as_role, environment, lowtide
from worker.embedded.server import free_port

ROLES = (Path(__file__).parents[2] / "docs" / "roles.sql").read_text()
CASE = ("--table", "public.task", "--where-column", "project_id", "--value", "1", "--reason", "a case")


async def _add(url: str, *more: str) -> Done:
    return await lowtide("hold", "add", *CASE, *more, database_url=url)


async def test_a_hold_is_placed_listed_released_and_on_record(database_url: str, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 10)

    added = await _add(database_url, "--until", "2999-12-31T00:00:00+02:00")
    assert (added.code, added.out) == (0, "1\n")
    assert added.err == "hold 1 is in force; it is over 10 rows of public.task now\n"

    listed = await lowtide("hold", "list", "--json", database_url=database_url)
    (hold,) = listed.json
    assert (hold["id"], hold["table_name"], hold["column_name"], hold["value"]) == (1, "public.task", "project_id", "1")
    assert (hold["state"], hold["until"], hold["reason"]) == ("active", "2999-12-30T22:00:00Z", "a case")
    assert hold["placed_by"].startswith("operator:")

    released = await lowtide("hold", "release", "1", "--reason", "closed", "--yes", database_url=database_url)
    assert (released.code, released.out, released.err) == (0, "", "hold 1 is released\n")
    assert (await lowtide("hold", "list", "--json", database_url=database_url)).json == []
    (hold,) = (await lowtide("hold", "list", "--all", "--json", database_url=database_url)).json
    assert (hold["state"], hold["release_reason"]) == ("released", "closed")
    assert "released" in (await lowtide("hold", "list", "--all", database_url=database_url)).out

    recorded = await lowtide("audit", "--table", "public.task", "--json", database_url=database_url)
    assert [entry["event"] for entry in recorded.json] == ["release", "hold"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--until", "2030-12-31"], 2, "'2030-12-31' has no zone; write 2030-12-31T00:00:00Z for UTC"),
        (["--until", "tomorrow"], 2, "'tomorrow' is not an ISO 8601 time"),
        (["--until", "9999-12-31T23:59:59-12:00"], 2, "lies outside of the years 1 to 9999 in UTC"),
        (["--until", "2020-01-01T00:00:00Z"], 2, "until is a time with a zone, in the future"),
        (["--value", "seven"], 2, "'seven' is no value of column \"project_id\" of public.task"),
        (["--where-column", "nope"], 2, "public.task has no column 'nope'; it has "),
        (["--reason", " "], 2, "a hold has a reason"),
        (["--table", "lowtide.run", "--where-column", "id"], 2, "lowtide.run is one of lowtide's own tables"),
        (
            ["--table", "pg_class", "--where-column", "relname"],
            2,
            "pg_catalog.pg_class is one of PostgreSQL's own tables",
        ),
        (["--table", "public.nope"], 2, "there is no table 'public.nope'"),
        (["--table", "'; DROP TABLE task; --"], 2, "there is no table"),
    ],
)
async def test_what_can_not_be_held_is_told(database_url: str, arguments: list[str], code: int, told: str) -> None:
    done = await _add(database_url, *arguments)
    assert (done.code, done.out) == (code, "")
    assert told in done.err
    assert "Traceback" not in done.err


async def test_a_release_without_a_terminal_needs_yes(database_url: str) -> None:
    await _add(database_url)
    done = await lowtide("hold", "release", "1", "--reason", "closed", database_url=database_url)
    told = "lowtide: rows of hold 1 may be purged after this, and there is no terminal to ask at: add --yes"
    assert (done.code, done.err.startswith(told)) == (2, True)
    assert len((await lowtide("hold", "list", "--json", database_url=database_url)).json) == 1


async def test_a_release_that_is_answered_with_no_changes_nothing_and_says_so(database_url: str) -> None:
    await _add(database_url)
    ours, theirs = os.openpty()
    asking = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "hold", "release", "1", "--reason", "closed"),
        stdin=theirs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(database_url=database_url),
    )
    os.write(ours, b"n\n")
    out, err = await asking.communicate()
    os.close(ours)
    os.close(theirs)
    assert (asking.returncode, out, err.decode().endswith("nothing was changed\n")) == (1, b"", True), err
    assert len((await lowtide("hold", "list", "--json", database_url=database_url)).json) == 1


async def test_what_is_unknown_or_released_is_not_released(database_url: str) -> None:
    await _add(database_url)
    done = await lowtide("hold", "release", "7", "--reason", "closed", "--yes", database_url=database_url)
    assert (done.code, done.err) == (1, "lowtide: there is no hold 7; see `lowtide hold list`\n")
    for code in (0, 1):
        done = await lowtide("hold", "release", "1", "--reason", "closed", "--yes", database_url=database_url)
        assert done.code == code
    assert "hold 1 was released already, by operator:" in done.err


async def test_adding_and_releasing_print_the_hold_as_json(database_url: str, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await people.many(sql, 1)
    added = await _add(database_url, "--json")
    assert added.err == ""
    (listed,) = (await lowtide("hold", "list", "--json", database_url=database_url)).json
    assert added.json == listed | {"rows": 1, "rows_or_more": False, "rows_unknown": None}
    released = await lowtide("hold", "release", "1", "--reason", "over", "--yes", "--json", database_url=database_url)
    assert (released.json["state"], released.json["release_reason"], released.err) == ("released", "over", "")
    again = await lowtide("hold", "release", "1", "--reason", "over", "--yes", "--json", database_url=database_url)
    assert (again.code, again.json["error"]["type"]) == (1, "HoldRefused")


async def test_a_name_with_dots_is_taken_to_the_letter_and_as_policies_quote_it(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute('CREATE SCHEMA "Weird"; CREATE TABLE "Weird"."My.Table" (project_id int)')
    for name in ("Weird.My.Table", '"Weird"."My.Table"'):
        done = await _add(database_url, "--table", name)
        assert (done.code, done.err.endswith("is over 0 rows of Weird.My.Table now\n")) == (0, True), done.err
        recorded = await lowtide("audit", "--table", name, "--json", database_url=database_url)
        assert {entry["table_name"] for entry in recorded.json} == {"Weird.My.Table"}


async def test_a_role_that_may_not_read_the_table_is_told_that(database_url: str, sql: asyncpg.Connection) -> None:
    """The hold stands all the same."""
    await sql.execute(ROLES)
    await sql.execute("CREATE ROLE keeper LOGIN PASSWORD 'secret' IN ROLE lowtide_operator")
    await sql.execute("REVOKE SELECT ON public.task FROM lowtide_operator")
    try:
        done = await _add(as_role(database_url, "keeper"))
        assert (done.code, done.out) == (0, "1\n")
        assert done.err == (
            "hold 1 is in force; how many rows of public.task it is over can't be counted: permission denied for table "
            "task\n"
        )
    finally:
        for role in ("keeper", "lowtide_enqueuer", "lowtide_worker", "lowtide_operator"):
            await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["hold", "release", "9" * 20, "--reason", "why", "--yes"],
            "it must be less than or equal to 9223372036854775807",
        ),
        (["pace", "night", "--max-rows", "9" * 20], "it must be less than or equal to 9223372036854775807"),
        (["hold", "release", "1", "--reason", "", "--yes"], "a release has a reason"),
        (["audit", "--since", "9999-12-31T23:59:59-12:00"], "lies outside of the years 1 to 9999 in UTC"),
        (["show", "night\udcff"], "b'night\\xff' is not UTF-8"),
        (["pause", "night\udcff", "--json"], "is not UTF-8"),
        (["enqueue", "purge-old-deleted", "--not-before", "9999-06-01T00:00:00Z"], "the years 1970 and 9999"),
        (["plan", ""], "there is no policy ''; known: old-deleted-tasks (public.task)"),
        (["plan", "nope"], "there is no policy 'nope'; known: old-deleted-tasks (public.task)"),
    ],
)
async def test_what_the_database_can_not_take_is_wrong_usage(
    database_url: str, arguments: list[str], told: str
) -> None:
    done = await lowtide(*arguments, database_url=database_url)
    said = done.json["error"]["message"] if "--json" in arguments else done.err
    assert (done.code, told in said) == (2, True), said
    for jargon in ("Traceback", "int64", "codec", "validation error", "$3"):
        assert jargon not in said


async def test_nothing_to_list_is_said_and_is_an_empty_list(database_url: str) -> None:
    for command, told in ((["hold", "list"], "no holds\n"), (["audit"], "nothing is on record\n")):
        done = await lowtide(*command, database_url=database_url)
        assert (done.code, done.out, done.err) == (0, "", told)
        assert (await lowtide(*command, "--json", database_url=database_url)).json == []


async def test_errors_are_json_where_asked_for_and_no_server_is_code_3(empty_url: str) -> None:
    away = f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d"
    for command in (["hold", "list", "--json"], ["audit", "--json"]):
        done = await lowtide(*command, database_url=away)
        assert (done.code, done.json["error"]["type"]) == (3, "Unreachable")
        assert "hunter2" not in done.out + done.err
        done = await lowtide(*command, database_url=empty_url)
        assert (done.code, done.json["error"]["type"]) == (1, "NotMigrated")
