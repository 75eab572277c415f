"""Purges of rows that others point to: what goes with a row goes in the same transaction, or before it in bounded ones.

Both functions have their caller's rights, and run under its search_path: a user's trigger may rely on it. So what is
PostgreSQL's own is named with its schema (`qualified`): somebody else's function of a better fitting type would be
taken for it. The SQL that they execute is written by db/, never taken from a payload. Identifiers of relations come
from the catalog.

`tree` is {"edges": [{"parent": oid, "child": "FROM what", "joined": "SQL over c and p", "deletes": bool, "leaf": bool,
"again": bool, "name": …}], "held": {oid: "SQL over c"}, "names": {oid: name}, "depths": {oid: number} or null,
"counters": {"blocked": name, "held": name}}. `leaf`: nothing points to its rows, and none can be held. `again`: its
rows may be met more than once.
"""

import re

from alembic import op

revision = "lowtide_0006"
down_revision = "lowtide_0005"
branch_labels = None
depends_on = None

# A relation, and the partitioned tables above it: foreign keys, holds and names may be any of theirs.
ABOVE = """
CREATE FUNCTION lowtide.above(relation oid) RETURNS oid[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT array_agg(oid) FROM (
        SELECT relid::oid AS oid FROM pg_partition_ancestors(above.relation) UNION SELECT above.relation
    ) family
$function$
"""

# What points to given rows of one relation, by one foreign key: at most `most` rows (null: all), locked where `locked`.
# `but` are rows that are known already.
POINTING = """
CREATE FUNCTION lowtide.pointing(
    edge jsonb, relation oid, places tid[], most bigint, but_relations oid[], but_places tid[], locked boolean,
    OUT relations oid[], OUT pointers tid[]
)
LANGUAGE plpgsql
AS $function$
BEGIN
    EXECUTE format(
        'SELECT coalesce(array_agg(r), ''{}''), coalesce(array_agg(t), ''{}'') FROM ('
        'SELECT c.tableoid AS r, c.ctid AS t FROM %s c JOIN ONLY %s p ON %s WHERE p.ctid = ANY($1) %s '
        'LIMIT $2 %s) pointing',
        edge ->> 'child', relation::regclass, edge ->> 'joined',
        CASE WHEN (edge ->> 'again')::boolean THEN
            'AND NOT EXISTS (SELECT FROM unnest($3, $4) but (r, t) WHERE but.r = c.tableoid AND but.t = c.ctid)'
        END,
        CASE WHEN locked THEN 'FOR UPDATE OF c' END
    ) INTO relations, pointers USING places, most, but_relations, but_places;
END
$function$
"""

# Whether one of the rows is held, or kept by a row that does not go itself: 'held', 'blocked' or null. The first
# `roots` are of the purged table. Where those are several, none of them counts as going: of two that keep each other
# both stay, whether they are met in one batch or in two.
KEPT = """
CREATE FUNCTION lowtide.kept(tree jsonb, roots integer, relations oid[], places tid[]) RETURNS text
LANGUAGE plpgsql
AS $function$
DECLARE
    relation oid;
    family oid[];
    here tid[];
    edge jsonb;
    condition text;
    stays boolean;
    going integer := CASE WHEN roots > 1 THEN roots + 1 ELSE 1 END;
BEGIN
    FOR relation IN SELECT DISTINCT unnest(relations) LOOP
        family := lowtide.above(relation);
        here := ARRAY(SELECT t FROM unnest(relations, places) going (r, t) WHERE r = relation);
        FOR condition IN SELECT value FROM jsonb_each_text(tree -> 'held') WHERE key::oid = ANY(family) LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s c WHERE c.ctid = ANY($1) AND (%s))', relation::regclass,
                           condition) INTO stays USING here;
            IF stays THEN
                RETURN 'held';
            END IF;
        END LOOP;
        FOR edge IN
            SELECT value FROM jsonb_array_elements(tree -> 'edges')
            WHERE NOT (value ->> 'deletes')::boolean AND (value ->> 'parent')::oid = ANY(family)
        LOOP
            EXECUTE format(
                'SELECT EXISTS (SELECT FROM %s c JOIN ONLY %s p ON %s WHERE p.ctid = ANY($1) AND NOT EXISTS ('
                'SELECT FROM unnest($2, $3) going (r, t) WHERE going.r = c.tableoid AND going.t = c.ctid))',
                edge ->> 'child', relation::regclass, edge ->> 'joined'
            ) INTO stays USING here, relations[going:], places[going:];
            IF stays THEN
                RETURN 'blocked';
            END IF;
        END LOOP;
    END LOOP;
    RETURN NULL;
END
$function$
"""

