"""`lowtide hold` and `lowtide audit`, from outside."""

import asyncpg
import pytest

from tests import people
from tests.contract.cli import Done, lowtide
from worker.embedded.server import free_port

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
        (["--until", "2020-01-01T00:00:00Z"], 1, "until is a time with a zone, in the future"),
        (["--value", "seven"], 1, "'seven' is no value of column \"project_id\" of public.task"),
        (["--where-column", "nope"], 1, "public.task has no column 'nope'; it has "),
        (["--table", "public.nope"], 1, "there is no table 'public.nope'"),
        (["--table", "'; DROP TABLE task; --"], 1, "there is no table"),
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
    assert (done.code, "add --yes" in done.err) == (2, True)
    assert len((await lowtide("hold", "list", "--json", database_url=database_url)).json) == 1


async def test_what_is_unknown_or_released_is_not_released(database_url: str) -> None:
    await _add(database_url)
    done = await lowtide("hold", "release", "7", "--reason", "closed", "--yes", database_url=database_url)
    assert (done.code, done.err) == (1, "lowtide: there is no hold 7; see `lowtide hold list`\n")
    for code in (0, 1):
        done = await lowtide("hold", "release", "1", "--reason", "closed", "--yes", database_url=database_url)
        assert done.code == code
    assert "hold 1 was released already, by operator:" in done.err


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
