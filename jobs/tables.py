"""Whether the table and the column that a policy names are there, and will do; where not, what may be meant."""

import difflib
from collections.abc import Iterable

import asyncpg

from db import fitness, relations
from db.columns import DATES, INTEGERS
from db.fitness import Relation
from db.targets import Target
from jobs.facts import Fact
from jobs.policies import Policy
from jobs.scopes import RULE_ADVICE, rule_told

MOST_TABLES, MOST_COLUMNS = 3, 5
# Of difflib: `evnets` is like `events` by 0.83, `orders` like `order_line` by 0.63.
LIKENESS = 0.7


async def look(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    target = policy.target
    family = await fitness.relations(connection, target)
    if not family:
        return [
            Fact("table", "fault", f"there is no {target.name}", _as_written(await _tables_like(connection, target)))
        ]
    present = own(family)
    for relation in present:
        if (told := relations.no_table(relation.kind)) is not None:
            return [Fact("table", "fault", f"{relation.name} {told[0]}", told[1])]
        if relation.rule is not None:
            return [Fact("table", "fault", rule_told(relation.name, relation.rule), RULE_ADVICE)]
    if present[0].is_temporary:
        return [Fact("table", "fault", f"{target.name} is a temporary table of one session", "Name one that stays")]
    below = sum(relation.kind == "r" for relation in present[1:])
    if present[0].kind == "p":
        return [Fact("table", "ok", f"{target.name}, in {below} partitions")]
    return [Fact("table", "ok", f"{target.name}{f', and {below} that inherit from it' if below else ''}")]


async def look_at_column(connection: asyncpg.Connection, policy: Policy) -> list[Fact]:
    target = policy.target
    found = await fitness.column(connection, target)
    if found is None:
        told = f"{target.name} has no column {target.column}"
        return [Fact("column", "fault", told, _as_written(await _columns_like(connection, target)))]
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


def own(family: list[Relation]) -> list[Relation]:
    """The table, and those whose rows are its rows too."""
    return [relation for relation in family if relation.kin != "above"]


async def _tables_like(connection: asyncpg.Connection, target: Target) -> list[str]:
    """Of the same name in another schema, or in other letters; else of one like it, of the same schema first."""
    known = await fitness.tables(connection, target)
    same = [each.quoted_name for each in known if each.name.lower() == target.table.lower()]
    here = _like(target.table, (each for each in known if each.schema == target.schema))
    return (sorted(same) or here or _like(target.table, known))[:MOST_TABLES]


async def _columns_like(connection: asyncpg.Connection, target: Target) -> list[str]:
    """Of the same name in other letters, or of one like it; and those that hold dates."""
    known = await fitness.named_columns(connection, target)
    dates = [each.quoted_name for each in known if each.is_date]
    return list(dict.fromkeys([*_like(target.column, known), *dates]))[:MOST_COLUMNS]


def _like(name: str, known: Iterable[fitness.Named]) -> list[str]:
    """The most alike first; letters of either case are the same."""
    quoted: dict[str, str] = {}
    for each in known:
        quoted.setdefault(each.name.lower(), each.quoted_name)
    return [quoted[close] for close in difflib.get_close_matches(name.lower(), quoted, n=3, cutoff=LIKENESS)]


def _as_written(like: list[str]) -> str:
    there_is = f" There is {', '.join(like)}" if like else ""
    return f"Names are taken as they are written.{there_is}"
