"""What becomes of rows that point to those that a purge deletes: read from the catalog, decided by the policy."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from db import references, relations
from db.references import CASCADE, SET_DEFAULT, SET_NULL, Graph, Reference
from db.trees import Edge, Tree
from jobs.failures import Refused
from jobs.policies import Children, Policy


class ChildrenUndeclared(Refused):
    """Other tables point to rows that would go, and the policy does not say what becomes of theirs."""


async def tree(connection: asyncpg.Connection, oid: int, declared: Mapping[str, Children], graph: Graph) -> Tree:
    """Walk the foreign keys that point to the relation, and to what is deleted with it.

    The graph is that around the policy's table. Where others inherit from it, foreign keys point to each one's own rows
    alone: what is declared must suit them all together.

    Raises ChildrenUndeclared, and Refused for a declared table that points to none of them.
    """
    everything, whole = graph.references, graph.whole
    family = await references.family(connection, oid)
    walk = await _walk(connection, everything, family | whole, declared)
    if walk.undeclared:
        raise _undeclared(walk.undeclared, declared)
    if unknown := sorted(set(declared) - walk.used):
        raise Refused(
            f"children names {', '.join(unknown)}: no foreign key there points to rows that the policy deletes"
        )
    if not whole <= family:
        walk = await _walk(connection, everything, family, declared)
    mutual = any(not edge.deletes and edge.reference.child in family | whole for edge in walk.edges)
    going = family.union(*(walk.families[edge.reference.child] for edge in walk.edges if edge.deletes))
    others = [*walk.loosened, *(edge.reference for edge in walk.edges if not edge.deletes)]
    tangled = any(reference.child in going for reference in others)
    return Tree(
        tuple(walk.edges),
        walk.families | {oid: family},
        mutual=mutual,
        tangled=tangled,
        loosened=tuple(walk.loosened),
    )


async def tree_of(connection: asyncpg.Connection, policy: Policy) -> Tree | None:
    """Of one of its relations with rows; None where it has none yet. Foreign keys are those of the whole table.

    Raises as `tree`.
    """
    relation = await relations.following(connection, policy.target, oid=0)
    if relation is None:
        return None
    graph = await references.graph(connection, policy.target.relation)
    return await tree(connection, relation.oid, policy.children, graph)


@dataclass
class _Walk:
    """What hangs on some tables. `used` are the names in the policy that were needed, `undeclared` those missing."""

    edges: list[Edge] = field(default_factory=list)
    families: dict[int, set[int]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    undeclared: list[Reference] = field(default_factory=list)
    loosened: list[Reference] = field(default_factory=list)


async def _walk(
    connection: asyncpg.Connection, everything: Sequence[Reference], start: set[int], declared: Mapping[str, Children]
) -> _Walk:
    walk, seen, ahead = _Walk(), set(start), [start]
    while ahead:
        parents = ahead.pop()
        for reference in (each for each in everything if each.parent in parents):
            name = _declared(reference, declared, everything)
            walk.used |= {name} if name else set()
            deletes = reference.on_delete == CASCADE if name is None else declared[name] == "delete"
            if name is None and reference.on_delete in {SET_NULL, SET_DEFAULT}:
                walk.loosened.append(reference)
                walk.families[reference.parent] = await references.family(connection, reference.parent)
                continue
            if name is None and not deletes:
                walk.undeclared.append(reference)
                continue
            walk.edges.append(Edge(reference, deletes=deletes))
            for end in (reference.child, reference.parent):
                walk.families[end] = walk.families.get(end) or await references.family(connection, end)
            if deletes and not walk.families[reference.child] <= seen:
                seen |= walk.families[reference.child]
                ahead.append(walk.families[reference.child])
    return walk


def _declared(reference: Reference, declared: Mapping[str, Children], everything: Sequence[Reference]) -> str | None:
    """Under which name the policy declares the reference's table. Without a schema it must be clear which one it is."""
    if reference.name in declared:
        return reference.name
    alike = {each.name for each in everything if each.table == reference.table}
    bare = "." not in reference.table and reference.table in declared and len(alike) == 1
    return reference.table if bare else None


def _undeclared(missing: list[Reference], declared: Mapping[str, Children]) -> ChildrenUndeclared:
    told = "; ".join(f"{each.name} points to it ({each.constraint})" for each in missing[:20])
    names = sorted({each.name for each in missing})
    lines = dict(declared) | dict.fromkeys(names[:5], "block")
    example = ", ".join(f'{json.dumps(name, ensure_ascii=False)} = "{fate}"' for name, fate in lines.items())
    return ChildrenUndeclared(
        f"the policy does not say what becomes of rows that point to what it deletes: {told}. Nothing was deleted. "
        f'Have the policy say: children = {{ {example} }}; "delete" deletes them first, "block" keeps what they point '
        "to",
        detail={"tables": names, "constraints": [each.constraint for each in missing]},
    )
