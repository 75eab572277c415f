"""Whole partitions that go at once: which are on their way, and the two halves of their last transaction."""

from alembic import op

revision = "lowtide_0007"
down_revision = "lowtide_0006"
branch_labels = None
depends_on = None

# Written before a partition is detached, and gone when it is dropped, or attached again. `checks` are the names of the
# CHECK constraints that it had: detaching adds one.
DETACHING = """
CREATE TABLE lowtide.detaching (
    partition oid PRIMARY KEY,
    partition_name text NOT NULL,
    parent oid NOT NULL,
    parent_name text NOT NULL,
    bound text NOT NULL,
    checks text[] NOT NULL,
    run text NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now()
)
"""

# Keeps everybody from writing into a detached partition until the transaction ends, and returns how many rows it has.
# Readers are not kept out while all of them are looked at. More than `most` must not go.
COUNT = """
CREATE FUNCTION lowtide.count_detached(partition oid, eligible text, most bigint) RETURNS bigint
LANGUAGE plpgsql
AS $function$
DECLARE
    rows bigint;
    unfit bigint;
BEGIN
    EXECUTE pg_catalog.format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', partition::regclass);
    EXECUTE pg_catalog.format(
        'SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE (%s) IS NOT TRUE) FROM ONLY %s',
        eligible, partition::regclass
    ) INTO rows, unfit;
    IF unfit > 0 OR rows > most THEN
        RAISE EXCEPTION '% of % rows of % must stay', greatest(unfit, rows - most), rows, partition::regclass
            USING ERRCODE = 'LT412';
    END IF;
    PERFORM pg_catalog.set_config('lowtide.detached_rows', rows::text, true);
    RETURN rows;
END
$function$
"""
# Counts the rows that count_detached found, under the partition's name.
DROP = """
CREATE FUNCTION lowtide.drop_detached(partition oid, prefix text) RETURNS jsonb
LANGUAGE plpgsql
AS $function$
DECLARE
    name text;
BEGIN
    SELECT prefix || nspname || '.' || relname INTO name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = partition;
    EXECUTE pg_catalog.format('DROP TABLE %s', partition::regclass);
    DELETE FROM lowtide.detaching d WHERE d.partition = drop_detached.partition;
    RETURN pg_catalog.jsonb_build_object(name, current_setting('lowtide.detached_rows')::bigint);
END
$function$
"""


def upgrade() -> None:
    for statement in (DETACHING, COUNT, DROP, "REVOKE ALL ON ALL ROUTINES IN SCHEMA lowtide FROM PUBLIC"):
        op.get_bind().exec_driver_sql(statement)
