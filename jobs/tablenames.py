"""Names of tables and columns as the policy file has them: exactly as written, nothing is folded to lower case."""

import re

PUBLIC = "public"
# NAMEDATALEN - 1 (src/include/pg_config_manual.h): what is longer PostgreSQL cuts, to the name of something else.
MOST_BYTES = 63
PART = r"""(?:"(?:[^"]|"")+"|[^".]+)"""
NAME = re.compile(rf"(?P<first>{PART})(?:\.(?P<second>{PART}))?", re.DOTALL)


def split(name: str) -> tuple[str, str]:
    """Schema and table; without a schema it is `public`. Raises ValueError."""
    found = NAME.fullmatch(name)
    if found is None:
        raise ValueError(
            'is no name of a table; write "table" or "schema.table", and a part with dots or quotes in double quotes, '
            "such as 'public.\"My.Table\"'"
        )
    first, second = found["first"], found["second"]
    return (PUBLIC, _plain(first)) if second is None else (_plain(first), _plain(second))


def recorded(name: str) -> str:
    """A name as `lowtide audit` has it on record, schema and all: what is no name of the policy file stays as it is."""
    try:
        return ".".join(split(name))
    except ValueError:
        return name


def unquoted(name: str) -> str:
    """A name as holds have it, to the letter: without the quotes that the policy file wants for it."""
    return recorded(name) if '"' in name else name


def one(name: str) -> str:
    """A column. Raises ValueError."""
    if not re.fullmatch(PART, name, re.DOTALL):
        raise ValueError(
            'is no name of a column; write it as it is, such as "deleted_at", and one with dots or quotes in double '
            "quotes, such as '\"deleted.at\"'"
        )
    return _plain(name)


def _plain(part: str) -> str:
    name = part[1:-1].replace('""', '"') if part.startswith('"') else part
    if part != part.strip():
        raise ValueError("begins or ends with a space; leave it out, or put the name in double quotes")
    if "\x00" in name:
        raise ValueError("holds a NUL character, which no name in PostgreSQL can have; leave it out")
    if len(name.encode()) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES} bytes, which no name in PostgreSQL has; write the name in full")
    return name
