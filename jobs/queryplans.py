"""Whether the statements of a job will do: the guard before the first batch, and the verdicts of `lowtide explain`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from db import queryplans
from db.queryplans import Stated
from db.targets import Target, quoted
from jobs.failures import Refused

# 80 MB: reading so much from memory takes about 100 ms, from a disk several times that.
LARGE_BLOCKS = 10_000
# 1 MB: what a referencing table without an index may have, as each deleted row reads all of it.
SMALL_BLOCKS = 128
# The field's rules of thumb: an estimate ten times off misleads the planner; under 10 ms is good, over 100 ms is bad.
STALE_FACTOR, STALE_ROWS = 10, 1000
GOOD_MS, BAD_MS = 10, 100
VERDICTS = ("good", "fair", "bad")


class QueryPlanRefused(Refused):
    """A statement would read a large table from end to end, once or for each row."""


@dataclass(frozen=True)
class Verdict:
    """`word` is good, fair or bad; `reasons` say why it is not good, and what to do."""

    word: str
    reasons: list[str]


async def guard(
    connection: asyncpg.Connection,
    target: Target,
    statements: Sequence[Stated],
    *,
    large_blocks: int = LARGE_BLOCKS,
    small_blocks: int = SMALL_BLOCKS,
) -> None:
    """Explain the statements, and look at what references the table. Raises QueryPlanRefused; nothing has run then."""
    for given in statements:
        plan = await queryplans.explain(connection, given)
        if not any(node["Node Type"] == "Seq Scan" for node in _nodes(plan["Plan"]) if _is_of(node, target)):
            continue
        blocks = await queryplans.blocks_of(connection, target.relation)
        if blocks > large_blocks:
            told = f"the {given.name} would read {target.name} from end to end ({_size(blocks)})"
            raise await _refusal(connection, target, given.name, told)
    for reference in await queryplans.unindexed_references(connection, target.relation):
        if reference.blocks > small_blocks:
            columns = ", ".join(reference.columns)
            raise QueryPlanRefused(
                f"for each deleted row of {target.name}, {reference.relation} ({_size(reference.blocks)}) would be "
                f"read from end to end: no index begins with its foreign key {columns} ({reference.constraint}). "
                f"Nothing was deleted. Create one first: {reference.wanted_index}",
                detail={"statement": "window", "table": reference.relation, "index": reference.wanted_index},
            )


async def _refusal(connection: asyncpg.Connection, target: Target, statement: str, told: str) -> QueryPlanRefused:
    invalid = await queryplans.invalid_index(connection, target)
    wanted = target.wanted_index if invalid is None else f"DROP INDEX CONCURRENTLY {invalid}; {target.wanted_index}"
    why = "" if invalid is None else f"; index {invalid} was never finished, and is not used"
    return QueryPlanRefused(
        f"{told}{why}. Nothing was deleted. Create an index first: {wanted}",
        detail={"statement": statement, "table": target.name, "index": wanted},
    )


async def judge(connection: asyncpg.Connection, plan: dict[str, Any], *, large_blocks: int = LARGE_BLOCKS) -> Verdict:
    """By scan type, by estimated against actual rows, and by time; the last two where the plan was run."""
    found: list[tuple[str, str]] = []
    for node in _nodes(plan["Plan"]):
        if node["Node Type"] == "Seq Scan":
            blocks = await queryplans.blocks_of(connection, _relation(node))
            if blocks > large_blocks:
                found.append(("bad", f"reads {_relation(node)} from end to end ({_size(blocks)}); an index is missing"))
        if stale := _stale(node):
            found.append(("fair", stale))
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
    rows = actual * node.get("Actual Loops", 1)
    estimated = node["Plan Rows"]
    if rows > STALE_ROWS and rows > STALE_FACTOR * max(estimated, 1):
        return (
            f"{estimated:,} rows of {_relation(node)} were expected, {rows:,.0f} came: run ANALYZE {_relation(node)};"
        )
    return None


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _relation(node: dict[str, Any]) -> str:
    return f"{quoted(node['Schema'])}.{quoted(node['Relation Name'])}"


def _is_of(node: dict[str, Any], target: Target) -> bool:
    return (node.get("Schema"), node.get("Relation Name")) == (target.schema, target.table)


def _size(blocks: int) -> str:
    return f"{blocks:,} blocks, {blocks * 8 / 1024:,.0f} MB"
