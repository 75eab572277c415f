"""The picture and the figures of the benchmarks."""

import json
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.contenders import BIG_DELETE, FULL, GENTLE, LIMIT_1000, Outcome
from benchmarks.purge import IDLE
from benchmarks.rounds import Measured, percentile


def test_the_picture_names_every_contender_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    names = [BIG_DELETE, LIMIT_1000, FULL, GENTLE]
    given = {name: {"rows_per_s": 10.0 ** (3 + place), "p99_ms": 2.0 + place} for place, name in enumerate(names)}
    record, picture = tmp_path / "record.json", tmp_path / "picture.svg"
    record.write_text(json.dumps({"foreground": given | {IDLE: {"rows_per_s": 0.0, "p99_ms": 1.5}}}))
    # A process of its own: importing pygal leaves a finder behind that makes imports of missing modules warn.
    subprocess.run([sys.executable, "-m", "benchmarks.picture", record, picture], check=True)
    svg = picture.read_text()

    texts = {element.text for element in ET.fromstring(svg).iter() if element.text}
    assert {*names, "nobody purges"} <= texts
    assert "<script" not in svg
    assert "http" not in svg.replace("http://www.w3.org/", "")


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentiles_are_by_nearest_rank(share: float, value: float) -> None:
    assert percentile(range(100, 0, -1), share) == value
    assert math.isnan(percentile([], share))


def test_ratios_are_of_the_same_round() -> None:
    fast, slow = [Outcome(100, 1.0), Outcome(100, 4.0)], [Outcome(100, 2.0), Outcome(100, 8.0), Outcome(100, 1.0)]
    assert Measured({"fast": fast, "slow": slow}).ratio("fast", to="slow") == 2.0
