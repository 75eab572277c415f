"""The purge against what people use today: dense, with a foreground load, growing, sparse, among locks."""

import asyncio
import statistics
import time
from dataclasses import dataclass

import asyncpg

from benchmarks import steadiness
from benchmarks.contenders import (
    BIG_DELETE,
    FULL,
    GENTLE,
    LIMIT_1000,
    LIMIT_10000,
    ORM,
    Contender,
    Outcome,
    all_of_them,
    big_delete,
    ours,
)
from benchmarks.foreground import WARM_UP_S, Latencies, foreground
from benchmarks.memory import peak_rss_mb
from benchmarks.report import Report
from benchmarks.rounds import alternate, percentile
from benchmarks.stage import Stage, seeded
from db.engine import Database
from worker.embedded import Postgres

IDLE, TWICE = "(nobody purges)", "lowtide full, twice the rows"
IDLE_S = 5.0
# Describing every task would make the trigrams of descriptions most of the seeding of a large table.
DESCRIBE_EVERY = 10
SLOW_ONES = (LIMIT_1000, LIMIT_10000, ORM)
BY_INDEX = "DELETE FROM public.task WHERE deleted_at < now() - interval '200 days'"


@dataclass(frozen=True)
class Size:
    dense: int
    large: int
    sparse: int
    orm_rows: int
    rounds: int
    slow_rounds: int
    large_rounds: int


async def dense(postgres: Postgres, size: Size, report: Report) -> None:
    """Half of the rows, nobody else there; and with somebody else there."""
    async with seeded(postgres, tasks=size.dense) as stage:
        contenders = all_of_them(orm_rows=size.orm_rows)
        fewer = dict.fromkeys(SLOW_ONES, size.slow_rounds)
        measured = await alternate(stage, contenders, rounds=size.rounds, fewer=fewer)
        title = f"purge of {size.dense // 2:,} of {size.dense:,} tasks (ORM: {size.orm_rows:,})"
        report.speeds("dense", title, measured, to=BIG_DELETE, batches=True)
        report.say(f"full against the LIMIT 1,000 loop: {measured.ratio(FULL, to=LIMIT_1000):.1f} times as fast\n")
        await _with_foreground(stage, size, report)


async def _with_foreground(stage: Stage, size: Size, report: Report) -> None:
    heard: dict[str, list[Latencies]] = {}

    def beside(name: str, contender: Contender) -> Contender:
        async def loaded(database: Database) -> Outcome:
            async with foreground(database.address.dsn, tasks=size.dense) as latencies:
                await asyncio.sleep(WARM_UP_S)
                begun = time.monotonic()
                outcome = await contender(database)
                ended = time.monotonic()
            latencies.pairs[:] = [pair for pair in latencies.pairs if begun <= pair[0] <= ended]
            heard.setdefault(name, []).append(latencies)
            return outcome

        return loaded

    contenders = {IDLE: _idle} | all_of_them(orm_rows=size.orm_rows)
    loaded = {name: beside(name, contender) for name, contender in contenders.items()}
    fewer = dict.fromkeys(SLOW_ONES, size.slow_rounds)
    measured = await alternate(stage, loaded, rounds=size.rounds, fewer=fewer)
    idle_p99 = [_p99(latencies) for latencies in heard[IDLE]]
    rows = {}
    for name in loaded:
        latencies = [latency for each in heard[name] for _, latency in each.pairs]
        times = statistics.median(_p99(each) / idle for each, idle in zip(heard[name], idle_p99, strict=False))
        speed, ratio = (measured.median(name), measured.ratio(name, to=BIG_DELETE)) if name != IDLE else (0.0, 0.0)
        p50, p99, longest = percentile(latencies, 0.5), percentile(latencies, 0.99), max(latencies)
        numbers = {"rows_per_s": speed, "ratio": ratio, "p50_ms": p50, "p99_ms": p99, "longest_ms": longest}
        report.results.setdefault("foreground", {})[name] = numbers | {"p99_of_idle": times}
        rows[name] = [
            *(f"{speed:,.0f}", f"{ratio:.2f}", f"{p50:.1f}", f"{p99:.1f}", f"{longest:,.0f}"),
            *(f"{times:.1f}", f"{len(latencies):,}"),
        ]
    columns = ["rows/s", "of one big DELETE", "p50 ms", "p99 ms", "longest", "p99 of idle's", "statements"]
    report.table("The same while others read and update, 400 statements a second (their latency)", columns, rows)


async def _idle(database: Database) -> Outcome:  # noqa: ARG001 - a contender's
    await asyncio.sleep(IDLE_S)
    return Outcome(1, IDLE_S)


def _p99(latencies: Latencies) -> float:
    return percentile([latency for _, latency in latencies.pairs], 0.99)


