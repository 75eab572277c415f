"""`lowtide audit`, from outside."""

import json

import asyncpg

from tests.contract.cli import lowtide


async def test_the_audit_tells_a_purge_and_can_be_narrowed(database_url: str, sql: asyncpg.Connection) -> None:
    for number in range(3):
        await sql.execute(
            "INSERT INTO lowtide.audit (event, run, policy, table_name, requested_by, policy_sha256, cutoff, detail) "
            "VALUES ('end', $1, $2, 'public.task', 'queue', repeat('ab', 32), '2026-01-01Z', $3)",
            f"run-{number}",
            f"policy-{number % 2}",
            json.dumps({"state": "succeeded", "purged": 12345}),
        )

    everything = await lowtide("audit", "--json", database_url=database_url)
    assert [entry["run"] for entry in everything.json] == ["run-2", "run-1", "run-0"]
    assert everything.json[0]["cutoff"] == "2026-01-01T00:00:00Z"
    for arguments, runs in (
        (["--limit", "1"], ["run-2"]),
        (["--policy", "policy-0"], ["run-2", "run-0"]),
        (["--run", "run-1"], ["run-1"]),
        (["--table", "public.other"], []),
        (["--since", "2999-01-01T00:00:00Z"], []),
        (["--since", "2020-01-01T00:00:00Z", "--policy", "policy-1"], ["run-1"]),
    ):
        found = await lowtide("audit", *arguments, "--json", database_url=database_url)
        assert [entry["run"] for entry in found.json] == runs
    shown = await lowtide("audit", database_url=database_url)
    assert "succeeded, 12,345 rows" in shown.out
    assert "abababababab " in shown.out
    assert (await lowtide("audit", "--since", "2026-01-01", database_url=database_url)).code == 2


async def test_names_that_nobody_knows_are_told_and_a_table_without_a_schema_is_of_public(
    database_url: str, sql: asyncpg.Connection
) -> None:
    """A slip of the pen must not look like a purge that never was."""
    await sql.execute(
        "INSERT INTO lowtide.audit (event, policy, table_name, detail) VALUES "
        "('end', 'gone', 'public.events', '{\"state\": \"succeeded\", \"purged\": 1}')"
    )
    for arguments in (["--table", "events"], ["--table", "public.events"], ["--policy", "gone"]):
        found = await lowtide("audit", *arguments, database_url=database_url)
        assert ("succeeded, 1 row\n" in found.out, found.err) == (True, "")
    for arguments, told in (
        (["--policy", "nope"], "there is no policy 'nope'; known: gone, lowtide-"),
        (["--table", "nope"], "there is no policy for table 'public.nope'; known tables: lowtide."),
        (["--table", "task"], ""),
        (["--policy", "gone", "--since", "2999-01-01T00:00:00Z"], ""),
    ):
        done = await lowtide("audit", *arguments, database_url=database_url)
        assert (done.code, done.out, done.err.startswith(told)) == (0, "", True), done.err
        assert done.err.endswith("nothing is on record\n")
        assert len(done.err.splitlines()) == (2 if told else 1)
        assert (await lowtide("audit", *arguments, "--json", database_url=database_url)).json == []


async def test_what_went_along_and_what_was_approved_is_told_in_words(
    database_url: str, sql: asyncpg.Connection
) -> None:
    for event, detail in (
        ("end", {"state": "succeeded", "purged": 1980, "children": {"app.comment": 10_000, "app.tag": 40}}),
        ("end", {"state": "failed", "purged": 7, "counters": {"locked": 3, "child app.comment": 5}}),
        ("approve", {"plan": "p-1", "run": "r-1", "going": 12_000, "approval_until": "2026-01-01T01:00:00Z"}),
    ):
        await sql.execute("INSERT INTO lowtide.audit (event, detail) VALUES ($1, $2)", event, json.dumps(detail))
    shown = await lowtide("audit", database_url=database_url)
    assert "succeeded, 1,980 rows, and 10,040 along\n" in shown.out
    assert "failed, 7 rows, and 5 along\n" in shown.out
    assert "plan p-1 may go: 12,000 rows at most, begun before 2026-01-01T01:00:00Z\n" in shown.out
    assert shown.out.startswith("AT (UTC) ")
