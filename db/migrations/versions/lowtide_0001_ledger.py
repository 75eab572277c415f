"""The ledger: lowtide.run, and the functions that write it.

The first revision has every column that the design names (cursor, cutoff, lease, steering, limits), so that later
capabilities need no rebuild of a table that is written hundreds of times a second.
"""

from alembic import op

revision = "lowtide_0001"
down_revision = None
branch_labels = ("lowtide",)
depends_on = None

RUN = """
CREATE TABLE lowtide.run (
    id text PRIMARY KEY,
    job text NOT NULL,
    payload jsonb,
    payload_sha256 bytea,
    requested_by text NOT NULL,
    state text NOT NULL DEFAULT 'queued',
    policy text,
    target text,
    pace text,
    max_rows bigint,
    max_seconds bigint,
    cutoff timestamptz,
    cursor jsonb NOT NULL DEFAULT '{}',
    counters jsonb NOT NULL DEFAULT '{}',
    rows_done bigint NOT NULL DEFAULT 0,
    rows_expected bigint,
    batches bigint NOT NULL DEFAULT 0,
    attempt integer NOT NULL DEFAULT 0,
    wait_reason text,
    requested_action text,
    lease_token bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    worker text,
    result jsonb,
    error jsonb,
    scheduled_for timestamptz,
    not_before timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    heartbeat_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT run_id_printable CHECK (char_length(id) BETWEEN 1 AND 200 AND id !~ '[[:cntrl:]]'),
    CONSTRAINT run_job_printable CHECK (char_length(job) BETWEEN 1 AND 200 AND job !~ '[[:cntrl:]]'),
    CONSTRAINT run_state CHECK (state IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
    CONSTRAINT run_pace CHECK (pace IN ('gentle', 'full')),
    CONSTRAINT run_requested_action CHECK (requested_action IN ('pause', 'cancel')),
    CONSTRAINT run_finished CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT run_leased CHECK (state <> 'running' OR lease_until IS NOT NULL)
) WITH (fillfactor = 50)
"""

# No index holds a column that a batch changes, in its key or in its predicate: every batch stays a HOT update.
INDEXES = (
    "CREATE INDEX run_unfinished ON lowtide.run (state, not_before) WHERE state IN ('queued', 'running', 'paused')",
    "CREATE INDEX run_created_at ON lowtide.run (created_at DESC, id DESC)",
    "CREATE INDEX run_finished_at ON lowtide.run (finished_at) WHERE finished_at IS NOT NULL",
)

# The one way into the ledger. Invoker's rights: whoever may insert into lowtide.run may say who asked.
ACCEPT = """
CREATE FUNCTION lowtide.accept(
    job text, payload jsonb, id text, not_before timestamptz, wake boolean, requested_by text,
    scheduled_for timestamptz DEFAULT NULL, OUT accepted text, OUT is_new boolean
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    canonical text := accept.payload::text;
    digest bytea;
    standing record;
BEGIN
    accepted := coalesce(accept.id, gen_random_uuid()::text);
    IF accept.job IS NULL OR char_length(accept.job) NOT BETWEEN 1 AND 200 OR accept.job ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION 'a job name has 1 to 200 printable characters' USING ERRCODE = '22023';
    END IF;
    IF char_length(accepted) NOT BETWEEN 1 AND 200 OR accepted ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION 'a run id has 1 to 200 printable characters' USING ERRCODE = '22023';
    END IF;
    IF accept.payload IS NULL OR jsonb_typeof(accept.payload) <> 'object' THEN
        RAISE EXCEPTION 'the payload of run "%" is not a JSON object', accepted USING ERRCODE = '22023';
    END IF;
    IF NOT isfinite(accept.not_before) OR accept.not_before NOT BETWEEN '1970-01-01' AND '9999-01-01' THEN
        RAISE EXCEPTION 'not_before of run "%" is not between the years 1970 and 9999', accepted
            USING ERRCODE = '22023';
    END IF;
    IF octet_length(canonical) > 33554432 THEN
        RAISE EXCEPTION 'the payload of run "%" has % bytes; at most 33554432 are taken',
            accepted, octet_length(canonical) USING ERRCODE = '22023';
    END IF;
    digest := sha256(convert_to(canonical, 'UTF8'));
    INSERT INTO lowtide.run (id, job, payload, payload_sha256, requested_by, scheduled_for, not_before)
    VALUES (
        accepted, accept.job, accept.payload, digest, accept.requested_by, accept.scheduled_for,
        coalesce(accept.not_before, now())
    )
    ON CONFLICT (id) DO NOTHING;
    is_new := FOUND;
    IF is_new THEN
        IF accept.wake THEN
            PERFORM pg_notify('lowtide', '');
        END IF;
        RETURN;
    END IF;
    SELECT run.job, run.payload_sha256 INTO standing FROM lowtide.run WHERE run.id = accepted;
    IF standing.job IS DISTINCT FROM accept.job OR standing.payload_sha256 IS DISTINCT FROM digest THEN
        RAISE EXCEPTION 'Conflict: run "%" exists already, with another job or payload', accepted
            USING ERRCODE = 'LT409', HINT = 'The first one stands. Use another id for other work.';
    END IF;
END
$function$
"""