# Deletes rows by their places, and adds to `counted`, under the names of their tables, how many those were.
DELETE_PLACES = """
CREATE FUNCTION lowtide.delete_places(tree jsonb, relation oid, places tid[], counted jsonb) RETURNS jsonb
LANGUAGE plpgsql
AS $function$
DECLARE
    gone bigint;
    name text;
BEGIN
    EXECUTE format('DELETE FROM ONLY %s WHERE ctid = ANY($1)', relation::regclass) USING places;
    GET DIAGNOSTICS gone = ROW_COUNT;
    SELECT value INTO name FROM jsonb_each_text(tree -> 'names') WHERE key::oid = ANY(lowtide.above(relation)) LIMIT 1;
    RETURN lowtide.added(counted, jsonb_build_object(name, gone));
END
$function$
"""

# The rows that `chosen` locks and returns the places of, and all that goes with them. Returns how many of `chosen`
# went; others are counted by their tables in the setting lowtide.counted.
#
# The rows are locked first, FOR UPDATE: from then on nobody can point to them. What points to them is looked for in
# statements that begin later, and so see all that was committed before the lock. More than `most` rows, or one that
# must stay among them, raise LT413, and the caller tries with fewer; a single row with one that must stay is counted
# where `counters` has a name for that.
PURGE_TREE = """
CREATE FUNCTION lowtide.purge_tree(chosen text, args text[], root oid, tree jsonb, most bigint) RETURNS bigint
LANGUAGE plpgsql
AS $function$
DECLARE
    roots tid[];
    relations oid[];
    places tid[];
    fresh_relations oid[];
    fresh_places tid[];
    pointing record;
    leaves jsonb := '[]';
    leaf jsonb;
    known integer := 0;
    along bigint := 0;
    counting bigint;
    relation oid;
    family oid[];
    here tid[];
    edge jsonb;
    why text;
    counted jsonb := '{}';
    gone bigint;  -- of leaves
BEGIN
    EXECUTE chosen INTO roots USING args;
    PERFORM set_config('lowtide.counted', '{}', true);
    IF cardinality(roots) = 0 THEN
        RETURN 0;
    END IF;
    relations := array_fill(root, ARRAY[cardinality(roots)]);
    places := roots;
    LOOP
        fresh_relations := '{}';
        fresh_places := '{}';
        FOR relation IN SELECT DISTINCT unnest(relations[known + 1:]) LOOP
            family := lowtide.above(relation);
            here := ARRAY(
                SELECT t FROM unnest(relations[known + 1:], places[known + 1:]) going (r, t) WHERE r = relation
            );
            FOR edge IN
                SELECT value FROM jsonb_array_elements(tree -> 'edges')
                WHERE (value ->> 'deletes')::boolean AND (value ->> 'parent')::oid = ANY(family)
            LOOP
                IF (edge ->> 'leaf')::boolean THEN
                    EXECUTE format(
                        'SELECT count(*) FROM ('
                        'SELECT FROM %s c JOIN ONLY %s p ON %s WHERE p.ctid = ANY($1) LIMIT $2) pointing',
                        edge ->> 'child', relation::regclass, edge ->> 'joined'
                    ) INTO counting USING here, most - along + 1;
                    IF counting > 0 THEN
                        leaves := leaves || jsonb_build_object('edge', edge, 'relation', relation::bigint);
                    END IF;
                ELSE
                    pointing := lowtide.pointing(
                        edge, relation, here, most - along + 1, relations || fresh_relations, places || fresh_places,
                        true
                    );
                    fresh_relations := fresh_relations || pointing.relations;
                    fresh_places := fresh_places || pointing.pointers;
                    counting := cardinality(pointing.pointers);
                END IF;
                along := along + counting;
                IF along > most THEN
                    RAISE EXCEPTION 'more than % rows go with these', most USING ERRCODE = 'LT413';
                END IF;
            END LOOP;
        END LOOP;
        EXIT WHEN cardinality(fresh_places) = 0;
        known := cardinality(places);
        relations := relations || fresh_relations;
        places := places || fresh_places;
    END LOOP;

    why := lowtide.kept(tree, cardinality(roots), relations, places);
    IF why IS NOT NULL THEN
        IF cardinality(roots) > 1 OR tree -> 'counters' = '{}' THEN
            RAISE EXCEPTION 'one of these stays' USING ERRCODE = 'LT413';
        END IF;
        PERFORM set_config('lowtide.counted', jsonb_build_object(tree -> 'counters' ->> why, 1)::text, true);
        RETURN 0;
    END IF;

    FOR leaf IN SELECT value FROM jsonb_array_elements(leaves) LOOP
        edge := leaf -> 'edge';
        relation := (leaf ->> 'relation')::oid;
        here := ARRAY(SELECT t FROM unnest(relations, places) going (r, t) WHERE r = relation);
        EXECUTE format(
            'DELETE FROM %s c USING ONLY %s p WHERE %s AND p.ctid = ANY($1)',
            edge ->> 'child', relation::regclass, edge ->> 'joined'
        ) USING here;
        GET DIAGNOSTICS gone = ROW_COUNT;
        counted := lowtide.added(counted, jsonb_build_object(edge ->> 'name', gone));
    END LOOP;
    RETURN lowtide.delete_going(tree, root, cardinality(roots), relations, places, counted);
END
$function$
"""

