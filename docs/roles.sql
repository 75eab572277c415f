-- Two group roles: one that may enqueue and nothing else, one that the worker needs. Run it as the owner of schema lowtide,
-- after `lowtide migrate`; it can be run again. Then GRANT lowtide_enqueuer TO your_service, lowtide_worker TO the_workers_login.

DO $$
BEGIN
    IF to_regrole('lowtide_enqueuer') IS NULL THEN
        CREATE ROLE lowtide_enqueuer NOLOGIN;
    END IF;
    IF to_regrole('lowtide_worker') IS NULL THEN
        CREATE ROLE lowtide_worker NOLOGIN;
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
-- Without it a gentle run can't see standbys, snapshots of other roles and the WAL archive, says so, and goes on.
GRANT pg_monitor TO lowtide_worker;

-- The task tables of the four jobs.
GRANT SELECT ON public.worker TO lowtide_worker;
GRANT SELECT, UPDATE ON public.project TO lowtide_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.task TO lowtide_worker;
GRANT USAGE ON SEQUENCE public.task_id_seq TO lowtide_worker;

-- For each further table with a policy: GRANT SELECT, UPDATE, DELETE ON its_table TO lowtide_worker;
