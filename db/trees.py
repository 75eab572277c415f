"""Purges of rows that others point to: what goes with a row, and what keeps it.

The work is that of `lowtide.purge_tree` and `lowtide.drain_tree` (migration lowtide_0006), in one transaction each, as
every batch.
"""

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import asyncpg

from db.batches import Change
from db.references import NO_ACTION, RESTRICT, Reference
from db.targets import Eligible, literal
from db.windows import Part, chosen

# Rows that a row may take along in its own transaction. More are deleted before it, in transactions of their own.
MOST = 5_000
ALL = 2**31  # of what can't be deleted in parts
TOO_LARGE = "LT413"
CHILD = "child "  # of the names of counters
COUNTED = "SELECT current_setting('lowtide.counted')::jsonb"


@dataclass(frozen=True)
class Edge:
    """A foreign key, and whether its rows go along (or keep what they point to)."""

    reference: Reference
    deletes: bool


@dataclass(frozen=True)
class Tree:
    """What hangs on the rows of a table. Families are the oids of a partitioned table and its partitions."""

    edges: Sequence[Edge]
    families: Mapping[int, AbstractSet[int]]  # of every table of the edges, by its oid
    held: Mapping[int, str] = field(default_factory=dict)  # by oids, SQL that is true for held rows, of alias c
    mutual: bool = False  # whether rows of the policy's own table may keep each other
    loosened: Sequence[Reference] = ()  # whose rows PostgreSQL sets to NULL, or to their default
    tangled: bool = False  # whether rows that go may point to each other by keys that do not delete

    def blocked(self, eligible: Eligible, oid: int) -> dict[str, str]:
        """By constraint, SQL that is true for rows of the relation that a row of another table keeps."""
        row = eligible.target.relation
        another = f"(c.tableoid, c.ctid) <> ({row}.tableoid, {row}.ctid)"
        references = [edge.reference for edge in self.edges if not edge.deletes]
        return {
            each.constraint: f"(SELECT true FROM {each.rows} c WHERE {each.joined('c', row)} AND {another} LIMIT 1)"
            for each in references
            if oid in self.families[each.parent]
        }

    @property
    def along(self) -> dict[int, str]:
        """The tables whose rows go along, by their oids."""
        return {edge.reference.child: edge.reference.relation for edge in self.deleting}

    @property
    def needed(self) -> bool:
        """Whether it takes more than a DELETE with `blocked` in its condition.

        A foreign key that would otherwise refuse keeps by itself a row that somebody points to at this very moment. One
        that cascades, or sets to NULL, does not.
        """
        return any(edge.deletes or edge.reference.on_delete not in {NO_ACTION, RESTRICT} for edge in self.edges)

    def purge(self, eligible: Eligible, part: Part, oid: int, *, limits: "Limits") -> Change:
        """Delete the part's eligible rows and what goes with them."""
        return self._call("purge_tree", eligible, part, oid, limits)

    def drain(self, eligible: Eligible, part: Part, oid: int, *, limits: "Limits") -> Change:
        """Delete some of what hangs on the part's one row, from the far end. Counts them as `drained`, too."""
        return self._call("drain_tree", eligible, part, oid, limits)

    def look(self, eligible: Eligible, part: Part, oid: int) -> Part:
        """A query: why the part's one row must stay, with all that hangs on it: `held`, `blocked` or null."""
        rows = chosen(eligible, part, most=1, locking=False)
        tree = literal(json.dumps(self._told))
        return Part(f"SELECT lowtide.stays({literal(rows.sql)}, $1, {oid}, {tree})", rows.args)

    def _call(self, function: str, eligible: Eligible, part: Part, oid: int, limits: "Limits") -> Change:
        rows = chosen(eligible, part, most=limits.rows, skip_locked=limits.skip_locked)
        tree = json.dumps(self._told | {"counters": dict(limits.counters)})
        call = f"lowtide.{function}({literal(rows.sql)}, $1, {oid}, {literal(tree)}, {limits.along})"
        return Change(f"SELECT FROM pg_catalog.generate_series(1, {call})", args=rows.args, after=COUNTED)

    @cached_property
    def _told(self) -> dict[str, Any]:
        depths = None if self._at_once else self.depths
        names = {edge.reference.child: CHILD + edge.reference.name for edge in self.deleting}
        edges = [self._as_json(edge) for edge in self.edges]
        return {"edges": edges, "held": self.held, "names": names, "depths": depths}

    def _as_json(self, edge: Edge) -> dict[str, Any]:
        reference = edge.reference
        family = self.families[reference.child]
        ends_here = not any(other.reference.parent in family for other in self.edges)
        return {
            "parent": reference.parent,
            "child": reference.rows,
            "joined": reference.joined("c", "p"),
            "name": CHILD + reference.name,
            "deletes": edge.deletes,
            "leaf": ends_here and not self._at_once and not any(oid in family for oid in self.held),
            "again": self.depths is None or sum(other.reference.child in family for other in self.deleting) > 1,
        }

    @cached_property
    def _at_once(self) -> bool:
        """Whether all go in one statement: no order suits a circle, and a trigger of a child may change its parent, or
        a key that is set to NULL its row, which is then not the one any more that was looked at."""
        return self.depths is None or self.tangled or any(edge.reference.acts for edge in self.deleting)

    @cached_property
    def depths(self) -> dict[int, int] | None:
        """By the oids of tables that go along, how far they are from the root; None where tables form a circle.

        Rows of the deepest are deleted first.
        """
        depths: dict[int, int] = {}
        for _ in range(len(self.edges) + 1):
            before = dict(depths)
            for edge in self.deleting:
                above = [depths[oid] for oid in depths if oid in self.families[edge.reference.parent]]
                depth = 1 + max(above, default=0)
                depths[edge.reference.child] = max(depth, depths.get(edge.reference.child, 0))
            if depths == before:
                return depths
        return None

    @property
    def is_walked(self) -> bool:
        """Whether what hangs on a row can only be told by walking there: tables form a circle, or rows that go point to
        each other."""
        return self.depths is None or self.tangled

    @property
    def deleting(self) -> list[Edge]:
        return [edge for edge in self.edges if edge.deletes]


async def stays(connection: asyncpg.Connection, look: Part) -> str | None:
    """What `Tree.look` asks. Raises the server's QueryCanceled where there is more than can be looked at in time."""
    why: str | None = await connection.fetchval(look.sql, look.args)
    return why


@dataclass(frozen=True)
class Limits:
    """Of one batch: how many rows of the table itself, how many along with them, and under which names it counts."""

    counters: Mapping[str, str]  # of a single row that stays: `blocked`, `held`; empty: that is an error, too
    rows: int | None = None
    along: int = field(default_factory=lambda: MOST)
    skip_locked: bool = False
