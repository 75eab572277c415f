"""What hangs on eligible rows, counted: which of them stay because of it, and what goes along with the others.

Says what `lowtide.purge_tree` would do, in one query that changes nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import asyncpg

from db import relations
from db.references import Reference
from db.targets import Eligible, literal, quoted
from db.trees import Tree


@dataclass(frozen=True)
class Branches:
    """`is_exact` is False where they are too many to be walked: then `along` is what points to the rows themselves
    alone, and nobody has looked at what keeps it."""

    going: int
    held: int  # eligible rows that stay, for what hangs on them
    blocked: int  # and not held
    along: Mapping[str, int]  # rows that go with the others, by table
    is_exact: bool = True

    def with_more(self, counted: Mapping[str, Any]) -> "Branches":
        """And those of another relation."""
        along = Counter(self.along)
        along.update(counted["along"])
        going, held, blocked = (getattr(self, name) + counted[name] for name in ("going", "held", "blocked"))
        return replace(self, going=going, held=held, blocked=blocked, along=dict(along))


async def branch(connection: asyncpg.Connection, tree: Tree, eligible: Eligible, oid: int) -> "Branch":
    references = [*(edge.reference for edge in tree.edges), *tree.loosened]
    families = (tree.families[child] for child in tree.along)
    oids = {each.parent for each in references}.union(tree.along, *families)
    return Branch(tree, eligible, oid, await relations.names(connection, oids))


@dataclass(frozen=True)
class Branch:
    """What hangs on the eligible rows of the relation `oid`. `names` are those of the tree's tables, quoted."""

    tree: Tree
    eligible: Eligible
    oid: int
    names: Mapping[int, str]

    @property
    def hangs(self) -> bool:
        """Whether anything goes along, or is changed."""
        return bool(self.tree.along or self.tree.loosened)

    async def take(self, connection: asyncpg.Connection) -> Mapping[str, Any]:
        """In the snapshot of the connection's transaction: `going`, `held`, `blocked` and `along`."""
        counted: Mapping[str, Any] = await connection.fetchval(self.joined())
        return counted

    def joined(self) -> str:
        """Table by table, from the root on. Where tables form a circle, only what points to the root is counted."""
        depths = self.tree.depths or {}
        order = sorted(self.tree.along, key=lambda child: depths.get(child, 0))
        row = self.eligible.target.relation
        held, blocked = ("false", "false") if self.tree.is_walked else self._stays(self.tree.families[self.oid], row, 1)
        parts = [
            f"roots AS MATERIALIZED (SELECT {self._keys(self.oid)}, {held} AS held, {blocked} AS blocked "
            f"FROM {self.eligible.rows} WHERE {self.eligible.indexable})",
            "r AS (SELECT * FROM roots WHERE NOT held AND NOT blocked)",
        ]
        for child in order:
            edges = [edge.reference for edge in self.tree.deleting if edge.reference.child == child]
            found = " OR ".join(
                f"EXISTS (SELECT FROM {self._part(each.parent)} p WHERE {each.joined('c', 'p')})"
                for each in edges
                if self.tree.depths is not None or self._is_root(each.parent)
            )
            parts.append(f"t{child} AS (SELECT {self._keys(child)} FROM {edges[0].rows} c WHERE {found or 'false'})")
        along = [
            f"{literal(edge.reference.name)}, (SELECT count(*) FROM t{edge.reference.child})"
            for edge in self.tree.deleting
        ]
        for each in self.tree.loosened:
            found = f"EXISTS (SELECT FROM {self._part(each.parent)} p WHERE {each.joined('c', 'p')})"
            along.append(f"{literal(loosened(each))}, (SELECT count(*) FROM {each.rows} c WHERE {found})")
        return (
            f"WITH {', '.join(parts)} SELECT jsonb_build_object('along', jsonb_build_object({', '.join(along)}), "
            "'going', (SELECT count(*) FROM r), 'held', (SELECT count(*) FROM roots WHERE held), "
            "'blocked', (SELECT count(*) FROM roots WHERE blocked AND NOT held))"
        )

    def _stays(self, family: AbstractSet[int], row: str, depth: int) -> tuple[str, str]:
        """SQL: whether a row of the family, by the name `row`, must stay for what hangs on it: held, blocked."""
        held: list[str] = []
        blocked: list[str] = []
        for edge in self.tree.edges:
            reference, alias = edge.reference, f"c{depth}"
            if reference.parent not in family or (depth == 1 and not edge.deletes):  # `eligible` knows the latter
                continue
            found = f"EXISTS (SELECT FROM {reference.rows} {alias} WHERE {reference.joined(alias, row)}"
            if not edge.deletes:
                blocked.append(f"{found})")
                continue
            below = self._stays(self.tree.families[reference.child], alias, depth + 1)
            of_it = [below[0], *self._held(reference, alias)]
            for all_of_it, mine in ((held, of_it), (blocked, [below[1]])):
                if any(condition != "false" for condition in mine):
                    all_of_it.append(f"{found} AND ({' OR '.join(mine)}))")
        return " OR ".join(held) or "false", " OR ".join(blocked) or "false"

    def _held(self, reference: Reference, alias: str) -> Iterator[str]:
        """Of a row of a child, by its alias, in SQL."""
        mine = self.tree.held.get(reference.child)
        for oid in self.tree.families[reference.child]:
            sql = self.tree.held.get(oid)
            if sql is None or (oid != reference.child and sql == mine):
                continue
            held = f"(SELECT true FROM (SELECT {alias}.*) c WHERE {sql}) IS NOT NULL"
            yield held if oid == reference.child else f"({oid} = ANY(lowtide.above({alias}.tableoid)) AND {held})"

    def _is_root(self, parent: int) -> bool:
        return self.oid in self.tree.families[parent]

    def _part(self, parent: int) -> str:
        """The name of the part of `joined` that has the rows of this table."""
        if self._is_root(parent):
            return "r"
        return next(f"t{oid}" for oid in self.tree.along if oid in self.tree.families[parent])

    def _keys(self, oid: int) -> str:
        """The columns of a table that others point to."""
        pointing = [*(edge.reference for edge in self.tree.deleting), *self.tree.loosened]
        names = {name for each in pointing if oid in self.tree.families[each.parent] for name in each.parent_columns}
        return ", ".join(map(quoted, sorted(names))) or "1 AS one"


def loosened(reference: Reference) -> str:
    return f"{reference.name} (keeps its row, loses {', '.join(reference.columns)})"
