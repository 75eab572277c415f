"""What one process counts and measures, for Prometheus. Labels come from fixed lists: nothing that callers wrote."""

import re
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from db.runs import FINISHED
from jobs.survey import MOST_ROWS, Survey
from worker.pulse import Pulse
from worker.queue import QueueWorker

# About the paces' targets of 2 and 10 ms, and up to what a single row may take.
BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
OTHER = "other"
# The ledger's sentences (jobs/health.py, jobs/life.py) name standbys, slots and tables; a label has the kind alone.
WAITS = (
    (re.compile('standby "'), "standby"),
    (re.compile('replication slot "'), "replication slot"),
    (re.compile(r"\d+ WAL files "), "WAL archive"),
    (re.compile("a snapshot "), "old snapshot"),
    (re.compile(".* was frozen ", re.DOTALL), "wraparound"),
    (re.compile("others hold locks"), "locks"),
    (re.compile("run .* purges .* now", re.DOTALL), "another run"),
    (re.compile("outside the hours "), "hours"),
    (re.compile("retry after an error"), "retry"),
)


def kind_of(reason: str) -> str:
    return next((kind for pattern, kind in WAITS if pattern.match(reason)), OTHER)


class Metrics:
    """An observer of runs (jobs/observer.py), in a registry of its own. Every series of a fixed list begins at 0."""

    def __init__(self, *, jobs: Iterable[str], pulse: Pulse) -> None:
        self.registry = CollectorRegistry()
        self._jobs = frozenset(jobs)
        self._runs = self._counter("runs", "Runs that ended in this process.", "job", "state")
        self._rows = self._counter("rows", "Rows that committed batches have changed.", "job")
        self._waits = self._counter("waits", "How often a run began to wait, by the kind of reason.", "reason")
        self._batch_seconds = Histogram(
            "lowtide_batch_seconds",
            "How long a batch's transaction was.",
            ["job"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        for job in (*sorted(self._jobs), OTHER):
            self._rows.labels(job)
            self._batch_seconds.labels(job)
            for state in FINISHED:
                self._runs.labels(job, state)
        for kind in (*(kind for _, kind in WAITS), OTHER):
            self._waits.labels(kind)
        about = f"Rows that a policy's purge would delete now; {MOST_ROWS} stands for that many or more."
        self._eligible = self._gauge("policy_eligible_rows", about)
        self._oldest = self._gauge("policy_oldest_eligible_seconds", "Age of the oldest eligible row; 0 without one.")
        self._last = self._gauge("policy_last_success_timestamp_seconds", "When a policy's last purge ended well.")
        about = "1 where the last look at a policy's rows told how many are eligible, 0 where it could not in its time."
        self._surveyed = self._gauge("policy_surveyed", about)
        about = "1 while a policy is disabled: by the file, or by what the database has against it. The log says why."
        self._disabled = self._gauge("policy_disabled", about)
        self.present = Present(pulse)
        self.registry.register(self.present)
        ProcessCollector(registry=self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"lowtide_{name}", about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(f"lowtide_{name}", about, ["policy"], registry=self.registry)

    def batch_committed(self, job: str, *, rows: int, seconds: float | None) -> None:
        self._rows.labels(self._known(job)).inc(rows)
        if seconds is not None:
            self._batch_seconds.labels(self._known(job)).observe(seconds)

    def waited(self, reason: str) -> None:
        self._waits.labels(kind_of(reason)).inc()

    def run_ended(self, job: str, state: str) -> None:
        self._runs.labels(self._known(job), state).inc()

    def surveyed(self, policy: str, survey: Survey | None) -> None:
        """What is unknown is absent: an old number would look like a good one."""
        overdue = None if survey is None else survey.overdue
        self._surveyed.labels(policy).set(overdue is not None)
        if overdue is None:
            self._eligible.remove(policy)
            self._oldest.remove(policy)
        else:
            self._eligible.labels(policy).set(overdue.rows)
            self._oldest.labels(policy).set(overdue.oldest_age_s)
        if survey is not None and survey.last_success is not None:
            self._last.labels(policy).set(survey.last_success.timestamp())

    def disabled(self, policy: str, *, is_disabled: bool) -> None:
        self._disabled.labels(policy).set(is_disabled)

    def _known(self, job: str) -> str:
        return job if job in self._jobs else OTHER


class Present:
    """What is looked up at the moment that somebody asks."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self.consumer: QueueWorker | None = None

    def collect(self) -> Iterator[Metric]:
        healthy = GaugeMetricFamily("lowtide_healthy", "1 while a part of this process is well.", labels=["part"])
        for part, fault in self._pulse.faults().items():
            healthy.add_metric([part], float(fault is None))
        yield healthy
        turned_away = CounterMetricFamily(
            "lowtide_messages", "Messages of the queue that became no run of ours.", labels=["outcome"]
        )
        if self.consumer is not None:
            turned_away.add_metric(["rejected"], self.consumer.inbox.rejected)
            turned_away.add_metric(["removed"], self.consumer.inbox.removed)
        yield turned_away
