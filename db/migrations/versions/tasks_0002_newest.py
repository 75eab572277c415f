"""The index that a list of all active tasks comes from, newest first. Only where the table is lowtide's own."""

from alembic import op

revision = "tasks_0002"
down_revision = "tasks_0001"
branch_labels = None
depends_on = None

OURS = """
    SELECT EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = to_regclass('public.task') AND tgname = 'lowtide_not_into_archived' AND NOT tgisinternal
    )
"""


def upgrade() -> None:
    connection = op.get_bind()
    if connection.exec_driver_sql(OURS).scalar_one():
        connection.exec_driver_sql(
            "CREATE INDEX task_active ON public.task (created_at DESC, id DESC) WHERE deleted_at IS NULL"
        )
