"""How hard a run may push: how long a batch should take, and what share of the time it works."""

from dataclasses import dataclass
from typing import Literal

Name = Literal["gentle", "full"]


@dataclass(frozen=True)
class Pace:
    """`share` is the part of the time that the server may be at work for the run.

    `batches_at_once` go to the server in one round trip, and are committed there one by one; so on each of `lanes`
    connections at the same time.
    """

    name: Name
    target_s: float
    share: float
    batches_at_once: int = 1
    lanes: int = 1

    @property
    def patience_s(self) -> float:
        """After which a batch is watched: whether others wait for it."""
        return 4 * self.target_s

    @property
    def batch_timeout_s(self) -> float:
        """When a batch is over its time and is taken back. Far above the target: what is taken back was for nothing."""
        return 50 * self.target_s


# How long a batch waits for a row that somebody holds, before it passes over it. Far below deadlock_timeout (1 s by
# default), so that it is never the foreground that gives up; and what waits holds the rest of its window meanwhile.
LOCK_TIMEOUT_S = 0.010
# Measured (docs/architecture.md): windows of 2 ms, half of the time, cost a foreground load the least; beyond 10 ms a
# window gains nothing.
GENTLE = Pace("gentle", target_s=0.002, share=0.5)
FULL = Pace("full", target_s=0.010, share=1.0, batches_at_once=8, lanes=2)
BY_NAME: dict[str, Pace] = {pace.name: pace for pace in (GENTLE, FULL)}


# How much of a new measurement enters the average, and how far above the average one may be counted. A checkpoint or
# a busy core makes single batches ten times as long; followed at once, they would leave windows of a few rows.
WEIGHT = 0.25
MOST_ABOVE = 3.0


class Rest:
    """When the next batch may begin, so that a share of the time is work: t seconds of it stand for t / share in all.

    What passes on the way between client and server is rest already. A sleep that lasts too long is made up for by
    shorter ones after it, but no more than `debt_s` of it: then a long stall is not followed by a burst.
    """

    def __init__(self, now: float, *, debt_s: float) -> None:
        self._due = now
        self._debt_s = debt_s

    def after(self, worked_s: float, now: float, *, share: float) -> float:
        """How many seconds to wait, after so many seconds of work."""
        self._due = max(self._due + worked_s / share, now - self._debt_s)
        return max(self._due - now, 0.0)


class Sizer:
    """The next window's size, in units of the way (line pointers, ids), from what the last ones have cost.

    An exponentially weighted average of seconds per unit, with outliers bounded; the size grows at most twofold a step.
    """

    def __init__(self, *, target_s: float, first: int, largest: int) -> None:
        self.target_s = target_s
        self._largest = largest
        self._unit_s: float | None = None
        self.size = first

    def took(self, *batches: tuple[float, int]) -> None:
        """Learn from batches of the present size: how many seconds each took, and how many units it covered."""
        for seconds, units in batches:
            sample_s = max(seconds, 1e-6) / units
            if self._unit_s is None:
                self._unit_s = sample_s
            else:
                bounded_s = min(sample_s, MOST_ABOVE * self._unit_s)
                self._unit_s += WEIGHT * (bounded_s - self._unit_s)
        if self._unit_s is not None:
            fitting = round(self.target_s / self._unit_s)
            self.size = max(1, min(self._largest, 2 * self.size, fitting))

    def was_too_long(self, seconds: float, units: int) -> None:
        """A batch was taken back after so long: the next one is half as large."""
        self._unit_s = max(self._unit_s or 0.0, seconds / units)
        self.halve(units)

    def halve(self, units: int) -> None:
        """A batch of so many units was taken back, and not for its length."""
        self.size = max(1, min(self.size, units) // 2)
