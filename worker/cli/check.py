"""`lowtide check`: the doctor. Both servers, the ledger, rights, and each policy against the live catalog."""

import asyncio
from dataclasses import asdict, replace
from typing import Annotated

import typer
from redis.exceptions import RedisError

from db.engine import Database
from jobs import checkup
from jobs.facts import Fact
from jobs.inspection import inspect
from jobs.policies import Policies
from worker import process, queuecheck
from worker.cli import output, session
from worker.process import Unreachable
from worker.settings import Settings, WrongSettings

FAULTY, UNREACHABLE = 1, 3


def check(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False) -> None:
    """Look at servers, versions, rights, indexes, foreign keys and policies, and say what to do. Exit 1 for a fault."""
    settings = session.load()
    policies = session.policies(settings)

    async def looked() -> tuple[list[Fact], bool]:
        """The facts, and whether both servers were there. One that is away hides nothing of the other."""
        of_database, has_database = await _database(settings, policies)
        of_redis, has_redis = await _redis(settings)
        return of_database + of_redis, has_database and has_redis

    facts, has_both = asyncio.run(looked())
    if as_json:
        output.print_json([asdict(fact) for fact in facts])
    else:
        output.print_lines(*(line for fact in facts for line in _lines(fact)), *_summary(facts))
    if not has_both:
        raise typer.Exit(UNREACHABLE)
    if any(fact.word == "fault" for fact in facts):
        raise typer.Exit(FAULTY)


async def _database(settings: Settings, policies: Policies) -> tuple[list[Fact], bool]:
    broken = [Fact(f"policy {each.name}", "fault", each.reason, "Mend the policy file") for each in policies.broken]
    database = process.open_database(settings)
    facts: list[Fact] = []

    async def look_between() -> None:
        facts.append(await checkup.session(database))

    try:
        await process.reach_database(database, within=session.AT_ONCE, question=look_between)
        if facts[0].word == "ok":  # else the rest would stumble, now here, now there
            facts += await checkup.checkup(database) + await _policies(database, policies)
    except Unreachable as exc:
        return [Fact(checkup.POSTGRESQL, "fault", str(exc), "See LOWTIDE_DATABASE_URL"), *broken], False
    finally:
        await database.close()
    return facts + broken, True


async def _policies(database: Database, policies: Policies) -> list[Fact]:
    return [
        replace(fact, about=f"policy {policy.name}", told=f"{fact.about}: {fact.told}")
        for policy in policies.valid
        for fact in await inspect(database, policy, at_terminal=True)
    ]


async def _redis(settings: Settings) -> tuple[list[Fact], bool]:
    try:
        redis = process.open_redis(settings)
    except WrongSettings as exc:
        return [Fact(queuecheck.REDIS, "fault", str(exc), "A worker needs it: redis://host:6379/0, for example")], True
    try:
        return await queuecheck.checkup(redis, settings.queue), True
    except (RedisError, OSError) as exc:
        return [queuecheck.unreachable(redis, exc)], False
    finally:
        await redis.aclose(close_connection_pool=True)


def _summary(facts: list[Fact]) -> list[str]:
    """What is not well once more, at the end, where it is seen."""
    bad = [(word, [fact for fact in facts if fact.word == word]) for word in ("fault", "warning")]
    counted = ", ".join(f"{len(found)} {word}{'' if len(found) == 1 else 's'}" for word, found in bad)
    return ["", counted, *(line for _, found in bad for fact in found for line in _lines(fact))]


def _lines(fact: Fact) -> list[str]:
    lines = [f"{fact.word:<8} {output.printable(fact.about)}: {output.printable(fact.told)}"]
    return lines if fact.advice is None else [*lines, f"         → {output.printable(fact.advice)}"]
