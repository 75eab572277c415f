"""Contenders take turns, so that whatever else the machine does falls on all of them alike."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contenders import Contender, Outcome
from benchmarks.stage import Stage


@dataclass(frozen=True)
class Measured:
    """The outcomes of each contender, one a round."""

    outcomes: Mapping[str, list[Outcome]]

    def speeds(self, name: str) -> list[float]:
        """In rows per second."""
        return [outcome.speed for outcome in self.outcomes[name]]

    def median(self, name: str) -> float:
        return statistics.median(self.speeds(name))

    def ratio(self, name: str, *, to: str) -> float:
        """The median of the ratios of speed within each round; of the rounds that both were in."""
        pairs = zip(self.speeds(name), self.speeds(to), strict=False)
        return statistics.median(mine / other for mine, other in pairs)

    def spread(self, name: str) -> str:
        return f"{min(self.speeds(name)):,.0f} to {max(self.speeds(name)):,.0f}"

    def lengths_ms(self, name: str) -> list[float]:
        """Of all transactions of all rounds."""
        return [1000 * length for outcome in self.outcomes[name] for length in outcome.lengths]


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank; NaN of nothing."""
    ranked = sorted(values)
    return ranked[math.ceil(share * len(ranked)) - 1] if ranked else math.nan


async def alternate(
    stage: Stage, contenders: Mapping[str, Contender], *, rounds: int, fewer: Mapping[str, int] | None = None
) -> Measured:
    """Each contender once a round, each time on a fresh clone; those in `fewer` in the first rounds alone."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, contender in contenders.items():
            if number < (fewer or {}).get(name, rounds):
                async with stage.clone() as database:
                    begun = time.monotonic()
                    outcome = await contender(database)
                    outcome.begun, outcome.ended = begun, time.monotonic()
                outcomes[name].append(outcome)
    return Measured(outcomes)
