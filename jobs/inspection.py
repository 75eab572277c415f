"""What the database has against a policy. Nothing is changed, and no table is read but small ones."""

from collections.abc import Awaitable, Callable

import asyncpg

from db import estimates, fitness, queryplans, server
from db.engine import Database
from db.faults import server_message, sqlstate
from db.fitness import Relation
from db.targets import Target, quoted
from db.trees import Tree
from db.verdicts import LARGE_BLOCKS
from jobs import children, conditions, epochs, rights, tables
from jobs.children import ChildrenUndeclared
from jobs.facts import Fact
from jobs.failures import AWAY, Refused
from jobs.policies import Broken, Policy
from jobs.queryplans import SMALL_BLOCKS
from jobs.scopes import RULE_ADVICE, rule_told
from jobs.tables import own

STATEMENT_TIMEOUT = "2s"
MOST_NAMED = 5
UNKNOWN = "unknown"  # what a fact is about that could not be told in its time
SEE_RIGHTS = "See what this role may do"
# What another role may be able to, or see.
OF_THE_ROLE = ("rights", "row security")
# Where one of them is at fault, nothing else can be told.
FIRST = ("table", "rights", "row security", "column", "children")
# What a run's own guard looks at once more, before its first batch (jobs/queryplans.py): they disable no policy here.
GUARDED = ("index", "foreign keys")


async def inspect(database: Database, policy: Policy, *, at_terminal: bool = False) -> list[Fact]:
    """Raises what a lost connection raises. What could not be told in its time is a warning.

    At a terminal, what an operator's role may not do is worth a note: what counts is the worker's.
    """
    facts: list[Fact] = []
    async with database.tuned(statement_timeout=STATEMENT_TIMEOUT) as connection:
        is_operator = at_terminal and await server.is_operator(connection)
        for look in LOOKS:
            if any(fact.is_fault_of(*FIRST) for fact in facts):
                break  # the others would stumble over the same
            found = await _found(look(connection, policy))
            facts += [_of_operator(fact) for fact in found] if is_operator else found
    return facts


async def _found(look: Awaitable[list[Fact]]) -> list[Fact]:
    try:
        return await look
    except asyncpg.PostgresError as exc:
        if str(sqlstate(exc)).startswith(AWAY):
            raise
        told = f"could not be looked at: {server_message(exc)}"
        if isinstance(exc, asyncpg.InsufficientPrivilegeError):
            return [Fact(UNKNOWN, "warning", told, SEE_RIGHTS)]
        return [Fact(UNKNOWN, "warning", told, "Try again")]


def _of_operator(fact: Fact) -> Fact:
    return fact.of_operator if fact.is_fault_of(*OF_THE_ROLE) or fact.advice == SEE_RIGHTS else fact


def against(policy: Policy, facts: list[Fact]) -> Broken | None:
    """Why the policy can't be used as the database is now."""
    faults = [f"{fact.about}: {fact}" for fact in facts if fact.word == "fault" and fact.about not in GUARDED]
    return Broken(policy.name, "; ".join(faults), (policy.target.schema, policy.target.table)) if faults else None


async def _rights(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    """Each relation by itself: a purge names the leaves, and rights on the parent say nothing of those."""
    missing = await rights.told(connection, own(await fitness.relations(connection, policy.target)))
    if missing is None:
        return [Fact("rights", "ok", "SELECT, UPDATE and DELETE")]
    return [Fact("rights", "fault", *missing)]


async def _row_security(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    family = await fitness.relations(connection, policy.target)
    hiding = next((relation for relation in family if relation.row_security), None)
    if hiding is None:
        return [Fact("row security", "ok", "hides no row from us")]
    return [await _hidden(connection, hiding)]


async def _hidden(connection: asyncpg.Connection, hiding: Relation) -> Fact:
    role = quoted(await queryplans.role(connection))
    told = f"the row level security of {hiding.name} applies to role {role}: a purge would see some of the rows"
    return Fact("row security", "fault", told, f"ALTER ROLE {role} BYPASSRLS; or let the table's owner purge it")


async def _timezone(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    if await fitness.knows_timezone(connection, policy.target.timezone):
        return []
    return [Fact("timezone", "fault", f"PostgreSQL does not know {policy.timezone}", "Write another name of the zone")]


async def _index(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    """Of each relation with rows by itself."""
    family = own(await fitness.relations(connection, policy.target))
    targets = [relation.as_target(policy.target) for relation in family if relation.kind == "r"]
    found = [fact for target in targets if (fact := await _index_of(connection, target)) is not None]
    if not found:
        table = await estimates.table(connection, targets[0]) if targets else None
        told = "small enough to be read" if table is None or table.index is None else f"{table.index} serves"
        return [Fact("index", "ok", told)]
    more = len(found) - MOST_NAMED
    return found[:MOST_NAMED] + ([Fact("index", "warning", f"{more} more tables have none")] if more > 0 else [])


async def _index_of(connection: asyncpg.Connection, target: Target) -> Fact | None:
    """None where nothing is amiss."""
    table = await estimates.table(connection, target)
    if table.index is not None or table.blocks <= SMALL_BLOCKS:
        return None
    told = f"no index finds the eligible rows of {target.name} ({table.blocks:,} blocks)"
    if table.blocks > LARGE_BLOCKS:
        return Fact("index", "fault", f"{told}: its purge is refused", target.wanted_index)
    return Fact("index", "warning", f"{told}: each purge reads it from end to end", target.wanted_index)


async def _foreign_keys(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    tree = await children.tree_of(connection, policy)
    along = [] if tree is None else tree.along.values()
    unindexed = await queryplans.unindexed_references(connection, [policy.target.relation, *along])
    slow = [reference for reference in unindexed if reference.blocks > SMALL_BLOCKS]
    return [
        Fact(
            "foreign keys",
            "fault",
            f"{reference.relation} ({reference.constraint}) would be read from end to end for each deleted row of "
            f"{reference.parent}: its purge is refused",
            reference.wanted_index,
        )
        for reference in slow
    ] or [
        Fact("foreign keys", "ok", "each has an index on its side" if not unindexed else "small tables alone lack one")
    ]


async def _pointing(connection: asyncpg.Connection, tree: Tree) -> Fact | None:
    """What is wrong with the tables that point to the policy's rows, as with its own."""
    pointing = await fitness.children(connection, tree)
    if (missing := await rights.told(connection, pointing)) is not None:
        return Fact("rights", "fault", *missing)
    for relation in pointing:
        if relation.row_security:
            return await _hidden(connection, relation)
        if relation.rule is not None:
            return Fact("children", "fault", rule_told(relation.name, relation.rule), RULE_ADVICE)
    return None


async def _children(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    try:
        tree = await children.tree_of(connection, policy)
    except ChildrenUndeclared as exc:
        told, _, advice = str(exc).partition(". Nothing was deleted. ")
        return [Fact("children", "fault", told, advice)]
    except Refused as exc:
        return [Fact("children", "fault", str(exc), "Leave it out, or write another name")]
    if tree is None:
        return []
    if (fault := await _pointing(connection, tree)) is not None:
        return [fault]
    named = [f"{edge.reference.name} {'goes along' if edge.deletes else 'keeps rows'}" for edge in tree.edges]
    return [Fact("children", "ok", ", ".join(named) or "nothing points to its rows")]


# In this order.
LOOKS: tuple[Callable[[asyncpg.Connection, Policy], Awaitable[list[Fact]]], ...] = (
    tables.look,
    _rights,
    _row_security,
    tables.look_at_column,
    epochs.look,
    _timezone,
    conditions.look,
    _index,
    _children,
    _foreign_keys,
)
