-- Three group roles: one that may enqueue and nothing else, one that the worker needs, one for the people at the terminal, who
-- place holds and steer runs. Run it as the owner of schema lowtide, after `lowtide migrate`; it can be run again. Then
-- GRANT lowtide_enqueuer TO your_service, lowtide_worker TO the_workers_login, lowtide_operator TO a_person.

DO $$
BEGIN
    IF to_regrole('lowtide_enqueuer') IS NULL THEN
        CREATE ROLE lowtide_enqueuer NOLOGIN;
    END IF;
    IF to_regrole('lowtide_worker') IS NULL THEN
        CREATE ROLE lowtide_worker NOLOGIN;
    END IF;
    IF to_regrole('lowtide_operator') IS NULL THEN
        CREATE ROLE lowtide_operator NOLOGIN;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA lowtide TO lowtide_enqueuer;
GRANT EXECUTE ON FUNCTION lowtide.enqueue(text, jsonb, text, timestamptz, boolean) TO lowtide_enqueuer;

GRANT USAGE ON SCHEMA lowtide TO lowtide_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lowtide TO lowtide_worker;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO lowtide_worker;
-- What later versions of `lowtide migrate`, run as the same owner, will add.
ALTER DEFAULT PRIVILEGES IN SCHEMA lowtide GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO lowtide_worker;
ALTER DEFAULT PRIVILEGES IN SCHEMA lowtide GRANT EXECUTE ON ROUTINES TO lowtide_worker;
-- A hold is for people to place and to release, and the audit is append-only: triggers refuse the rest to the owner too.
REVOKE INSERT, UPDATE, DELETE ON lowtide.hold FROM lowtide_worker;
REVOKE INSERT, UPDATE, DELETE ON lowtide.audit FROM lowtide_worker;
-- Without it a gentle run can't see standbys, snapshots of other roles and the WAL archive, says so, and goes on.
GRANT pg_monitor TO lowtide_worker;

-- The task tables of the four jobs, where they are: run it again after `lowtide migrate --with-tasks`.
DO $$
BEGIN
    IF to_regclass('public.worker') IS NOT NULL AND to_regclass('public.project') IS NOT NULL
        AND to_regclass('public.task') IS NOT NULL
    THEN
        GRANT SELECT ON public.worker TO lowtide_worker;
        GRANT SELECT, UPDATE ON public.project TO lowtide_worker;
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.task TO lowtide_worker;
        GRANT SELECT ON public.worker, public.project, public.task TO lowtide_operator;
    END IF;
    IF to_regclass('public.task_id_seq') IS NOT NULL THEN
        GRANT USAGE ON SEQUENCE public.task_id_seq TO lowtide_worker;
    END IF;
END
$$;

-- For each further table with a policy: GRANT SELECT, UPDATE, DELETE ON its_table TO lowtide_worker;

-- Whoever looks at runs, steers them, and places holds. To count what a hold is over, it reads the tables too.
GRANT USAGE ON SCHEMA lowtide TO lowtide_operator;
GRANT SELECT ON ALL TABLES IN SCHEMA lowtide TO lowtide_operator;
GRANT INSERT, UPDATE ON lowtide.run, lowtide.paused_schedule, lowtide.plan TO lowtide_operator;
GRANT INSERT, UPDATE (released_by, released_at, release_reason) ON lowtide.hold TO lowtide_operator;
GRANT INSERT ON lowtide.audit TO lowtide_operator;
GRANT EXECUTE ON FUNCTION lowtide.enqueue(text, jsonb, text, timestamptz, boolean), lowtide.hold_key(oid),
    lowtide.accept(text, jsonb, text, timestamptz, boolean, text, timestamptz), lowtide.added(jsonb, jsonb) TO lowtide_operator;
-- And SELECT on each further table with a policy: GRANT SELECT ON its_table TO lowtide_operator;