# Where tables point to each other in a circle, no order suits: rows of all of them go in one statement, and the foreign
# keys are looked at when it is done. The first `roots` of the places are counted apart.
DELETE_AT_ONCE = """
CREATE FUNCTION lowtide.delete_at_once(
    tree jsonb, root oid, roots integer, relations oid[], places tid[], counted jsonb
) RETURNS bigint
LANGUAGE plpgsql
AS $function$
DECLARE
    statement text;
    gone bigint;
    others jsonb;
BEGIN
    SELECT 'WITH ' || string_agg(format(
               'd%1$s AS (DELETE FROM ONLY %2$s WHERE ctid = ANY(%3$L::tid[]) RETURNING 1)', number, r::regclass, t
           ), ', ')
           || ' SELECT ' || coalesce(max(format('(SELECT count(*) FROM d%s)', number)) FILTER (WHERE is_root), '0')
           || ', jsonb_build_object('
           || coalesce(string_agg(format('%L, (SELECT count(*) FROM d%s)', number, number), ', ')
                       FILTER (WHERE NOT is_root), '')
           || ')'
    INTO statement
    FROM (
        SELECT row_number() OVER (ORDER BY NOT is_root, r) AS number, is_root, r, array_agg(t) AS t
        FROM unnest(relations, places) WITH ORDINALITY going (r, t, place), LATERAL (SELECT place <= roots) x (is_root)
        GROUP BY is_root, r
    ) parts;
    EXECUTE statement INTO gone, others;
    IF gone < roots THEN
        RAISE EXCEPTION 'a trigger keeps % of these rows', roots - gone USING ERRCODE = '23503';
    END IF;
    SELECT lowtide.added(counted, coalesce(jsonb_object_agg(name, number), '{}')) INTO counted
    FROM (
        SELECT name, sum(value::bigint)::bigint AS number
        FROM jsonb_each_text(others) o (part, value)
        JOIN (
            SELECT row_number() OVER (ORDER BY NOT is_root, r) AS part, r
            FROM unnest(relations) WITH ORDINALITY going (r, place), LATERAL (SELECT place <= roots) x (is_root)
            GROUP BY is_root, r
        ) parts ON parts.part = o.part::bigint
        JOIN LATERAL (
            SELECT value AS name FROM jsonb_each_text(tree -> 'names') WHERE key::oid = ANY(lowtide.above(r)) LIMIT 1
        ) named ON true
        GROUP BY name
    ) summed;
    PERFORM set_config('lowtide.counted', counted::text, true);
    RETURN gone;
END
$function$
"""

