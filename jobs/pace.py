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


def resized(size: int, *, took_s: float, target_s: float, smallest: int, largest: int) -> int:
    """The next window's size, in units of the window (blocks, ids).

    Proportional to how far the last batch was from its target, half of the way at a time, so that one slow batch does
    not end in a tiny window; at most doubled in a step.
    """
    fitting = size * target_s / max(took_s, 1e-6)
    return max(smallest, min(largest, 2 * size, round((size + fitting) / 2)))
