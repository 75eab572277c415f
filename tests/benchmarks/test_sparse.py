"""What the sparse table is worth: rows far apart, each way removing the same ones."""

from benchmarks.contenders import ours
from benchmarks.purge import _big_delete_by_index
from benchmarks.rounds import alternate
from benchmarks.stage import seeded
from worker.embedded import Postgres

BLOCKS = """
    SELECT count(*) AS rows, count(DISTINCT (ctid::text::point)[0]) AS blocks
    FROM public.task WHERE deleted_at < now() - interval '200 days'
"""


async def test_the_rows_of_the_sparse_table_are_in_blocks_of_their_own(postgres: Postgres) -> None:
    """Made older by an UPDATE after the seeding they would be side by side, at the end of the table (tried)."""
    async with seeded(postgres, tasks=4000, describe_every=50, deleted_every=100, older_every=200) as stage:
        async with stage.clone() as database, database.autocommit() as connection:
            found = await connection.fetchrow(BLOCKS)
        contenders = {"by index": _big_delete_by_index, "full": ours("full", days=200), "twice": ours("full")}
        measured = await alternate(stage, contenders, rounds=1)

    assert (found["rows"], found["blocks"]) == (20, 20)
    assert {name: done[0].rows for name, done in measured.outcomes.items()} == {"by index": 20, "full": 20, "twice": 40}
