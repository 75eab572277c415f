-- Two group roles: one that may enqueue and nothing else, one that the worker needs. Run it once, as the owner of
-- schema lowtide, after `lowtide migrate`; then GRANT lowtide_enqueuer TO your_service, lowtide_worker TO the_workers_login.

CREATE ROLE lowtide_enqueuer NOLOGIN;
GRANT USAGE ON SCHEMA lowtide TO lowtide_enqueuer;
GRANT EXECUTE ON FUNCTION lowtide.enqueue(text, jsonb, text, timestamptz, boolean) TO lowtide_enqueuer;

CREATE ROLE lowtide_worker NOLOGIN;
GRANT USAGE ON SCHEMA lowtide TO lowtide_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lowtide TO lowtide_worker;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA lowtide TO lowtide_worker;
-- Without it a gentle run can't see standbys, snapshots of other roles and the WAL archive, says so, and goes on.
GRANT pg_monitor TO lowtide_worker;

-- The task tables of the four jobs.
GRANT SELECT ON public.worker TO lowtide_worker;
GRANT SELECT, UPDATE ON public.project TO lowtide_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.task TO lowtide_worker;
GRANT USAGE ON SEQUENCE public.task_id_seq TO lowtide_worker;

-- For each further table with a policy: GRANT SELECT, UPDATE, DELETE ON its_table TO lowtide_worker;
