"""Contenders take turns, so that whatever else the machine does falls on all of them alike."""

import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from benchmarks.stage import Stage
from db.engine import Database

Contender = Callable[[Database], Awaitable[float]]


@dataclass(frozen=True)
class Measured:
    """Rows per second of each contender, one number a round."""

    speeds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.speeds[name])

    def ratio(self, name: str, *, to: str) -> float:
        """The median of the ratios within each round."""
        pairs = zip(self.speeds[name], self.speeds[to], strict=True)
        return statistics.median(mine / other for mine, other in pairs)

    def spread(self, name: str) -> str:
        return f"{min(self.speeds[name]):,.0f} to {max(self.speeds[name]):,.0f}"


async def alternate(stage: Stage, contenders: Mapping[str, Contender], *, rounds: int) -> Measured:
    """Each contender once a round, each time on a fresh clone; it returns its rows per second."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            async with stage.clone() as database:
                speeds[name].append(await contender(database))
    return Measured(speeds)
