"""Housekeeping by hand, on behalf of an actor, for a service's own corner of the tasks.

    python examples/housekeeping.py --actor 3 --delete-after 365 --purge-after 90

shows what the large statement would do, and changes nothing. With --yes it soft-deletes tasks that were made more than
365 days ago, removes for good what was deleted more than 90 days ago, and says how long each statement took. Only what
the actor may act on is touched. For whole tables, every night, there is the job purge-old-deleted.
"""

import argparse
import asyncio
import os
import sys

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from db import engine, taskchanges
from db.fields import LONGEST_DAYS, an_id, whole
from db.refusals import Refused
from db.taskservice import unit_of_work
from db.timing import Timing

MOST = 1_000  # rows of one transaction: others wait for none of them for long

Sessions = async_sessionmaker[AsyncSession]


async def explain(sessions: Sessions, *, actor: int, days: int) -> None:
    async with unit_of_work(sessions) as tasks:
        found = await tasks.explain(taskchanges.deleted_older(days=days, actor=actor))
    ways = ", ".join(f"{scan.kind} on {scan.relation or scan.index}" for scan in found.scans)
    print(f"the soft delete: {found.verdict.word} ({ways})", *found.verdict.reasons, sep="\n  ")


async def delete(sessions: Sessions, *, actor: int, days: int) -> list[Timing]:
    async with unit_of_work(sessions) as tasks:
        print(f"{await tasks.delete_older(days=days, actor=actor)} soft-deleted")
    return list(tasks.timings)


async def purge(sessions: Sessions, *, actor: int, days: int) -> list[Timing]:
    """One transaction after the other, until one had nothing more to do."""
    purged, taken, timings = 0, MOST, list[Timing]()
    while taken == MOST:
        async with unit_of_work(sessions) as tasks:
            taken = await tasks.purge_deleted(days=days, actor=actor, most=MOST)
        purged, timings = purged + taken, [*timings, *tasks.timings]
    print(f"{purged} removed for good")
    return timings


async def keep_house(given: argparse.Namespace) -> None:
    database = engine.connect(os.environ["LOWTIDE_DATABASE_URL"], application_name="housekeeping")
    try:
        await explain(database.sessions, actor=given.actor, days=given.delete_after)
        if not given.yes:
            print("nothing was changed; --yes does it")
            return
        timings = await delete(database.sessions, actor=given.actor, days=given.delete_after)
        timings += await purge(database.sessions, actor=given.actor, days=given.purge_after)
        for timing in timings:
            print(f"{timing.name}: {timing.rows} rows in {timing.seconds * 1000:.1f} ms")
    finally:
        await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Soft-delete old tasks, and remove those deleted long ago.")
    parser.add_argument("--actor", type=int, required=True, help="id of the worker on whose behalf")
    parser.add_argument("--delete-after", type=int, default=365, metavar="DAYS")
    parser.add_argument("--purge-after", type=int, default=90, metavar="DAYS")
    parser.add_argument("--yes", action="store_true", help="do it, rather than only explain it")
    given = parser.parse_args()
    try:
        an_id("--actor", given.actor)
        whole("--delete-after", given.delete_after, most=LONGEST_DAYS)
        whole("--purge-after", given.purge_after, most=LONGEST_DAYS)
        asyncio.run(keep_house(given))
    except Refused as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
