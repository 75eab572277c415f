"""`make bench`: every section, a table each. `python -m benchmarks --quick` is a small size for every day."""

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from benchmarks import children, create_batch, mark_completed, memory, notify, purge, queue
from benchmarks.report import Report
from benchmarks.stage import SETTINGS, seeded, server
from worker.embedded import Postgres


@dataclass(frozen=True)
class Size:
    seeded: int
    rows: int
    rounds: int
    purge: purge.Size
    queue: queue.Size


RECORD = Size(
    seeded=1_000_000,
    rows=100_000,
    rounds=5,
    purge=purge.Size(
        dense=1_000_000,
        large=10_000_000,
        sparse=5_000_000,
        orm_rows=100_000,
        rounds=5,
        slow_rounds=2,
        large_rounds=2,
    ),
    queue=queue.Size(runs=2000, rounds=5, starts=60, idle_s=20),
)
QUICK = Size(
    seeded=100_000,
    rows=10_000,
    rounds=3,
    purge=purge.Size(
        dense=200_000, large=1_000_000, sparse=500_000, orm_rows=10_000, rounds=3, slow_rounds=1, large_rounds=2
    ),
    queue=queue.Size(runs=500, rounds=3, starts=20, idle_s=10),
)


async def jobs(postgres: Postgres, size: Size, report: Report) -> None:
    """create-batch and mark-completed."""
    async with seeded(postgres, tasks=size.seeded) as stage:
        made = await create_batch.measure(stage, count=size.rows, add_all_count=size.rows // 5, rounds=size.rounds)
        report.speeds("create-batch", f"create-batch of {size.rows:,} tasks", made, to=create_batch.COPY)
        rss = await memory.peak_rss_mb(stage, "create-batch", **create_batch.payload(size.rows))
        faster = made.ratio(create_batch.OURS, to=create_batch.ADD_ALL)
        report.say(f"{faster:.1f} times as fast as add_all; peak RSS of a fresh worker {rss:.0f} MB\n")
        marked = await mark_completed.measure(stage, count=size.rows, most=2 * size.rows, rounds=size.rounds)
        title = f"mark-completed of {size.rows:,} tasks (most: {2 * size.rows:,})"
        report.speeds("mark-completed", title, marked, to=mark_completed.BARE)


def _of_purge(section: Callable[[Postgres, purge.Size, Report], Awaitable[None]]) -> "Section":
    async def measured(postgres: Postgres, size: Size, report: Report) -> None:
        await section(postgres, size.purge, report)

    return measured


async def _queue(postgres: Postgres, size: Size, report: Report) -> None:
    await queue.queue(postgres, size.queue, report)


async def _notify(postgres: Postgres, size: Size, report: Report) -> None:
    await notify.notify(postgres, report, rounds=size.rounds, seconds=2.0)


Section = Callable[[Postgres, Size, Report], Awaitable[None]]
SECTIONS: dict[str, Section] = {
    "jobs": jobs,
    "dense": _of_purge(purge.dense),
    "locked": _of_purge(purge.locked),
    "sparse": _of_purge(purge.sparse),
    "growth": _of_purge(purge.growth),
    "queue": _queue,
    "notify": _notify,
    "children": _of_purge(children.children),
    "partition": _of_purge(children.partition),
}


async def main(size: Size, sections: list[str], results: Path | None) -> None:
    report = Report()
    settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    report.say(f"{report.results['machine']}; PostgreSQL 18 embedded, fsync off, {settings}")
    report.say("Alternating rounds, medians.\n")
    async with server() as postgres:
        for name in sections:
            await SECTIONS[name](postgres, size, report)
            if results is not None:
                report.write(results)


def _sections(names: str) -> list[str]:
    wanted = names.split(",")
    if unknown := set(wanted) - SECTIONS.keys():
        raise argparse.ArgumentTypeError(f"there is no section {', '.join(sorted(unknown))}")
    return wanted


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="a tenth of the rows, fewer rounds")
    arguments.add_argument(
        "--only",
        type=_sections,
        default=list(SECTIONS),
        help=f"some of them, separated by commas: {', '.join(SECTIONS)}",
    )
    arguments.add_argument("--json", type=Path, help="write the numbers into this file too")
    given = arguments.parse_args()
    asyncio.run(main(QUICK if given.quick else RECORD, given.only, given.json))
