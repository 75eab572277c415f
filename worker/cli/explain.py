"""`lowtide explain`: how PostgreSQL would execute what a job says, and whether that will do."""

import asyncio
from typing import Annotated, Any

import asyncpg
import typer

from jobs import explain as explaining
from jobs.catalog import PAYLOADS
from jobs.explain import Explained
from jobs.failures import NotFound, TasksMissing, missing_tables
from jobs.fields import Payload
from jobs.policies import Policies
from jobs.purge_payload import PurgeOldDeleted, policy_for
from worker.cli import output, payloads, session
from worker.process import NotMigrated

MOST_SHOWN = 400


def explain(
    job: Annotated[str, typer.Argument(help=f"One of {payloads.JOBS}.")],
    payload: Annotated[str | None, typer.Option(help="The payload, a JSON object.")] = None,
    payload_file: Annotated[str | None, typer.Option(help="A file with the payload; - is standard input.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Show the query plans of a job's statements, with a verdict. Changes nothing."""
    payloads.require_job(job)
    checked = PAYLOADS[job].model_validate_json(payloads.checked(job, payloads.text(payload, payload_file)))

    settings = session.load()
    policies = session.policies(settings)

    async def explained() -> tuple[list[Explained], str | None]:
        async with session.database(settings) as database, database.autocommit() as connection:
            return await explaining.explain(connection, checked, policies=policies.every)

    try:
        _require_policy(checked, policies)
        statements, refusal = asyncio.run(explained())
    except NotFound as exc:
        raise typer.BadParameter(str(exc), param_hint="--payload") from exc
    except asyncpg.UndefinedTableError as exc:
        if (missing := missing_tables(exc)) is None:
            raise
        raise NotMigrated(str(TasksMissing(missing))) from exc
    if as_json:
        output.print_json([_as_json(each) for each in statements])
    else:
        for each in statements:
            _print(each)
        if job == "create-batch":
            output.print_lines("COPY: one stream of all tasks; COPY has no query plan")
    if refusal is not None:
        output.say(f"lowtide: the run would be refused: {refusal}")
    if refusal is not None or any(each.verdict.word == "bad" for each in statements):
        raise typer.Exit(1)


def _require_policy(payload: Payload, policies: Policies) -> None:
    """Raises NotFound, and PolicyBroken for one that the file has wrong."""
    if isinstance(payload, PurgeOldDeleted):
        policy_for(payload, policies.every, policies.disabled())


def _as_json(each: Explained) -> dict[str, Any]:
    return {
        "statement": each.statement.name,
        "sql": _sql(each),
        "plan": each.plan["Plan"],
        "run": None if each.ran is None else each.ran["Plan"],
        "verdict": each.verdict.word,
        "reasons": each.verdict.reasons,
    }


def _print(each: Explained) -> None:
    reasons = f" ({'; '.join(each.verdict.reasons)})" if each.verdict.reasons else ""
    sql = _sql(each)
    shown = sql if len(sql) <= MOST_SHOWN else f"{sql[:MOST_SHOWN]}…"
    lines = [f"{each.statement.name}: {each.verdict.word}{reasons}", f"  {shown}"]
    lines += _tree(each.plan["Plan"], 2)
    if each.ran is not None and each.statement.writes:
        lines += ["  the same rows, read:", *_tree(each.ran["Plan"], 4)]
    output.print_lines(*lines, "")


def _sql(each: Explained) -> str:
    return " ".join(each.statement.sql.split())


def _tree(node: dict[str, Any], indent: int) -> list[str]:
    name = " ".join(filter(None, (node.get("Operation"), node["Node Type"])))
    where = next((f" on {node[key]}" for key in ("Relation Name", "Index Name") if key in node), "")
    index = f" by {node['Index Name']}" if "Index Name" in node and "Relation Name" in node else ""
    rows = f"about {node['Plan Rows']:,} rows"
    if "Actual Rows" in node:
        rows += f", {node['Actual Rows']:,.0f} came in {node['Actual Total Time']:.1f} ms"
    children = [line for child in node.get("Plans", []) for line in _tree(child, indent + 2)]
    return [f"{' ' * indent}{name}{where}{index}: {rows}", *children]
