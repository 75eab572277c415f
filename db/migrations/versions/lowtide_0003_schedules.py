"""Schedules that an operator has paused, by the names of their policies."""

from alembic import op

revision = "lowtide_0003"
down_revision = "lowtide_0002"
branch_labels = None
depends_on = None

PAUSED = """
CREATE TABLE lowtide.paused_schedule (
    policy text PRIMARY KEY,
    paused_by text NOT NULL,
    paused_at timestamptz NOT NULL DEFAULT now(),
    resumed_at timestamptz
)
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(PAUSED)