# What services call, inside their own transaction. Definer's rights, so that a role may enqueue and nothing else.
ENQUEUE = """
CREATE FUNCTION lowtide.enqueue(
    job text, payload jsonb DEFAULT '{}', id text DEFAULT NULL, not_before timestamptz DEFAULT now(),
    wake boolean DEFAULT true
) RETURNS text
LANGUAGE sql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT accepted FROM lowtide.accept(
        enqueue.job, enqueue.payload, enqueue.id, enqueue.not_before, enqueue.wake,
        coalesce(
            'actor:' || left(coalesce(enqueue.payload ->> 'requested_by', enqueue.payload ->> 'created_by_id'), 200),
            'role:' || session_user
        )
    )
$function$
"""

# One batch: the window's change and the run's new cursor, in one transaction, in one round trip.
#
# Invoker's rights. The text that it executes is written by db/, never taken from a payload. It runs under the
# caller's search_path (`path`), because a user's trigger may rely on it; everything else here is pinned.
# $1 is `args`, $2 is `ids` in all three statements. `before` and `after` return a jsonb object of counters.
BATCH = """
CREATE FUNCTION lowtide.batch(
    run text, token bigint, place tid, change text, args text[], ids bigint[], cursor jsonb, lease interval,
    before text DEFAULT NULL, after text DEFAULT NULL, path text DEFAULT current_setting('search_path'),
    OUT changed bigint, OUT counted jsonb, OUT requested_action text, OUT pace text, OUT here tid
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
        SET cursor = batch.cursor,
            counters = CASE WHEN batch.counted = '{}' THEN counters ELSE lowtide.added(counters, batch.counted) END,
            rows_done = rows_done + batch.changed,
            batches = batches + 1,
            heartbeat_at = clock_timestamp(),
            lease_until = clock_timestamp() + batch.lease
        WHERE ctid = here AND id = batch.run AND lease_token = batch.token AND state = 'running'
        RETURNING run.requested_action, run.pace, run.ctid INTO requested_action, pace, here;
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

ADDED = """
CREATE FUNCTION lowtide.added(counters jsonb, more jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT counters || coalesce(
        (SELECT jsonb_object_agg(key, value::bigint + coalesce((counters ->> key)::bigint, 0)) FROM jsonb_each(more)),
        '{}'
    )
$function$
"""


def upgrade() -> None:
    statements = (RUN, *INDEXES, ADDED, ACCEPT, ENQUEUE, BATCH)
    for statement in (*statements, "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lowtide FROM PUBLIC"):
        op.get_bind().exec_driver_sql(statement)
