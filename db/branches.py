"""What hangs on eligible rows, counted: which of them stay because of it, and what goes along with the others.

Says what `lowtide.purge_tree` would do, in one query that changes nothing.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import asyncpg

from db.references import Reference
from db.targets import Eligible, literal, quoted
from db.trees import Edge, Tree

# Of rows that are walked along foreign keys, one by one, the server keeps each in memory: 100 bytes, more or less.
MOST_WALKED = 2_000_000
T = TypeVar("T")
NOTHING = "SELECT NULL::oid AS r, NULL::tid AS t WHERE false"


@dataclass(frozen=True)
class Branches:
    """`is_exact` is False where they are too many to be walked: then `along` is
    what points to the rows themselves alone, and nobody has looked at what keeps it."""

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
            along.append(f"{literal(_loosened(each))}, (SELECT count(*) FROM {each.rows} c WHERE {found})")
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


class _Walk:
    """Row by row, each root's branch apart, as rows that go may point to each other."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        self._branches = branches
        trees = [branch.tree for branch in branches]
        self._edges = _distinct([(edge.reference, edge) for tree in trees for edge in tree.edges])
        self._loosened = _distinct([(each, each) for tree in trees for each in tree.loosened])
        self._families = {oid: family for tree in trees for oid, family in tree.families.items()}
        self._held = {oid: sql for tree in trees for oid, sql in tree.held.items()}
        self._names = {oid: name for branch in branches for oid, name in branch.names.items()}

    @property
    def is_needed(self) -> bool:
        """Whether rows that go may point to each other, or one may hang on rows of several relations."""
        if any(branch.tree.is_walked for branch in self._branches):
            return True
        deleting = [self._families[edge.reference.child] for edge in self._edges if edge.deletes]
        roots = {branch.oid for branch in self._branches}
        several = len(roots) > 1 and any(one & other for one, other in itertools.combinations(deleting, 2))
        return several or any(roots & family for family in deleting)

    async def take(self, connection: asyncpg.Connection) -> Branches | None:
        """None where there are too many."""
        walked = await connection.fetchval(self._query())
        if walked is None:
            return None
        along = dict.fromkeys((edge.reference.name for edge in self._edges if edge.deletes), 0)
        for relation, rows in walked["along"].items():  # rows of partitions count as their table's
            into = next(e for e in self._edges if e.deletes and int(relation) in self._families[e.reference.child])
            along[into.reference.name] += rows
        return Branches(walked["going"], walked["held"], walked["blocked"], along | walked["loosened"])

    def _query(self) -> str:
        """Null: too many."""
        deleting = " UNION ALL ".join(
            f"SELECT c.tableoid AS r, c.ctid AS t FROM {edge.reference.rows} c "
            f"JOIN {self._rows(edge.reference.parent)} p ON {edge.reference.joined('c', 'p')} "
            "WHERE p.tableoid = every.r AND p.ctid = every.t"
            for edge in self._edges
            if edge.deletes
        )
        seeds = [
            f"SELECT n.o, n.r, n.t, true FROM nodes n JOIN {self._rows(oid)} c ON c.tableoid = n.r AND c.ctid = n.t "
            f"WHERE {sql}"
            for oid, sql in self._held.items()
        ]
        seeds += [self._blocked(edge) for edge in self._edges if not edge.deletes]
        roots = " UNION ALL ".join(
            f"SELECT {row}.tableoid AS r, {row}.ctid AS t FROM {branch.eligible.rows} WHERE {branch.eligible.indexable}"
            for branch in self._branches
            for row in [branch.eligible.target.relation]
        )
        loosened = ", ".join(
            f"{literal(_loosened(each))}, (SELECT count(*) FROM {each.rows} c WHERE EXISTS ("
            f"SELECT FROM going g JOIN {self._rows(each.parent)} p ON p.tableoid = g.r AND p.ctid = g.t "
            f"WHERE {each.joined('c', 'p')}) "
            "AND NOT EXISTS (SELECT FROM going g WHERE g.r = c.tableoid AND g.t = c.ctid))"
            for each in self._loosened
        )
        return f"""
            WITH RECURSIVE roots AS MATERIALIZED (
                SELECT row_number() OVER () AS o, r, t FROM ({roots}) found
            ), every (o, r, t, above_r, above_t) AS (
                SELECT o, r, t, NULL::oid, NULL::tid FROM roots
                UNION SELECT every.o, x.r, x.t, every.r, every.t FROM every, LATERAL ({deleting or NOTHING}) x
            ), branch AS MATERIALIZED (SELECT * FROM every LIMIT {MOST_WALKED + 1}),
            nodes AS MATERIALIZED (SELECT DISTINCT o, r, t FROM branch),
            stays (o, r, t, held) AS (
                SELECT * FROM ({" UNION ".join(seeds) or "SELECT o, r, t, true FROM nodes WHERE false"}) seeds
                UNION SELECT b.o, b.above_r, b.above_t, s.held
                FROM stays s JOIN branch b USING (o, r, t) WHERE b.above_r IS NOT NULL
            ), kept AS MATERIALIZED (
                SELECT o, bool_or(held) AS held FROM roots JOIN stays USING (o, r, t) GROUP BY o
            ), free AS MATERIALIZED (
                SELECT o, r, t FROM roots WHERE NOT EXISTS (SELECT FROM kept WHERE kept.o = roots.o)
            ), going AS MATERIALIZED (SELECT DISTINCT n.r, n.t FROM nodes n JOIN free USING (o)),
            others AS (SELECT r, t FROM going EXCEPT SELECT r, t FROM free),
            staying AS (
                SELECT held FROM kept JOIN roots USING (o)
                WHERE NOT EXISTS (SELECT FROM others WHERE others.r = roots.r AND others.t = roots.t)
            )
            SELECT CASE WHEN (SELECT count(*) FROM branch) <= {MOST_WALKED} THEN jsonb_build_object(
                'going', (SELECT count(*) FROM free),
                'held', (SELECT count(*) FROM staying WHERE held),
                'blocked', (SELECT count(*) FROM staying WHERE NOT held),
                'along', (SELECT coalesce(jsonb_object_agg(r::bigint, number), '{{}}')
                          FROM (SELECT r, count(*) AS number FROM others GROUP BY r) along),
                'loosened', jsonb_build_object({loosened})
            ) END
        """

    def _blocked(self, edge: Edge) -> str:
        """Rows of a branch that somebody points to who is not in it."""
        reference = edge.reference
        return (
            f"SELECT n.o, n.r, n.t, false FROM nodes n "
            f"JOIN {self._rows(reference.parent)} p ON p.tableoid = n.r AND p.ctid = n.t "
            f"WHERE EXISTS (SELECT FROM {reference.rows} c WHERE {reference.joined('c', 'p')} AND NOT EXISTS ("
            "SELECT FROM nodes m WHERE m.o = n.o AND m.r = c.tableoid AND m.t = c.ctid))"
        )

    def _rows(self, oid: int) -> str:
        """FROM what: a partitioned table has its partitions' rows, any other its own alone."""
        return self._names[oid] if len(self._families.get(oid, ())) > 1 else f"ONLY {self._names[oid]}"


def _distinct(pairs: Iterable[tuple[Reference, T]]) -> list[T]:
    """One of each foreign key."""
    return list({(reference.constraint, reference.child): given for reference, given in pairs}.values())


async def count(connection: asyncpg.Connection, branches: Sequence[Branch]) -> Branches:
    """In the snapshot of the connection's transaction."""
    walk = _Walk(branches)
    if walk.is_needed and (walked := await walk.take(connection)) is not None:
        return walked
    found = Branches(0, 0, 0, {}, is_exact=not walk.is_needed)
    for branch in branches:
        found = found.with_more(await connection.fetchval(branch.joined()))
    return found


def _loosened(reference: Reference) -> str:
    return f"{reference.name} (keeps its row, loses {', '.join(reference.columns)})"
