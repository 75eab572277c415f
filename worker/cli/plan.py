"""`lowtide plan` and `lowtide approve`: what a policy would delete now, and letting it go."""

import asyncio
import json
from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

import typer

from db import plans as stored
from db import runs
from db.engine import Database
from db.models import Run
from jobs import plans
from jobs.background import alongside
from jobs.catalog import jobs
from jobs.commands import lowtide
from jobs.endings import Again
from jobs.failures import Refused
from jobs.life import Life
from jobs.policies import Policies, Policy
from jobs.samples import sample
from worker import settings as environment
from worker import telemetry
from worker.cli import ask, output, reports, session
from worker.cli.follow import follow, read
from worker.cli.steer import PaceName
from worker.settings import Settings

# A worker that is there takes a run within milliseconds.
TAKEN_WITHIN_S = 2.0
RESTART = "restart the workers (or use theirs)"
# The terminal has found the policy in its own file, and nothing wrong with it there.
HINTS = {
    "NotFound": f"The worker that took it has another policy file than this terminal: {RESTART}",
    "PolicyBroken": f"Where this terminal's policy file has that mended, the worker still has another one: {RESTART}",
}
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NoSample = Annotated[bool, typer.Option("--no-sample", help="Show no rows: they may be private.")]


class OtherPolicies(Refused):
    """What was counted is not what the policy says here."""


def plan(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="The policy's name.")],
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="Instead of the policy's keep.")] = None,
    pace: Annotated[PaceName | None, typer.Option(help="Of the purge, if it is approved.")] = None,
    no_sample: NoSample = False,
    as_json: Json = False,
) -> None:
    """Count exactly what a policy would delete now, and keep that as a plan. Deletes nothing."""
    settings = session.load()
    policies = session.policies(settings)
    known = session.policy(policy, policies)
    wanted = {"policy": policy, "dry_run": True, "days": days, "pace": pace}
    asked = {name: value for name, value in wanted.items() if value is not None}

    async def planned() -> None:
        telemetry.quiet()
        async with session.database(settings) as database:
            run = await _dry_run(database, settings, policies, asked)
            if run.state != "succeeded" or run.result is None:
                if as_json:
                    output.print_json(reports.run_as_json(run))
                output.say(reports.outcome(run))
                if (hint := HINTS.get((run.error or {}).get("type", ""))) is not None:
                    output.say(hint)
                raise typer.Exit(1)
            await _require_same(database, run.id, known)
            cutoff = datetime.fromisoformat(run.result["cutoff"])
            rows = [] if no_sample else await sample(database, known, cutoff)
        if as_json:
            output.print_json(run.result | {"sample": rows})
            return
        output.print_facts(_facts(run.id, run.result))
        output.print_sample(rows)
        output.say(_next(run.id, run.result))

    asyncio.run(planned())


def approve(
    plan_id: Annotated[str, typer.Argument(metavar="PLAN", help="The id that `lowtide plan` has printed.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress; exit 0 when it succeeded, 1 if not.")] = False,
    no_sample: NoSample = False,
    as_json: Json = False,
) -> None:
    """Let a plan go: enqueue its purge, with its cutoff and at most its rows. Works once, for an hour."""
    ask.require_somebody(yes=yes, about="this lets rows be deleted for good")

    async def approved() -> None:
        settings = session.load()
        valid = session.policies(settings).every
        async with session.database(settings) as database:
            await _show(database, plan_id, valid, no_sample=no_sample)
            if not ask.is_agreed("Delete these rows for good?", yes=yes):
                output.say("nothing was approved")
                raise typer.Exit(1)
            by, run_id = session.operator(), str(uuid4())
            async with database.sessions.begin() as opened:
                told = await plans.approve(opened, plan_id, valid, by=by, run_id=run_id)
            if as_json:
                output.print_json(told)
            else:
                output.print_lines(run_id)
            if why := await session.ring(settings, run_id):
                output.say(f"warning: {why}. The run is in the ledger; a worker finds it at its next tick.")
            if wait:
                run = await follow(database, run_id, tells=True)
                output.say(reports.outcome(run))
                if run.state != "succeeded":
                    raise typer.Exit(1)

    asyncio.run(approved())


