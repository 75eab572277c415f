"""Field types that schemas and payloads share, and the same bounds for plain arguments.

Strict: `true` and `1.0` are not ids.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, Strict

from db.refusals import InvalidInput, NaiveDatetime

BIGINT = 2**63 - 1
LONGEST_TITLE = 500
LONGEST_DESCRIPTION = 100_000
LONGEST_SEARCH = 200
MOST_TASKS = 100_000  # of one create_many, or of a create-batch
MOST_IDS = 200_000  # of one mark_completed
LONGEST_DAYS = 36_500
LONGEST_PAGE = 1000
MOST_PURGED = 100_000
DIGITS = re.compile(r"[0-9]{1,19}")


def storable(value: str) -> str:
    """What PostgreSQL's text can hold. Most text is ASCII, and then only a NUL can be wrong."""
    if "\x00" in value:
        raise ValueError("holds a NUL character, which PostgreSQL can't store")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair, which is no character") from None
    return value


def visible(value: str) -> str:
    """A title of blanks only would be an empty line in every list."""
    if value.isspace():
        raise ValueError("is blank: give at least one character that can be seen")
    return value


def in_utc(value: datetime) -> datetime:
    """One point in time has one spelling then; and the driver, which does the same, could not do it for all."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside of the years 1 to 9999 in UTC") from None


def _from_query(value: object) -> object:
    """A URL's query holds digits as text."""
    return int(value) if isinstance(value, str) and DIGITS.fullmatch(value) else value


Id = Annotated[int, Strict(), Field(ge=1, le=BIGINT)]
QueriedId = Annotated[Id, BeforeValidator(_from_query)]
Days = Annotated[int, Strict(), Field(ge=1, le=LONGEST_DAYS)]
Instant = Annotated[AwareDatetime, AfterValidator(in_utc)]
Text = Annotated[str, Strict(), AfterValidator(storable)]
Title = Annotated[Text, Field(min_length=1, max_length=LONGEST_TITLE), AfterValidator(visible)]
Description = Annotated[Text, Field(max_length=LONGEST_DESCRIPTION)]
# What callers set; `archived` comes with the project, `deleted` with a delete.
Status = Literal["pending", "in_progress", "completed"]
ActiveStatus = Literal["pending", "in_progress", "completed", "archived"]
Priority = Literal["low", "medium", "high"]


def whole(field: str, value: int, *, least: int = 1, most: int) -> int:
    """The value, where it is a whole number within the bounds. Raises InvalidInput."""
    if type(value) is not int or not least <= value <= most:
        raise InvalidInput(field, f"must be a whole number from {least} to {most}")
    return value


def an_instant(field: str, value: datetime) -> datetime:
    """Raises NaiveDatetime, InvalidInput."""
    if not isinstance(value, datetime):
        raise InvalidInput(field, "must be a datetime")
    if value.utcoffset() is None:
        raise NaiveDatetime(field)
    try:
        return in_utc(value)
    except ValueError as exc:
        raise InvalidInput(field, str(exc)) from None


def an_id(field: str, value: int) -> int:
    return whole(field, value, most=BIGINT)


def ids(field: str, values: Sequence[int], *, most: int) -> list[int]:
    """Ascending, each once: whoever locks rows in this order does not deadlock with others."""
    if not 1 <= len(values) <= most:
        raise InvalidInput(field, f"must be 1 to {most} ids")
    return sorted({an_id(field, value) for value in values})


def sought(field: str, value: str) -> str:
    """The value, where it is text that can be searched for. Raises InvalidInput."""
    if type(value) is not str or not 1 <= len(value) <= LONGEST_SEARCH:
        raise InvalidInput(field, f"must be text of 1 to {LONGEST_SEARCH} characters")
    try:
        return storable(value)
    except ValueError as exc:
        raise InvalidInput(field, str(exc)) from None
