"""Every way to purge removes the same rows, on a size that takes seconds."""

from benchmarks.contenders import all_of_them
from benchmarks.rounds import alternate
from benchmarks.stage import seeded
from worker.embedded import Postgres


async def test_every_contender_removes_every_overdue_task(postgres: Postgres) -> None:
    async with seeded(postgres, tasks=4000, describe_every=10) as stage:
        measured = await alternate(stage, all_of_them(orm_rows=2000), rounds=1)
    assert {name: [outcome.rows for outcome in done] for name, done in measured.outcomes.items()} == {
        name: [2000] for name in measured.outcomes
    }
    assert all(outcome.lengths for done in measured.outcomes.values() for outcome in done)