async def _dry_run(database: Database, settings: Settings, policies: Policies, payload: dict[str, Any]) -> Run:
    """A worker does it, whose rights are those that count; where none is there, this process."""
    run_id, by = str(uuid4()), session.operator()
    async with database.sessions.begin() as opened:
        await runs.accept(opened, job=plans.JOB, payload=json.dumps(payload), run_id=run_id, requested_by=by)
    deaf = await session.ring(settings, run_id) is not None
    life = Life(database, jobs(policies.every, disabled=policies.disabled()), worker=environment.process_name())
    async with alongside(_serve(life, run_id, after_s=0 if deaf else TAKEN_WITHIN_S)):
        return await follow(database, run_id)


async def _require_same(database: Database, plan_id: str, policy: Policy) -> None:
    """Raises OtherPolicies: nobody could approve the plan from here, and its count says nothing of this policy."""
    async with database.sessions.begin() as opened:
        made = await stored.get(opened, plan_id)
    if made is not None and made.policy_sha256 != policy.digest:
        raise OtherPolicies(
            f"the worker that counted has another policy file than this terminal: {RESTART}. Plan {plan_id} goes by "
            f"its rule for policy {policy.name}, which is not the one here"
        )


async def _serve(life: Life, run_id: str, *, after_s: float) -> None:
    await asyncio.sleep(after_s)
    while isinstance(ending := await life.serve(run_id), Again):  # noqa: ASYNC110 - the ending says how long
        await asyncio.sleep(ending.after.total_seconds())


async def _show(database: Database, plan_id: str, policies: tuple[Policy, ...], *, no_sample: bool) -> None:
    """On stderr: what would go. Raises what `plans.require_fresh` raises."""
    async with database.sessions.begin() as opened:
        made, policy, _ = await plans.require_fresh(opened, plan_id, policies)
    run = await read(database, plan_id)
    output.print_facts(_facts(plan_id, run.result or {}), notes=True)
    if not no_sample:
        output.print_sample(await sample(database, policy, made.cutoff), notes=True)


def _next(plan_id: str, result: dict[str, Any]) -> str:
    if result.get("refused"):
        return "As it is now, its purge is refused: nothing can be approved"
    if not result["going"]:
        return "No row would go: there is nothing to approve"
    return f"{lowtide('approve', plan_id)} lets it go, once; the plan holds for a day"


def _facts(plan_id: str, result: dict[str, Any]) -> dict[str, str]:
    going, rows = result["going"], result["rows"]
    share = f" ({going / rows:.1%})" if rows else ""
    facts = {
        "plan": plan_id,
        "policy": result["policy"],
        "table": result["table"],
        "cutoff": result["cutoff"],
        "would go": f"{going:,} of {output.rows(rows)}{share}",
    }
    if going != result["eligible"]:
        facts["left"] = f"{output.rows(result['eligible'] - going)}: a run has a limit (max_rows)"
    more = " or more: too many to be looked at one by one" if result.get("children_at_least") else ""
    facts |= {f"along, of {table}": f"{output.rows(along)}{more}" for table, along in result["children"].items()}
    facts |= {why: _stay(result[why]) for why in ("held", "blocked") if result[why]}
    facts |= {"oldest": result["oldest"] or "", "newest": result["newest"] or "", "way": result["way"] or ""}
    facts["takes about"] = f"{max(result['seconds'], 0.1):,} s ({result['pace']}, by {result['seconds_from']})"
    for name, why in (("refused", "refused"), ("needs approval", "needs_approval")):
        if result.get(why):
            facts[name] = result[why]
    return facts


def _stay(number: int) -> str:
    return f"{output.rows(number)} {'stays' if number == 1 else 'stay'}"
