"""What a process counts is what its runs did; what callers write is in no label."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from prometheus_client import generate_latest

from db.engine import Database
from jobs.catalog import PAYLOADS, jobs
from jobs.health import Health, Limits
from jobs.life import Life
from jobs.survey import Overdue, Survey
from tests import ledger, people
from tests.jobs.test_lost_answers import cancelled_behind_a_commit
from worker.metrics import Metrics, kind_of
from worker.pulse import LOOP, POSTGRESQL, Pulse
from worker.queue import QueueWorker


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(jobs=PAYLOADS, pulse=Pulse())


@pytest.fixture
def life(database: Database, metrics: Metrics) -> Life:
    return Life(database, jobs(), worker="test", lease=timedelta(seconds=2), observer=metrics)


def value(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"lowtide_{name}", labels)


async def test_a_run_that_succeeds_is_counted_with_its_rows(
    life: Life, metrics: Metrics, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    assert value(metrics, "runs_total", job="create-batch", state="succeeded") == 0
    await ledger.run(life, "create-batch", project_id=1, created_by_id=2, tasks=[{"title": "a"}, {"title": "b"}])
    assert value(metrics, "runs_total", job="create-batch", state="succeeded") == 1
    assert value(metrics, "rows_total", job="create-batch") == 2
    assert value(metrics, "batch_seconds_count", job="create-batch") == 1
    assert value(metrics, "rows_total", job="purge-old-deleted") == 0


async def test_a_run_that_is_served_again_is_not_counted_again(
    life: Life, metrics: Metrics, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await ledger.run(life, "create-batch", project_id=1, created_by_id=2, tasks=[{"title": "a"}])
    await life.serve("run")
    assert value(metrics, "runs_total", job="create-batch", state="succeeded") == 1
    assert value(metrics, "rows_total", job="create-batch") == 1


async def test_a_run_that_fails_is_counted_without_rows(life: Life, metrics: Metrics, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    await ledger.run(life, "create-batch", project_id=404, created_by_id=2, tasks=[{"title": "a"}])
    assert value(metrics, "runs_total", job="create-batch", state="failed") == 1
    assert value(metrics, "rows_total", job="create-batch") == 0
    assert value(metrics, "batch_seconds_count", job="create-batch") == 0


async def test_every_batch_of_a_sweep_is_counted_over_its_slices(
    life: Life, metrics: Metrics, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.many(sql, 6_000, deleted_every=2)
    life.slice_length = timedelta(0)  # a slice for each batch
    row = await ledger.run(life, "purge-old-deleted")
    assert row.state == "succeeded"
    assert value(metrics, "rows_total", job="purge-old-deleted") == row.rows_done == 3_000
    assert value(metrics, "batch_seconds_count", job="purge-old-deleted") == row.batches
    assert value(metrics, "runs_total", job="purge-old-deleted", state="succeeded") == 1


async def test_rows_of_batches_whose_answer_was_lost_are_counted(
    life: Life, metrics: Metrics, sql: asyncpg.Connection
) -> None:
    """The call is cancelled between a batch's COMMIT and its answer; the ledger tells that it stands."""
    await people.people(sql)
    await people.many(sql, 6_000, deleted_every=2)
    await cancelled_behind_a_commit(sql)
    row = await ledger.run(life, "purge-old-deleted")
    assert value(metrics, "rows_total", job="purge-old-deleted") == row.rows_done == 3_000
    assert value(metrics, "batch_seconds_count", job="purge-old-deleted") == row.batches - 1


async def test_a_lock_that_others_hold_is_a_wait(life: Life, metrics: Metrics, sql: asyncpg.Connection) -> None:
    await people.people(sql)
    given = await people.tasks(sql)
    async with sql.transaction():
        await sql.execute("SELECT FROM task WHERE id = $1 FOR UPDATE", given.open)
        await ledger.accept(life, "mark-completed", "run", task_ids=[given.open], requested_by=people.CREATOR)
        await life.serve("run")
    assert value(metrics, "waits_total", reason="locks") == 1
    assert value(metrics, "runs_total", job="mark-completed", state="failed") == 0


