"""Windows of the index: every eligible row is in one of them, however values repeat; nothing is counted twice."""

import random
from datetime import UTC, datetime

import asyncpg
import pytest

from db.engine import Database
from db.windows import Bound, Look, Span
from jobs.endings import Again
from jobs.values import Stretch, stretches
from tests.jobs.test_sweep import another, left, life_of, on_the_index, purge, sparse
from tests.ledger import accept, row, serve_to_the_end

CUTOFF = datetime(2026, 1, 1, tzinfo=UTC)
END = Bound(CUTOFF.isoformat(), inclusive=False)


def since(value: str) -> Bound:
    return Bound(value, inclusive=True)


def behind(value: str) -> Bound:
    return Bound(value, inclusive=False)


@pytest.mark.parametrize(
    ("values", "more", "expected"),
    [
        ([], False, []),
        (["a"], False, [Stretch(Span(since("a"), END), 50)]),
        (["a", "b"], False, [Stretch(Span(since("a"), behind("b")), 50), Stretch(Span(since("b"), END), 50)]),
        (["a", "b"], True, [Stretch(Span(since("a"), behind("b")), 50)]),
        (
            ["a", "a", "a", "b"],
            True,
            [Stretch(Span(since("a"), since("a")), 150), Stretch(Span(behind("a"), behind("b")), 50)],
        ),
        (["a", "a"], True, [Stretch(Span(since("a"), since("a")), 100)]),
        (["a", "a"], False, [Stretch(Span(since("a"), since("a")), 100), Stretch(Span(behind("a"), END), 50)]),
    ],
)
def test_stretches_lie_side_by_side(values: list[str], more: bool, expected: list[Stretch]) -> None:
    """A value that came several times is a stretch of its own; what lies behind the last is the next look's."""
    assert stretches(Look(values, 1), more=more, before=CUTOFF.isoformat()) == expected


@pytest.mark.parametrize("seed", range(6))
async def test_one_pass_meets_every_row_however_values_repeat(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Looks, stretches and lists of a few rows, so that every border falls everywhere."""
    chance = random.Random(seed)
    monkeypatch.setattr("jobs.values.STEP_ROWS", chance.randint(1, 5))
    monkeypatch.setattr("jobs.values.AHEAD_ROWS", chance.randint(10, 40))
    monkeypatch.setattr("jobs.values.Values.first", chance.randint(1, 10))
    monkeypatch.setattr("jobs.values.Values.largest", chance.randint(1, 30))
    await sparse(
        sql, values=f"timestamptz '2020-01-01' + n * 7919 % {chance.choice([1, 3, 40, 5000])} * '1 s'::interval"
    )
    result = await purge(database)
    assert (result["purged"], result["passes"], result["remaining"], await left(sql)) == (200, 1, False, 0)
    assert str(result["way"]).startswith("windows of index")


async def test_stopped_within_a_list_it_goes_on_behind_the_last_row(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a later pass, which counts locked rows: those that it has passed over are not counted again."""
    monkeypatch.setattr("jobs.values.Values.first", 10)
    monkeypatch.setattr("jobs.values.Values.largest", 10)
    await sparse(sql)  # 200 rows with one value, a multiple of a stretch: worked on by places
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="full")
    await on_the_index(sql, number=2)
    async with another(database) as other, other.transaction():
        await other.execute("SELECT 1 FROM t WHERE id IN (50, 100, 10000) FOR UPDATE")
        life.stopping.set()  # a batch a slice
        slices = 0
        while isinstance(await life.serve("run"), Again):
            slices += 1
    ended = await row(life, "run")
    assert slices > 10
    assert ended.result is not None, ended.error
    assert (ended.result["purged"], ended.result["skipped"]["locked"], await left(sql)) == (197, 3, 3)


async def test_a_window_that_is_too_much_is_worked_on_by_places(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows get slow in the middle of the walk: windows shrink below a stretch."""
    await sparse(sql, every=200, values="timestamptz '2020-01-01' + n * '1 s'::interval")
    await sql.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF OLD.id > 5000 THEN PERFORM pg_sleep(0.03); END IF; RETURN OLD; END'; "
        "CREATE TRIGGER dawdle BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )
    life = life_of(database)
    await accept(life, "purge-old-deleted", "run", policy="t", pace="gentle")
    await serve_to_the_end(life, "run")
    ended = await row(life, "run")
    assert ended.result is not None
    assert (ended.result["purged"], ended.result["remaining"], await left(sql)) == (50, False, 0)
    assert ended.batches > 20
