"""How each key of a policy is read. Each function returns the value that the key stands for, or raises Wrong."""

import json
import math
import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime, time, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from db.targets import written
from jobs import tablenames
from jobs.expression import why_not_one
from jobs.policies import Children, Hours

LONGEST_NAME = 200
MOST_SHOWN = 60
# Months and years are as long as they can be, so that nothing goes early.
UNITS = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=31),
    "year": timedelta(days=366),
}
LONGEST = timedelta(days=36_500)  # the shortest is an hour: less is no whole number of any unit
KEEP = re.compile(rf"(?P<number>[0-9]{{1,9}}) *(?P<unit>{'|'.join(UNITS)})s?")
KEEP_EXAMPLE = 'write a whole number and its unit (hours, days, weeks, months or years), such as "90 days"'
CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
HOURS = re.compile(rf"(?P<start>{CLOCK}) *- *(?P<end>{CLOCK})")
HOURS_EXAMPLE = 'write when it begins and ends, such as "01:00-05:00", or "22:00-04:00" over midnight'
CRON_FIELDS = 5
CRON_EXAMPLE = 'write minute, hour, day, month and weekday, such as "30 2 * * *" for each night at 02:30'
OF_OTHERS = {
    "lowtide": "these are lowtide's own tables, which it cleans by itself; name a table of yours",
    "information_schema": "these are views of PostgreSQL's own; name a table of yours",
}
Value = TypeVar("Value")


class Wrong(ValueError):
    """What is wrong with a value, and what to write instead."""


def shown(value: object) -> str:
    """A value of the file, for people: as TOML has it, shortened."""
    if isinstance(value, str):
        text = json.dumps(value[:MOST_SHOWN], ensure_ascii=False)
        return text if len(value) <= MOST_SHOWN else f'{text[:-1]}…"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, int) and abs(value) >= 10**MOST_SHOWN:  # Python spells none of more than 4,300 digits
        return f"a number of more than {MOST_SHOWN} digits"
    return str(value)


def name(value: Any) -> str:  # noqa: ANN401 - whatever the file holds, here and below
    text = _text(value, 'write a name, such as "old-deleted-tasks"')
    if not text.strip():
        raise Wrong('is empty; write a name, such as "old-deleted-tasks"')
    if len(text) > LONGEST_NAME:
        raise Wrong(f"has {len(text)} characters; write {LONGEST_NAME} at most")
    if not text.isprintable():
        raise Wrong("holds characters that can't be printed; write letters, digits, dashes")
    return text


def table(value: Any) -> tuple[str, str]:  # noqa: ANN401 - as above
    text = _text(value, 'write the table\'s name, such as "public.task"')
    schema, found = _named(text, tablenames.split)
    if schema.startswith("pg_") or schema in OF_OTHERS:
        told = OF_OTHERS.get(schema, "these are tables of PostgreSQL's own; name a table of yours")
        raise Wrong(f"{shown(text)} is in schema {schema}: {told}")
    return schema, found


def column(value: Any) -> str:  # noqa: ANN401 - as above
    return _named(_text(value, 'write the column\'s name, such as "deleted_at"'), tablenames.one)


def keep(value: Any) -> timedelta:  # noqa: ANN401 - as above
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Wrong(f"{shown(value)} has no unit; {KEEP_EXAMPLE}")
    text = _text(value, KEEP_EXAMPLE)
    found = KEEP.fullmatch(text)
    if found is None:
        raise Wrong(f"{shown(text)} is no length of time; {KEEP_EXAMPLE}")
    number, unit = int(found["number"]), UNITS[found["unit"]]
    if number == 0:
        raise Wrong(f'{shown(text)} would keep nothing; write 1 hour or more, such as "90 days"')
    if number > LONGEST // unit:
        raise Wrong(f'{shown(text)} is more than {LONGEST.days:,} days; write that or less, such as "10 years"')
    return number * unit


def schedule(value: Any) -> str:  # noqa: ANN401 - as above
    text = _text(value, CRON_EXAMPLE)
    if len(text.split()) != CRON_FIELDS:
        raise Wrong(f"{shown(text)} has {len(text.split())} fields instead of {CRON_FIELDS}; {CRON_EXAMPLE}")
    try:
        never = next(CronSim(text, datetime.now(UTC)), None) is None
    except CronSimError as exc:
        field = str(exc).removeprefix("Bad ")
        raise Wrong(f"{shown(text)} has a {field} that can't be; {CRON_EXAMPLE}") from None
    except (AssertionError, ValueError, TypeError, IndexError):  # what cronsim makes of some steps
        raise Wrong(f"{shown(text)} can't be read; {CRON_EXAMPLE}") from None
    if never:
        raise Wrong(f"{shown(text)} never comes; {CRON_EXAMPLE}")
    return text


