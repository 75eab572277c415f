"""Whether the statements of a purge will do: the guard before the first batch."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from db import estimates, fitness, queryplans
from db.faults import server_message
from db.queryplans import Stated
from db.targets import Target, quoted
from db.trees import Tree
from db.verdicts import LARGE_BLOCKS, nodes, size
from jobs import rights
from jobs.failures import Refused
from jobs.rights import RightsMissing
from jobs.scopes import require_no_rule

# 1 MB: what a referencing table without an index may have, as each deleted row reads all of it.
SMALL_BLOCKS = 128


class QueryPlanRefused(Refused):
    """A statement would read a large table from end to end, once or for each row."""


async def guard(
    connection: asyncpg.Connection,
    target: Target,
    statements: Sequence[Stated],
    *,
    tree: Tree | None = None,
    large_blocks: int = LARGE_BLOCKS,
    small_blocks: int = SMALL_BLOCKS,
) -> None:
    """Explain the statements, and look at what references the table, and those whose rows go along with its own.

    Raises QueryPlanRefused, RightsMissing and RuleInTheWay; nothing has run then.
    """
    along = () if tree is None else tree.along.values()
    if tree is not None and tree.edges:
        pointing = await fitness.children(connection, tree)
        await rights.require(connection, pointing)
        require_no_rule(pointing)
    plans = await require_rights(connection, target, statements)
    for given, plan in zip(statements, plans, strict=True):
        if not any(node["Node Type"] == "Seq Scan" for node in nodes(plan["Plan"]) if _is_of(node, target)):
            continue
        blocks = await queryplans.blocks_of(connection, target.relation)
        if blocks > large_blocks:
            told = f"the {given.name} would read {target.name} from end to end ({size(blocks)})"
            raise await _refusal(connection, target, given.name, told)
    for reference in await queryplans.unindexed_references(connection, [target.relation, *along]):
        if reference.blocks > small_blocks:
            told = (
                f"for each deleted row of {reference.parent}, {reference.relation} ({size(reference.blocks)}) would "
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
        return await queryplans.explain_each(connection, statements)
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


def _is_of(node: dict[str, Any], target: Target) -> bool:
    return (node.get("Schema"), node.get("Relation Name")) == (target.schema, target.table)
