"""What the database has against a policy. Nothing is changed, and no table is read but small ones."""

from collections.abc import Awaitable, Callable

import asyncpg

from db import estimates, fitness, queryplans, relations
from db.columns import DATES, INTEGERS
from db.engine import Database
from db.faults import server_message, sqlstate
from db.fitness import Relation
from db.targets import Target, quoted
from db.trees import Tree
from db.verdicts import LARGE_BLOCKS
from jobs import children, conditions, epochs, rights
from jobs.children import ChildrenUndeclared
from jobs.facts import Fact
from jobs.failures import AWAY, Refused
from jobs.policies import Broken, Policy
from jobs.queryplans import SMALL_BLOCKS
from jobs.scopes import RULE_ADVICE, rule_told

STATEMENT_TIMEOUT = "2s"
MOST_NAMED = 5
UNKNOWN = "unknown"  # what a fact is about that could not be told in its time
# Where one of them is at fault, nothing else can be told.
FIRST = ("table", "rights", "row security", "column", "children")
# What a run's own guard looks at once more, before its first batch (jobs/queryplans.py): they disable no policy here.
GUARDED = ("index", "foreign keys")


async def inspect(database: Database, policy: Policy) -> list[Fact]:
    """Raises what a lost connection raises. What could not be told in its time is a warning."""
    facts: list[Fact] = []
    async with database.tuned(statement_timeout=STATEMENT_TIMEOUT) as connection:
        for look in LOOKS:
            if any(fact.is_fault_of(*FIRST) for fact in facts):
                break  # the others would stumble over the same
            try:
                facts += await look(connection, policy)
            except asyncpg.PostgresError as exc:
                if str(sqlstate(exc)).startswith(AWAY):
                    raise
                facts.append(Fact(UNKNOWN, "warning", f"could not be looked at: {server_message(exc)}", "Try again"))
    return facts


def against(policy: Policy, facts: list[Fact]) -> Broken | None:
    """Why the policy can't be used as the database is now."""
    faults = [f"{fact.about}: {fact}" for fact in facts if fact.word == "fault" and fact.about not in GUARDED]
    return Broken(policy.name, "; ".join(faults), (policy.target.schema, policy.target.table)) if faults else None


async def _table(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    target = policy.target
    family = await fitness.relations(connection, target)
    if not family:
        like = await fitness.tables_like(connection, target)
        there_is = f" There is {', '.join(like)}" if like else ""
        return [Fact("table", "fault", f"there is no {target.name}", f"Names are taken as they are written.{there_is}")]
    own = _own(family)
    for relation in own:
        if (told := relations.no_table(relation.kind)) is not None:
            return [Fact("table", "fault", f"{relation.name} {told[0]}", told[1])]
        if relation.rule is not None:
            return [Fact("table", "fault", rule_told(relation.name, relation.rule), RULE_ADVICE)]
    if own[0].is_temporary:
        return [Fact("table", "fault", f"{target.name} is a temporary table of one session", "Name one that stays")]
    below = sum(relation.kind == "r" for relation in own[1:])
    if own[0].kind == "p":
        return [Fact("table", "ok", f"{target.name}, in {below} partitions")]
    return [Fact("table", "ok", f"{target.name}{f', and {below} that inherit from it' if below else ''}")]


async def _rights(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    """Each relation by itself: a purge names the leaves, and rights on the parent say nothing of those."""
    missing = await rights.told(connection, _own(await fitness.relations(connection, policy.target)))
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


async def _column(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    target = policy.target
    found = await fitness.column(connection, target)
    if found is None:
        like = await fitness.columns_like(connection, target)
        there_is = f" There is {', '.join(like)}" if like else ""
        told = f"{target.name} has no column {target.column}"
        return [Fact("column", "fault", told, f"Names are taken as they are written.{there_is}")]
    told = f"{target.column} is {found.type}"
    if found.type in INTEGERS and target.epoch is None:
        return [Fact("column", "fault", told, 'Say what it counts since 1970: epoch = "seconds", for example')]
    if found.type in DATES and target.epoch is not None:
        return [Fact("column", "fault", told, "Leave epoch out: it is for columns of integers")]
    if found.type not in (*DATES, *INTEGERS):
        return [Fact("column", "fault", f"{told}: no age can be told from it", f"It has to be one of {_taken()}")]
    if target.epoch is not None:
        told += f", {target.epoch} since 1970"
    if found.generated == "v":
        return [Fact("column", "warning", f"{told}, computed when it is read: no index can be on it", "Store it")]
    return [Fact("column", "ok", told)]


def _taken() -> str:
    return f"{', '.join(DATES)}, or with epoch {', '.join(INTEGERS)}"


async def _timezone(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    if await fitness.knows_timezone(connection, policy.target.timezone):
        return []
    return [Fact("timezone", "fault", f"PostgreSQL does not know {policy.timezone}", "Write another name of the zone")]


async def _index(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    """Of each relation with rows by itself."""
    own = _own(await fitness.relations(connection, policy.target))
    targets = [relation.as_target(policy.target) for relation in own if relation.kind == "r"]
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


def _own(family: list[Relation]) -> list[Relation]:
    """The table, and those whose rows are its rows too."""
    return [relation for relation in family if relation.kin != "above"]


# In this order.
LOOKS: tuple[Callable[[asyncpg.Connection, Policy], Awaitable[list[Fact]]], ...] = (
    _table,
    _rights,
    _row_security,
    _column,
    epochs.look,
    _timezone,
    conditions.look,
    _index,
    _children,
    _foreign_keys,
)
