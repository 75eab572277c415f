"""The picture of the README: what others feel of a purge, against how fast it is.

`python -m benchmarks.picture RESULTS.json OUT.svg` draws it from what `python -m benchmarks --json RESULTS.json` wrote.
"""

import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pygal
from pygal.style import Style

from benchmarks.contenders import BIG_DELETE, FULL, GENTLE, LIMIT_1000, LIMIT_10000, ORM
from benchmarks.purge import IDLE

COLOURS = {BIG_DELETE: "#555555", LIMIT_1000: "#b07030", LIMIT_10000: "#b03030", ORM: "#8060a0"}
COLOURS |= {FULL: "#2070c0", GENTLE: "#108050"}


def draw(foreground: dict[str, dict[str, float]]) -> str:
    """SVG. `foreground` is the section of that name: by contender `rows_per_s` and `p99_ms`."""
    names = [name for name in COLOURS if name in foreground]
    idle = foreground[IDLE]["p99_ms"]
    speeds = [foreground[name]["rows_per_s"] for name in names]
    slowest, fastest = min(speeds), max(speeds)
    highest = max(foreground[name]["p99_ms"] for name in names)
    chart = pygal.XY(
        title="What others feel of a purge (99th percentile of their statements), and its speed",
        x_title="rows purged per second",
        y_title="others' p99, ms",
        logarithmic=True,
        xrange=(slowest / 3, fastest * 6),  # on the right a name needs its place
        range=(1, 2 * highest),
        x_labels=_ticks(slowest / 3, fastest * 6, (1,)),
        y_labels=_ticks(1, 2 * highest, (1, 2, 5)),
        width=900,
        height=480,
        dots_size=7,
        print_labels=True,
        show_legend=False,
        js=[],
        style=Style(colors=(*(COLOURS[name] for name in names), "#999999"), value_label_font_size=13),
        x_value_formatter=lambda value: f"{value:,.0f}",
        value_formatter=lambda value: f"{value:,.0f}",
    )
    for name in names:
        chart.add(name, [{"value": (foreground[name]["rows_per_s"], foreground[name]["p99_ms"]), "label": name}])
    ends = (slowest / 3, idle), (fastest * 6, idle)
    line = [{"value": ends[0], "label": "nobody purges"}, {"value": ends[1]}]
    chart.add("nobody purges", line, stroke=True, dots_size=0)
    svg: str = chart.render(is_unicode=True)
    return re.sub(r"<script.*?</script>|<!--.*?-->", "", svg, flags=re.DOTALL)


def _ticks(low: float, high: float, steps: Sequence[int]) -> list[float]:
    """Round numbers of a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    return [tick for power in powers for step in steps if low <= (tick := step * 10.0**power) <= high]


def main(results: Path, out: Path) -> None:
    found: dict[str, Any] = json.loads(results.read_text())
    out.write_text(draw(found["foreground"]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
