"""Whether tables named worker, project and task that a user already has are the ones that the jobs need."""

from collections.abc import Iterable

from sqlalchemy import Connection, inspect

NEEDED = {
    "worker": ("id", "name"),
    "project": ("id", "name", "owner_id", "archived_at", "updated_at"),
    "task": (
        "id",
        "title",
        "description",
        "status",
        "priority",
        "project_id",
        "created_by_id",
        "created_at",
        "updated_at",
        "deleted_at",
        "status_before_delete",
    ),
}
INSTANTS = {"archived_at", "created_at", "updated_at", "deleted_at"}
KEYS = {"id", "owner_id", "project_id", "created_by_id"}
TEXTS = {"name", "title", "description", "status", "priority", "status_before_delete"}


class MisfitTables(Exception):
    """Tables of our names exist and differ from what the jobs need; nothing was changed."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(
            "these tables exist already and are not the ones that the task jobs need: " + "; ".join(faults)
        )
        self.faults = faults


def misfits(connection: Connection, tables: Iterable[str]) -> list[str]:
    """What the named tables of schema public lack, a phrase each; empty when they fit."""
    return [fault for table in tables for fault in _misfits_of(connection, table)]


def _misfits_of(connection: Connection, table: str) -> list[str]:
    kinds = {column["name"]: column["type"] for column in inspect(connection).get_columns(table, schema="public")}
    faults = [f"public.{table} has no column {name}" for name in NEEDED[table] if name not in kinds]
    for name, kind in kinds.items():
        spelled = str(kind.compile(connection.dialect)).lower()
        if name in INSTANTS and "with time zone" not in spelled:
            faults.append(f"public.{table}.{name} is {spelled}, not timestamp with time zone")
        if name in KEYS and spelled != "bigint":
            faults.append(f"public.{table}.{name} is {spelled}, not bigint")
        if name in TEXTS and not spelled.startswith(("text", "varchar")):
            faults.append(f"public.{table}.{name} is {spelled}, not text")
    return faults
