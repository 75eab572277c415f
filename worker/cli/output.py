"""What commands print: results on stdout, everything else on stderr, JSON where asked for."""

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from db.models import Run
from jobs.run import isoformat

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
UNLIMITED = 10_000
NEAR = timedelta(minutes=10)  # beyond it, a run waits for its time rather than for its turn
COLOURS = {"succeeded": "green", "failed": "red", "running": "cyan", "paused": "yellow", "cancelled": "yellow"}


def results() -> Console:
    """Made anew each time, so that it follows a redirected stdout. Nothing is cut: a terminal wraps by itself."""
    return Console(file=sys.stdout, highlight=False, width=UNLIMITED)


def notes() -> Console:
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """A sentence for people, on stderr. Nothing in it is read as markup."""
    notes().print(message, markup=False)


def print_table(table: Table, *, notes: bool = False) -> None:
    """Without the spaces that would pad the last column; with `notes` on stderr."""
    console = results()
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    if notes:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
    else:
        print_lines(*lines)


def print_facts(facts: dict[str, str], *, notes: bool = False) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, said in facts.items():
        if said:
            table.add_row(plain(name), plain(said))
    print_table(table, notes=notes)


def print_sample(rows: list[dict[str, str | None]] | str, *, notes: bool = False) -> None:
    """Rows of a user's table, or why they can't be shown."""
    if isinstance(rows, str):
        say(f"no sample: {rows}")
    elif rows:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in rows[0]:
            table.add_column(plain(name), no_wrap=True)
        for row in rows:
            table.add_row(*("" if said is None else plain(said.replace("\n", " ")) for said in row.values()))
        print_table(table, notes=notes)


def print_lines(*lines: str) -> None:
    """Results that programs read, as they are; visible at once, also in a pipe."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def run_as_json(run: Run) -> dict[str, Any]:
    """Every public column, instants in ISO 8601."""
    values = {name: getattr(run, name) for name in COLUMNS}
    return {name: isoformat(value) if isinstance(value, datetime) else value for name, value in values.items()}


def print_runs(found: list[Run]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("RUN", "JOB", "STATE", "ROWS", "BATCHES", "CREATED", "TOOK", "NOTE"):
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
            plain(note(run)),
        )
    print_table(table)


def note(run: Run) -> str:
    """The one thing worth knowing about a run, in a line. An error that is over is none."""
    if run.state == "failed" and run.error is not None:
        return " ".join(f"{run.error.get('type')}: {run.error.get('message')}".split())
    if run.state == "succeeded" and run.result is not None:
        return _remark(run.result)
    if run.state == "queued" and run.not_before is not None and run.not_before > datetime.now(UTC) + NEAR:
        return f"not before {isoformat(run.not_before.replace(microsecond=0))}"
    return run.wait_reason or ""


def _remark(result: dict[str, Any]) -> str:
    if result.get("dry_run"):
        return f"dry run: {result.get('eligible', 0):,} rows are eligible"
    return f"rows remain: {result.get('reason', 'no reason given')}" if result.get("remaining") else ""


def print_run(run: Run) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in run_as_json(run).items():
        if name == "error" and isinstance(value, dict):
            for part, said in value.items():
                table.add_row(f"error {part}", plain(_shown(said).rstrip()))
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


def duration(length: timedelta) -> str:
    seconds = length.total_seconds()
    if seconds < 60:
        return f"{seconds:.2f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def progress() -> Progress:
    """A bar on stderr, for what takes longer than a second; nothing where stderr is no terminal."""
    console = notes()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class SpeedColumn(ProgressColumn):
    """Rows per second, of the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s", style="progress.data.speed")


def rows(number: int) -> str:
    return f"{number:,} {'row' if number == 1 else 'rows'}"


def _shown(value: object) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 2000 else f"{shown[:2000]}… ({len(shown):,} characters; --json shows all)"


def printable(value: str) -> str:
    """Without control characters: names and errors come from outside."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in value)


def plain(value: str) -> str:
    """Neither markup nor control characters."""
    return printable(value).replace("[", "\\[")