# Deletes rows that nothing else points to, those that are farthest from the root first. The first `roots` of the places
# are rows of the relation `root`: returns how many of those went. The others are counted in lowtide.counted.
DELETE_GOING = """
CREATE FUNCTION lowtide.delete_going(
    tree jsonb, root oid, roots integer, relations oid[], places tid[], counted jsonb
) RETURNS bigint
LANGUAGE plpgsql
AS $function$
DECLARE
    relation oid;
    here tid[];
    gone bigint := 0;
BEGIN
    IF tree -> 'depths' = 'null' THEN
        RETURN lowtide.delete_at_once(tree, root, roots, relations, places, counted);
    END IF;
    FOR relation IN
        SELECT r FROM (SELECT DISTINCT r FROM unnest(relations[roots + 1:]) r) going
        ORDER BY (SELECT max(value::integer) FROM jsonb_each_text(tree -> 'depths')
                  WHERE key::oid = ANY(lowtide.above(r))) DESC
    LOOP
        here := ARRAY(SELECT t FROM unnest(relations[roots + 1:], places[roots + 1:]) going (r, t) WHERE r = relation);
        counted := lowtide.delete_places(tree, relation, here, counted);
    END LOOP;
    PERFORM set_config('lowtide.counted', counted::text, true);
    IF roots > 0 THEN
        EXECUTE format('DELETE FROM ONLY %s WHERE ctid = ANY($1)', root::regclass) USING places[1:roots];
        GET DIAGNOSTICS gone = ROW_COUNT;
    END IF;
    IF gone < roots THEN
        RAISE EXCEPTION 'a trigger keeps % of these rows', roots - gone USING ERRCODE = '23503';
    END IF;
    RETURN gone;
END
$function$
"""

# What hangs on given rows, those included, in the order in which it is found: at most `most` rows of each generation
# (null: all).
BRANCH = """
CREATE FUNCTION lowtide.branch(
    tree jsonb, most bigint, locked boolean, INOUT relations oid[], INOUT places tid[]
)
LANGUAGE plpgsql
AS $function$
DECLARE
    known integer := 0;
    fresh_relations oid[];
    fresh_places tid[];
    pointing record;
    relation oid;
    family oid[];
    here tid[];
    edge jsonb;
BEGIN
    WHILE known < cardinality(places) LOOP
        fresh_relations := '{}';
        fresh_places := '{}';
        FOR relation IN SELECT DISTINCT unnest(relations[known + 1:]) LOOP
            family := lowtide.above(relation);
            here := ARRAY(
                SELECT t FROM unnest(relations[known + 1:], places[known + 1:]) going (r, t) WHERE r = relation
            );
            FOR edge IN
                SELECT value FROM jsonb_array_elements(tree -> 'edges')
                WHERE (value ->> 'deletes')::boolean AND (value ->> 'parent')::oid = ANY(family)
            LOOP
                CONTINUE WHEN cardinality(fresh_places) >= most;
                pointing := lowtide.pointing(
                    edge, relation, here, most - cardinality(fresh_places), relations || fresh_relations,
                    places || fresh_places, locked
                );
                fresh_relations := fresh_relations || pointing.relations;
                fresh_places := fresh_places || pointing.pointers;
            END LOOP;
        END LOOP;
        known := cardinality(places);
        relations := relations || fresh_relations;
        places := places || fresh_places;
    END LOOP;
END
$function$
"""

# Why the row that `chosen` returns the place of must stay, with all that hangs on it, however much that is: 'held',
# 'blocked', or null. Looked at before the first part of it is deleted. Locks the row itself alone.
STAYS = """
CREATE FUNCTION lowtide.stays(chosen text, args text[], root oid, tree jsonb) RETURNS text
LANGUAGE plpgsql
AS $function$
DECLARE
    roots tid[];
    branch record;
BEGIN
    EXECUTE chosen INTO roots USING args;
    branch := lowtide.branch(tree, NULL, false, array_fill(root, ARRAY[cardinality(roots)]), roots);
    RETURN lowtide.kept(tree, cardinality(roots), branch.relations, branch.places);
END
$function$
"""

