"""Rows that point to those that a purge deletes: they go along or keep them, as the policy says, and nothing else."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from db import branches, estimates, holds, relations, trees
from db.engine import Database
from db.targets import Target
from jobs import sweep, ways
from jobs.blocks import Blocks
from jobs.catalog import jobs
from jobs.life import Life
from jobs.policies import Children, Policy
from jobs.scopes import Scopes
from jobs.values import Values
from tests.eventually import eventually
from tests.jobs.test_sweep import another
from tests.ledger import accept, run, serve_to_the_end

OLD = "now() - interval '100 days'"


async def parents(sql: asyncpg.Connection, count: int = 100) -> None:
    """`p`, every second row of which is overdue."""
    await sql.execute(
        "CREATE TABLE p (id int PRIMARY KEY, gone_at timestamptz);"
        f"INSERT INTO p SELECT n, CASE WHEN n % 2 = 0 THEN {OLD} END FROM generate_series(1, {count}) n;"
        "CREATE INDEX ON p (gone_at)"
    )


async def child(
    sql: asyncpg.Connection,
    name: str,
    of: str = "p",
    *,
    rows: int = 200,
    on_delete: str = "NO ACTION",
    up: str = "(n + 1) / 2",
) -> None:
    """A table that points to `of`, two rows to each of the first ones, or the n-th row to `up`."""
    await sql.execute(
        f"CREATE TABLE {name} (id int PRIMARY KEY, up int REFERENCES {of} (id) ON DELETE {on_delete});"
        f"CREATE INDEX ON {name} (up); INSERT INTO {name} SELECT n, {up} FROM generate_series(1, {rows}) n;"
        f"ANALYZE {name}"
    )


def life_of(database: Database, children: Mapping[str, Children], **rules: Any) -> Life:
    target = Target("public", "p", "gone_at")
    policy = Policy("p", target, timedelta(days=90), children=children, **rules)
    return Life(database, jobs((policy,)), worker="test", lease=timedelta(seconds=2))


async def purge(database: Database, children: Mapping[str, Children], **payload: Any) -> dict[str, Any]:
    ended = await run(life_of(database, children), "purge-old-deleted", policy="p", **payload)
    assert ended.error is None, ended.error
    assert ended.result is not None
    return ended.result


async def count(sql: asyncpg.Connection, table: str) -> int:
    rows: int = await sql.fetchval(f"SELECT count(*) FROM {table}")
    return rows


async def test_children_go_with_their_parents_and_others_stay(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql)
    await child(sql, "c")
    result = await purge(database, {"c": "delete"})
    assert (result["purged"], result["children"], result["remaining"]) == (50, {"public.c": 100}, False)
    assert (await count(sql, "p"), await count(sql, "c")) == (50, 100)


async def test_a_table_that_is_not_declared_is_named_and_nothing_goes(
    database: Database, sql: asyncpg.Connection
) -> None:
    await parents(sql)
    await child(sql, "c")
    await child(sql, "d", "c")
    for children, named in (({}, "public.c"), ({"c": "delete"}, "public.d")):
        ended = await run(life_of(database, children), "purge-old-deleted", named, policy="p")  # type: ignore[arg-type]  # of a tuple's dict
        assert ended.error is not None
        assert ended.error["type"] == "ChildrenUndeclared"
        assert f"{named} points to it" in ended.error["message"]
        assert f'"{named}" = "block"' in ended.error["message"]
    assert (await count(sql, "p"), await count(sql, "c")) == (100, 200)


async def test_a_declared_table_that_points_nowhere_is_refused(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql)
    ended = await run(life_of(database, {"nothing": "delete"}), "purge-old-deleted", policy="p")
    assert ended.error is not None
    assert "children names nothing" in ended.error["message"]


async def test_children_of_a_table_that_others_inherit_from(database: Database, sql: asyncpg.Connection) -> None:
    """A foreign key points to the table's own rows; what the policy declares suits those that inherit, too."""
    await parents(sql, 10)
    await child(sql, "c", rows=20)
    await sql.execute(
        f"CREATE TABLE heir () INHERITS (p); INSERT INTO heir SELECT n, {OLD} FROM generate_series(1, 5) n"
    )
    result = await purge(database, {"c": "delete"})
    assert (result["purged"], result["children"]) == (10, {"public.c": 10})
    await sql.execute(
        f"INSERT INTO heir SELECT n, {OLD} FROM generate_series(1, 5) n; DROP TABLE c; ALTER TABLE heir ADD UNIQUE (id)"
    )
    await child(sql, "d", "heir", rows=0)
    await sql.execute(f"UPDATE p SET gone_at = {OLD}")
    ended = await run(life_of(database, {}), "purge-old-deleted", "undeclared", policy="p")
    assert ended.error is not None
    assert "public.d points to it" in ended.error["message"]
    assert await count(sql, "p") == 10  # nothing was deleted, of the table that is done first either


