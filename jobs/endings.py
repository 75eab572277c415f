"""How serving a run ends: what becomes of its doorbell."""

from dataclasses import dataclass
from datetime import timedelta

from db import runs


@dataclass(frozen=True)
class Finished:
    """The run has ended, now or earlier; the ledger holds how."""

    glance: runs.Glance
    here: bool  # whether this serving ended it


@dataclass(frozen=True)
class Again:
    """Ring again after this time."""

    after: timedelta


@dataclass(frozen=True)
class Parked:
    """No doorbell is owed: the run waits for an operator, or for a worker that knows its job."""


@dataclass(frozen=True)
class Unknown:
    """The ledger has no such run."""


Ending = Finished | Again | Parked | Unknown


def told(ending: Ending) -> str:
    """The state that the ledger has it in."""
    match ending:
        case Finished(glance):
            return glance.state
        case Parked():
            return "paused"
    return "queued"
