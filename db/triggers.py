"""Which triggers would see a DELETE of a table's rows: what somebody has made there, foreign keys' own left out."""


def on_delete(relation: str) -> str:
    """A condition over the oid of a table, as SQL.

    DELETE is 8 of pg_trigger.tgtype (src/include/catalog/pg_trigger.h). A trigger that a partition has from its table
    may be internal, and has a parent then.
    """
    return f"""EXISTS (
        SELECT FROM pg_trigger g WHERE g.tgrelid = {relation} AND g.tgtype & 8 = 8 AND g.tgenabled <> 'D'
          AND (NOT g.tgisinternal OR (g.tgparentid <> 0 AND g.tgconstraint = 0))
    )"""
