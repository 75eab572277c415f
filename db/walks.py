"""What hangs on eligible rows, counted row by row: for rows that may point to each other, or hang on several."""

import itertools
from collections.abc import Iterable, Sequence
from typing import TypeVar

import asyncpg

from db.branches import Branch, Branches, loosened
from db.references import Reference
from db.targets import literal
from db.trees import Edge

# Of rows that are walked along foreign keys, one by one, the server keeps each in memory: 100 bytes, more or less.
MOST_WALKED = 2_000_000
T = TypeVar("T")
NOTHING = "SELECT NULL::oid AS r, NULL::tid AS t WHERE false"


class Walk:
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
        losing = ", ".join(
            f"{literal(loosened(each))}, (SELECT count(*) FROM {each.rows} c WHERE EXISTS ("
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
                'loosened', jsonb_build_object({losing})
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
