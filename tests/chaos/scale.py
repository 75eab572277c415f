"""How often each fault is made to happen: a few times in `make test`, hundreds of times in `make chaos`."""

import os
import random

LONG = os.environ.get("CHAOS") == "long"
# Printed at the start of the suite; CHAOS_SEED plays the same faults again.
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
LEASE_S = 2


TOLD: list[str] = []


def tell(figure: str) -> None:
    """A figure for the end of the suite."""
    TOLD.append(figure)


def times(few: int, many: int) -> range:
    return range(many if LONG else few)


def chance(*salt: object) -> random.Random:
    """What one test draws from: the same for the same seed, whatever ran before."""
    return random.Random(f"{SEED} {salt}")
