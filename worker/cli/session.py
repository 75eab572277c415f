"""What a command needs of the servers, opened and closed around it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import typer
from redis.exceptions import RedisError

from db.engine import Database
from jobs import policyfile
from jobs.failures import NotFound
from jobs.policies import Policies, Policy
from jobs.purge_payload import policy_named
from worker import process
from worker import settings as environment
from worker.doorbells import Doorbells
from worker.settings import Settings, WrongSettings

AT_ONCE = timedelta(0)


@asynccontextmanager
async def database(settings: Settings, *, ledger: bool = True) -> AsyncIterator[Database]:
    """A database that answers now, with a ledger in it unless that does not matter yet.

    Raises Unreachable or NotMigrated.
    """
    opened = process.open_database(settings)
    try:
        await process.reach_database(opened, within=AT_ONCE)
        if ledger:
            await process.require_ledger(opened)
        yield opened
    finally:
        await opened.close()


async def ring(settings: Settings, run_id: str) -> str | None:
    """Wake a worker; None when that worked, else why not. The run is in the ledger either way."""
    try:
        redis = process.open_redis(settings)
    except WrongSettings as exc:
        return str(exc)
    try:
        await Doorbells(redis, settings.queue).ring([run_id])
    except (RedisError, OSError) as exc:
        return f"Redis at {process.redis_server(redis)} can't be reached: {process.why_away(exc)}"
    finally:
        await redis.aclose(close_connection_pool=True)
    return None


def load() -> Settings:
    return environment.load()


def policies(settings: Settings) -> Policies:
    """Raises PolicyFileBroken."""
    return policyfile.load(settings.policies)


def policy(name: str, policies: Policies) -> Policy:
    """The policy that an argument names. Raises PolicyBroken for one that is disabled."""
    try:
        return policy_named(name, policies.every, policies.disabled())
    except NotFound as exc:
        raise typer.BadParameter(str(exc), param_hint="POLICY") from exc


def operator() -> str:
    """Who is on record for what this terminal asks for."""
    return f"operator:{environment.operator_name()}"
