"""Whether the statements of a job will do: the guard before the first batch, and the verdicts of `lowtide explain`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from db import estimates, queryplans
from db.faults import server_message
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


class RightsMissing(Refused):
    """Our role may not do to the table what the purge needs."""


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
    along: Sequence[str] = (),
    large_blocks: int = LARGE_BLOCKS,
    small_blocks: int = SMALL_BLOCKS,
) -> None:
    """Explain the statements, and look at what references the table, and those whose rows go along with its own.

    Raises QueryPlanRefused; nothing has run then.
    """
    plans = await require_rights(connection, target, statements)
    for given, plan in zip(statements, plans, strict=True):
        if not any(node["Node Type"] == "Seq Scan" for node in _nodes(plan["Plan"]) if _is_of(node, target)):
            continue
        blocks = await queryplans.blocks_of(connection, target.relation)
        if blocks > large_blocks:
            told = f"the {given.name} would read {target.name} from end to end ({_size(blocks)})"
            raise await _refusal(connection, target, given.name, told)
    for reference in await queryplans.unindexed_references(connection, [target.relation, *along]):
        if reference.blocks > small_blocks:
            told = (
                f"for each deleted row of {reference.parent}, {reference.relation} ({_size(reference.blocks)}) would "
                f"be read from end to end: no index begins with its foreign key {', '.join(reference.columns)} "
                f"({reference.constraint})"
            )
            advice, index = await _advice(connection, reference.relation, reference.columns, reference.wanted_index)
            raise _refused(told, advice, statement="window", table=reference.relation, index=index)


async def require_rights(
    connection: asyncpg.Connection, target: Target, statements: Sequence[Stated]
) -> list[dict[str, Any]]:
    """The statements' query plans. Raises RightsMissing where our role may not execute one of them."""
    try:
        return [await queryplans.explain(connection, given) for given in statements]
    except asyncpg.InsufficientPrivilegeError as exc:
        raise await _rights_missing(connection, target, server_message(exc)) from exc


async def _rights_missing(connection: asyncpg.Connection, target: Target, told: str) -> RightsMissing:
    grant = f"GRANT SELECT, UPDATE, DELETE ON {target.relation} TO {quoted(await queryplans.role(connection))};"
    return RightsMissing(f"{told}. Nothing was deleted. To pass over rows that others hold needs UPDATE too: {grant}")


async def _refusal(connection: asyncpg.Connection, target: Target, statement: str, told: str) -> QueryPlanRefused:
    wanted, standing = target.wanted_index, (await estimates.table(connection, target)).index
    if standing is not None:
        told = f"{told}; index {standing} is there, and PostgreSQL expects no gain from it"
        wanted = queryplans.narrowed_index(target)
        if target.where is None:
            advice = f"Run ANALYZE {target.relation}; and see whether random_page_cost suits the disk"
            return _refused(told, advice, statement=statement, table=target.name, index=None)
    advice, index = await _advice(connection, target.relation, [target.column], wanted)
    return _refused(told, advice, statement=statement, table=target.name, index=index)


async def _advice(
    connection: asyncpg.Connection, relation: str, columns: Sequence[str], wanted: str
) -> tuple[str, str | None]:
    """In words, and what to run; None for that while somebody runs it already."""
    found = await queryplans.invalid_index(connection, relation, columns)
    if found is None:
        return f"Create an index first: {wanted}", wanted
    if found.building:
        return f"An index is being built ({found.name}): try again when it is there", None
    mending = f"DROP INDEX CONCURRENTLY {found.name}; {wanted}"
    return f"The index {found.name} was never finished, and is not used. Replace it first: {mending}", mending


def _refused(told: str, advice: str, *, statement: str, table: str, index: str | None) -> QueryPlanRefused:
    detail = {"statement": statement, "table": table, "index": index}
    return QueryPlanRefused(f"{told}. Nothing was deleted. {advice}", detail=detail)


async def judge(connection: asyncpg.Connection, plan: dict[str, Any], *, large_blocks: int = LARGE_BLOCKS) -> Verdict:
    """By scan type, by estimated against actual rows, and by time; the last two where the plan was run."""
    found: list[tuple[str, str]] = []
    for node in _nodes(plan["Plan"]):
        if node["Node Type"] == "Seq Scan":
            blocks = await queryplans.blocks_of(connection, _relation(node))
            if blocks > large_blocks:
                size = _size(blocks)
                told = f"reads {_relation(node)} from end to end ({size}): an index is missing, or most of it is meant"
                found.append(("bad", told))
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
