"""What is thought of a query plan: by scan type, by estimated against actual rows, and by time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg

from db import queryplans
from db.targets import quoted

# 80 MB: reading so much from memory takes about 100 ms, from a disk several times that.
LARGE_BLOCKS = 10_000
# The field's rules of thumb: an estimate ten times off misleads the planner; under 10 ms is good, over 100 ms is bad.
STALE_FACTOR, STALE_ROWS = 10, 1000
GOOD_MS, BAD_MS = 10, 100
VERDICTS = ("good", "fair", "bad")


@dataclass(frozen=True)
class Verdict:
    """`word` is good, fair or bad; `reasons` say why it is not good, and what to do."""

    word: str
    reasons: list[str]


@dataclass(frozen=True)
class Scan:
    """How a table is read. The rows are of all its loops together; `actual_rows` is None where it was not run."""

    kind: str  # PostgreSQL's word for it, as "Index Scan"
    relation: str
    index: str | None
    estimated_rows: float
    actual_rows: float | None


async def judge(connection: asyncpg.Connection, plan: dict[str, Any], *, large_blocks: int = LARGE_BLOCKS) -> Verdict:
    """By scan type, by estimated against actual rows, and by time; the last two where the plan was run."""
    found: list[tuple[str, str]] = []
    for node in nodes(plan["Plan"]):
        if node["Node Type"] == "Seq Scan":
            blocks = await queryplans.blocks_of(connection, _relation(node))
            if blocks > large_blocks:
                told = f"reads {_relation(node)} from end to end ({size(blocks)})"
                found.append(("bad", f"{told}: an index is missing, or most of it is meant"))
        if stale := _stale(node):
            found.append(("fair", stale))
    if "Stopped After" in plan:
        found.append(("bad", f"took longer than {plan['Stopped After']:,} ms, and was stopped"))
    took_ms = plan.get("Execution Time")
    if took_ms is not None and took_ms > GOOD_MS:
        found.append(("bad" if took_ms > BAD_MS else "fair", f"took {took_ms:.0f} ms"))
    word = max((word for word, _ in found), key=VERDICTS.index, default="good")
    return Verdict(word, [reason for _, reason in found])


def _stale(node: dict[str, Any]) -> str | None:
    relation, actual = node.get("Relation Name"), node.get("Actual Rows")
    # Below a LIMIT or an anti-join fewer rows are read than there are; that says nothing of the statistics.
    if relation is None or actual is None or node["Node Type"].startswith("Tid"):
        return None
    # Both are of one loop: the inner side of a nested loop has an average of them.
    estimated, rows = node["Plan Rows"], actual * node.get("Actual Loops", 1)
    if rows > STALE_ROWS and actual > STALE_FACTOR * max(estimated, 1):
        return (
            f"{estimated:,} rows of {_relation(node)} were expected, {actual:,.0f} came: run ANALYZE {_relation(node)};"
        )
    return None


def with_reason(verdict: Verdict, word: str, reason: str) -> Verdict:
    """The same, and no better than the word."""
    return Verdict(max(verdict.word, word, key=VERDICTS.index), [*verdict.reasons, reason])


def scans(plan: dict[str, Any]) -> list[Scan]:
    """Of a bitmap scan, the table's part and then that of each index."""
    return [_scan(node) for node in nodes(plan["Plan"]) if "Scan" in node["Node Type"]]


def _scan(node: dict[str, Any]) -> Scan:
    loops, actual = node.get("Actual Loops", 1), node.get("Actual Rows")
    relation = _relation(node) if "Relation Name" in node else ""
    return Scan(
        kind=node["Node Type"],
        relation=relation,
        index=node.get("Index Name"),
        estimated_rows=node["Plan Rows"] * max(loops, 1),
        actual_rows=None if actual is None else actual * loops,
    )


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those that were executed, where the query plan tells."""
    if plan.get("Actual Loops") == 0:
        return
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def _relation(node: dict[str, Any]) -> str:
    return f"{quoted(node['Schema'])}.{quoted(node['Relation Name'])}"


def size(blocks: int) -> str:
    return f"{blocks:,} blocks, {blocks * 8 / 1024:,.0f} MB"
