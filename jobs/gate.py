"""What a purge passes before each round of batches: its policy's hours, and before the first its blast radius."""

import math
import time
from collections.abc import Callable
from datetime import datetime

from jobs.blast import weigh
from jobs.hours import require_open
from jobs.run import Run
from jobs.scopes import Scopes


class Gate:
    """Raises OutsideHours, TooMuchWouldGo and CountFailed. An approval opens it for the rows that it is for. The
    ledger's own rows are nobody's mistake.

    A run is weighed before the first batch of each slice, with the limit of its payload or its policy: while it waits,
    somebody may make a mistake. Where an operator raises its limit (`lowtide pace`) it is weighed with the new one.
    """

    def __init__(self, run: Run, scopes: Scopes, *, now: Callable[[], datetime], limit: int | None) -> None:
        self._run = run
        self._scopes = scopes
        self._now = now
        self._limit = math.inf if limit is None else limit
        self._weighed = -1.0  # how many rows it may delete as far as anybody has looked

    async def __call__(self) -> None:
        require_open(self._scopes.policy, now=self._now())
        if self._run.most_rows is not None or self._scopes.policy.is_own:
            return
        wanted = max(self._limit, self._run.wishes.max_rows or 0)
        if wanted > self._weighed:
            begun = time.monotonic()
            await weigh(self._run, self._scopes, most=wanted)
            self._run.granted_s += time.monotonic() - begun  # else a long count would leave one window to each slice
            self._weighed = wanted
