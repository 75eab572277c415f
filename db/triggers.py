"""Which triggers would see a DELETE of a table's rows, and which rule would make something else of it: what somebody
has made there, foreign keys' own left out."""


def on_delete(relation: str) -> str:
    """A condition over the oid of a table, as SQL.

    DELETE is 8 of pg_trigger.tgtype (src/include/catalog/pg_trigger.h). A trigger that a partition has from its table
    may be internal, and has a parent then.
    """
    return f"""EXISTS (
        SELECT FROM pg_trigger g WHERE g.tgrelid = {relation} AND g.tgtype & 8 = 8 AND g.tgenabled <> 'D'
          AND (NOT g.tgisinternal OR (g.tgparentid <> 0 AND g.tgconstraint = 0))
    )"""


def delete_rule(relation: str) -> str:
    """The name of a rule that rewrites a DELETE of the table's rows, or null, over its oid, as SQL.

    4 of pg_rewrite.ev_type is DELETE (src/include/nodes/nodes.h, CmdType).
    """
    return f"""(
        SELECT min(w.rulename::text) FROM pg_rewrite w
        WHERE w.ev_class = {relation} AND w.ev_type = '4' AND w.ev_enabled <> 'D'
    )"""