# Names of zones with a summer time that are abbreviations, too, which PostgreSQL looks up first (its file Default).
WINTER_ALL_YEAR = {"CET", "EET", "MET", "WET"}


def timezone(value: Any) -> str:  # noqa: ANN401 - as above
    example = 'write a name of the tz database, such as "Europe/Berlin" or "UTC"'
    text = _text(value, example)
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Wrong(f"{shown(text)} is no timezone that is known here; {example}") from None
    if text.upper() in WINTER_ALL_YEAR:
        raise Wrong(f"{shown(text)} is winter time all the year to PostgreSQL; {example}")
    return text


def where(value: Any) -> str:  # noqa: ANN401 - as above
    text = _text(value, "write a condition in SQL, such as \"status = 'deleted'\"")
    if why := why_not_one(text):
        raise Wrong(why)
    return text


def children(value: Any) -> dict[str, Children]:  # noqa: ANN401 - as above
    """By `schema.table`, as db.targets.written has it."""
    example = 'write what becomes of each table\'s rows, such as { comment = "delete", "app.invoice" = "block" }'
    if not isinstance(value, dict):
        raise Wrong(f"{shown(value)} is no table of names; {example}")
    found: dict[str, Children] = {}
    for key, fate in value.items():
        if isinstance(fate, dict):
            raise Wrong(f"{shown(key)} is read as a table of its own; put a name with a schema in quotes: {example}")
        child = written(*_named(key, tablenames.split))
        if child in found:
            raise Wrong(f"{child} is declared twice; write it once")
        found[child] = _one_of(fate, ("delete", "block"), of=f"{shown(key)} is ")
    return found


def hours(value: Any) -> Hours:  # noqa: ANN401 - as above
    text = _text(value, HOURS_EXAMPLE)
    found = HOURS.fullmatch(text.strip())
    if found is None:
        raise Wrong(f"{shown(text)} is no stretch of the day; {HOURS_EXAMPLE}")
    start, end = (time.fromisoformat(found[name]) for name in ("start", "end"))
    if start == end:
        raise Wrong(f"{shown(text)} begins when it ends; {HOURS_EXAMPLE}, or leave the key out for the whole day")
    return Hours(start, end)


def share(value: Any) -> float:  # noqa: ANN401 - as above
    number = _number(value, "write a share between 0 and 1, such as 0.6 for 60 %")
    if not 0 < number <= 1:
        raise Wrong(f"{shown(value)} is no share; write one above 0 and up to 1, such as 0.6 for 60 %")
    return number


def vacuum_share(value: Any) -> float | None:  # noqa: ANN401 - as above
    if value is False:
        return None
    example = "write a share from 0 to 1, such as 0.1 for 10 %, or false for never"
    number = _number(value, example)
    if not 0 <= number <= 1:
        raise Wrong(f"{shown(value)} is no share; {example}")
    return number


def at_most(most: int) -> Callable[[Any], int]:
    """A whole number from 1 up."""

    def read(value: Any) -> int:  # noqa: ANN401 - as above
        example = f"write a whole number from 1 to {most:,}, or leave the key out for no limit"
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise Wrong(f"{shown(value)} is no limit; {example}")
        return value

    return read


def one_of(*known: Value) -> Callable[[Any], Value]:
    return lambda value: _one_of(value, known)


def _one_of(value: Any, known: Collection[Value], *, of: str = "") -> Value:  # noqa: ANN401 - as above
    for each in known:
        if isinstance(value, str) and each == value:
            return each
    told = " or ".join(shown(each) for each in known)
    raise Wrong(f"{of}{shown(value)}{' and' if of else ' is'} not known; write {told}")


def _text(value: Any, example: str) -> str:  # noqa: ANN401 - as above
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is no text in quotes; {example}")
    return value


def _number(value: Any, example: str) -> float:  # noqa: ANN401 - as above
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Wrong(f"{shown(value)} is no number; {example}")
    return float(value) if -1 <= value <= 1 else math.nan  # which is no share


def _named(text: str, read: Callable[[str], Value]) -> Value:
    try:
        return read(text)
    except ValueError as exc:
        raise Wrong(f"{shown(text)} {exc}") from None
