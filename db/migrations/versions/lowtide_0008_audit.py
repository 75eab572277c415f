"""The begin and the end of a purge are written by lowtide's own functions alone; plans are found by their age.

Whoever may note holds and approvals could write another begin for a run before its own: then that one was on record.
"""

from alembic import op

revision = "lowtide_0008"
down_revision = "lowtide_0007"
branch_labels = None
depends_on = None

# As in lowtide_0004, and who writes what. Our own functions have their definer's rights, who owns the table.
STAMP = """
CREATE OR REPLACE FUNCTION lowtide.stamp_audit() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF NEW.event IN ('begin', 'end')
       AND NOT pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE') THEN
        RAISE EXCEPTION 'the % of a purge is written by the purge itself', NEW.event USING ERRCODE = '42501';
    END IF;
    NEW.at := clock_timestamp();
    NEW.role := session_user;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    RETURN NEW;
END
$function$
"""

# Before the first delete. Who holds the run's lease says what the purge is about.
BEGIN = """
CREATE FUNCTION lowtide.audit_begin(
    run text, token bigint, policy text, table_name text, policy_sha256 text, cutoff timestamptz, detail jsonb
) RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
    INSERT INTO lowtide.audit (event, run, policy, table_name, requested_by, policy_sha256, cutoff, detail)
    SELECT 'begin', id, audit_begin.policy, audit_begin.table_name, requested_by, audit_begin.policy_sha256,
           audit_begin.cutoff, audit_begin.detail
    FROM lowtide.run WHERE id = audit_begin.run AND lease_token = audit_begin.token AND state = 'running';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fenced: run "%" is no longer held with token %', audit_begin.run, audit_begin.token
            USING ERRCODE = 'LT410';
    END IF;
END
$function$
"""
PLANS = "CREATE INDEX plan_made_at ON lowtide.plan (made_at)"


def upgrade() -> None:
    for statement in (STAMP, BEGIN, PLANS, "REVOKE ALL ON ALL ROUTINES IN SCHEMA lowtide FROM PUBLIC"):
        op.get_bind().exec_driver_sql(statement)