async def growth(postgres: Postgres, size: Size, report: Report) -> None:
    """Ten times the rows: the ratios, the memory of a worker, and a gentle run's first part against its last."""
    ratios: dict[int, dict[str, float]] = {}
    for tasks, rounds in ((size.dense, size.rounds), (size.large, size.large_rounds)):
        async with seeded(postgres, tasks=tasks, describe_every=DESCRIBE_EVERY) as stage:
            contenders = {BIG_DELETE: big_delete, FULL: ours("full"), GENTLE: ours("gentle")}
            measured = await alternate(stage, contenders, rounds=rounds)
            report.speeds(f"dense {tasks}", f"purge of half of {tasks:,} tasks", measured, to=BIG_DELETE, batches=True)
            ratios[tasks] = {name: measured.ratio(name, to=BIG_DELETE) for name in contenders}
            rss = await peak_rss_mb(stage, "purge-old-deleted")
            report.results[f"peak rss mb {tasks}"] = rss
            report.say(f"peak RSS of a fresh worker that purges {tasks:,} tasks: {rss:.0f} MB\n")
            if tasks == size.large:
                await _steadiness(stage, report)
    change = {name: ratios[size.large][name] / ratios[size.dense][name] for name in (FULL, GENTLE)}
    report.results["growth"] = change
    report.say("the ratio to one big DELETE on the large table, of that on the small: " + _listed(change) + "\n")


async def _steadiness(stage: Stage, report: Report) -> None:
    numbers = await steadiness.measure(stage)
    if numbers is None:
        return
    report.results["steadiness"] = numbers
    report.say(
        f"gentle, last tenth against second: {numbers['speed']:.2f} of its rows per second, "
        f"{numbers['buffers']:.2f} of its buffers per row ({numbers['buffers_per_row']:.2f})\n"
    )


async def sparse(postgres: Postgres, size: Size, report: Report) -> None:
    """One row in 200, and one in 100: half of the soft-deleted ones are old enough for the first."""
    async with seeded(postgres, tasks=size.sparse, describe_every=50, deleted_every=100, older_every=200) as stage:
        contenders = {
            BIG_DELETE: _big_delete_by_index,
            FULL: ours("full", days=200),
            GENTLE: ours("gentle", days=200),
            TWICE: ours("full"),
        }
        measured = await alternate(stage, contenders, rounds=size.large_rounds + 1)
    title = f"purge of {size.sparse // 200:,} of {size.sparse:,} tasks, far apart"
    report.speeds("sparse", title, measured, to=BIG_DELETE, batches=True)
    pairs = zip(measured.outcomes[TWICE], measured.outcomes[FULL], strict=True)
    times = statistics.median(twice.seconds / once.seconds for twice, once in pairs)
    report.results["twice the rows"] = times
    report.say(f"twice the rows take {times:.2f} times as long\n")


async def _big_delete_by_index(database: Database) -> Outcome:
    async with database.tuned(statement_timeout="0", lock_timeout="0", enable_seqscan="off") as connection:
        query_plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {BY_INDEX}"))
        if "Seq Scan" in query_plan:
            raise RuntimeError(f"the DELETE does not use the index on deleted_at:\n{query_plan}")
        begun = time.perf_counter()
        status = await connection.execute(BY_INDEX)
        took = time.perf_counter() - begun
    return Outcome(int(status.split()[1]), took, [took])


async def locked(postgres: Postgres, size: Size, report: Report) -> None:
    """Fifty rows, far apart, that somebody holds for the whole run."""
    tasks = size.dense // 5

    def beside_locks(contender: Contender) -> Contender:
        async def among_locks(database: Database) -> Outcome:
            other = await asyncpg.connect(database.address.dsn)
            async with other.transaction():
                await other.execute(f"SELECT 1 FROM public.task WHERE id % {tasks // 50} = 0 FOR UPDATE")
                outcome = await contender(database)
            await other.close()
            return outcome

        return among_locks

    contenders = {}
    for pace in ("full", "gentle"):
        contenders[pace] = ours(pace)
        contenders[f"{pace}, 50 rows locked"] = beside_locks(ours(pace))
    async with seeded(postgres, tasks=tasks, describe_every=DESCRIBE_EVERY) as stage:
        measured = await alternate(stage, contenders, rounds=size.rounds)
    rows = {}
    for free, held in _pairs(list(contenders)):
        times = 1 / measured.ratio(held, to=free)
        report.results.setdefault("locked", {})[free] = times
        rows[free] = [f"{measured.median(free):,.0f}", f"{measured.median(held):,.0f}", f"{times:.2f}"]
    report.table(f"purge of {tasks // 2:,} tasks among 50 locked ones", ["rows/s", "with locks", "times as long"], rows)


def _pairs(names: list[str]) -> list[tuple[str, str]]:
    return list(zip(names[::2], names[1::2], strict=True))


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items())
