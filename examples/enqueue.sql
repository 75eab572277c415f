-- Enqueue a job inside your own transaction: the run exists if and only if your change does. No queue, no outbox table.
--
--   psql "$LOWTIDE_DATABASE_URL" -v ON_ERROR_STOP=1 -f examples/enqueue.sql
--
-- Without ON_ERROR_STOP psql reads on after an error, and ends with exit code 0 although nothing was done.
--
-- A shop keeps tasks for each of its orders; when an order is shipped, its tasks are done. To try it on the database of
-- `lowtide dev`, make such an order first:
--
--   CREATE TABLE orders (id bigint PRIMARY KEY, worker_id bigint, task_ids bigint[], shipped_at timestamptz);
--   WITH shop AS (INSERT INTO worker (name) VALUES ('shop') RETURNING id),
--        shelf AS (INSERT INTO project (name, owner_id) SELECT 'orders', id FROM shop RETURNING id),
--        steps AS (INSERT INTO task (title, project_id, created_by_id)
--                  SELECT title, shelf.id, shop.id FROM shelf, shop, unnest(ARRAY['pack', 'label']) title RETURNING id)
--   INSERT INTO orders SELECT 77, (SELECT id FROM shop), array_agg(id) FROM steps;

BEGIN;

-- Your own change. If anything below fails, it is undone; if it fails, there is no run.
UPDATE orders SET shipped_at = now() WHERE id = 77;

-- The run. A worker sees it when you commit, and is woken by then.
-- id: once per order, however often this transaction is tried again. The same id with another payload raises Conflict
-- (SQLSTATE LT409), so build the payload from what does not change.
-- requested_by: the actor, a row of table worker. Whether it may complete these tasks is checked when the run starts.
-- Under very heavy load add wake => false: NOTIFY makes commits wait for each other. A worker then finds the run within
-- seconds.
SELECT lowtide.enqueue(
    job => 'mark-completed',
    payload => (
        SELECT jsonb_build_object('task_ids', task_ids, 'requested_by', worker_id) FROM orders WHERE id = 77
    ),
    id => 'order-77-shipped'
);

COMMIT;

-- How it goes, now and later: queued, running, then succeeded, failed or cancelled. A failed run says why in `error`.
-- A role that may only enqueue (docs/roles.sql) needs SELECT on lowtide.run for this.
SELECT state, rows_done, result, error FROM lowtide.run WHERE id = 'order-77-shipped';
