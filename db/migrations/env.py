"""What alembic runs. The connection, with the migrators' lock already taken, is handed over by db.migrate."""

from alembic import context
from sqlalchemy import Connection


def main() -> None:
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is None:
        raise SystemExit("use `lowtide migrate`: it takes the lock that keeps two migrators apart")
    context.configure(connection=connection, version_table="migration", version_table_schema="lowtide")
    with context.begin_transaction():
        context.run_migrations()


main()
