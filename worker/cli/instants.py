"""Times from the command line: with a zone, or refused."""

from datetime import datetime

import typer

from db.fields import in_utc


def instant(value: str | None, *, option: str) -> datetime | None:
    if value is None:
        return None
    try:
        given = datetime.fromisoformat(value)
    except ValueError as exc:
        raise typer.BadParameter(f"{value!r} is not an ISO 8601 time", param_hint=option) from exc
    if given.tzinfo is None:
        example = given.isoformat() + "Z"
        raise typer.BadParameter(f"{value!r} has no zone; write {example} for UTC", param_hint=option)
    try:
        return in_utc(given)
    except ValueError as exc:
        raise typer.BadParameter(f"{value!r} {exc}", param_hint=option) from None