# The part of the rows that nothing outside of the part points to: those can go, and the others stay. What blocks
# counts, too: the row at the top may do so, and goes last.
CLOSED = """
CREATE FUNCTION lowtide.closed(tree jsonb, INOUT relations oid[], INOUT places tid[])
LANGUAGE plpgsql
AS $function$
DECLARE
    before integer;
    relation oid;
    family oid[];
    here tid[];
    edge jsonb;
BEGIN
    LOOP
        before := cardinality(places);
        FOR relation IN SELECT DISTINCT unnest(relations) LOOP
            family := lowtide.above(relation);
            FOR edge IN
                SELECT value FROM jsonb_array_elements(tree -> 'edges') WHERE (value ->> 'parent')::oid = ANY(family)
            LOOP
                EXECUTE format(
                    'SELECT coalesce(array_agg(p.ctid), ''{}'') FROM ONLY %s p WHERE p.ctid = ANY($1) AND EXISTS ('
                    'SELECT FROM %s c WHERE %s AND NOT EXISTS ('
                    'SELECT FROM unnest($2, $3) going (r, t) WHERE going.r = c.tableoid AND going.t = c.ctid))',
                    relation::regclass, edge ->> 'child', edge ->> 'joined'
                ) INTO here USING
                    ARRAY(SELECT t FROM unnest(relations, places) going (r, t) WHERE r = relation), relations, places;
                SELECT coalesce(array_agg(r), '{}'), coalesce(array_agg(t), '{}') INTO relations, places
                FROM unnest(relations, places) going (r, t) WHERE r <> relation OR t <> ALL(here);
            END LOOP;
        END LOOP;
        EXIT WHEN cardinality(places) = before;
    END LOOP;
END
$function$
"""

# Of a row that more hangs on than one transaction may take: at most `most` rows of it that nothing else points to, from
# the far end. Counts them by their tables, and all of them as `drained`: 0 where there are none among those that were
# looked at, as they point to each other in a large circle.
DRAIN_TREE = """
CREATE FUNCTION lowtide.drain_tree(chosen text, args text[], root oid, tree jsonb, most bigint) RETURNS bigint
LANGUAGE plpgsql
AS $function$
DECLARE
    roots tid[];
    branch record;
    going record;
    first integer;
    why text;
    counted jsonb;
BEGIN
    EXECUTE chosen INTO roots USING args;
    PERFORM set_config('lowtide.counted', '{"drained": 0}', true);
    IF cardinality(roots) = 0 THEN
        RETURN 0;
    END IF;
    branch := lowtide.branch(tree, most, true, array_fill(root, ARRAY[cardinality(roots)]), roots);
    why := lowtide.kept(tree, cardinality(roots), branch.relations, branch.places);
    IF why IS NOT NULL THEN
        PERFORM set_config(
            'lowtide.counted', jsonb_build_object('drained', 0, tree -> 'counters' ->> why, 1)::text, true
        );
        RETURN 0;
    END IF;
    first := greatest(cardinality(roots), cardinality(branch.places) - most) + 1;
    going := lowtide.closed(tree, branch.relations[first:], branch.places[first:]);
    IF cardinality(going.places) = 0 THEN
        RETURN 0;
    END IF;
    PERFORM lowtide.delete_going(tree, root, 0, going.relations, going.places, '{}');
    counted := current_setting('lowtide.counted')::jsonb;
    PERFORM set_config('lowtide.counted', (counted || jsonb_build_object(
        'drained', (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(counted))
    ))::text, true);
    RETURN 0;
END
$function$
"""


OURS = (
    "array_agg|array_fill|cardinality|format|jsonb_build_object|jsonb_object_agg|jsonb_array_elements|"
    "jsonb_each_text|string_agg|count|max|sum|row_number|set_config"
)


def qualified(statement: str) -> str:
    # Of several arrays unnest is PostgreSQL's own syntax, and no function.
    statement = re.sub(r"(?<![\w.])unnest(?=\([^(),]*\))", "pg_catalog.unnest", statement)
    statement = re.sub(rf"(?<![\w.])({OURS})\(", r"pg_catalog.\1(", statement)
    return re.sub(r"\b(\w*(?:relations|places)) \|\| ", r"\1 OPERATOR(pg_catalog.||) ", statement)


def upgrade() -> None:
    rows = (ABOVE, POINTING, BRANCH, KEPT, CLOSED)
    deletes = (DELETE_PLACES, DELETE_AT_ONCE, DELETE_GOING)
    statements = (*rows, *deletes, PURGE_TREE, DRAIN_TREE, STAYS)
    for statement in (*statements, "REVOKE ALL ON ALL ROUTINES IN SCHEMA lowtide FROM PUBLIC"):
        op.get_bind().exec_driver_sql(qualified(statement))
