"""A run in a worker's hands, as its row tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

WISHES = ("pace", "max_rows", "max_seconds", "requested_action")


@dataclass(frozen=True)
class Wishes:
    """How the run shall go, as an operator can change it while it works. Null is the payload's, or the policy's."""

    pace: str | None = None
    max_rows: int | None = None
    max_seconds: int | None = None
    requested_action: str | None = None


@dataclass(frozen=True)
class Claim:
    """A run that is ours until `lease` has passed without a renewal."""

    id: str
    job: str
    payload: str  # JSON text: parsed once, by what validates it
    token: int
    place: str  # the row's ctid, where the next batch looks for it first
    cursor: dict[str, Any]
    counters: dict[str, int]
    rows_done: int
    batches: int
    attempt: int
    wishes: Wishes
    running_for: timedelta


def claimed(row: Mapping[str, Any]) -> Claim:
    """Of the row that leases.CLAIM returns."""
    return Claim(**facts(row))


def facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of any statement about a run by name, those of an operator's wishes as one."""
    named = dict(row)
    wishes = Wishes(*(named.pop(name) for name in WISHES))
    return named | {"wishes": wishes}
