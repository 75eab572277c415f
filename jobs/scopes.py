"""What a purge deletes of each relation that its table consists of, and what goes with it: read from the catalog."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg

from db import columns, fitness, held, references, relations
from db.held import HoldUnclear
from db.references import Graph, Reference
from db.relations import Relation
from db.targets import Eligible
from db.trees import Tree
from jobs import children
from jobs.failures import Refused
from jobs.policies import Policy

RULE_ADVICE = "Drop the rule, or write a trigger in its place"


class NotATable(Refused):
    pass


class RuleInTheWay(Refused):
    """A rule of the table says what DELETE means: how many rows that removes, nobody can tell."""


@dataclass(frozen=True)
class Scope:
    """What a purge deletes of one relation."""

    eligible: Eligible
    before: str  # what each batch says first: that no other holds have come
    pointing: Tree | None = None  # what points to its rows; None where the policy does not say what becomes of it

    @property
    def tree(self) -> Tree | None:
        """What points to its rows, where more goes than the rows themselves."""
        return self.pointing if self.pointing is not None and self.pointing.needed else None

    @property
    def mutual(self) -> bool:
        """Whether rows of the policy's own table may keep each other."""
        return self.pointing is not None and self.pointing.mutual

    @property
    def at_most(self) -> "Scope":
        """Rows that block each other may go one after the other in one run: none of them counts as kept."""
        return replace(self, eligible=replace(self.eligible, blocked={})) if self.mutual else self


class Scopes:
    """Each relation is looked at once, and what is the same for all of them too.

    Good for a slice: the next one looks again. A hold that is added meanwhile is seen all the same, by each batch.
    """

    def __init__(self, policy: Policy, cutoff: datetime) -> None:
        self.policy = policy
        self.cutoff = cutoff
        self._whole: Eligible | None = None
        self._graph: Graph | None = None
        self._found: dict[int, Scope] = {}

    async def whole(self, connection: asyncpg.Connection) -> Eligible:
        """The eligible rows of the whole table, whatever keeps some of them. Raises UnfitColumn."""
        if self._whole is None:
            self._whole = await columns.eligible(connection, self.policy.target, cutoff=self.cutoff)
        return self._whole

    async def rows(self, connection: asyncpg.Connection, relation: Relation) -> Eligible:
        """The same of one relation. Raises NotATable, RuleInTheWay, UnfitColumn."""
        if (told := relations.no_table(relation.kind)) is not None:
            raise NotATable(f"{relation.name} {told[0]}: no row of it can be deleted. {told[1]}")
        require_no_rule([relation])
        whole = await self.whole(connection)
        return replace(whole, target=relation.as_target(self.policy.target), whole=False)

    async def of(self, connection: asyncpg.Connection, relation: Relation) -> Scope:
        """Raises NotATable, RuleInTheWay, UnfitColumn, ChildrenUndeclared, Refused."""
        if relation.oid not in self._found:
            self._found[relation.oid] = await self._look(connection, relation)
        return self._found[relation.oid]

    async def all(self, connection: asyncpg.Connection) -> list[Scope]:
        """Of the relations that there are now, one after the other. Raises as `of`."""
        present = await relations.all_of(connection, self.policy.target)
        return [await self.of(connection, relation) for relation in present]

    async def _look(self, connection: asyncpg.Connection, relation: Relation) -> Scope:
        eligible = await self.rows(connection, relation)
        if self._graph is None:
            self._graph = await references.graph(connection, self.policy.target.relation)
        tree = await children.tree(connection, relation.oid, self.policy.children, self._graph)
        partitions = {oid for child in tree.along for oid in tree.families[child]} - set(tree.along)
        parts = tree.along | await relations.names(connection, partitions)
        loosened = {each.relation: each for each in tree.loosened}
        holds = await held.columns(connection, [eligible.target.relation, *parts.values(), *loosened])
        for name, reference in loosened.items():
            if lost := {column.name for column in holds.columns[name]} & set(reference.columns):
                raise _would_lose_its_hold(reference, sorted(lost))
        unheld = holds.unheld(eligible.target.relation)
        eligible = replace(
            eligible, unheld=None if unheld == "true" else unheld, blocked=tree.blocked(eligible, relation.oid)
        )
        conditions = {oid: holds.unheld(name, "c") for oid, name in parts.items()}
        tree = replace(tree, held={oid: f"NOT ({sql})" for oid, sql in conditions.items() if sql != "true"})
        return Scope(eligible, holds.before, tree)


def require_no_rule(relations: Sequence[Relation | fitness.Relation]) -> None:
    """Raises RuleInTheWay."""
    for relation in relations:
        if relation.rule is not None:
            raise RuleInTheWay(f"{rule_told(relation.name, relation.rule)}. Nothing was deleted. {RULE_ADVICE}")


def rule_told(name: str, rule: str) -> str:
    return f"rule {rule} of {name} says what DELETE does there"


def _would_lose_its_hold(reference: Reference, columns: list[str]) -> HoldUnclear:
    return HoldUnclear(
        f"{reference.name} is under holds by {', '.join(columns)} (`lowtide hold list`), which {reference.constraint} "
        f"would set to NULL or a default: its rows would lose their holds. Nothing was deleted. Declare it: "
        f'children = {{ {json.dumps(reference.name, ensure_ascii=False)} = "block" }} keeps what it points to'
    )
