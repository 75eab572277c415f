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