@pytest.mark.parametrize("on_delete", ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL"])
async def test_a_blocking_child_keeps_its_parent_and_is_counted(
    database: Database, sql: asyncpg.Connection, on_delete: str
) -> None:
    await parents(sql)
    await child(sql, "c", rows=20, on_delete=on_delete)  # of parents 1 to 10
    result = await purge(database, {"c": "block"})
    assert (result["purged"], result["skipped"]["blocked"], result["remaining"]) == (45, 5, False)
    assert (await count(sql, "p"), await count(sql, "c")) == (55, 20)
    assert await count(sql, "c WHERE up IS NULL") == 0


async def test_a_cascade_needs_no_declaration_and_is_counted(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql)
    await child(sql, "c", on_delete="CASCADE")
    result = await purge(database, {})
    assert (result["purged"], result["children"]) == (50, {"public.c": 100})


async def test_a_key_that_is_set_to_null_needs_no_declaration(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql)
    await child(sql, "c", on_delete="SET NULL")
    result = await purge(database, {})
    assert (result["purged"], await count(sql, "c WHERE up IS NULL")) == (50, 100)


async def test_grandchildren_go_first(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql)
    await child(sql, "c")
    await child(sql, "d", "c", rows=400)
    result = await purge(database, {"c": "delete", "d": "delete"})
    assert result["children"] == {"public.c": 100, "public.d": 200}
    assert [await count(sql, table) for table in "pcd"] == [50, 100, 200]


@pytest.mark.parametrize(
    ("key", "column"),
    [
        ("ext.citext", "ext.citext"),  # compared without regard to case by an operator that no search path finds
        ('text COLLATE "C"', 'text COLLATE "POSIX"'),
        ("varchar(9)", "text"),
        ("bigint", "smallint"),
        ("numeric", "int"),
        ("code", "text"),  # a domain
        ("int[]", "int[]"),
        ("mood", "mood"),  # an enum
    ],
)
@pytest.mark.parametrize("on_delete", ["CASCADE", "SET NULL", "NO ACTION"])
async def test_rows_are_compared_as_their_foreign_key_compares_them(
    database: Database, sql: asyncpg.Connection, key: str, column: str, on_delete: str
) -> None:
    """Control: with `=`, a citext's child was not found, and went with what it blocks by a key that cascades."""
    await sql.execute("CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE DOMAIN code AS text")
    await sql.execute("CREATE TYPE mood AS ENUM ('1', '2', 'a')")
    one, two, again = {"int[]": ("{1}", "{2}", "{2}")}.get(key, ("1", "2", "2"))
    one, two, again = ("1", "A", "a") if "citext" in key else (one, two, again)
    await sql.execute(f"CREATE TABLE p (id {key} PRIMARY KEY, gone_at timestamptz)")
    await sql.execute(f"CREATE TABLE c (up {column} REFERENCES p ON DELETE {on_delete}); CREATE INDEX ON c (up)")
    await sql.execute(f"INSERT INTO p VALUES ('{one}', {OLD}), ('{two}', {OLD}); INSERT INTO c VALUES ('{again}')")
    result = await purge(database, {"c": "block"})
    assert (result["purged"], result["skipped"]["blocked"]) == (1, 1)
    assert await count(sql, "c WHERE up IS NOT NULL") == 1
    ended = await run(life_of(database, {"c": "delete"}), "purge-old-deleted", "second", policy="p")
    assert ended.result is not None
    assert (ended.result["purged"], ended.result["children"]) == (1, {"public.c": 1})


async def test_a_grandchild_that_blocks_keeps_the_whole_branch(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql)
    await child(sql, "c")
    await child(sql, "d", "c", rows=8)  # of the children 1 to 4, which are of the parents 1 and 2
    result = await purge(database, {"c": "delete", "d": "block"})
    assert (result["purged"], result["skipped"]["blocked"], result["children"]) == (49, 1, {"public.c": 98})
    assert await count(sql, "c WHERE up = 2") == 2


async def test_a_table_that_points_to_itself(database: Database, sql: asyncpg.Connection) -> None:
    """A tree of three levels below each overdue row, one that points to itself, and two that point to each other."""
    await parents(sql, 20)
    await sql.execute("ALTER TABLE p ADD up int REFERENCES p; CREATE INDEX ON p (up)")
    await sql.execute("INSERT INTO p (id, up) SELECT 100 + n, n FROM generate_series(1, 20) n")
    await sql.execute("INSERT INTO p (id, up) SELECT 200 + n, 100 + n FROM generate_series(1, 20) n")
    await sql.execute("UPDATE p SET up = 2 WHERE id = 2; UPDATE p SET up = 6 WHERE id = 4")
    await sql.execute("UPDATE p SET up = 4 WHERE id = 6")
    result = await purge(database, {"p": "delete"})
    assert (result["purged"] + result["children"]["public.p"], result["remaining"]) == (30, False)
    assert await count(sql, "p") == 30
    assert await count(sql, "p WHERE id % 2 = 0") == 0


async def test_rows_of_another_partition_that_block_and_go_later(database: Database, sql: asyncpg.Connection) -> None:
    """Whose turn comes first is kept by what goes after it: the run says so, and the next one takes it."""
    await sql.execute("CREATE TABLE p (id int PRIMARY KEY, gone_at timestamptz, up int) PARTITION BY LIST (id)")
    await sql.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p DEFAULT")
    await sql.execute("ALTER TABLE p ADD FOREIGN KEY (up) REFERENCES p")
    await sql.execute(f"INSERT INTO p VALUES (1, {OLD}, NULL), (2, {OLD}, 1), (3, {OLD}, NULL), (4, NULL, 3)")
    first = await purge(database, {"p": "block"})
    assert (first["purged"], first["skipped"]["blocked"], first["remaining"]) == (1, 2, True)
    assert "run it again" in first["reason"]
    second = (await run(life_of(database, {"p": "block"}), "purge-old-deleted", "second", policy="p")).result
    assert second is not None
    assert (second["purged"], second["skipped"]["blocked"]) == (1, 1)
    third = (await run(life_of(database, {"p": "block"}), "purge-old-deleted", "third", policy="p")).result
    assert third is not None
    assert (third["purged"], third["skipped"]["blocked"], third["remaining"]) == (0, 1, False)


@pytest.mark.parametrize("what", ["block", "delete"])
async def test_a_foreign_key_to_a_single_partition_is_about_its_rows_alone(
    database: Database, sql: asyncpg.Connection, what: Children
) -> None:
    """Another partition has a row of the same key. Control: it was taken for the one that is pointed to, and kept."""
    await sql.execute("CREATE TABLE p (id int, part int, gone_at timestamptz) PARTITION BY LIST (part)")
    await sql.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p DEFAULT")
    await sql.execute("ALTER TABLE p1 ADD PRIMARY KEY (id); CREATE TABLE c (up int REFERENCES p1)")
    await sql.execute(f"INSERT INTO p VALUES (1, 1, {OLD}), (1, 2, {OLD}), (2, 1, {OLD}); INSERT INTO c VALUES (1)")
    result = await purge(database, {"c": what})
    assert (result["purged"], result["skipped"]["blocked"]) == ((2, 1) if what == "block" else (3, 0))
    assert (await count(sql, "p1"), await count(sql, "p2")) == ((1, 0) if what == "block" else (0, 0))


@pytest.mark.parametrize("rows", [2, 40])
async def test_a_child_that_somebody_holds_is_passed_over_with_its_parent(
    database: Database, sql: asyncpg.Connection, small_batches: None, rows: int
) -> None:
    """And is met again, when it is free. What hangs on another row goes meanwhile."""
    await parents(sql, 8)
    await child(sql, "c", rows=8 + rows, up="CASE WHEN n <= 8 THEN (n + 1) / 2 ELSE 4 END")
    async with another(database) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT FROM c WHERE id = 8 FOR KEY SHARE")
        first = await purge(database, {"c": "delete"})
        assert (first["purged"], first["skipped"]["locked"], first["remaining"]) == (3, 1, True)
        assert await count(sql, "p WHERE id = 4") == 1
        await transaction.rollback()
    second = (await run(life_of(database, {"c": "delete"}), "purge-old-deleted", "second", policy="p")).result
    assert second is not None
    assert (second["purged"], second["remaining"], await count(sql, "c")) == (1, False, 4)


async def test_two_tables_that_point_to_each_other(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql)
    await child(sql, "c", rows=100)
    await sql.execute("ALTER TABLE p ADD best int REFERENCES c; UPDATE p SET best = 2 * id WHERE id <= 50")
    await sql.execute("CREATE INDEX ON p (best)")
    result = await purge(database, {"c": "delete", "p": "delete"})
    assert (result["purged"], result["children"], result["remaining"]) == (50, {"public.c": 50}, False)
    assert (await count(sql, "p"), await count(sql, "c")) == (50, 50)


async def test_rows_that_block_one_after_the_other_go_in_one_run(database: Database, sql: asyncpg.Connection) -> None:
    """From the last one on, a pass each. Control: where a list that is done is the end, the third one stays."""
    await parents(sql, 8)
    await sql.execute("ALTER TABLE p ADD up int REFERENCES p; CREATE INDEX ON p (up)")
    await sql.execute("UPDATE p SET up = id - 2 WHERE id IN (4, 6, 8)")
    result = await purge(database, {"p": "block"})
    assert (result["purged"], result["skipped"]["blocked"], result["remaining"]) == (4, 0, False)


async def test_a_row_that_blocks_and_goes_later_is_followed_by_what_it_blocked(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what hangs on it, and in the same run. Control: where a pass that counted all it left is the last, 2 stays."""
    monkeypatch.setattr(Blocks, "first", 1)
    monkeypatch.setattr(Blocks, "largest", 1)
    await parents(sql, 8)
    await child(sql, "c", rows=4)
    await sql.execute("ALTER TABLE p ADD best int REFERENCES c; CREATE INDEX ON p (best)")
    await sql.execute("UPDATE p SET best = 4 WHERE id IN (2, 6, 8)")
    result = await purge(database, {"c": "delete", "p": "block"})
    assert (result["purged"], result["skipped"]["blocked"], result["remaining"]) == (4, 0, False)


@pytest.mark.parametrize("on_delete", ["NO ACTION", "SET NULL"])
async def test_of_rows_that_block_each_other_all_stay(
    database: Database, sql: asyncpg.Connection, on_delete: str
) -> None:
    """By what hangs on them, so that no condition tells it beforehand; met in one batch they stay as in two.

    Control: where all rows of a batch count as going, all go by a key that is set to NULL.
    """
    await parents(sql, 8)
    await child(sql, "c", rows=8)  # two of each of the parents 1 to 4
    await sql.execute(f"ALTER TABLE p ADD best int REFERENCES c ON DELETE {on_delete}; CREATE INDEX ON p (best)")
    await sql.execute("UPDATE p SET best = 8 WHERE id = 2; UPDATE p SET best = 4 WHERE id = 4")
    await sql.execute("UPDATE p SET best = 4 WHERE id = 6")  # it goes, then nothing of it is left to block
    result = await purge(database, {"c": "delete", "p": "block"})
    assert (result["purged"], result["skipped"]["blocked"], result["remaining"]) == (2, 2, False)
    assert await count(sql, "c WHERE up IN (2, 4)") == 4


async def test_rows_that_stay_are_counted_once_on_several_lanes(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of chunks of two rows the first fails, while another lane meets the last row alone.

    Control: where a further lane counts, too, that row is counted again when it is walked again.
    """
    monkeypatch.setattr(ways, "SMALL_BLOCKS", 0)
    monkeypatch.setattr(ways, "DENSE", 1000)
    monkeypatch.setattr(Values, "first", 2)
    monkeypatch.setattr(Values, "largest", 2)
    await parents(sql, 8)
    await child(sql, "c", rows=16)
    await child(sql, "d", "c", rows=32)
    result = await purge(database, {"c": "delete", "d": "block"}, pace="full")
    assert (result["purged"], result["skipped"]["blocked"], result["remaining"]) == (0, 4, False)


async def test_what_hangs_on_one_row_goes_in_many_transactions(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql, 4)
    await child(sql, "c", rows=8)
    await sql.execute("INSERT INTO c SELECT n, 2 FROM generate_series(100, 60000) n")
    result = await purge(database, {"c": "delete"}, pace="full")
    assert (result["purged"], result["children"], result["remaining"]) == (2, {"public.c": 59_905}, False)
    assert result["batches"] > 10
    assert (await count(sql, "p"), await count(sql, "c")) == (2, 4)


@pytest.mark.parametrize("on_delete", ["NO ACTION", "RESTRICT", "SET NULL", "CASCADE"])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("declared", ["block", None])
async def test_a_row_that_points_to_what_hangs_on_it(
    database: Database,
    sql: asyncpg.Connection,
    request: pytest.FixtureRequest,
    on_delete: str,
    *,
    many: bool,
    declared: str | None,
) -> None:
    """It keeps nothing but itself, so it goes with it: at once, as no order suits; after the rest where that is much.

    Control: children first, the key refuses; or it is set to NULL, and the row is not where it was any more.
    """
    if many:
        request.getfixturevalue("small_batches")
    await parents(sql, 4)
    await child(sql, "c", rows=40 if many else 8, up=MANY_TO_2)
    await sql.execute(f"ALTER TABLE p ADD best int REFERENCES c ON DELETE {on_delete}; CREATE INDEX ON p (best)")
    await sql.execute("UPDATE p SET best = 2 * id WHERE id IN (2, 3)")
    undeclared = declared is None and on_delete in {"SET NULL", "CASCADE"}
    result = await purge(database, {"c": "delete"} if undeclared else {"c": "delete", "p": "block"})
    assert (result["purged"], result["skipped"]["blocked"], result["remaining"]) == (2, 0, False)
    assert (await count(sql, "p WHERE best IS NOT NULL"), await count(sql, "c")) == (1, 4)


MANY_TO_2 = "CASE WHEN n <= 8 THEN (n + 1) / 2 ELSE 2 END"


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows may go along with another in its transaction."""
    monkeypatch.setattr(trees, "MOST", 3)
    monkeypatch.setattr(sweep, "FIRST_DRAIN", 3)
    monkeypatch.setattr(sweep, "LARGEST_DRAIN", 3)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("why", ["held", "blocked"])
async def test_nothing_of_a_large_branch_goes_where_one_row_of_it_stays(
    database: Database, sql: asyncpg.Connection, why: str
) -> None:
    """Control: without the look at all of it, the rows that are met before that one are gone."""
    await parents(sql, 4)
    await child(sql, "c", rows=40, up=MANY_TO_2)
    await sql.execute("CREATE TABLE e (up int REFERENCES c)")
    await child(sql, "d", "c", rows=80)
    if why == "held":
        await hold(database, "public.d", "id", "77")
    else:
        await sql.execute("INSERT INTO e VALUES (39)")
    result = await purge(database, {"c": "delete", "d": "delete", "e": "block"})
    assert (result["purged"], result["skipped"][why], result["remaining"]) == (1, 1, False)
    assert (await count(sql, "p"), await count(sql, "c"), await count(sql, "d")) == (3, 38, 76)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("on_delete", ["NO ACTION", "RESTRICT", "NO ACTION DEFERRABLE INITIALLY DEFERRED", "CASCADE"])
async def test_a_large_branch_whose_rows_are_reached_twice(
    database: Database, sql: asyncpg.Connection, on_delete: str
) -> None:
    """A row that points to the parent and, by another foreign key, to one that is farther from it."""
    await parents(sql, 4)
    await child(sql, "c", rows=8, on_delete=on_delete)
    await sql.execute(f"ALTER TABLE c ADD other int REFERENCES c ON DELETE {on_delete}; CREATE INDEX ON c (other)")
    await sql.execute("INSERT INTO c SELECT n, CASE n WHEN 20 THEN 2 END, n - 1 FROM generate_series(9, 20) n")
    await sql.execute("UPDATE c SET other = 4 WHERE id = 9")
    result = await purge(database, {"c": "delete"})
    assert (result["purged"], result["children"], result["remaining"]) == (2, {"public.c": 16}, False)
    assert (await count(sql, "p"), await count(sql, "c")) == (2, 4)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("on_delete", ["NO ACTION", "RESTRICT", "NO ACTION DEFERRABLE INITIALLY DEFERRED", "CASCADE"])
async def test_a_circle_of_more_rows_than_one_batch_takes(
    database: Database, sql: asyncpg.Connection, on_delete: str
) -> None:
    """It has no far end, and goes at once, when what hangs on it has gone."""
    await parents(sql, 4)
    await child(sql, "c", rows=8)
    await sql.execute(f"ALTER TABLE c ADD other int REFERENCES c ON DELETE {on_delete}; CREATE INDEX ON c (other)")
    await sql.execute(
        "INSERT INTO c SELECT n, 2, n - 1 FROM generate_series(9, 20) n; UPDATE c SET other = 20 WHERE id = 4"
    )
    await sql.execute(
        "UPDATE c SET other = 4 WHERE id = 9; INSERT INTO c SELECT n, NULL, 15 FROM generate_series(30, 49) n"
    )
    result = await purge(database, {"c": "delete"})
    assert (result["purged"], result["children"], result["remaining"]) == (2, {"public.c": 36}, False)
    assert (await count(sql, "p"), await count(sql, "c")) == (2, 4)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("deferred", ["", "DEFERRABLE INITIALLY DEFERRED"])
@pytest.mark.parametrize("rows", [8, 40])
async def test_a_trigger_that_keeps_children_keeps_their_parents(
    database: Database, sql: asyncpg.Connection, rows: int, deferred: str
) -> None:
    """Control: where rows count as drained that are still there, the run never ends."""
    await parents(sql, 4)
    await child(sql, "c", rows=rows, on_delete=f"NO ACTION {deferred}", up=MANY_TO_2)
    await sql.execute("CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    await sql.execute("CREATE TRIGGER keep BEFORE DELETE ON c FOR EACH ROW WHEN (OLD.up = 2) EXECUTE FUNCTION keep()")
    async with asyncio.timeout(30):
        result = await purge(database, {"c": "delete"})
    assert (result["purged"], result["skipped"]["blocked"]) == (1, 1)
    assert (await count(sql, "p"), await count(sql, "c WHERE up = 2")) == (3, rows - 6)


async def test_a_child_that_is_inserted_meanwhile_is_never_lost(database: Database, sql: asyncpg.Connection) -> None:
    """Others add children to overdue parents all the while. Each either was refused, or stands with its parent.

    Control: with one DELETE whose condition names no child, a cascade took some along that were committed just before.
    """
    await parents(sql, 40_000)
    await sql.execute("CREATE TABLE c (up int REFERENCES p ON DELETE CASCADE); CREATE INDEX ON c (up)")
    other = await asyncpg.connect(database.address.dsn)

    async def adding() -> list[int]:
        stood = []
        for number in range(40_000, 0, -26):
            try:
                await other.execute("INSERT INTO c VALUES ($1)", number)
                stood.append(number)
            except asyncpg.ForeignKeyViolationError:
                pass
        return stood

    async with asyncio.TaskGroup() as group:
        added = group.create_task(adding())
        group.create_task(purge(database, {"c": "block"}))
    await other.close()
    assert await count(sql, "c") == len(added.result())
    assert await count(sql, "c WHERE up % 2 = 0") > 0


async def hold(database: Database, table: str, column: str, value: str) -> None:
    async with database.sessions.begin() as session:
        await holds.add(session, table=table, column=column, value=value, reason="a test", until=None, by="test")


async def test_a_held_parent_stays_with_its_children(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql)
    await child(sql, "c")
    await hold(database, "public.p", "id", "10")
    result = await purge(database, {"c": "delete"})
    assert (result["purged"], result["skipped"]["held"], result["remaining"]) == (49, 1, False)
    assert (await count(sql, "p WHERE id = 10"), await count(sql, "c WHERE up = 10")) == (1, 2)


async def test_a_held_child_keeps_its_parent_and_what_goes_with_it(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql)
    await child(sql, "c")
    await hold(database, "public.c", "id", "20")  # of parent 10
    result = await purge(database, {"c": "delete"})
    assert (result["purged"], result["skipped"]["held"], result["remaining"]) == (49, 1, False)
    assert (await count(sql, "p WHERE id = 10"), await count(sql, "c WHERE up = 10")) == (1, 2)


async def test_a_hold_of_another_column_that_comes_meanwhile_is_kept(
    database: Database, sql: asyncpg.Connection
) -> None:
    """The statements know no hold when they are made; the next batch finds out, and makes them anew."""
    await parents(sql, 200_000)
    life = life_of(database, {})
    await accept(life, "purge-old-deleted", "run", policy="p", max_rows=100_000)
    serving = asyncio.create_task(serve_to_the_end(life, "run"))
    await eventually(lambda: sql.fetchval("SELECT rows_done > 0 FROM lowtide.run WHERE id = 'run'"))
    await sql.execute("UPDATE p SET gone_at = gone_at - interval '1 day' WHERE id = 199998")
    await hold(database, "public.p", "id", "199998")
    await serving
    assert await count(sql, "p WHERE gone_at IS NOT NULL") == 1


async def test_what_would_go_along_is_counted_by_table(database: Database, sql: asyncpg.Connection) -> None:
    await parents(sql)
    await child(sql, "c")
    await child(sql, "d", "c", rows=400)
    await child(sql, "e", on_delete="SET NULL")
    policy = Policy("p", Target("public", "p", "gone_at"), timedelta(days=90), children={"c": "delete", "d": "delete"})
    async with database.autocommit() as connection:
        relation = await relations.following(connection, policy.target, oid=0)
        assert relation is not None
        cutoff = await estimates.cutoff(connection, keep=policy.keep)
        scope = await Scopes(policy, cutoff).of(connection, relation)
        assert scope.pointing is not None
        branch = await branches.branch(connection, scope.pointing, scope.eligible, relation.oid)
        counted = await branch.take(connection)
    assert counted["along"] == {"public.c": 100, "public.d": 200, "public.e (keeps its row, loses up)": 100}


async def test_a_trigger_that_keeps_a_count_in_the_parent_does_not_keep_the_parent(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Control: deleted after its children, the parent had become another version of the row, and stayed."""
    await parents(sql)
    await child(sql, "c")
    await sql.execute(
        "ALTER TABLE p ADD n int DEFAULT 2; CREATE FUNCTION less() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN UPDATE p SET n = n - 1 WHERE id = OLD.up; RETURN NULL; END';"
        "CREATE TRIGGER less AFTER DELETE ON c FOR EACH ROW EXECUTE FUNCTION less()"
    )
    result = await purge(database, {"c": "delete"})
    assert (result["purged"], result["children"], result["remaining"]) == (50, {"public.c": 100}, False)
    assert (await count(sql, "p"), await count(sql, "c")) == (50, 100)


async def test_a_parent_that_a_trigger_keeps_keeps_its_children(database: Database, sql: asyncpg.Connection) -> None:
    """Control: its children went, and that was committed."""
    await parents(sql)
    await child(sql, "c")
    await sql.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER keep BEFORE DELETE ON p FOR EACH ROW WHEN (OLD.id = 10) EXECUTE FUNCTION keep()"
    )
    result = await purge(database, {"c": "delete"})
    assert (result["purged"], result["skipped"]["blocked"]) == (49, 1)
    assert (await count(sql, "p WHERE id = 10"), await count(sql, "c WHERE up = 10")) == (1, 2)


async def test_nobody_elses_function_is_taken_for_postgresqls_own(database: Database, sql: asyncpg.Connection) -> None:
    """One of an exact argument type is preferred to a polymorphic one, wherever it is found."""
    await parents(sql)
    await child(sql, "c")
    await sql.execute("CREATE TABLE seen (by text)")
    for name, given in (("cardinality", "tid[]"), ("array_fill", "oid, int[]"), ("format", "text, regclass")):
        await sql.execute(
            f"CREATE FUNCTION public.{name}({given}) RETURNS int LANGUAGE plpgsql AS "
            f"$$ BEGIN INSERT INTO public.seen VALUES ('{name}'); RETURN 1; END $$"
        )
    assert (await purge(database, {"c": "delete"}))["purged"] == 50
    assert await count(sql, "seen") == 0
