"""What the benchmarks say: tables for people, and the same numbers as JSON for the picture."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rounds import Measured, percentile


class Report:
    def __init__(self) -> None:
        self.results: dict[str, Any] = {"machine": machine()}
        self._console = Console(width=132, highlight=False)

    def say(self, *lines: str) -> None:
        for line in lines:
            self._console.print(line, markup=False)

    def speeds(self, section: str, title: str, measured: Measured, *, to: str, batches: bool = False) -> None:
        """A table of speeds and their ratios to one contender, and the numbers under the section's name."""
        columns = ["rows/s", "lowest to highest", f"of {to}"] + (["p50 ms", "p99 ms", "longest"] if batches else [])
        rows = {}
        for name in measured.outcomes:
            ratio = measured.ratio(name, to=to)
            cells = [f"{measured.median(name):,.0f}", measured.spread(name), f"{ratio:.2f}"]
            numbers = {"rows_per_s": measured.median(name), "ratio": ratio}
            if batches:
                lengths = measured.lengths_ms(name)
                numbers |= {share: percentile(lengths, at) for share, at in (("p50_ms", 0.5), ("p99_ms", 0.99))}
                numbers["longest_ms"] = max(lengths)
                cells += [f"{numbers[key]:,.1f}" for key in ("p50_ms", "p99_ms", "longest_ms")]
            rows[name] = cells
            self.results.setdefault(section, {})[name] = numbers
        self.table(title, columns, rows)

    def table(self, title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("")
        for column in columns:
            table.add_column(column, justify="right")
        for name, cells in rows.items():
            table.add_row(name, *cells)
        self._console.print(table)
        self._console.print()

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.results, indent=1, ensure_ascii=False) + "\n")


def machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    except FileNotFoundError:
        model = ""
    return f"{model or platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
