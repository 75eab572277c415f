"""Plans: what dry runs have counted, which of them somebody has approved, and which run has used the approval."""

from alembic import op

revision = "lowtide_0005"
down_revision = "lowtide_0004"
branch_labels = None
depends_on = None

PLAN = """
CREATE TABLE lowtide.plan (
    run_id text PRIMARY KEY,
    policy text NOT NULL,
    policy_sha256 text NOT NULL,
    target text NOT NULL,
    keep interval NOT NULL,
    cutoff timestamptz NOT NULL,
    counts jsonb NOT NULL,
    plan_sha256 text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    approved_by text,
    approved_at timestamptz,
    approval_until timestamptz,
    used_by_run text,
    used_at timestamptz,
    CONSTRAINT plan_approved CHECK (num_nulls(approved_by, approved_at, approval_until) IN (0, 3)),
    CONSTRAINT plan_used CHECK (
        num_nulls(used_by_run, used_at) IN (0, 2) AND (used_by_run IS NULL OR approved_by IS NOT NULL)
    )
)
"""

# The last purges of a policy, among a ledger's many other runs. It holds nothing that a batch changes.
OF_POLICY = "CREATE INDEX run_of_policy ON lowtide.run (policy, finished_at) WHERE finished_at IS NOT NULL"


def upgrade() -> None:
    for statement in (PLAN, OF_POLICY):
        op.get_bind().exec_driver_sql(statement)
