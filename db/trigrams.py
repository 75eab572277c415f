"""Whether the trigram indexes are there, without which a search reads task by task."""

import asyncpg

from db.targets import literal

SEARCHED = ("title", "description")
# Of any name, and with any of the operator classes that answer ILIKE.
MISSING = f"""
    SELECT name FROM unnest(ARRAY[{", ".join(map(literal, SEARCHED))}]) WITH ORDINALITY searched (name, place)
    WHERE to_regclass('public.task') IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_index x
        CROSS JOIN unnest(x.indkey::int2[], x.indclass::oid[]) k (number, class)
        JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
        JOIN pg_opclass o ON o.oid = k.class
        WHERE x.indrelid = to_regclass('public.task') AND x.indisvalid AND x.indpred IS NULL
          AND a.attname = name AND o.opcname IN ('gin_trgm_ops', 'gist_trgm_ops')
    )
    ORDER BY place
"""

# Where pg_trgm stands, if it does: perhaps in a schema that is not in the search_path of who follows the advice.
SCHEMA = """
    SELECT quote_ident(nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
    WHERE extname = 'pg_trgm'
"""


async def missing(connection: asyncpg.Connection) -> str | None:
    """What to say of it, with the statements that help; None where all is there, or no table of tasks."""
    columns = [row["name"] for row in await connection.fetch(MISSING)]
    if not columns:
        return None
    schema = await connection.fetchval(SCHEMA)
    # What is created only now goes where the search_path leads first, and is found there without a schema.
    extension, prefix = ("CREATE EXTENSION IF NOT EXISTS pg_trgm; ", "") if schema is None else ("", f"{schema}.")
    indexes = " ".join(
        f"CREATE INDEX CONCURRENTLY task_{name}_trigrams ON public.task USING gin ({name} {prefix}gin_trgm_ops);"
        for name in columns
    )
    return (
        f"a search reads task by task: no trigram index on public.task ({', '.join(columns)}). As a superuser, or as "
        f"the database's owner: {extension}{indexes}"
    )
