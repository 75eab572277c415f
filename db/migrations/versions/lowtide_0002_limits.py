"""Several batches in one round trip; and a batch brings back the limits, which an operator may change meanwhile.

The columns that a function returns can't be changed in place: it is dropped and made again, in one transaction.
"""

from alembic import op

revision = "lowtide_0002"
down_revision = "lowtide_0001"
branch_labels = None
depends_on = None

DROP = """
DROP FUNCTION lowtide.batch(text, bigint, tid, text, text[], bigint[], jsonb, interval, text, text, text)
"""

# As in the first revision, but for max_rows and max_seconds, and for a cursor that may stay where it is.
BATCH = """
CREATE FUNCTION lowtide.batch(
    run text, token bigint, place tid, change text, args text[], ids bigint[], cursor jsonb, lease interval,
    before text DEFAULT NULL, after text DEFAULT NULL, path text DEFAULT current_setting('search_path'),
    OUT changed bigint, OUT counted jsonb, OUT requested_action text, OUT pace text, OUT max_rows bigint,
    OUT max_seconds bigint, OUT here tid
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    counted_before jsonb;
    counted_after jsonb;
    looked_up boolean := false;
BEGIN
    here := batch.place;
    PERFORM set_config('search_path', batch.path, true), set_config('synchronous_commit', 'off', true);
    IF batch.before IS NOT NULL THEN
        EXECUTE batch.before INTO counted_before USING batch.args, batch.ids;
    END IF;
    EXECUTE batch.change USING batch.args, batch.ids;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF batch.after IS NOT NULL THEN
        EXECUTE batch.after INTO counted_after USING batch.args, batch.ids;
    END IF;
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
    counted := coalesce(counted_before, '{}') || coalesce(counted_after, '{}');

    LOOP
        UPDATE lowtide.run
        SET cursor = coalesce(batch.cursor, cursor),
            counters = CASE WHEN batch.counted = '{}' THEN counters ELSE lowtide.added(counters, batch.counted) END,
            rows_done = rows_done + batch.changed,
            batches = batches + 1,
            heartbeat_at = clock_timestamp(),
            lease_until = clock_timestamp() + batch.lease
        WHERE ctid = here AND id = batch.run AND lease_token = batch.token AND state = 'running'
        RETURNING run.requested_action, run.pace, run.max_rows, run.max_seconds, run.ctid
        INTO requested_action, pace, max_rows, max_seconds, here;
        EXIT WHEN FOUND OR looked_up;
        -- The row has moved. The id finds it, and the lock keeps it there; under an old snapshot this walks every
        -- version that the walk has left behind, which is why the last place is tried first.
        SELECT ctid INTO here FROM lowtide.run WHERE id = batch.run FOR NO KEY UPDATE;
        looked_up := true;
    END LOOP;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fenced: run "%" is no longer held with token %', batch.run, batch.token
            USING ERRCODE = 'LT410';
    END IF;
END
$function$
"""

# Windows, each a batch: a transaction of its own, committed before the next one begins. An error takes back the window
# that it happened in, and ends the call; those before it stand. It ends early when an operator wishes something else.
#
# `windows` is an array of {"change", "args", "ids", "before", "after", "cursor"}, `done` of {"changed", "counted",
# "seconds"}. A cursor of null leaves the run's where it is.
# A procedure that commits can't have a SET clause. It has its caller's rights, and calls what has one.
BATCHES = """
CREATE PROCEDURE lowtide.batches(
    run text, token bigint, windows jsonb, lease interval, INOUT place tid, INOUT done jsonb, INOUT wishes jsonb
)
LANGUAGE plpgsql
AS $procedure$
#variable_conflict use_variable
DECLARE
    given jsonb;
    batch record;
    begun timestamptz;
    before jsonb := wishes;
BEGIN
    done := '[]';
    FOR number IN 0 .. jsonb_array_length(windows) - 1 LOOP
        given := windows -> number;
        begun := clock_timestamp();
        SELECT * INTO batch FROM lowtide.batch(
            run, token, place, given ->> 'change', ARRAY(SELECT jsonb_array_elements_text(given -> 'args')),
            ARRAY(SELECT jsonb_array_elements_text(given -> 'ids')::bigint), nullif(given -> 'cursor', 'null'), lease,
            given ->> 'before', given ->> 'after'
        );
        COMMIT;
        place := batch.here;
        done := done || jsonb_build_object(
            'changed', batch.changed, 'counted', batch.counted,
            'seconds', extract(epoch FROM clock_timestamp() - begun)
        );
        wishes := jsonb_build_object(
            'requested_action', batch.requested_action, 'pace', batch.pace, 'max_rows', batch.max_rows,
            'max_seconds', batch.max_seconds
        );
        EXIT WHEN wishes <> before;
    END LOOP;
END
$procedure$
"""


def upgrade() -> None:
    for statement in (DROP, BATCH, BATCHES, "REVOKE ALL ON ALL ROUTINES IN SCHEMA lowtide FROM PUBLIC"):
        op.get_bind().exec_driver_sql(statement)
