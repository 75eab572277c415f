"""How a run is shown: in a table, in a line, as JSON."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.table import Table

from db.models import Run
from jobs.run import isoformat
from worker.cli.output import duration, plain, print_table, rows

COLUMNS = (
    "id",
    "job",
    "payload",
    "requested_by",
    "state",
    "rows_done",
    "rows_expected",
    "batches",
    "attempt",
    "wait_reason",
    "result",
    "error",
    "scheduled_for",
    "not_before",
    "created_at",
    "started_at",
    "heartbeat_at",
    "finished_at",
    "pace",
    "max_rows",
    "max_seconds",
)
NEAR = timedelta(minutes=10)  # beyond it, a run waits for its time rather than for its turn
COLOURS = {"succeeded": "green", "failed": "red", "running": "cyan", "paused": "yellow", "cancelled": "yellow"}


def run_as_json(run: Run) -> dict[str, Any]:
    """Every public column, instants in ISO 8601."""
    values = {name: getattr(run, name) for name in COLUMNS}
    return {name: isoformat(value) if isinstance(value, datetime) else value for name, value in values.items()}


def print_runs(found: list[Run], along: Mapping[str, int]) -> None:
    """`along` is how many rows of other tables went with those of a run, by its id."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("RUN", "JOB", "STATE", "ROWS", "BATCHES", "CREATED (UTC)", "TOOK", "NOTE"):
        table.add_column(column, justify="right" if column in {"ROWS", "BATCHES", "TOOK"} else "left", no_wrap=True)
    for run in found:
        table.add_row(
            plain(run.id),
            plain(run.job),
            f"[{COLOURS.get(run.state, 'default')}]{run.state}[/]",
            f"{run.rows_done:,}",
            f"{run.batches:,}",
            "" if run.created_at is None else run.created_at.strftime("%Y-%m-%d %H:%M:%S"),
            took(run),
            plain("; ".join(filter(None, (went_along(along.get(run.id, 0)), note(run))))),
        )
    print_table(table)


def note(run: Run) -> str:
    """The one thing worth knowing about a run, in a line. An error that is over is none."""
    if run.state == "failed" and run.error is not None:
        return " ".join(f"{run.error.get('type')}: {run.error.get('message')}".split())
    if run.state == "succeeded" and run.result is not None:
        return _remark(run.result)
    waits = [run.wait_reason] if run.wait_reason else []
    if run.state == "queued" and run.not_before is not None and run.not_before > datetime.now(UTC) + NEAR:
        waits.append(f"not before {isoformat(run.not_before.replace(microsecond=0))}")
    return "; ".join(waits)


def went_along(number: int) -> str:
    return f"and {number:,} along" if number else ""


def _remark(result: dict[str, Any]) -> str:
    if result.get("dry_run"):
        eligible = result.get("eligible", 0)
        return f"dry run: {rows(eligible)} {'is' if eligible == 1 else 'are'} eligible"
    return f"rows remain: {result.get('reason', 'no reason given')}" if result.get("remaining") else ""


def print_run(run: Run, along: int) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in run_as_json(run).items():
        if name == "error" and isinstance(value, dict):
            for part, said in value.items():
                table.add_row(f"error {part}", plain(_shown(said).rstrip()))
        elif name == "rows_done" and along:
            table.add_row(name, f"{rows(run.rows_done)}, {went_along(along)}")
        elif value is not None:
            table.add_row(name, plain(_shown(value)))
    print_table(table)


def outcome(run: Run) -> str:
    """One line that says how a run ended."""
    if run.state == "succeeded":
        return f"{run.job} {run.id} succeeded in {took(run) or '0 s'}: {_shown(run.result)}"
    return f"{run.job} {run.id} {run.state}: {note(run) or 'no reason given'}"


def took(run: Run) -> str:
    if run.started_at is None:
        return ""
    end = run.finished_at or run.heartbeat_at or run.started_at
    return duration(end - run.started_at)


def _shown(value: object) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 2000 else f"{shown[:2000]}… ({len(shown):,} characters; --json shows all)"
