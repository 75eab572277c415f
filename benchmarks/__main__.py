"""`make bench`: every case, a table each. `python -m benchmarks --quick` is a tenth of the rows."""

import argparse
import asyncio
import logging
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

from benchmarks import create_batch, mark_completed, purge
from benchmarks.stage import SETTINGS, Stage, stage


@dataclass(frozen=True)
class Size:
    seeded: int
    rows: int
    rounds: int


RECORD = Size(seeded=1_000_000, rows=100_000, rounds=5)
QUICK = Size(seeded=100_000, rows=10_000, rounds=3)
console = Console(width=110, highlight=False)


async def main(size: Size) -> None:
    console.print(
        f"{_machine()}; PostgreSQL 18 embedded, fsync off, {', '.join(f'{k}={v}' for k, v in SETTINGS.items())}"
    )
    console.print(f"{size.seeded:,} tasks seeded, {size.rounds} alternating rounds, medians\n")
    async with stage(tasks=size.seeded) as given:
        await _create_batch(given, size)
        await _mark_completed(given, size)
        await _purge(given, size)


async def _create_batch(given: Stage, size: Size) -> None:
    measured = await create_batch.measure(given, count=size.rows, add_all_count=size.rows // 5, rounds=size.rounds)
    table = _table(f"create-batch of {size.rows:,} tasks", "rows/s", "of bare COPY")
    for name in (create_batch.COPY, create_batch.OURS, create_batch.ADD_ALL):
        ratio = measured.ratio(name, to=create_batch.COPY)
        table.add_row(name, f"{measured.median(name):,.0f}", measured.spread(name), f"{ratio:.2f}")
    console.print(table)
    faster = measured.ratio(create_batch.OURS, to=create_batch.ADD_ALL)
    rss = await create_batch.peak_rss_mb(given, count=size.rows)
    console.print(f"{faster:.1f} times as fast as add_all; peak RSS of a fresh worker {rss:.0f} MB\n")


async def _mark_completed(given: Stage, size: Size) -> None:
    measured = await mark_completed.measure(given, count=size.rows, most=2 * size.rows, rounds=size.rounds)
    table = _table(f"mark-completed of {size.rows:,} tasks (most: {2 * size.rows:,})", "rows/s", "of bare UPDATE")
    for name in measured.speeds:
        ratio = measured.ratio(name, to=mark_completed.BARE)
        table.add_row(name, f"{measured.median(name):,.0f}", measured.spread(name), f"{ratio:.2f}")
    console.print(table, "")


async def _purge(given: Stage, size: Size) -> None:
    measured, batches = await purge.measure(given, rounds=size.rounds)
    table = _table(f"purge of {size.seeded // 2:,} of {size.seeded:,} tasks", "rows/s", "of one DELETE")
    for column in ("batch p50 ms", "p99", "longest"):
        table.add_column(column, justify="right")
    for name in measured.speeds:
        ratio = measured.ratio(name, to=purge.BIG_DELETE)
        shares = (0.5, 0.99, 1.0) if name in batches.lengths else ()
        lengths = [f"{batches.percentile(name, share):.1f}" for share in shares]
        table.add_row(name, f"{measured.median(name):,.0f}", measured.spread(name), f"{ratio:.2f}", *lengths)
    console.print(table)


def _table(title: str, speed: str, ratio: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for column in (speed, "lowest to highest", ratio):
        table.add_column(column, justify="right")
    return table


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    except FileNotFoundError:
        model = ""
    return f"{model or platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="a tenth of the rows, fewer rounds")
    asyncio.run(main(QUICK if arguments.parse_args().quick else RECORD))
