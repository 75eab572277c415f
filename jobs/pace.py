"""How hard a run may push: how long a batch should take, and what share of the time it works."""

from dataclasses import dataclass
from typing import Literal

Name = Literal["gentle", "full"]


@dataclass(frozen=True)
class Pace:
    """`share` is the part of the time at work: after a batch of t seconds the run rests t × (1/share - 1)."""

    name: Name
    target_s: float
    share: float

    def rest_s(self, worked_s: float) -> float:
        return worked_s * (1 / self.share - 1)


# Measured (docs/architecture.md): windows of 2 ms, half of the time, cost a foreground load the least; beyond 10 ms a
# window gains nothing.
GENTLE = Pace("gentle", target_s=0.002, share=0.5)
FULL = Pace("full", target_s=0.010, share=1.0)
BY_NAME: dict[str, Pace] = {pace.name: pace for pace in (GENTLE, FULL)}


# How much of a new measurement enters the average, and how far above the average one may be counted. A checkpoint or
# a busy core makes single batches ten times as long; followed at once, they would leave windows of a few rows.
WEIGHT = 0.25
MOST_ABOVE = 3.0


class Sizer:
    """The next window's size, in units of the way (blocks, ids), from what the last ones have cost.

    An exponentially weighted average of seconds per unit, with outliers bounded; the size grows at most twofold a step.
    """

    def __init__(self, *, target_s: float, first: int, smallest: int, largest: int) -> None:
        self._target_s = target_s
        self._smallest = smallest
        self._largest = largest
        self._unit_s: float | None = None
        self.size = first

    def took(self, seconds: float) -> None:
        """Learn from a batch of the current size."""
        sample_s = max(seconds, 1e-6) / self.size
        if self._unit_s is None:
            self._unit_s = sample_s
        else:
            bounded_s = min(sample_s, MOST_ABOVE * self._unit_s)
            self._unit_s += WEIGHT * (bounded_s - self._unit_s)
        fitting = round(self._target_s / self._unit_s)
        self.size = max(self._smallest, min(self._largest, 2 * self.size, fitting))
