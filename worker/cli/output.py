"""What commands print: results on stdout, everything else on stderr, JSON where asked for."""

import json
import sys
from datetime import timedelta

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

UNLIMITED = 10_000


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


def printable(value: str) -> str:
    """Without control characters: names and errors come from outside."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in value)


def plain(value: str) -> str:
    """Neither markup nor control characters."""
    return printable(value).replace("[", "\\[")