async def test_a_run_that_waits_for_postgresql_to_be_well_waits_once(
    life: Life, metrics: Metrics, sql: asyncpg.Connection
) -> None:
    """The sweep says so at every look, and the run's return into the queue says it again."""
    await people.people(sql)
    await people.many(sql, 100, deleted_every=2)
    await ledger.accept(life, "purge-old-deleted", "run")
    await sql.execute("""UPDATE lowtide.run SET cursor = '{"standbys": ["hunter2"]}'""")
    life.slice_length = timedelta(0)
    await life.serve("run")
    assert (await ledger.row(life, "run")).wait_reason == 'standby "hunter2" is gone'
    assert value(metrics, "waits_total", reason="standby") == 1
    assert b"hunter2" not in generate_latest(metrics.registry)


@pytest.mark.parametrize(
    ("limits", "standbys", "kind"),
    [
        ({}, ["WAL"], "standby"),
        ({"archive_backlog_files": -1}, [], "WAL archive"),
        ({"oldest_xmin_age": -1}, [], "old snapshot"),
        ({"frozen_age": -1}, [], "wraparound"),
    ],
)
async def test_the_words_of_the_health_check_have_a_kind(
    sql: asyncpg.Connection, limits: dict[str, int], standbys: list[str], kind: str
) -> None:
    trouble = await Health("public.task", Limits(**limits), standbys=standbys).trouble(sql)
    assert trouble is not None
    assert kind_of(trouble) == kind


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ('replication slot "s" is behind: wal_status lost', "replication slot"),
        ("retry after an error", "retry"),
        ("hunter2", "other"),
        ("", "other"),
    ],
)
def test_what_has_no_kind_of_its_own_is_other(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind


def test_a_job_that_is_not_ours_is_other(metrics: Metrics) -> None:
    metrics.run_ended("hunter2", "failed")
    metrics.batch_committed("hunter2", rows=1, seconds=0.1)
    assert value(metrics, "runs_total", job="other", state="failed") == 1
    assert value(metrics, "rows_total", job="other") == 1
    assert b"hunter2" not in generate_latest(metrics.registry)


def test_an_unknown_survey_takes_the_old_numbers_away_and_says_so(metrics: Metrics) -> None:
    success = datetime(2026, 1, 2, tzinfo=UTC)
    metrics.surveyed("p", Survey(Overdue(7, 8.5), success))
    assert value(metrics, "policy_eligible_rows", policy="p") == 7
    assert value(metrics, "policy_oldest_eligible_seconds", policy="p") == 8.5
    assert value(metrics, "policy_last_success_timestamp_seconds", policy="p") == success.timestamp()
    assert value(metrics, "policy_surveyed", policy="p") == 1

    metrics.surveyed("p", Survey(None, None, "it took too long"))
    assert value(metrics, "policy_eligible_rows", policy="p") is None
    assert value(metrics, "policy_oldest_eligible_seconds", policy="p") is None
    assert value(metrics, "policy_surveyed", policy="p") == 0
    assert value(metrics, "policy_last_success_timestamp_seconds", policy="p") == success.timestamp()


def test_health_is_what_the_pulse_says_when_somebody_asks() -> None:
    pulse = Pulse()
    metrics = Metrics(jobs=PAYLOADS, pulse=pulse)
    assert value(metrics, "healthy", part=LOOP) == 1
    assert value(metrics, "healthy", part=POSTGRESQL) == 0
    pulse.sign(POSTGRESQL)
    assert value(metrics, "healthy", part=POSTGRESQL) == 1


async def test_messages_that_were_turned_away_are_counted(metrics: Metrics, consumer: QueueWorker) -> None:
    await consumer.doorbells.redis.zadd("arq:queue", {b"\xff": 1.0})
    metrics.present.consumer = consumer
    await consumer.poll()
    assert value(metrics, "messages_total", outcome="removed") == 1
    assert value(metrics, "messages_total", outcome="rejected") == 0


def test_two_processes_of_ours_in_one_share_nothing(metrics: Metrics) -> None:
    other = Metrics(jobs=PAYLOADS, pulse=Pulse())
    metrics.waited("retry after an error")
    assert value(other, "waits_total", reason="retry") == 0
