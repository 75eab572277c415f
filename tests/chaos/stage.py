"""A scene as PostgreSQL gets it: names, values, statements; and which row points to which."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from db.targets import PER_SECOND, literal, quoted, written
from jobs.policies import Children
from tests.chaos.scenes import AFTER_ALL, BEFORE_ALL, DAY, LEAVES, PARTITIONED, Edge, Hold, Row, Scene, Table

ODD_TABLES = ("Weird Name", "select", "it's 100%.s", 'naïve "q":x')
ODD_COLUMNS = {"id": 'I "d"', "a": "order", "note": "not%e's", "ts": "gone: at", "twice": "a.b"}
FOREVER = float("inf")
LONG_AGO = -100 * DAY
NOBODYS = 10**6
Value = int | float | str | None
Node = tuple[int, int]  # a row: the number of its table, and its own there


@dataclass(frozen=True)
class Ends:
    """Of a foreign key, as families: a partitioned table is one, tables that inherit are one each."""

    child: tuple[int, int | None]
    parent: tuple[int, int | None]


class Stage:
    def __init__(self, scene: Scene, schema: str) -> None:
        self.scene = scene
        self.schema = schema
        self.edges = [self._fitting(edge) for edge in scene.edges if scene.tables[edge.parent].key != "none"]

    def _fitting(self, edge: Edge) -> Edge:
        """Without leaves where the table has none that a foreign key could be of."""
        layouts = [self.scene.tables[number].layout for number in (edge.child, edge.parent)]
        child_leaf = edge.child_leaf if layouts[0] not in {"plain", "hash"} else None
        parent_leaf = edge.parent_leaf if layouts[1] in set(PARTITIONED) - {"hash"} else None
        if edge.child == edge.parent and child_leaf is None:
            parent_leaf = None  # PostgreSQL does not make a foreign key of a table to a partition of its own
        child, parent, on_delete, deferred = edge.child, edge.parent, edge.on_delete, edge.deferred
        return Edge(child, parent, on_delete, deferred, child_leaf, parent_leaf)

    def column(self, name: str) -> str:
        return ODD_COLUMNS.get(name, name) if self.scene.ways.odd_names else name

    def table(self, number: int, leaf: int | None = None) -> str:
        base = ODD_TABLES[number] if self.scene.ways.odd_names else f"t{number}"
        apart = leaf is not None and (leaf > 0 or self.scene.tables[number].layout != "heirs")
        return f"{base}_{leaf}" if apart else base

    def relation(self, number: int, leaf: int | None = None) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table(number, leaf))}"

    # What the values are.

    @cached_property
    def local(self) -> datetime:
        """The cutoff by the clock of the policy's column."""
        return self.scene.cutoff.astimezone(ZoneInfo(self.scene.column.timezone))

    @property
    def unit(self) -> int:
        """How many µs the column's unit has."""
        epoch = self.scene.column.epoch
        if epoch is not None:
            return 1_000_000 // PER_SECOND[epoch]
        return DAY if self.scene.column.type == "date" else 1

    def age(self, row: Row) -> int | float | None:
        """In the column's units, from the cutoff as the column can have it."""
        if row.age is None:
            return FOREVER if self.scene.tables[0].layout in {"range", "sub"} else None
        ends = {BEFORE_ALL: -FOREVER, AFTER_ALL: FOREVER}
        return ends[row.age] if isinstance(row.age, str) else row.age // self.unit

    def instant(self, age: float | None) -> str:
        """SQL of a value of the policy's column."""
        if age is None:
            return "NULL"
        epoch = self.scene.column.epoch
        if age in {FOREVER, -FOREVER}:
            ends = ("-9223372036854775808", "9223372036854775807") if epoch else ("-infinity", "infinity")
            return literal(ends[age > 0])
        if epoch is not None:
            return str(self.micros // self.unit + int(age))
        type_ = self.scene.column.type
        if type_ == "date":
            return literal((self.local.date() + timedelta(days=age)).isoformat())
        base = self.scene.cutoff if type_ == "timestamptz" else self.local.replace(tzinfo=None, fold=0)
        return literal((base + timedelta(microseconds=age)).isoformat())

    @property
    def micros(self) -> int:
        """The cutoff, since 1970."""
        since = self.scene.cutoff - datetime.fromtimestamp(0, self.scene.cutoff.tzinfo)
        return since // timedelta(microseconds=1)

    def values(self, number: int, row_number: int) -> dict[str, Value]:
        table = self.scene.tables[number]
        row = table.rows[row_number]
        together = table.key == "composite"
        place = row_number % LEAVES if together else row.place
        values: dict[str, Value] = {"id": row_number // LEAVES if together else row_number, "a": place}
        return values | {"note": row.note} | ({"ts": self.age(row)} if number == 0 else {})

    def sql(self, number: int, column: str, value: Value) -> str:
        if column == "ts":
            assert not isinstance(value, str)
            return self.instant(value)
        if value is None:
            return "NULL"
        if column == "id" and self.scene.tables[number].key == "uuid":
            return literal(str(UUID(int=int(value))))
        return literal(str(value))

    def leaf(self, number: int, row_number: int) -> int | None:
        """None: whichever it comes to."""
        table = self.scene.tables[number]
        row, place = table.rows[row_number], int(self.values(number, row_number)["a"] or 0)
        match table.layout:
            case "heirs":
                return row.place
            case "list":
                return place
            case "range" | "default":
                age = self.age(row)
                ends = (LONG_AGO // self.unit, 0)
                return next((leaf for leaf, end in enumerate(ends) if age is not None and age < end), 2)
            case "sub":
                age = self.age(row)
                return place if age is not None and age < 0 else LEAVES
        return None

    # Which rows a foreign key is about.

    def key(self, number: int) -> list[str]:
        table = self.scene.tables[number]
        columns = ["id", "a"] if table.key == "composite" or table.layout in {"list", "sub"} else ["id"]
        return columns + (["ts"] if table.layout in {"range", "default", "sub"} else [])

    def ends(self, edge: Edge) -> Ends:
        return Ends(self._family(edge.child, edge.child_leaf), self._family(edge.parent, None))

    def _family(self, number: int, leaf: int | None) -> tuple[int, int | None]:
        return number, (leaf or 0) if self.scene.tables[number].layout == "heirs" else None

    def _rows(self, number: int, leaf: int | None) -> list[int]:
        """Of a foreign key's end."""
        if self.scene.tables[number].layout == "heirs":
            leaf = leaf or 0
        rows = range(len(self.scene.tables[number].rows))
        return [row for row in rows if leaf is None or self.leaf(number, row) == leaf]

    def target(self, number: int, edge: Edge, row: int) -> int | None:
        """The row of the other table whose key a row has in the columns of the foreign key, whether that is over it."""
        up = self.scene.tables[edge.child].rows[row].ups[number]
        candidates = self._rows(edge.parent, edge.parent_leaf)
        return candidates[up % len(candidates)] if candidates and up is not None else None

    @cached_property
    def pointing(self) -> list[list[tuple[Node, Node]]]:
        """By foreign key, its children and their parents."""
        found: list[list[tuple[Node, Node]]] = []
        for number, edge in enumerate(self.edges):
            targets = [(row, self.target(number, edge, row)) for row in self._rows(edge.child, edge.child_leaf)]
            found.append(
                [
                    ((edge.child, row), (edge.parent, target))
                    for row, target in targets
                    if target is not None
                    and None not in (self.values(edge.parent, target)[c] for c in self.key(edge.parent))
                ]
            )
        return found

    # What the policy says.

    @cached_property
    def kinds(self) -> dict[int, str]:
        """Of the foreign keys that matter: delete, block, or null."""
        forced = {edge.child for edge in self.edges if edge.on_delete in {"NO ACTION", "RESTRICT"}}
        heirs = range(LEAVES) if self.scene.tables[0].layout == "heirs" else [None]
        reached = {(0, heir) for heir in heirs}
        entered: dict[int, set[int | None]] = {0: {None}}  # by table, the partitions whose rows go; None: all of them
        kinds: dict[int, str] = {}
        while True:
            before = len(kinds), len(reached) + sum(map(len, entered.values()))
            for number, edge in enumerate(self.edges):
                ends = self.ends(edge)
                if ends.parent not in reached or not self._is_met(edge, entered.get(edge.parent, set())):
                    continue
                declared = self.scene.declared[edge.child] or ("block" if edge.child in forced else None)
                kinds[number] = declared or ("delete" if edge.on_delete == "CASCADE" else "null")
                if kinds[number] == "delete":
                    reached.add(ends.child)
                    entered.setdefault(edge.child, set()).add(edge.child_leaf)
            if before == (len(kinds), len(reached) + sum(map(len, entered.values()))):
                return kinds

    def _is_met(self, edge: Edge, entered: set[int | None]) -> bool:
        """A key that points to a single partition is about its rows alone."""
        whole = edge.parent_leaf is None or self.scene.tables[edge.parent].layout not in PARTITIONED
        return whole or bool(entered & {None, edge.parent_leaf})

    @cached_property
    def children(self) -> dict[str, Children]:
        """As the policy declares them."""
        forced = {edge.child for edge in self.edges if edge.on_delete in {"NO ACTION", "RESTRICT"}}
        found: dict[str, Children] = {}
        for number in self.kinds:
            edge = self.edges[number]
            declared = self.scene.declared[edge.child] or ("block" if edge.child in forced else None)
            name = self.table(edge.child, edge.child_leaf)
            if declared is not None:
                bare = self.scene.ways.bare and "." not in name
                found[name if bare else written(self.schema, name)] = declared
        return found

    @property
    def is_mutual(self) -> bool:
        """Whether rows of the policy's table take along, or keep, others of it."""
        return any(self.edges[number].child == 0 for number, kind in self.kinds.items() if kind != "null")

    @property
    def partitions(self) -> Literal["drop", "delete"]:
        """A partition that the policy names among the children is not dropped: the next run would not find it."""
        named = any(edge.child == 0 and edge.child_leaf is not None for edge in self.edges)
        return "delete" if named else self.scene.ways.partitions

    @property
    def where(self) -> str | None:
        names = {name: quoted(self.column(name)) for name in ("a", "note")}
        return None if self.scene.ways.where is None else self.scene.ways.where.format(**names)

    def number_of(self, name: str) -> int:
        """Which table a name in the result is of."""
        names = {
            written(self.schema, self.table(number, leaf)): number
            for number in range(len(self.scene.tables))
            for leaf in (None, *range(LEAVES + 1))
        }
        return names[name]

    # Statements.

    def statements(self) -> Iterator[str]:
        yield f"CREATE SCHEMA {quoted(self.schema)}"
        yield f"CREATE TABLE {quoted(self.schema)}.log (t int, rid int)"
        tables = range(len(self.scene.tables))
        yield from itertools.chain.from_iterable(map(self._create, tables))
        yield from itertools.chain.from_iterable(map(self._insert, tables))
        for number, edge in enumerate(self.edges):
            yield self._foreign_key(number, edge)
        if self.scene.ways.triggers is not None:
            yield from self._triggers()

    def _create(self, number: int) -> Iterator[str]:
        table = self.scene.tables[number]
        kind = {"uuid": "uuid", "bigint": "bigint"}.get(table.key, "int")
        columns = ["rid int NOT NULL", f"{self._q('id')} {kind} NOT NULL", f"{self._q('a')} int NOT NULL"]
        columns += [f"{self._q('note')} text"] + ([f"{self._q('ts')} {self.scene.column.type}"] if number == 0 else [])
        if table.generated:
            columns.append(f"{self._q('twice')} int GENERATED ALWAYS AS ({self._q('a')} * 2) STORED")
        columns += [
            f"{quoted(name)} {self._type(edge.parent, key)}"
            for place, edge in enumerate(self.edges)
            if edge.child == number
            for key, name in self.ups(place, edge)
        ]
        if table.key != "none":
            primary = table.primary and "ts" not in self.key(number)
            unique = ", ".join(map(self._q, self.key(number)))
            columns.append(f"{'PRIMARY KEY' if primary else 'UNIQUE'} ({unique})")
        how = {"plain": "", "heirs": "", "hash": f"HASH ({self._q('id')})", "list": f"LIST ({self._q('a')})"}
        by = how.get(table.layout, f"RANGE ({self._q('ts')})")
        name = self.relation(number)
        yield f"CREATE TABLE {name} ({', '.join(columns)}){f' PARTITION BY {by}' if by else ''}"
        yield from self._leaves(number, table)
        if number == 0 and self.scene.ways.index:
            relations = [self.relation(0, leaf) for leaf in (range(LEAVES) if table.layout == "heirs" else [None])]
            yield from (f"CREATE INDEX ON {relation} ({self._q('ts')})" for relation in relations)

    def _leaves(self, number: int, table: Table) -> Iterator[str]:
        name = self.relation(number)
        parts = [self.relation(number, leaf) for leaf in range(LEAVES + 1)]
        old, now = self.instant(LONG_AGO // self.unit), self.instant(0)
        match table.layout:
            case "heirs":
                yield from (f"CREATE TABLE {part} (PRIMARY KEY (rid)) INHERITS ({name})" for part in parts[1:LEAVES])
            case "hash":
                for leaf in range(LEAVES):
                    of = f"WITH (MODULUS {LEAVES}, REMAINDER {leaf})"
                    yield f"CREATE TABLE {parts[leaf]} PARTITION OF {name} FOR VALUES {of}"
            case "list":
                for leaf in range(LEAVES):
                    yield f"CREATE TABLE {parts[leaf]} PARTITION OF {name} FOR VALUES IN ({leaf})"
            case "range" | "default":
                yield f"CREATE TABLE {parts[0]} PARTITION OF {name} FOR VALUES FROM (MINVALUE) TO ({old})"
                yield f"CREATE TABLE {parts[1]} PARTITION OF {name} FOR VALUES FROM ({old}) TO ({now})"
                last = "DEFAULT" if table.layout == "default" else f"FOR VALUES FROM ({now}) TO (MAXVALUE)"
                yield f"CREATE TABLE {parts[2]} PARTITION OF {name} {last}"
            case "sub":
                middle = f"{quoted(self.schema)}.middle"
                yield (
                    f"CREATE TABLE {middle} PARTITION OF {name} FOR VALUES FROM (MINVALUE) TO ({now}) "
                    f"PARTITION BY LIST ({self._q('a')})"
                )
                for leaf in range(LEAVES):
                    yield f"CREATE TABLE {parts[leaf]} PARTITION OF {middle} FOR VALUES IN ({leaf})"
                yield f"CREATE TABLE {parts[LEAVES]} PARTITION OF {name} FOR VALUES FROM ({now}) TO (MAXVALUE)"

    def _insert(self, number: int) -> Iterator[str]:
        table = self.scene.tables[number]
        ups = [(place, edge) for place, edge in enumerate(self.edges) if edge.child == number]
        names = [name for place, edge in ups for _, name in self.ups(place, edge)]
        for row in range(len(table.rows)):
            values = self.values(number, row)
            columns = ["rid", *map(self.column, values), *names]
            cells = [str(row), *(self.sql(number, name, value) for name, value in values.items())]
            for place, edge in ups:
                target = self.target(place, edge, row)
                theirs = {} if target is None else self.values(edge.parent, target)
                cells += [self.sql(edge.parent, key, theirs.get(key)) for key in self.key(edge.parent)]
            into = self.relation(number, self.leaf(number, row) if table.layout == "heirs" else None)
            yield f"INSERT INTO {into} ({', '.join(map(quoted, columns))}) VALUES ({', '.join(cells)})"

    def _foreign_key(self, number: int, edge: Edge) -> str:
        pairs = self.ups(number, edge)[:: -1 if number % 2 else 1]  # in an order that need not be the index's
        columns, keys = ", ".join(quoted(name) for _, name in pairs), ", ".join(self._q(key) for key, _ in pairs)
        return (
            f"ALTER TABLE {self.relation(edge.child, edge.child_leaf)} ADD FOREIGN KEY ({columns}) "
            f"REFERENCES {self.relation(edge.parent, edge.parent_leaf)} ({keys}) "
            f"ON DELETE {edge.on_delete} {edge.deferred}"
        )

    def _triggers(self) -> Iterator[str]:
        schema, when = quoted(self.schema), self.scene.ways.triggers
        yield (
            f"CREATE FUNCTION {schema}.noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"INSERT INTO {schema}.log VALUES (TG_ARGV[0]::int, OLD.rid); RETURN OLD; END $$"
        )
        for number, table in enumerate(self.scene.tables):
            for leaf in range(LEAVES) if table.layout == "heirs" else [None]:
                yield (
                    f"CREATE TRIGGER noted {when} DELETE ON {self.relation(number, leaf)} FOR EACH ROW "
                    f"EXECUTE FUNCTION {schema}.noted({number})"
                )

    def ups(self, number: int, edge: Edge) -> list[tuple[str, str]]:
        """The columns of the other table's key, and those that have them here."""
        return [(key, f"up{number} {self.column(key)}") for key in self.key(edge.parent)]

    def _type(self, number: int, column: str) -> str:
        if column == "ts":
            return self.scene.column.type
        return "uuid" if column == "id" and self.scene.tables[number].key == "uuid" else "int"

    def _q(self, column: str) -> str:
        return quoted(self.column(column))

    # Holds.

    def held_by(self, hold: Hold) -> tuple[str, str, Value]:
        """Table, column and value of a hold."""
        column = "note" if hold.column == "ts" and hold.table > 0 else hold.column
        nobodys: dict[str, Value] = {"id": NOBODYS, "a": NOBODYS, "note": "nobody's", "ts": 12345}
        rows = self.scene.tables[hold.table].rows
        value = self.values(hold.table, hold.row)[column] if hold.row < len(rows) else None
        return self.table(hold.table, self.hold_leaf(hold)), column, nobodys[column] if value is None else value

    def hold_leaf(self, hold: Hold) -> int | None:
        """A hold on a partition is on the whole table; on one that inherits, on that one."""
        leaves = {"heirs": LEAVES, "plain": 0}.get(self.scene.tables[hold.table].layout, LEAVES)
        return hold.leaf if hold.leaf is not None and hold.leaf < leaves else None

    def is_held(self, node: Node) -> bool:
        return any(self._is_over(hold, node) for hold in self.scene.holds if hold.state == "active")

    def _is_over(self, hold: Hold, node: Node) -> bool:
        if hold.table != node[0]:
            return False
        leaf = self.hold_leaf(hold)
        if self.scene.tables[hold.table].layout == "heirs" and leaf not in {None, 0, self.leaf(*node)}:
            return False
        _, column, value = self.held_by(hold)
        return self.values(*node)[column] == value
